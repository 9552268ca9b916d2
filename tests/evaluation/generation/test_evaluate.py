"""Judges fitted to a run, its captions shown and judged: what is written, and that it says what is true."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.generation import CPU, SPLITS, TOLD, digits_config, write_clips, write_digits
from vlfm.captions.load import caption_encoder_fingerprint, load_caption_encoder
from vlfm.clips.shards import read_clips
from vlfm.errors import VLFMError
from vlfm.evaluation.generation import digits, resumable, sources
from vlfm.evaluation.generation import fit_judges as fitting
from vlfm.evaluation.generation.evaluate import evaluate_generation
from vlfm.evaluation.generation.fit_judges import fit_judges, load_judges
from vlfm.evaluation.generation.prompts import Sample
from vlfm.evaluation.generation.resumable import jobs
from vlfm.evaluation.generation.scoring import COLUMNS
from vlfm.evaluation.generation.sources import Video
from vlfm.evaluation.generation.subset import enough_shards, sampled_clips
from vlfm.evaluation.generation.trained_features import FeatureSettings
from vlfm.finished_run import Run
from vlfm.frames import psnr, to_tensor
from vlfm.latents import invert
from vlfm.model.noise import caption_noise
from vlfm.storage.files import read_json
from vlfm.storage.tables import read_table

pytestmark = pytest.mark.usefixtures("captions_read_once")

COUNTS = {"00000": 9, "00001": 9}


@pytest.fixture(autouse=True, scope="module")
def _short():
    """Judges that are trained for a moment."""
    with pytest.MonkeyPatch.context() as patch:
        tiny = FeatureSettings(frames=4, width=8, dims=16, embedding=16, steps=40, batch_size=16)
        patch.setattr(fitting, "FeatureSettings", lambda: tiny)
        patch.setattr(digits, "STEPS", 60)
        # The real ones, loaded once.
        encoder, identity = load_caption_encoder(digits_config(), CPU), caption_encoder_fingerprint(digits_config())
        for module in (fitting, invert):
            patch.setattr(module, "load_caption_encoder", lambda *_: encoder)
            patch.setattr(module, "caption_encoder_fingerprint", lambda _: identity)
        yield


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits") / "results"
    write_digits(folder, digits_config())
    fit_judges(digits_config(), COUNTS, folder / "clips", folder / "judges", CPU)
    return folder


def run_of(results, splits=SPLITS, **change):
    return Run(digits_config(**change), results, list(splits), CPU, splits)


@pytest.fixture(scope="module")
def output(results, tmp_path_factory):
    folder = tmp_path_factory.mktemp("eval")
    evaluate_generation(run_of(results), folder)
    return folder


def test_of_each_split_every_method_has_its_row(output):
    rows = read_table(output / "generation.csv")
    assert list(rows[0]) == ["method", "split", "evaluations", "guidance", "captions", "clips", *COLUMNS, "seconds"]
    expected = [
        ("true clips", "", "9"),
        ("through the decoder", "", "9"),
        ("projected", "", "9"),
        ("generated", "2", "9"),
        ("generated", "1", "6"),
        ("generated", "2", "6"),
        ("nearest caption", "", "9"),
        ("average clip", "", "3"),
    ]
    for split in ("test", "train"):
        mine = [row for row in rows if row["split"] == split]
        assert [(row["method"], row["evaluations"], row["clips"]) for row in mine] == expected
        assert {row["captions"] for row in mine} == {"3"}
        assert [bool(row["seconds"]) for row in mine] == [bool(row["evaluations"]) for row in mine]
    assert [row["split"] for row in rows] == ["test"] * 8 + ["train"] * 8, "held-out rows first"


def test_the_numbers_say_what_is_true(output):
    rows = {(row["method"], row["split"], row["clips"]): row for row in read_table(output / "generation.csv")}
    for split in ("test", "train"):
        true, generated = rows["true clips", split, "9"], rows["generated", split, "9"]
        assert float(true["colour"]) == float(true["direction"]) == float(true["speed"]) == 1
        assert float(true["precision"]) == float(true["recall"]) == 1
        assert float(true["diversity"]) == float(true["sharpness"]) == 1
        assert float(rows["through the decoder", split, "9"]["colour"]) == 1
        # A network of four steps shows nothing.
        assert float(generated["all"]) < 0.5
        assert generated["frechet"] == "", "of nine clips it would tell how many they are"
    # What was trained on is found among the training clips, what was held out is not.
    assert float(rows["true clips", "train", "9"]["nearest"]) == 0 and rows["true clips", "train", "9"]["copies"] == "1"
    assert float(rows["true clips", "test", "9"]["nearest"]) > 0.1
    # Of a training caption the nearest is it itself.
    assert float(rows["nearest caption", "train", "9"]["colour"]) == 1
    assert float(rows["nearest caption", "test", "9"]["copies"]) == 1
    assert float(rows["generated", "test", "9"]["copies"]) == 0


def test_what_is_to_be_seen(output):
    index = read_json(output / "generation" / "index.json")
    assert [group["split"] for group in index["groups"]] == ["test"] * 3 + ["train"] * 3
    assert [group["title"] for group in index["groups"][:3]] == TOLD["test"]
    names = {path.name for path in output.glob("generation/*.mp4")}
    for group in index["groups"]:
        assert [video["label"] for video in group["videos"]] == ["true", "video 1", "video 2", "video 3"]
        assert all((output / "generation" / video["file"]).stat().st_size > 300 for video in group["videos"])
        assert group["note"].startswith("Read otherwise in 1: ")
        names -= {video["file"] for video in group["videos"]}
    assert not names and not list(output.rglob("*partial*"))
    with Image.open(output / "generation" / "sheet.png") as sheet:
        assert sheet.width > 4 * 4 * 64 and sheet.height > 6 * 64


def without_seconds(path):
    return [{**row, "seconds": ""} for row in read_table(path)]


@pytest.mark.slow
def test_a_killed_stage_goes_on_and_ends_with_the_same_files(results, output, tmp_path, monkeypatch):
    made, real = [], resumable.Workshop._do

    def job(shop, method, videos):
        if len(made) == stop:
            raise KeyboardInterrupt
        made.append((shop.split, method.key, videos[0].prompt.caption, videos[0].number))
        return real(shop, method, videos)

    monkeypatch.setattr(resumable.Workshop, "_do", job)
    stop = 9
    with pytest.raises(KeyboardInterrupt):
        evaluate_generation(run_of(results), tmp_path)
    stop = None
    evaluate_generation(run_of(results), tmp_path)
    assert len(made) == len(set(made)) > 15, "no job is done twice"
    assert without_seconds(tmp_path / "generation.csv") == without_seconds(output / "generation.csv")
    theirs = {path.name: path.read_bytes() for path in (output / "generation").iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "generation").iterdir()} == theirs


def test_without_test_clips_training_captions_alone_are_shown(results, tmp_path):
    run = run_of(results, {"00000": "train"}, generation={"captions": 2, "seeds": 2, "steps": [2]})
    evaluate_generation(run, tmp_path)
    rows = read_table(tmp_path / "generation.csv")
    assert {row["split"] for row in rows} == {"train"} and [row["method"] for row in rows].count("generated") == 1
    assert len(read_json(tmp_path / "generation" / "index.json")["groups"]) == 2


def test_a_video_depends_on_caption_number_and_seed_alone(results):
    run = run_of(results)
    prompts = Sample(run).prompts("test", 3, 3)
    make = sources.generated(run)
    alone = make([Video(prompts[1], 2)])[0]
    together = make([Video(prompts[0], 0), Video(prompts[1], 2), Video(prompts[2], 1)])[1]
    assert alone.shape == (8, 32, 32, 3) and alone.dtype == np.uint8
    assert np.abs(alone.astype(int) - together).max() <= 1, "but for the last bits"
    shape = (2, 3, 3)
    noise = caption_noise("a", 0, 0, shape)
    assert torch.equal(noise, caption_noise("a", 0, 0, shape)) and noise.std() > 0.5
    others = [caption_noise("a", 1, 0, shape), caption_noise("a", 0, 1, shape), caption_noise("b", 0, 0, shape)]
    assert not any(torch.equal(noise, other) for other in others)


def test_what_stands_beside_the_model(results):
    run = run_of(results)
    prompt = Sample(run).prompts("test", 3, 3)[0]
    videos = [Video(prompt, number, place) for number, place in enumerate(prompt.true)]
    clips = {clip.clip_id: clip.frames for clip in read_clips(results / "clips" / "00002.tar")}
    truth = [clips[clip_id] for _, clip_id in prompt.true]
    assert all(map(np.array_equal, sources.true(run)(videos), truth))
    # Each stage costs something.
    scores = [
        np.mean([float(psnr(to_tensor(a), to_tensor(b)).mean()) for a, b in zip(source(videos), truth, strict=True)])
        for source in (sources.decoded(run), sources.projected(run))
    ]
    assert 20 < scores[1] < scores[0] < 60
    # The training caption that shares colour or digit and the motion.
    captions = {clip.clip_id: clip for shard in COUNTS for clip in read_clips(results / "clips" / f"{shard}.tar")}
    near = {captions[clip_id].caption for _, clip_id in prompt.nearest}
    assert prompt.caption == "a blue two moves right slowly" and near <= set(TOLD["train"]) and len(near) == 1
    mean = np.mean([captions[clip_id].frames for _, clip_id in prompt.nearest], 0)
    assert np.abs(sources.average(run)([Video(prompt, 0), Video(prompt, 1)]) - mean).max() <= 0.51


def test_jobs_are_of_one_shard_and_one_kind(results, monkeypatch):
    run = run_of(results)
    prompts = Sample(run).prompts("train", 6, 3)
    videos = [Video(prompt, number, place) for prompt in prompts for number, place in enumerate(prompt.true)]
    monkeypatch.setattr(resumable, "AT_ONCE", 4)
    found = list(jobs(videos))
    assert sorted(map(len, found)) == [1, 1, 4, 4, 4, 4] and all(len({v.place[0] for v in job}) == 1 for job in found)
    assert {video.place for job in found for video in job} == {video.place for video in videos}
    store = run.stores["00000"]
    monkeypatch.setattr(resumable, "BYTES", 2 * 3 * store.num_frames * store.height * store.width)
    assert max(len(job) for job in jobs(videos)) == 2
    monkeypatch.setattr(resumable, "BYTES", 1)
    assert [len(job) for job in jobs(videos)] == [1] * 18


def test_few_clips_stand_for_many():
    counts = {f"{shard:05d}": 10 for shard in range(7)}
    assert enough_shards(counts, 25) == ["00000", "00003", "00006"]
    assert enough_shards(counts, 700) == list(counts) and enough_shards({"00000": 0, "00001": 3}, 5) == ["00001"]
    ids = {shard: [f"{shard}-{place}" for place in range(10)] for shard in ("00000", "00006")}
    assert {shard: len(some) for shard, some in sampled_clips(ids, 6).items()} == {"00000": 3, "00006": 3}
    assert sampled_clips(ids, 100) == ids


# ------------------------------------------------------------------------------------------- judges


def test_judges_are_fitted_to_training_clips_alone_and_the_same_twice(results, tmp_path):
    shutil.copytree(results / "clips", tmp_path / "clips")
    (tmp_path / "clips" / "00002.tar").unlink()
    fit_judges(digits_config(), COUNTS, tmp_path / "clips", tmp_path / "judges", CPU)
    mine, theirs = (load_judges(digits_config(), folder / "judges", CPU) for folder in (tmp_path, results))
    assert mine.fingerprint == theirs.fingerprint and mine.fps == 8
    assert read_json(tmp_path / "judges" / "judges.json") == read_json(results / "judges" / "judges.json")
    assert {path.name for path in (tmp_path / "judges").iterdir()} == {"features", "digits", "judges.json"}


@pytest.mark.slow
def test_fitting_goes_on_with_the_judge_it_was_at(results, tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting.DigitJudge, "fit", killed)
        with pytest.raises(KeyboardInterrupt):
            fit_judges(digits_config(), COUNTS, results / "clips", tmp_path, CPU)
    monkeypatch.setattr(fitting, "_fit_features", killed)
    fit_judges(digits_config(), COUNTS, results / "clips", tmp_path, CPU)
    mine, theirs = (load_judges(digits_config(), folder, CPU) for folder in (tmp_path, results / "judges"))
    assert mine.fingerprint == theirs.fingerprint


def test_clips_of_anything(results, tmp_path):
    """Four clips of two captions that are no digits', then of one caption: nothing to learn, nothing read."""
    captions = TOLD["train"][:4]
    for told, learnt in ((["a", "b", "a", "b"], True), (["a"] * 4, False)):
        write_clips(tmp_path / "clips" / "00000.tar", captions, told=told)
        fit_judges(digits_config(), {"00000": 4}, tmp_path / "clips", tmp_path / "judges", CPU)
        found = load_judges(digits_config(), tmp_path / "judges", CPU)
        assert (found.features is not None) == learnt and found.digits is None
    with pytest.raises(VLFMError, match="holds no training clip"):
        fit_judges(digits_config(), {}, tmp_path / "clips", tmp_path / "judges", CPU)


def test_where_nothing_can_be_judged_cells_are_empty(results, tmp_path):
    judged = tmp_path / "results"
    shutil.copytree(results, judged)
    write_clips(tmp_path / "clips" / "00000.tar", TOLD["train"][:4], told=["a"] * 4)
    fit_judges(digits_config(), {"00000": 4}, tmp_path / "clips", judged / "judges", CPU)
    evaluate_generation(run_of(judged, generation={"captions": 1, "seeds": 1}), tmp_path / "eval")
    row = read_table(tmp_path / "eval" / "generation.csv")[0]
    assert {name for name in COLUMNS if row[name]} == {"copies", "nearest", "sharpness"} and row["sharpness"] == "1"
    assert all(not group["note"] for group in read_json(tmp_path / "eval" / "generation" / "index.json")["groups"])


def test_judges_that_were_not_fitted(results, tmp_path):
    with pytest.raises(VLFMError, match=r"judges\.json is missing"):
        evaluate_generation(run_of(tmp_path), tmp_path)

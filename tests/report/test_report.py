import base64
import json
import math
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.data.report import BAD, RATES, report_config, write_generation, write_run
from vlfm.errors import VLFMError
from vlfm.report import write
from vlfm.report.embedded_videos import spread_that_fits
from vlfm.report.picture import write_picture
from vlfm.report.settings import settings_in_words
from vlfm.report.tables import from_rows, make_table
from vlfm.report.write import write_report
from vlfm.storage.files import read_json, write_json
from vlfm.storage.manifest import Clip, write_manifest
from vlfm.storage.tables import read_table, write_table


class Page(HTMLParser):
    """What a browser would see: elements with their attributes, the blocks of videos, the text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.blocks, self.words = [], {}, []
        self._open = None
        self.feed(text)
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self._open = (tag, dict(attributes))

    def handle_endtag(self, tag):
        self._open = None

    def handle_data(self, data):
        tag, attributes = self._open or ("", {})
        if tag == "script":
            if "id" in attributes:
                self.blocks[attributes["id"]] = data
        elif tag != "style":
            self.words.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    results = tmp_path_factory.mktemp("run") / "results"
    return write_run(results), results


@pytest.fixture(scope="module")
def page(run, tmp_path_factory):
    config, results = run
    output = tmp_path_factory.mktemp("page") / "index.html"
    write_report(config, results, output)
    return output.read_text()


def rewritten(run, tmp_path, change=lambda results: None):
    """The page of a changed copy of the run."""
    config, results = run
    shutil.copytree(results, tmp_path / "results")
    change(tmp_path / "results")
    write_report(config, tmp_path / "results", tmp_path / "index.html")
    return Page((tmp_path / "index.html").read_text())


def test_nothing_lies_outside_the_page(page):
    seen = Page(page)
    addresses = [value for _, found in seen.elements for name, value in found.items() if name in ("src", "href")]
    assert len(addresses) > 10
    assert all(address.startswith(("#", "data:")) for address in addresses)
    assert not re.search(r"@import|url\((?!data:)", page)
    policy = next(found["content"] for found in seen.all("meta") if "http-equiv" in found)
    assert policy.startswith("default-src 'none'")


def test_every_video_is_in_the_page_once(run, page):
    seen, folder = Page(page), run[1] / "eval"
    videos = [json.loads(found["data-sources"]) for found in seen.all("video")]
    assert len(videos) == 4 * 2 + 2 * 2 * 2
    named = {name for sources in videos for name in sources.values()}
    assert named == seen.blocks.keys()
    index = read_json(folder / "videos" / "index.json")["clips"]
    for entry, true, generated in zip(index, videos[0:8:2], videos[1:8:2], strict=True):
        assert generated.keys() == {str(rate) for rate in RATES}
        for rate, name in {**generated, "true": true[""]}.items():
            content = base64.b64decode(seen.blocks[name], validate=True)
            assert content == (folder / "videos" / entry["videos"][rate]).read_bytes()
    assert all((found["width"], found["height"]) == ("48", "48") for found in seen.all("video"))


def test_text_from_outside_is_text(page):
    seen = Page(page)
    assert "a square, number 3, <b>moves</b> & 'stops'" in seen.text
    assert "<b>moves" not in page and BAD in seen.text


def test_numbers(run, page):
    seen = Page(page)
    # Stage means at 24 frames a second: 34 − 2 place − 0.25 index over four clips.
    assert "27.6 dB PSNR, generated from captions" in seen.text
    values = [float(found["data-value"]) for found in seen.all("td") if "data-value" in found]
    assert any(math.isclose(value, 34 - 6 - 0.375) for value in values)
    assert "48 samples in 6 s: 8.0 samples a second" in seen.text
    decode = re.search(r"decode 2 ([\d.]+) 4 ([\d.]+) ([\d.]+) ([\d.]+)", seen.text)
    assert [float(value) for value in decode.groups()] == [8.0, 0.5, 120.5, 0.5]
    assert "report 1" not in seen.text  # its own job is not over
    assert "1 network evaluation a clip, guidance 1" in seen.text and "1 fixed-point refinement a step" in seen.text


def test_where_clips_share_captions_no_video_is_held_against_one_of_them(run, tmp_path, page):
    def shared(results):
        training = read_json(results / "model" / "training.json")
        write_json(results / "model" / "training.json", {**training, "captions": 2})

    text = rewritten(run, tmp_path, shared).text
    assert "PSNR, generated from captions" not in text and "PSNR, the path" in text
    assert "4 clips learnt of 2 captions" in text and "Here several clips share a caption." in text
    assert "4 clips learnt 1 network evaluation" in Page(page).text and "share a caption" not in Page(page).text


def test_a_training_that_was_stopped_is_timed_by_its_last_part(run, tmp_path):
    def stopped(results):
        (results / "logs").mkdir()
        (results / "logs" / "train.log").write_text("going on from step 9\n")

    assert "48 samples, the last 12 of them in 6 s: 2.0 samples a second" in rewritten(run, tmp_path, stopped).text


def test_ledgers_of_the_run_that_latents_come_from_are_read(run, tmp_path):
    _, results = run

    def taken(mine):
        values = yaml.safe_load((results / "config.yaml").read_text())
        (mine / "config.yaml").write_text(yaml.safe_dump({**values, "latents_from": str(results)}))
        for path in mine.rglob("*.ledger.parquet"):
            path.unlink()

    def gone(mine):
        for path in mine.rglob("*.ledger.parquet"):
            path.unlink()

    assert BAD in rewritten(run, tmp_path / "a", taken).text
    text = rewritten(run, tmp_path / "b", gone).text
    assert BAD not in text and "No ledger of clips is here." in text and "No clip was bad" not in text


def test_the_ledger_is_not_missed_where_it_cannot_be(run):
    config, _ = run
    other = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"fps": [8.0, 12.0]})})
    assert "ledger" not in write._missing(other, []) and "ledger" in write._missing(config, [])


def test_experiments_that_have_not_run_are_named(run, tmp_path, page):
    assert "Not run here: extrapolation, ablation, speed." in Page(page).text

    def none(results):
        shutil.rmtree(results / "theory")
        for name in ("interpolation", "order", "ledger"):
            shutil.rmtree(results / "eval" / name)

    text = rewritten(run, tmp_path, none).text
    assert "Not run here: ledger, interpolation, extrapolation, order, ablation, speed." in text
    assert "Not run here. snakemake --cores all theory report" in text


def parted(results):
    """The run's last clip becomes a test clip."""
    index = read_json(results / "eval" / "videos" / "index.json")
    names = [entry["clip_id"] for entry in index["clips"]]
    splits = {name: "test" if name == names[-1] else "train" for name in names}
    entries = [{**entry, "split": splits[entry["clip_id"]]} for entry in index["clips"]]
    write_json(results / "eval" / "videos" / "index.json", {**index, "clips": entries})
    clips = [Clip(name, "a.mp4", 0.0, 0.5, "", 2, 0, 48, 48, split) for name, split in splits.items()]
    write_manifest(results / "clips" / "manifest.parquet", clips)
    for path in (results / "eval" / "psnr.csv", results / "eval" / "ledger.csv"):
        rows = read_table(path)
        write_table(path, [{"split": splits[row["clip_id"]], **row} for row in rows])
    means = results / "eval" / "ledger" / "means.csv"
    write_table(means, [{"split": split, **row} for split in ("train", "test") for row in read_table(means)])


def test_training_and_test_clips_are_told_apart(run, tmp_path):
    seen = rewritten(run, tmp_path, parted)
    # Stage means at 24 frames a second: 34 − 2 place − 0.25 index, over clips 0 to 2 and of clip 3.
    assert "27.8 dB PSNR, generated from captions, training clips" in seen.text
    assert "27.2 dB PSNR, generated from captions, held out clips" in seen.text
    assert seen.text.index("PSNR (dB), held out clips") < seen.text.index("PSNR (dB), training clips")
    assert [word.strip() for word in seen.words if word.strip() in ("training", "held out")].count("held out") >= 3
    labels = re.findall(r"a square, number (\d), <b>moves</b> & 'stops' (training|held out)", seen.text)
    assert labels == [("0", "training"), ("1", "training"), ("2", "training"), ("3", "held out")]
    assert "pixels, and 1 clip held out: demo" in seen.text
    assert re.search(r"decode 4 3 1 0 ", seen.text), "clips, training, held out, bad"


def test_a_run_without_test_clips_says_nothing_of_splits(run, tmp_path, page):
    def all_training(results):
        parted(results)
        for path in (results / "eval").rglob("*.csv"):
            rows = [row for row in read_table(path) if "means" not in path.name or row["split"] == "train"]
            write_table(path, [{**row, "split": "train"} if "split" in row else row for row in rows])
        (results / "clips" / "manifest.parquet").unlink()
        index = read_json(results / "eval" / "videos" / "index.json")
        entries = [{**entry, "split": "train"} for entry in index["clips"]]
        write_json(results / "eval" / "videos" / "index.json", {**index, "clips": entries})

    assert rewritten(run, tmp_path, all_training).text == Page(page).text


def test_captions_it_never_saw_come_first(run, tmp_path, page):
    assert "never saw" not in page
    seen = rewritten(run, tmp_path, lambda results: write_generation(results / "eval"))
    text = seen.text
    assert "25% of its videos show every word of a caption it never saw" in text
    assert "100% of the true clips do, to the same judge" in text
    assert (
        text.index("2 captions, held out") < text.index("2 captions, training") < text.index("Against the true frames")
    )
    assert "experiment-generation" not in {found.get("id") for found in seen.all("section")}
    # A true clip and three videos of each caption, in the order of the index, each with what is read otherwise.
    labels = [found["aria-label"] for found in seen.all("video")][:16]
    expected = [(split, index) for split in ("test", "train") for index in range(2)]
    assert labels == [
        f"{label}: {split} caption {index}"
        for split, index in expected
        for label in ("true", "video 1", "video 2", "video 3")
    ]
    assert re.findall(r"(test|train) caption \d (held out|training)", text)[::4] == [("test", "held out")]
    assert text.count("Read otherwise in 2: digit.") == 4
    heads = text[text.index("2 captions, held out") :].split()
    # Columns without a number are left out, and bounds stand beside their means.
    assert heads[4:15] == "method evaluations guidance clips every word precision sharpness seconds true clips".split()
    assert "0.25 0.15 … 0.25" in text
    # One bar of controls, above all videos.
    assert sum(found.get("id") == "films" for found in seen.all("div")) == 1


def test_without_held_out_captions_nobody_speaks_of_them(run, tmp_path):
    text = rewritten(run, tmp_path, lambda results: write_generation(results / "eval", ("train",), read=False)).text
    assert "Videos of its captions" in text and "never saw" not in text and "Read otherwise" not in text
    assert "every word" not in text and "2 captions, training" in text


def test_many_videos_of_captions_leave_room_for_others(run, page, tmp_path, monkeypatch):
    monkeypatch.setattr(write, "SIZE", 2 * len(page))
    whole = rewritten(run, tmp_path, lambda results: write_generation(results / "eval", captions=12))
    shown = int(re.search(r"(\d+) of 24 groups of videos; all of them lie beside the table", whole.text)[1])
    assert 0 < shown < 24 and "All 4 scored clips" in whole.text


def test_an_experiment_nobody_knew_is_shown(run, tmp_path):
    def one_more(results):
        for name in ("order.csv", "order.svg", "order"):
            (results / "eval" / name).rename(results / "eval" / name.replace("order", "colour"))

    seen = rewritten(run, tmp_path, one_more)
    assert {"id": "experiment-colour"} in seen.all("section")


def test_what_does_not_fit_is_left_out_and_said(run, page, tmp_path, monkeypatch):
    config, results = run
    whole = Page(page)
    plots = sum(len(found["src"]) for found in whole.all("img") if "svg" in found["src"])
    room = sum(map(len, whole.blocks.values())) * 3 // 4
    monkeypatch.setattr(write, "SIZE", plots + room)
    write_report(config, results, tmp_path / "index.html")
    part = Page((tmp_path / "index.html").read_text())
    shown = int(re.search(r"(\d) of the 4 scored clips, spread evenly", part.text)[1])
    assert shown in (2, 3)
    assert 0 < sum(map(len, part.blocks.values())) <= room
    titles = [found["aria-label"] for found in part.all("video") if "number" in found["aria-label"]]
    assert len(titles) == 2 * shown and "number 0" in titles[0] and "number 3" in titles[-1]
    monkeypatch.setattr(write, "SIZE", 0)
    write_report(config, results, tmp_path / "index.html")
    least = Page((tmp_path / "index.html").read_text()).text
    assert "1 of the 4 scored clips" in least
    assert "0 of 2 groups of videos; all of them lie beside the table" in least


def test_the_same_run_gives_the_same_page(run, page, tmp_path):
    config, results = run
    write_report(config, results, tmp_path / "index.html")
    assert (tmp_path / "index.html").read_text() == page


def test_other_settings_are_said(tmp_path):
    change = {
        "decoder": {"name": "autoencoder", "model": "some/vae"},
        "clips": {"duration": [0.5, 1.0], "size": [[48, 48], [48, 96]]},
        "model": {"head": "velocity"},
    }
    config = write_run(tmp_path / "results", 1, (), False, **change)
    write_report(config, tmp_path / "results", tmp_path / "index.html")
    text = Page((tmp_path / "index.html").read_text()).text
    for words in (
        "1 clip of 0.5 and 1 s",
        "48×48 and 96×48 pixels",
        "autoencoder, some/vae",
        "it predicts velocity",
        "several network evaluations a clip, guidance 1",
        "1 clip learnt",
        "The one scored clip.",
    ):
        assert words in text


@pytest.mark.parametrize(
    ("name", "depth", "words"),
    [
        ("embedded", 1.0, "DDIM to noise (depth 1), 4 steps, 1 fixed-point refinement a step"),
        ("stable-diffusion", 0.5, "DDIM to depth 0.5, the first 2 of 4 steps, 1 fixed-point refinement a step"),
        ("rectified-flow", 1.0, "the flow backwards to noise (depth 1), 4 steps, 1 fixed-point refinement a step"),
        ("rectified-flow", 0.3, "the flow backwards to σ = 0.3, in the steps of a walk of 4 steps, 1 fixed-point"),
        ("embedded", 0.0, "none: the path runs through the autoencoder's latents"),
        ("autoencoder", 1.0, "none: the path runs through the autoencoder's latents"),
    ],
)
def test_the_depth_is_said(name, depth, words):
    config = report_config(decoder={"name": name, "model": "some/model"}, inversion={"depth": depth})
    said = dict(settings_in_words(config, {}, {"clips": 1, "steps": 2}, {}))
    assert said["inversion"].startswith(words)
    if name == "embedded":
        predictor = " and a small noise predictor, both" if depth else ""
        assert said["visual decoder"] == f"an autoencoder of lapped patches{predictor} trained on the clips."


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("eval/videos/0000000000000002_16fps.mp4", "remove"),
        ("eval/videos/0000000000000001_true.mp4", "cut"),
        ("eval/videos/0000000000000000.png", "cut"),
        ("eval/order.csv", "cut"),
        ("eval/order.svg", "remove"),
        ("eval/psnr.csv", "remove"),
        ("theory/projection.svg", "remove"),
        ("model/metrics.csv", "remove"),
    ],
)
def test_a_damaged_run_is_named(run, tmp_path, name, damage):
    def spoil(results):
        if damage == "remove":
            (results / name).unlink()
        else:
            (results / name).write_bytes((results / name).read_bytes()[:-20][:100])

    with pytest.raises(VLFMError, match=re.escape(name)):
        rewritten(run, tmp_path, spoil)
    assert not (tmp_path / "index.html").exists()


def test_a_row_that_is_cut_short(run, tmp_path):
    path = "eval/psnr.csv"

    def cut(results):
        (results / path).write_text((results / path).read_text() + "0000000000000000,8\n")

    with pytest.raises(VLFMError, match=r"psnr.csv is damaged: a row"):
        rewritten(run, tmp_path, cut)


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=40), st.integers(0, 20000))
def test_clips_fit_and_are_spread(costs, room):
    items = list(range(len(costs)))
    chosen = spread_that_fits(items, costs, room)
    assert chosen == sorted(set(chosen)) and chosen[0] == 0
    assert sum(costs[item] for item in chosen) <= room or len(chosen) == 1
    if len(chosen) > 1:
        assert chosen[-1] == items[-1]
        gaps = np.diff(chosen)
        assert gaps.max() - gaps.min() <= 1
    if sum(costs) <= room:
        assert chosen == items


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8))
def test_rounding_keeps_numbers(values):
    cells = [row[0] for row in make_table(["x"], [[value] for value in values]).rows]
    largest = max(abs(value) for value in values)
    for value, cell in zip(values, cells, strict=True):
        shown = float(cell.text.replace("\u2212", "-"))
        assert cell.value == value
        assert abs(shown - value) <= max(5e-3 * abs(value), 6e-4 * largest, 6e-5)
        assert cell.text not in ("\u22120", "\u22120.0", "\u22120.00", "\u22120.000", "\u22120.0000")


def test_intervals_stand_beside_their_means():
    rows = [
        {"method": "a", "psnr": "30.1234", "psnr_low": "29", "psnr_high": "31.25", "low": "1"},
        {"method": "b", "psnr": "9.5", "psnr_low": "", "psnr_high": "", "low": ""},
    ]
    table = from_rows(rows)
    assert table.head == ["method", "PSNR (dB)", "low"] and table.numeric == [False, True, True]
    assert [cell.text for cell in table.rows[0]] == ["a", "30.12", "1"]
    assert table.rows[0][1].interval == "29.00 … 31.25"
    assert [cell.text for cell in table.rows[1]] == ["b", "9.50", ""] and table.rows[1][1].interval == ""


def test_a_column_of_many_magnitudes_keeps_its_digits():
    rows = make_table(["amplification"], [[0.6512], [16.0], [4.1e7], [None]]).rows
    assert [row[0].text for row in rows] == ["0.651", "16", "4.1e+07", ""]


def test_picture(run, tmp_path):
    config, results = run
    write_picture(results, tmp_path / "picture.png", config.clips.fps)
    with Image.open(tmp_path / "picture.png") as image:
        assert image.width > 2 * 4 * 96 and image.height > 2 * 2 * 96
        colours = {tuple(colour[:3]) for _, colour in image.convert("RGB").getcolors(10**6)}
    near = [math.dist(colour, (220, 120, 40)) for colour in colours]
    assert min(near) < 40  # the square, which is not in the page around the frames
    assert (tmp_path / "picture.png").stat().st_size < 200_000
    with pytest.raises(VLFMError, match=r"evaluation\.fps"):
        write_picture(results, tmp_path / "none.png", 25.0)


def test_picture_says_which_video_is_gone(run, tmp_path):
    shutil.copytree(run[1] / "eval", tmp_path / "eval")
    index = read_json(tmp_path / "eval" / "videos" / "index.json")
    index["clips"][0]["videos"]["true"] = "gone.mp4"
    write_json(tmp_path / "eval" / "videos" / "index.json", index)
    with pytest.raises(VLFMError, match=r"gone\.mp4"):
        write_picture(tmp_path, tmp_path / "picture.png", 24.0)


def test_moving_picture_shows_held_out_captions(tmp_path):
    write_generation(tmp_path / "eval")
    write_picture(tmp_path, tmp_path / "picture.webp", 8.0)
    with Image.open(tmp_path / "picture.webp") as image:
        assert image.n_frames == 8 and image.info["loop"] == 0
        assert image.width > 2 * 4 * 96
        frames = []
        for place in range(image.n_frames):
            image.seek(place)
            frames.append(np.asarray(image.convert("RGB")).astype(int))
    title, rest = frames[0][:16], frames[0][20:110]
    assert (title < 100).any() and np.abs(frames[4][20:110] - rest).max() > 100  # it is titled, and it moves
    assert np.abs(frames[4][:16] - title).max() < 10


def test_a_picture_of_another_kind_is_refused(tmp_path):
    with pytest.raises(VLFMError, match=r"\.png, or in \.webp"):
        write_picture(tmp_path, tmp_path / "picture.jpg", 8.0)


def test_videos_have_posters(page):
    videos = Page(page).all("video")
    assert videos and all(video["poster"].startswith("data:image/webp;base64,") for video in videos)
    assert len({video["poster"] for video in videos}) > 1

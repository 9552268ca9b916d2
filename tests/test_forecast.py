"""What a run will take, from what a smaller one took."""

import json

import pytest
import yaml

from tests.conftest import ROOT, make_config
from vlfm.cli import main
from vlfm.errors import VLFMError
from vlfm.forecast import forecast, planned, table


def benchmark(path, seconds):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"s\th:m:s\tmax_rss\n{seconds}\t0:00:01\t100.0\n")


def fill(path, size):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)


@pytest.fixture
def measured(tmp_path):
    """A run of two shards, 10 and 30 clips: a job starts in 5 s; decoding takes 0.5 s a clip, inversion 2 s."""
    results = tmp_path / "results"
    sizes = {"00000": 10, "00001": 30}
    fill(results / "clips" / "manifest.parquet", 400)
    (results / "clips" / "shards.json").write_text(json.dumps({name: {"clips": size} for name, size in sizes.items()}))
    (results / "config.yaml").write_text(yaml.safe_dump(json.loads(make_config().model_dump_json())))
    for name, size in sizes.items():
        benchmark(results / "benchmarks" / "decode" / f"{name}.tsv", 5 + 0.5 * size)
        benchmark(results / "benchmarks" / "invert" / f"{name}.tsv", 5 + 2 * size)
        fill(results / "clips" / f"{name}.tar", 1000 * size)
        fill(results / "clips" / f"{name}.ledger.parquet", 10 * size)
        fill(results / "latents" / f"{name}.zarr" / "latents" / "c", 500 * size)
        fill(results / "latents" / f"{name}.zarr" / "zarr.json", 50 * size)
    benchmark(results / "benchmarks" / "index.tsv", 2)
    benchmark(results / "benchmarks" / "train.tsv", 60)
    fill(results / "model" / "weights", 7000)
    return results


def lines(measured, shards, cores=4, gpus=0, **change):
    return {line.stage: line for line in forecast(make_config(**change), shards, measured, cores, gpus)}


def test_shards_take_as_long_as_their_clips(measured):
    found = lines(measured, [100, 100, 50])
    decode, invert = found["decode"], found["invert"]
    assert (decode.jobs, decode.files, decode.bytes) == (3, 6, 250 * 1010)
    assert decode.seconds_a_job == pytest.approx(5 + 0.5 * 250 / 3)
    assert decode.seconds == pytest.approx(5 + 0.5 * 100), "three jobs on four cores run beside each other"
    assert (invert.files, invert.bytes) == (6, 250 * 550)
    assert invert.seconds == pytest.approx(3 * (5 + 2 * 100)), "a job takes all cores: one after another"
    assert lines(measured, [100, 100, 50], gpus=2)["invert"].seconds == pytest.approx(2 * (5 + 2 * 100))
    assert lines(measured, [100, 100, 50], cores=2)["decode"].seconds == pytest.approx(2 * (5 + 0.5 * 100))


def test_single_jobs(measured):
    found = lines(measured, [100, 100, 50])
    assert found["index"].seconds is None and found["index"].jobs == 1, "six times the clips"
    assert found["index"].files == 2
    assert lines(measured, [50])["index"].seconds == pytest.approx(2 * 50 / 40)
    assert found["train"].seconds == pytest.approx(60) and found["train"].bytes == 7000
    steps, batch = make_config().training.steps, make_config().training.batch_size
    longer = lines(measured, [100], training={"steps": 3 * steps, "batch_size": 2 * batch})["train"]
    assert longer.seconds == pytest.approx(360) and longer.unlike == ()


def test_a_training_that_was_stopped_was_not_measured(measured):
    """Its benchmark has the seconds of its last part."""
    (measured / "logs").mkdir()
    (measured / "logs" / "train.log").write_text("going on from step 200\n")
    assert lines(measured, [10, 30])["train"].seconds is None


def test_captioning_is_forecast_where_a_model_is_named(measured):
    assert "caption" not in lines(measured, [100])
    benchmark(measured / "benchmarks" / "caption" / "00000.tsv", 20)
    benchmark(measured / "benchmarks" / "caption" / "00001.tsv", 60)
    assert lines(measured, [100], clips={"captioner": "owner/blip"})["caption"].seconds == pytest.approx(200)


def test_the_measured_run_itself(measured):
    found = lines(measured, [10, 30])
    assert found["decode"].bytes == 40 * 1010 and found["decode"].seconds_a_job == pytest.approx(5 + 0.5 * 20)
    assert found["project"].seconds is None and found["evaluate"].files is None


def test_shards_of_one_size_have_no_start(measured):
    benchmark(measured / "benchmarks" / "decode" / "00001.tsv", 99)
    plan = measured / "clips" / "shards.json"
    plan.write_text(json.dumps({"00000": {"clips": 10}, "00001": {"clips": 11}}))
    assert lines(measured, [21])["decode"].seconds == pytest.approx(99 + 10)


def test_other_settings_are_named(measured):
    found = lines(measured, [100], inversion={"steps": 50}, training={"checkpoint_every": 7})
    assert found["decode"].unlike == () and found["invert"].unlike == ("inversion.steps",)
    assert found["train"].unlike == ("inversion.steps",), "how often it is saved decides nothing"
    text = table(list(found.values()))
    assert "invert was measured with other settings: inversion.steps" in text
    assert "not counted: index, prepare decoder, project, evaluate" in text


def test_clips_that_are_not_indexed_yet(tmp_path):
    assert planned(tmp_path / "none.json", 45, 20) == [20, 20, 5]
    assert planned(tmp_path / "none.json", 40, 20) == [20, 20]
    with pytest.raises(VLFMError, match="vlfm index"):
        planned(tmp_path / "none.json", None, 20)
    for text in ("[]", '{"00000": {"clips": "many"}}', '{"00000": 3}'):
        (tmp_path / "shards.json").write_text(text)
        with pytest.raises(VLFMError, match="no plan of shards"):
            planned(tmp_path / "shards.json", None, 20)


def test_what_is_no_run_is_refused(tmp_path, measured):
    with pytest.raises(VLFMError, match="is not the results of a run"):
        lines(tmp_path / "nothing", [10])
    benchmark(measured / "benchmarks" / "train.tsv", "soon")
    with pytest.raises(VLFMError, match=r"train\.tsv is not a benchmark"):
        lines(measured, [10])


def test_the_command(measured, capsys):
    config = ["--config", str(ROOT / "config.yaml"), "--measured", str(measured)]
    assert main(["plan", *config, "--clips", "1000000", "--cores", "64", "--gpus", "8"]) == 0
    out = capsys.readouterr().out
    assert "1.01 GB" in out and "decode" in out.splitlines()[2]
    assert main(["plan", *config, "--clips", "0"]) == 1
    assert "--clips is 0" in capsys.readouterr().err

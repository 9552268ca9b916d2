"""`latents_from`: what another run made is taken as it is, or refused with what differs; that run is left as it was."""

import re
import subprocess

import pytest
import torch
import yaml

from tests.conftest import ROOT, merge
from tests.data.latents import small, tree, write_clips, write_decoder
from vlfm import config as configs
from vlfm.cli import main
from vlfm.errors import FingerprintMismatch, VLFMError
from vlfm.latents.invert import invert_shard
from vlfm.latents.reused import ALIKE, OtherRun
from vlfm.latents.store import LatentStore
from vlfm.storage.files import read_json, write_json

pytestmark = pytest.mark.usefixtures("captions_read_once")

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The results of a run up to its latents, of one shard."""
    results = tmp_path_factory.mktemp("first") / "results"
    config = small(depth=0.0)
    (results / "clips").mkdir(parents=True)
    configs.save(config, results / "config.yaml")
    write_json(results / "clips" / "shards.json", {"00000": {"clips": 3, "digest": "0" * 16}})
    (results / "clips" / "manifest.parquet").write_bytes(b"PAR1")
    clips = write_clips(results / "clips" / "00000.tar", 3, frames=12)
    decoder = write_decoder(results / "decoder", predictor=False)
    (results / "latents").mkdir()
    store = results / "latents" / "00000.zarr"
    invert_shard(config, clips, decoder, store, results / "latents" / "00000.ledger.parquet", CPU)
    (store / ".snakemake_timestamp").touch()
    return results


@pytest.fixture
def other(results):
    """`other(change)` → the run as a configuration sees it that names it and differs in `change`."""

    def seen(**change):
        values = configs.load(results / "config.yaml").model_dump(mode="json")
        config = configs.parse(merge(values | {"latents_from": str(results)}, change))
        return OtherRun(config)

    return seen


def test_what_is_taken_is_the_other_runs_and_leaves_it_as_it_was(results, other, tmp_path):
    before = tree(results)
    run = other(flow={"order": 3}, training={"steps": 7}, seed=4)
    for _ in range(2):  # again, over what is there
        run.take_plan(tmp_path / "clips" / "manifest.parquet", tmp_path / "clips" / "shards.json")
        run.take_decoder(tmp_path / "decoder")
        run.take_clips("00000", tmp_path / "clips" / "00000.tar")
        run.take_latents("00000", tmp_path / "decoder", tmp_path / "latents" / "00000.zarr")
    taken = tree(tmp_path)
    left_out = {"config.yaml", "latents/00000.ledger.parquet", "latents/00000.zarr/.snakemake_timestamp"}
    assert taken == {name: content for name, content in before.items() if name not in left_out}
    assert tree(results) == before
    # Snakemake marks folders with files of its own: here, not there.
    (tmp_path / "latents" / "00000.zarr" / ".snakemake_timestamp").touch()
    assert not (tmp_path / "latents" / "00000.zarr").is_symlink()
    assert (tmp_path / "clips" / "00000.tar").is_symlink()
    assert not (tmp_path / "clips" / "shards.json").is_symlink()
    here, there = (LatentStore(folder / "latents" / "00000.zarr") for folder in (tmp_path, results))
    assert [clip.latents.tobytes() for clip in here] == [clip.latents.tobytes() for clip in there]


def test_other_settings_are_refused_each_by_name(results, other):
    with pytest.raises(FingerprintMismatch) as caught:
        other(clips={"size": 36}, inversion={"dtype": "float32"}, decoder={"embedded": {"channels": 6}})
    told = str(caught.value)
    assert f"{results} are of other settings" in told and f"--configfile {results / 'config.yaml'}" in told
    for each in (
        "clips.size is 24 there and 36 here",
        "inversion.dtype is float16 there and float32 here",
        "decoder.embedded.channels is 8 there and 6 here",
    ):
        assert each in told
    assert told.count(" there and ") == 3


def test_how_it_was_made_is_not_compared(other):
    other(inversion={"batch_size": 5, "compile": True, "check": 0.5}, clips={"timeout": 3.0, "max_bad": 0.1})


def test_a_run_of_an_older_version_is_compared_by_what_it_says(results, tmp_path):
    values = yaml.safe_load((results / "config.yaml").read_text())
    config = configs.parse(values | {"latents_from": str(tmp_path)})
    del values["training"]["updates"], values["latents_from"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    OtherRun(config)
    values["clips"]["size"] = 36
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(FingerprintMismatch, match=r"clips\.size is 36 there and 24 here"):
        OtherRun(config)


def test_latents_of_another_decoder_than_the_run_has_are_refused(results, other, tmp_path):
    run = other()
    run.take_decoder(tmp_path / "decoder")
    about = read_json(tmp_path / "decoder" / "decoder.json")
    write_json(tmp_path / "decoder" / "decoder.json", about | {"fingerprint": "beef"})
    with pytest.raises(FingerprintMismatch, match=r"00000\.zarr was made with other settings.*snakemake latents"):
        run.take_latents("00000", tmp_path / "decoder", tmp_path / "latents" / "00000.zarr")
    assert not (tmp_path / "latents").exists()


def test_a_run_that_is_not_there_or_not_finished_or_its_own_is_told(results, other, tmp_path):
    run = other()
    with pytest.raises(VLFMError, match=r"where no run is: there is no .*config\.yaml"):
        other(latents_from=str(tmp_path))
    with pytest.raises(VLFMError, match="latents_from is null"):
        other(latents_from=None)
    with pytest.raises(VLFMError, match=r"00007\.tar is missing: finish the run in"):
        run.take_clips("00007", tmp_path / "00007.tar")
    with pytest.raises(VLFMError, match="this run's own results"):
        run.take_plan(results / "clips" / "manifest.parquet", results / "clips" / "shards.json")


def test_the_command_takes_each_part(results, tmp_path, capsys, monkeypatch):
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"latents_from": str(results)}))
    monkeypatch.chdir(tmp_path)
    command = ["take", "--config", str(results / "config.yaml"), "--config", "mine.yaml"]
    assert main([*command, "clips"]) == 1 and "--shard 00000" in capsys.readouterr().err
    for part in (["plan"], ["decoder"], ["clips", "--shard", "00000"], ["latents", "--shard", "00000"]):
        assert main([*command, *part]) == 0, capsys.readouterr().err
    assert {path.name for path in (tmp_path / "results").iterdir()} == {"clips", "decoder", "latents"}
    assert len(LatentStore(tmp_path / "results" / "latents" / "00000.zarr")) == 3


@pytest.mark.slow
def test_a_workflow_trains_on_them_and_leaves_nothing_to_do(results, tmp_path):
    before = tree(results)
    when = {path: path.lstat().st_mtime_ns for path in results.rglob("*")}
    mine = {"latents_from": str(results), "flow": {"order": 3}, "training": {"steps": 5}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(mine))
    command = ["snakemake", "--snakefile", ROOT / "Snakefile", "--directory", tmp_path, "--cores", "2"]
    command += ["--configfile", results / "config.yaml", tmp_path / "mine.yaml", "--quiet", "rules"]

    def snakemake(*arguments):
        words = [str(word) for word in (*command, *arguments, "--", "train")]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    snakemake()
    assert read_json(tmp_path / "results" / "model" / "training.json")["steps"] == 5
    assert "Nothing to be done" in snakemake("--dry-run")
    assert tree(results) == before
    assert {path: path.lstat().st_mtime_ns for path in results.rglob("*")} == when


def test_the_rules_run_again_for_what_must_be_alike():
    """The workflow lists the same settings: to import them would cost every start of Snakemake the import of torch."""
    rules = (ROOT / "workflow" / "rules" / "reused.smk").read_text()
    listed = re.findall(r'"([\w.]+)"', rules.split("ALIKE = settings(")[1].split("\n)")[0])
    assert set(listed) == {"latents_from", *ALIKE}

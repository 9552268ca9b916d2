"""How far a run is, from folders as runs leave them: finished, at work, killed, half written."""

import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT, make_config
from tests.data.made_up_run import begin, benchmark, make_run, rows, touch
from vlfm import config as configs
from vlfm.cli import main
from vlfm.operations.status.jobs import job_of, job_of_log, stage_of
from vlfm.operations.status.status import in_words, read_status
from vlfm.storage.checkpoints import Checkpoints
from vlfm.storage.files import write_json
from vlfm.storage.ledger import write_ledger
from vlfm.training.log import MetricsLog

LOG = """
SNAKEMAKE
=========
  Date: 2026-11-27 10:03:27
  Host: {host}

Building DAG of jobs...
Finished jobid: 3 (Rule: index)
1 of 13 steps (8%) done
RuleException:
CalledProcessError in file "/run/workflow/rules/latents.smk", line 12:
Command 'set -euo pipefail;  vlfm invert' died with <Signals.SIGKILL: 9>.
[{when}]
Error in rule invert:
    message: None
    jobid: 51
    input: results/clips/00001.tar, results/decoder/decoder.json
    output: results/latents/00001.zarr
    log: results/logs/invert/00001.log, results/latents/00001.ledger.parquet (check log file(s) for error details)
    shell:
        vlfm invert --config results/config.yaml
        (command exited with non-zero exit code)
[{when}]
Finished jobid: 4 (Rule: project)
4 of 13 steps (31%) done
"""
BEGAN = time.mktime((2026, 11, 27, 10, 3, 27, 0, 0, -1))


def stages(folder):
    return {stage.stage: stage for stage in read_status(folder).stages}


def seen(folder):
    """Every path below a folder, with what it holds and when it changed."""
    paths = [folder, *folder.rglob("*")]
    return {path: (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None) for path in paths}


def snakemake_log(folder, host=None, locked=True):
    """What Snakemake leaves of a run on a machine that began at `BEGAN`: a log, and its lock."""
    when = time.strftime("%a %b %d %H:%M:%S %Y", time.localtime(BEGAN + 60))
    text = LOG.format(host=host or platform.node(), when=when)
    touch(folder / ".snakemake" / "log" / "2026-11-27T100327.498927.snakemake.log", text)
    touch(folder / ".snakemake" / "log" / "2026-11-27T100342.985633.snakemake.log", "Unlocked working directory.")
    if locked:
        touch(folder / ".snakemake" / "locks" / "0.output.lock", "results/clips/00000.tar\n")


def test_clips_done_bad_and_left(tmp_path):
    make_run(tmp_path, 4, 10, {"decode": 4, "invert": 2, "project": 1}, 20, 1e9, lossy=2)
    found = stages(tmp_path)
    decode, invert, project = (found[name] for name in ("decode", "invert", "project"))
    assert (decode.done, decode.total, decode.bad, decode.jobs_done, decode.jobs) == (38, 38, 2, 4, 4)
    assert decode.finished and decode.seconds == 0
    assert (invert.done, invert.total, invert.bad, invert.jobs_done) == (19, 38, 0, 2), "what decoding lost is not left"
    # 10 and 9 clips in two jobs of 20 seconds, one after the other.
    assert invert.rate == pytest.approx(19 / 40) and invert.seconds == pytest.approx(19 / (19 / 40))
    assert (project.done, project.total, project.seconds) == (10, 38, pytest.approx(28 / (10 / 20)))
    assert found["train"].total is None and found["train"].seconds is None, "no configuration says how many steps"
    text = in_words(read_status(tmp_path))
    assert "40 clips in 4 shards" in text and "not known: prepare decoder, train" in text


def test_jobs_beside_each_other_and_pauses_between_them(tmp_path):
    results = make_run(tmp_path, 4, 10, {"decode": 4}, 20, 1e9)
    for shard, end in enumerate((1e9, 1e9 + 10, 1e9 + 5000, 1e9 + 5000)):
        benchmark(results, f"decode/{shard:05d}", 20, end)
    # At work from −20 to 10 and from 4980 to 5000.
    assert stages(tmp_path)["decode"].rate == pytest.approx(40 / 50)


def test_clips_of_unfinished_jobs_count(tmp_path):
    results = make_run(tmp_path, 3, 10, {"decode": 1}, 20, 1e9)
    begun = time.time() - 100
    snakemake_log(tmp_path, host="node7")  # so that jobs are at work, as far as can be seen from here
    for shard, clips in ((1, 4), (2, 3)):
        partial = results / "clips" / f".{shard:05d}.partial-abc"
        for clip in range(clips):
            touch(partial / f"{clip:016x}-url.tar")
        touch(partial / ".0000000000000009-url.1234.tmp.tar")
        touch(results / "clips" / f".{shard:05d}.partial-older" / "0000000000000000-url.tar")
        os.utime(partial.with_name(f".{shard:05d}.partial-older"), (1, 1))
    begin(tmp_path, "results/clips/00001.tar", begun)
    begin(tmp_path, "results/clips/00002.tar", BEGAN - 500)  # of an earlier run, which was killed
    status = read_status(tmp_path)
    assert [(job.job, job.clips) for job in status.at_work] == [("decode/00001", 4)]
    assert [(job.job, job.clips) for job in status.unfinished] == [("decode/00002", 3)]
    decode = status.stages[1]
    assert (decode.done, decode.total, decode.jobs_done) == (17, 30, 1)
    text = in_words(status)
    assert "locked by a run on node7" in text and "its jobs: 4 of 13 done" in text
    assert "decode/00002: begun" in text and "3 clips kept" in text
    # The job has written its output and removes the pieces.
    touch(results / "clips" / "00001.tar")
    assert stages(tmp_path)["decode"].done == 23 and stages(tmp_path)["decode"].jobs_done == 1
    # Before any job has ended, those at work tell the rate: 4 clips in 100 seconds.
    (results / "clips" / "00001.tar").unlink()
    (results / "benchmarks" / "decode" / "00000.tsv").write_text("s\th:m:s\n")  # half written
    assert stages(tmp_path)["decode"].rate == pytest.approx(0.04, rel=0.2)


def test_a_killed_job_is_done_again_whatever_it_wrote(tmp_path):
    make_run(tmp_path, 2, 10, {"decode": 2, "invert": 2}, 20, 1e9)
    begin(tmp_path, "results/latents/00001.zarr", 1e9)
    invert = stages(tmp_path)["invert"]
    assert (invert.done, invert.jobs_done, invert.finished) == (10, 1, False)


def test_markers_of_long_names(tmp_path):
    make_run(tmp_path, 1, 10, {}, 20, 1e9)
    output = f"results/eval/ablation/{'x' * 300}/result.json"
    assert len(begin(tmp_path, output, 1e9).relative_to(tmp_path).parts) == 4
    assert [job.job for job in read_status(tmp_path).unfinished] == [f"ablation/{'x' * 300}"]


def test_captioned_clips_lie_in_another_folder_until_they_are(tmp_path):
    results = make_run(tmp_path, 3, 10, {"decode": 1}, 20, 1e9)
    configs.save(make_config(clips={"captioner": "blip"}), results / "config.yaml")
    touch(results / "clips" / "uncaptioned" / "00001.tar")
    write_ledger(results / "clips" / "captions" / "00000.ledger.parquet", rows("caption", 10, 3))
    begin(tmp_path, "results/clips/00002.tar", 1e9)
    status = read_status(tmp_path)
    found = {stage.stage: stage for stage in status.stages}
    assert (found["decode"].done, found["decode"].jobs_done) == (20, 2)
    assert (found["caption"].done, found["caption"].bad, found["caption"].total) == (7, 3, 27)
    assert found["invert"].total == 27
    assert [job.job for job in status.unfinished] == ["caption/00002"]


def test_what_is_taken_from_another_run_has_its_bad_clips(tmp_path):
    """`latents_from`: no digits are drawn and no clips captioned here, and the ledgers are where the work was done."""
    other, here = tmp_path / "other", tmp_path / "here"
    make_run(other, 2, 10, {"decode": 2, "invert": 2}, 20, 1e9, lossy=2)
    results = make_run(here, 2, 10, {"decode": 2, "invert": 1}, 1, 1e9)
    for ledger in results.rglob("*.ledger.parquet"):
        ledger.unlink()
    clips = {"index": "moving-digits", "captioner": "someone/captions"}
    configs.save(make_config(latents_from="../other/results", clips=clips), results / "config.yaml")
    found = stages(here)
    assert "caption" not in found and found["index"].jobs == 1
    decode, invert = found["decode"], found["invert"]
    assert (decode.done, decode.total, decode.bad) == (19, 19, 1) and decode.finished
    assert (invert.done, invert.total, invert.jobs_done) == (10, 19, 1)


def test_steps_of_a_training(tmp_path):
    results = make_run(tmp_path, 1, 10, {}, 20, 1e9)
    configs.save(make_config(training={"steps": 100}), results / "config.yaml")
    snakemake_log(tmp_path, host="node7")
    marker = begin(tmp_path, "results/model/training.json", time.time() - 50)
    saved = Checkpoints(results / "checkpoints" / "abc", 2)
    for step in (10, 20):
        saved.save(step, {"step": step})
    Checkpoints(results / "checkpoints" / "other", 2).save(90, {"step": 90})
    log = MetricsLog(results / "model" / "metrics.csv", 20, results / "model" / "tensorboard" / "abc")
    touch(results / "logs" / "train.log", "going on from step 20\n")
    for step in (30, 40):
        log.write(step, step * 8, 0.5, 1.0, 1e-3, 0)
    log.close()
    events = next((results / "model" / "tensorboard" / "abc").iterdir())
    started = int(events.name.split(".")[3])
    with (results / "model" / "metrics.csv").open("a") as file:
        file.write("50,40")  # half a line
    os.utime(results / "model" / "metrics.csv", (started + 40, started + 40))
    train = stages(tmp_path)["train"]
    assert (train.done, train.total, train.rate) == (40, 100, pytest.approx(0.5)) and train.seconds == 120
    # Nobody trains: it will go on from the newest checkpoint.
    (tmp_path / ".snakemake" / "locks" / "0.output.lock").unlink()
    assert (stages(tmp_path)["train"].done, stages(tmp_path)["train"].rate) == (20, None)
    marker.unlink()
    write_json(results / "model" / "training.json", {"steps": 100})
    assert stages(tmp_path)["train"].finished
    configs.save(make_config(training={"steps": 200}), results / "config.yaml")
    train = stages(tmp_path)["train"]
    assert (train.done, train.total, train.finished) == (100, 200, False), "asked for more since"


def test_evaluation_counts_clips(tmp_path):
    results = make_run(tmp_path, 2, 10, {"decode": 2}, 20, 1e9)
    configs.save(make_config(evaluation={"clips": 12}), results / "config.yaml")
    for clip in range(5):
        touch(results / "eval" / ".videos.partial-abc" / f"{clip:016x}.json", "{}")
    assert (stages(tmp_path)["evaluate"].done, stages(tmp_path)["evaluate"].total) == (5, 12)
    write_json(results / "eval" / "videos" / "index.json", {"clips": [{}] * 12})
    touch(results / "eval" / "psnr.csv")
    benchmark(results, "evaluate", 24, 1e9)
    evaluate = stages(tmp_path)["evaluate"]
    assert evaluate.finished and (evaluate.done, evaluate.rate) == (12, 0.5)


def test_errors_are_told_until_the_job_ends_well(tmp_path, capsys):
    results = make_run(tmp_path, 3, 10, {"decode": 2}, 20, 1e9)
    log = results / "logs" / "train.log"
    assert main(["train", "--config", str(tmp_path / "none.yaml"), "--log", str(log)]) == 1
    message = capsys.readouterr().err.strip()
    trace = 'Traceback (most recent call last):\n  File "x.py", line 1, in y\n    z\nValueError: no number\nbut a word'
    touch(results / "logs" / "decode" / "00002.log", f"decoding\n{trace}\n", 1e9 + 500)
    touch(results / "logs" / "decode" / "00000.log", f"{trace}\n", 1e9 + 10)  # the benchmark is newer
    touch(results / "logs" / "evaluate.log", "vlfm evaluate: no room\n", 1e9)
    begin(tmp_path, "results/eval/psnr.csv", 1e9 + 50)  # begun again since
    snakemake_log(tmp_path, locked=False)
    status = read_status(tmp_path)
    assert [error.job for error in status.errors] == ["train", "invert/00001", "decode/00002"] or [
        error.job for error in status.errors
    ] == ["invert/00001", "train", "decode/00002"], "the newest first"
    said = {error.job: error.message for error in status.errors}
    assert said["train"] == message and said["decode/00002"] == "ValueError: no number\nbut a word"
    assert said["invert/00001"] == "", "killed: Snakemake knows, its own log does not"
    text = in_words(status)
    assert "3 jobs failed" in text and "it was killed" in text and "no configuration at" in text
    benchmark(results, "invert/00001", 5, BEGAN + 90)
    benchmark(results, "train", 5, time.time() + 5)
    assert [error.job for error in read_status(tmp_path).errors] == ["decode/00002"]


def test_nothing_is_changed_and_what_cannot_be_read_is_told(tmp_path, capsys):
    results = make_run(tmp_path, 2, 10, {"decode": 2, "invert": 1}, 20, 1e9)
    snakemake_log(tmp_path)
    begin(tmp_path, "results/latents/00001.zarr", 1e9)
    before = seen(tmp_path)
    assert main(["status", "--directory", str(tmp_path), "--json"]) == 0
    assert seen(tmp_path) == before
    told = json.loads(capsys.readouterr().out)
    assert told["workflow"]["state"] == "gone" and told["clips"] == 20
    assert [stage["seconds_left"] for stage in told["stages"]][:2] == [0.0, 0.0]
    # A ledger without its end, a plan and a configuration that are none.
    ledger = results / "clips" / "00000.ledger.parquet"
    ledger.write_bytes(ledger.read_bytes()[:100])
    assert stages(tmp_path)["decode"].done == 20
    (results / "clips" / "shards.json").write_text('{"00000": ')
    (results / "config.yaml").write_text("flow: {order: 3}")
    status = read_status(tmp_path)
    assert len(status.troubles) == 2 and status.clips is None
    assert "shards.json is not valid JSON" in in_words(status)


def test_a_folder_without_a_run_is_refused(tmp_path, capsys):
    assert main(["status", "--directory", str(tmp_path)]) == 1
    assert "--directory" in capsys.readouterr().err
    (tmp_path / "results").mkdir()
    assert main(["status", "--directory", str(tmp_path)]) == 0
    assert "no plan yet" in capsys.readouterr().out


WILDCARDS = {"{shard}": "00007", "{head}": "velocity", "{variant}": "direct", "{seed}": "1", "{depth}": "0.5"}
RULE = re.compile(r"^ *(?:rule|checkpoint) (\w+):\n(.*?)(?=^ *(?:rule|checkpoint) |\Z)", re.MULTILINE | re.DOTALL)
# A list of files that rules share, and what only runs whose results are stored declare.
LIST = re.compile(r"^([A-Z]+) = (.*(?:\n .*)*)", re.MULTILINE)
STORED = re.compile(r"\bstored\(.*?\)", re.DOTALL)
PATHS = re.compile(r'"(results/[^"]+)"')


def test_every_rule_is_known():
    """A rule's outputs and its log name the same job."""
    checked = 0
    texts = {file.name: file.read_text() for file in sorted((ROOT / "workflow" / "rules").glob("*.smk"))}
    lists = {name: PATHS.findall(STORED.sub("", listed)) for name, listed in LIST.findall("".join(texts.values()))}
    for text in texts.values():
        for rule, body in RULE.findall(text):
            outputs, _, rest = body.partition("    output:\n")[2].partition("    log:\n")
            (log,) = re.findall(r'"(results/logs/[^"]+)"', rest)[:1]
            found = PATHS.findall(outputs)
            found += [path for name in re.findall(r"\b[A-Z]+\b", outputs) for path in lists[name]]
            found += [
                f"results/eval/{name}{end}"
                for name in re.findall(r'experiment\("(\w+)"', outputs)
                for end in (".csv", ".svg", "/index.json", "/clips.csv")
            ]
            assert found, rule
            for path in found:
                for wildcard, value in {**WILDCARDS, "{name}": "lipschitz"}.items():
                    path, log = path.replace(wildcard, value), log.replace(wildcard, value)
                captioned = rule == "caption"
                assert job_of(path, captioned) == job_of_log(log), (rule, path)
                checked += 1
    assert checked > 40
    assert job_of("results/clips/digits/digits.csv") == "make_digits" and stage_of("make_digits") == "index"
    assert job_of("elsewhere/x.tar") is None and stage_of("ablation/velocity") == "experiments"


SNAKEFILE = """
rule decode:
    output: "results/clips/00000.tar"
    log: "results/logs/decode/00000.log"
    shell: "{python} vlfm decode --shard 00000"
"""


@pytest.mark.slow
def test_a_real_run_that_is_killed(tmp_path):
    """Snakemake at work, killed while its job goes on, its job killed, unlocked."""
    make_run(tmp_path, 1, 10, {}, 20, 1e9)
    touch(tmp_path / "Snakefile", SNAKEFILE.format(python=sys.executable))
    touch(tmp_path / "vlfm", "import time; time.sleep(600)")
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "results/clips/00000.tar"]
    process = subprocess.Popen(
        command, cwd=tmp_path, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    worker = None
    try:
        deadline = time.monotonic() + 120
        while not (status := read_status(tmp_path)).workflow.workers:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        flow = status.workflow
        assert (flow.state, flow.process, flow.host) == ("running", process.pid, platform.node())
        ((worker, name),) = flow.workers.items()
        assert name == "decode" and [job.job for job in status.at_work] == ["decode/00000"]
        assert "a run goes on: process" in in_words(status)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        status = read_status(tmp_path)
        assert status.workflow.state == "gone" and status.workflow.workers == {worker: "decode"}
        assert not status.at_work and [job.job for job in status.unfinished] == ["decode/00000"]
        assert "yet jobs are at work here: decode" in in_words(status)
    finally:
        for number in filter(None, (worker, process.poll() is None and process.pid)):
            os.kill(number, signal.SIGKILL)
    subprocess.run([*command[:3], "--unlock"], cwd=tmp_path, check=True, capture_output=True)
    deadline = time.monotonic() + 20
    while (flow := read_status(tmp_path).workflow).workers and time.monotonic() < deadline:
        time.sleep(0.1)
    assert (flow.state, flow.process, flow.workers) == ("idle", None, {})
    assert flow.since is not None, "the log that --unlock leaves is no run's"


@pytest.mark.slow
def test_a_finished_run():
    """One that the tests of the workflow made; see tests/workflow/test_dag.py."""
    if not (folder := os.environ.get("VLFM_FINISHED_RUN")):
        pytest.skip("VLFM_FINISHED_RUN names no run")
    before = seen(Path(folder) / "results")
    status = read_status(Path(folder))
    assert seen(Path(folder) / "results") == before
    assert all(stage.finished for stage in status.stages) and not status.errors and not status.unfinished
    found = {stage.stage: stage for stage in status.stages}
    assert [found[name].done for name in ("decode", "invert", "project", "train", "evaluate")] == [34, 34, 34, 12, 3]
    assert all(found[name].rate for name in ("decode", "invert", "project", "train", "evaluate"))
    assert status.workflow.done == status.workflow.jobs and status.workflow.state == "idle"

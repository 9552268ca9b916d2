"""GPUs shared by the jobs of one machine. `nvidia-smi` is a script that lists two; the locks and processes are real."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import SMALL, make_config
from vlfm import config as configs
from vlfm.cli import main
from vlfm.devices import SHARED, claim, find_gpus, share
from vlfm.errors import VLFMError

ROOT = Path(__file__).parents[1]
TWO = "GPU 0: Simulated (UUID: GPU-a1)\nGPU 1: Simulated (UUID: GPU-b2)\n"
DIVIDED = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-a1)
  MIG 3g.20gb     Device  0: (UUID: MIG-c3)
  MIG 3g.20gb     Device  1: (UUID: MIG-d4)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-b2)
"""


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """`machine(listed)` → a machine whose `nvidia-smi` lists that; its locks lie in a folder of the test."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)  # it remembers
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # put back after the test
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv(SHARED, "{}")
    monkeypatch.delenv(SHARED)
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)

    def machine(listed, status=0):
        script = tmp_path / "bin" / "nvidia-smi"
        script.write_text(f"#!/bin/sh\ncat <<'END'\n{listed}END\nexit {status}\n")
        script.chmod(0o755)

    return machine


@pytest.mark.parametrize(
    ("visible", "found"),
    [
        (None, {"GPU-a1": "GPU-a1", "GPU-b2": "GPU-b2"}),
        ("1", {"1": "GPU-b2"}),
        ("1, 0", {"1": "GPU-b2", "0": "GPU-a1"}),
        ("GPU-b", {"GPU-b": "GPU-b2"}),
        ("0,-1,1", {"0": "GPU-a1"}),  # CUDA's list ends there
        ("0,7,1", {"0": "GPU-a1"}),
        ("GPU-", {}),  # of which of them?
        ("", {}),
        ("NoDevFiles", {}),  # Slurm's word for none
    ],
)
def test_gpus_are_those_that_cuda_would_see(machine, monkeypatch, visible, found):
    machine(TWO)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert list(find_gpus().items()) == list(found.items())


def test_parts_of_a_divided_gpu_are_devices(machine, monkeypatch):
    machine(DIVIDED)
    assert list(find_gpus()) == ["MIG-c3", "MIG-d4", "GPU-b2"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-d4,1")
    assert find_gpus() == {"MIG-d4": "MIG-d4", "1": "GPU-b2"}


def test_a_machine_without_a_working_driver_has_none(machine, tmp_path, monkeypatch):
    machine("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n", status=9)
    assert find_gpus() == {}
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_gpus() == {}


def test_where_nothing_is_shared_nothing_is_taken(monkeypatch):
    share({})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert claim(2) == [] and os.environ["CUDA_VISIBLE_DEVICES"] == "3"


def test_a_process_takes_once_and_its_children_see_what_it_took():
    share({"0": "GPU-a1", "1": "GPU-b2"})
    assert claim() == ["GPU-a1"] and os.environ["CUDA_VISIBLE_DEVICES"] == "0"
    assert claim() == [] and os.environ["CUDA_VISIBLE_DEVICES"] == "0"


def test_more_processes_than_gpus_are_refused_by_number():
    share({"0": "GPU-a1", "1": "GPU-b2"})
    with pytest.raises(VLFMError, match=r"3 processes want a GPU each, and this machine shares 2 .*processes to 2"):
        claim(3)


def test_a_folder_of_somebody_else_is_refused(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"vlfm-gpus-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    share({"0": "GPU-a1"})
    with pytest.raises(VLFMError, match="not a folder of this user"):
        claim()


HOLD = "import sys, time; from vlfm.devices import claim; claim(int(sys.argv[1])); time.sleep(60)"


def hold(count):
    """A process that takes so many of two GPUs and keeps them."""
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, str(count)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, SHARED: json.dumps({"0": "GPU-a1", "1": "GPU-b2"})},
    )


def test_a_killed_process_frees_its_gpu_for_one_that_waits():
    processes = [hold(1), hold(1)]
    try:
        assert {process.stdout.readline() for process in processes} == {"GPU: GPU-a1\n", "GPU: GPU-b2\n"}
        processes.append(hold(2))
        assert processes[2].stdout.readline() == "waiting: of the GPUs 0, 1, fewer than 2 are free\n"
        processes[0].kill()
        processes.append(hold(1))  # goes first: one is free, not two
        assert processes[3].stdout.readline().startswith("GPU: GPU-")
        processes[1].kill()
        processes[3].kill()
        assert processes[2].stdout.readline() == "GPU: GPU-a1, GPU-b2\n"
    finally:
        for process in processes:
            process.kill()
            process.communicate()


@pytest.mark.parametrize(
    ("arguments", "visible"),
    [
        (["empty-caption"], "0"),
        (["empty-caption", "--device", "cpu"], None),
        (["empty-caption", "--device", "cuda:1"], None),
        (["train"], "0,1"),
        (["train", "--processes", "1"], "0"),
        (["train", "--device", "cpu"], None),
        (["report"], None),
    ],
)
def test_a_command_takes_what_it_computes_on(tmp_path, monkeypatch, arguments, visible):
    small = make_config(**SMALL)
    training = small.training.model_copy(update={"processes": 2})
    configs.save(small.model_copy(update={"training": training}), tmp_path / "config.yaml")
    seen = []
    (name, *options), module = arguments, {"empty-caption": "latents", "train": "training", "report": "evaluation"}
    command = f"vlfm.commands.{module[name]}._{name.replace('-', '_')}"
    monkeypatch.setattr(command, lambda arguments: seen.append(os.environ.get("CUDA_VISIBLE_DEVICES")))
    share({"0": "GPU-a1", "1": "GPU-b2"})
    assert main([name, "--config", str(tmp_path / "config.yaml"), *options]) == 0
    assert seen == [visible]


SNAKEFILE = """
configfile: "{root}/config.yaml"
include: "{root}/workflow/rules/common.smk"
print("GPU jobs at a time:", GPUS, "threads:", threads_for(), file=sys.stderr)

rule all:
    input:
        expand("{{n}}.json", n=range(6)), "both.json"

rule one:
    output: "{{n}}.json"
    wildcard_constraints: n="[0-9]"
    resources: gpu=1
    shell: "{python} job.py 1 {{output}}"

rule both:
    output: "both.json"
    resources: gpu=2
    shell: "{python} job.py 2 {{output}}"
"""
JOB = """
import json, os, sys, time
from vlfm.devices import claim
taken = claim(int(sys.argv[1]))
began = time.time()
time.sleep(0.5)
about = {"taken": taken, "visible": os.environ.get("CUDA_VISIBLE_DEVICES"), "began": began, "ended": time.time()}
with open(sys.argv[2], "w") as file:
    json.dump(about, file)
"""


@pytest.fixture
def workflow(tmp_path):
    """`workflow(…)` runs six jobs of one GPU and one of two by the workflow's own common.smk → (jobs, output)."""
    (tmp_path / "Snakefile").write_text(SNAKEFILE.format(root=ROOT, python=sys.executable))
    (tmp_path / "job.py").write_text(JOB)

    def workflow(*arguments):
        command = ["snakemake", "--cores", "4", "--workflow-profile", "none", *arguments]
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return [json.loads(file.read_text()) for file in tmp_path.glob("*.json")], done.stderr

    return workflow


def most_at_a_time(jobs):
    return max(sum(other["began"] <= job["began"] < other["ended"] for other in jobs) for job in jobs)


@pytest.mark.slow
def test_jobs_of_a_workflow_run_at_a_time_each_on_a_gpu_of_its_own(machine, workflow):
    machine(TWO)
    jobs, output = workflow()
    assert "GPU jobs at a time: 2 threads: 2" in output
    assert len(jobs) == 7 and sum(job["taken"] == ["GPU-a1", "GPU-b2"] for job in jobs) == 1
    assert all(job["visible"] == ",".join(job["taken"]) for job in jobs)
    for gpu in ("GPU-a1", "GPU-b2"):
        assert most_at_a_time([job for job in jobs if gpu in job["taken"]]) == 1
    assert most_at_a_time(jobs) == 2


@pytest.mark.slow
def test_without_a_gpu_one_job_at_a_time(machine, workflow):
    machine("", status=9)
    jobs, output = workflow()
    assert "GPU jobs at a time: 1 threads: 16" in output
    assert most_at_a_time(jobs) == 1 and not any(job["taken"] or job["visible"] for job in jobs)


@pytest.mark.slow
def test_whoever_asks_for_more_jobs_than_gpus_has_them_share(machine, workflow):
    machine(TWO)
    jobs, output = workflow("--resources", "gpu=3")
    assert "GPU jobs at a time: 3" in output and not any(job["taken"] for job in jobs)


@pytest.mark.slow
def test_a_cluster_sets_its_own_limits(machine, workflow, tmp_path):
    machine(TWO)
    for name in (*range(6), "both"):  # nothing is left to do: no cluster is needed to see how the workflow is read
        (tmp_path / f"{name}.json").write_text("{}")
    _, output = workflow("--executor", "slurm", "--jobs", "9")
    assert "GPU jobs at a time: 1 threads: 16" in output and "Nothing to be done" in output

"""Several processes that train together, over gloo, started as a user starts them.

Most of the time is Python importing, so processes are few: an undisturbed run is made once for all tests.
"""

import functools
import json
import os
import random
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import SMALL, make_config, merge
from tests.data.model import write_shards
from vlfm import config as configs
from vlfm.coefficients.shards import write_shard
from vlfm.storage.checkpoints import load_state
from vlfm.training import nodes
from vlfm.training.launch import free_port

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "vlfm.cli"]
STEPS = 80
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def prepared(folder):
    """The folder, with shards, their plan and a configuration in it."""
    config = make_config(
        **merge(
            SMALL,
            {"training": {"steps": STEPS, "ema": 0.9, "precision": "float32", "checkpoint_every": 3, "workers": 1}},
        )
    )
    (folder / "data").mkdir()
    write_shards(folder / "data", config)
    configs.save(config, folder / "config.yaml")
    (folder / "plan.json").write_text('{"00000": {}, "00001": {}}')
    return folder


@pytest.fixture
def folder(tmp_path):
    return prepared(tmp_path)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Number of processes → what a run that nothing disturbs leaves."""

    @functools.cache
    def straight(processes):
        folder = prepared(tmp_path_factory.mktemp("straight"))
        finish(folder, "a", "--processes", str(processes))
        return results(folder, "a")

    return straight


def command(name, *options, launcher=("-m", "vlfm.cli")):
    arguments = [*launcher, "train", "--config", "config.yaml", "--plan", "plan.json", "--coefficients", "data"]
    arguments += ["--output", f"{name}/model", "--checkpoints", f"{name}/checkpoints", "--device", "cpu"]
    arguments += ["--metrics", f"{name}/model/metrics.csv", "--threads", "2", *options]
    return [sys.executable, *arguments]


def start(folder, name, *options, environment=ENVIRONMENT, **more):
    return subprocess.Popen(
        command(name, *options, **more),
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(folder, name, *options, **more):
    process = start(folder, name, *options, **more)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    return output


def change(folder, **settings):
    """Change keys of `training` in the folder's configuration."""
    config = configs.load(folder / "config.yaml")
    changed = config.training.model_copy(update=settings)
    configs.save(config.model_copy(update={"training": changed}), folder / "config.yaml")


def results(folder, name):
    """Everything a run left that must be the same: its last checkpoint, its model, its log."""
    run = folder / name
    return [
        max(run.glob("checkpoints/*/step-*.safetensors")).read_bytes(),
        (run / "model" / "transformer" / "diffusion_pytorch_model.safetensors").read_bytes(),
        (run / "model" / "metrics.csv").read_bytes(),
    ]


def until(process, condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None or time.monotonic() > end:
            process.kill()  # or its output would have no end
            raise AssertionError(process.communicate(timeout=30)[0])
        time.sleep(0.02)


def step_saved(folder, name):
    """The last step that a run has a checkpoint of, 0 if there is none."""
    return max((int(path.stem[5:]) for path in (folder / name).glob("checkpoints/*/step-*.safetensors")), default=0)


def weights(folder, name):
    return load_state(max((folder / name).glob("checkpoints/*/step-*.safetensors")))["model"]


@pytest.mark.slow
def test_two_processes_and_parts_of_a_batch_train_as_one_process_does(folder):
    # AdamW moves a weight by up to the learning rate a step, however small its gradient: times near 0, where some
    # gradients are rounding alone, would show no more than that.
    change(folder, steps=4, optimizer="adamw", emphasis=1.0)
    # On cosines three of a hundred thousand gradients are such.
    config = configs.load(folder / "config.yaml")
    legendre = config.flow.model_copy(update={"basis": "legendre"})
    configs.save(config.model_copy(update={"flow": legendre}), folder / "config.yaml")
    finish(folder, "one")
    change(folder, accumulate=2)
    finish(folder, "both", "--processes", "2")
    one = weights(folder, "one")
    for key, value in weights(folder, "both").items():
        assert torch.allclose(value, one[key], rtol=1e-4, atol=1e-5), key


@pytest.mark.slow
def test_two_processes_that_trust_their_steps_end_as_those_that_ask(folder):
    """A clip that is not finite is one process's alone: both go back, and take the steps again together."""
    (folder / "again").mkdir()
    made, _, _ = write_shards(folder / "again", configs.load(folder / "config.yaml"))
    made[2].coefficients[0, 0, 0, 0] = float("nan")
    write_shard(folder / "data" / "00000.tar", iter(made[::2]))
    said = []
    for name in ("asked", "trusted"):
        change(folder, steps=26, checkpoint_every=12, updates=name)
        output = finish(folder, name, "--processes", "2")
        said.append([line for line in output.splitlines() if line.startswith("warning: step")])
    assert results(folder, "asked") == results(folder, "trusted")
    assert said[0] == said[1] and 0 < len(said[0]) < 26


GRADIENTS = """
import sys, torch
from pathlib import Path
from safetensors.torch import save_file
from vlfm import config as configs
from vlfm.training.data import read_moments
from vlfm.training.loader import batches
from vlfm.training.network import new_model
from vlfm.training.trainer import Trainer

torch.set_num_threads(1)
config = configs.load("config.yaml")
files = sorted(Path("data").glob("*.json"))
moments = read_moments(files)
trainer = Trainer(config, new_model(config, moments), torch.device("cpu"))
for parameter in trainer.model.parameters():
    torch.nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(parameter.numel()))
source = batches(
    [file.with_suffix(".tar") for file in files], moments, config.training.batch_size, 0, parts=trainer.parts
)
trainer.backward(trainer.prepare([next(source) for _ in trainer.parts], 0))
if trainer.rank == 0:
    save_file({name: p.grad.contiguous() for name, p in trainer.model.named_parameters()}, sys.argv[1])
trainer.accelerator.end_training()
"""


@pytest.mark.slow
def test_gradients_of_two_processes_are_those_of_one(folder):
    (folder / "gradients.py").write_text(GRADIENTS)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for launcher, name, accumulate in (([], "one", 1), (torchrun, "two", 1), ([], "parts", 2)):
        change(folder, accumulate=accumulate)
        command = [sys.executable, *launcher, "gradients.py", name]
        subprocess.run(command, cwd=folder, env=ENVIRONMENT, check=True, timeout=300)
    one = load_file(folder / "one")
    assert max(gradient.abs().max() for gradient in one.values()) > 1e-3
    for name in ("two", "parts"):
        for key, gradient in load_file(folder / name).items():
            assert torch.allclose(gradient, one[key], rtol=0, atol=1e-6 * max(1, one[key].abs().max())), (name, key)


@pytest.mark.slow(minutes=1.5)
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_at_any_moment_and_resumed_equals_straight(folder, straight, processes):
    """Twice amid training, once anywhere in the start of a process that goes on."""
    options = ("--processes", str(processes))
    moment, start_up = random.Random(processes), 0.0
    for training in (True, False, True):
        process, began, before = start(folder, "b", *options), time.monotonic(), step_saved(folder, "b")
        if training:
            until(process, lambda before=before: step_saved(folder, "b") > before)
            start_up = time.monotonic() - began
            goal = before + moment.randint(1, 18)
            until(process, lambda goal=goal: step_saved(folder, "b") >= goal)
            time.sleep(moment.uniform(0, 0.1))
        else:
            time.sleep(moment.uniform(0, start_up))
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        process.kill()
        process.wait()
        _, alive = psutil.wait_procs(family[1:], timeout=15)
        assert not alive  # trainers and readers die with the parent
        assert step_saved(folder, "b") < STEPS, "it was over before the kill"
    finish(folder, "b", *options)
    assert results(folder, "b") == straight(processes)


@pytest.mark.slow
def test_torchrun_does_what_processes_does(folder, straight):
    # `--processes` shares two threads between two; with another number some processors round sums otherwise.
    finish(folder, "b", "--threads", "1", launcher=TORCHRUN)
    assert results(folder, "b") == straight(2)


@pytest.mark.slow
def test_a_launcher_on_each_of_two_nodes_trains_with_the_other(folder):
    """As srun starts them; tests/cluster/slurm.sh has a real one, and compares the weights."""
    meeting = {nodes.ADDRESS: "localhost", nodes.PORT: str(free_port()), nodes.NODES: "2"}
    launchers = [
        start(
            folder,
            "b",
            "--processes",
            "1",
            "--threads",
            "1",
            environment=ENVIRONMENT | meeting | {"SLURM_PROCID": node},
        )
        for node in "10"
    ]
    for launcher in launchers:
        output, _ = launcher.communicate(timeout=120)
        assert launcher.returncode == 0, output
    about = json.loads((folder / "b" / "model" / "training.json").read_text())
    assert about["steps"] == STEPS and about["skipped"] == 0
    assert all(tensor.isfinite().all() for tensor in weights(folder, "b").values())


def test_several_nodes_without_slurm_are_refused(folder):
    environment = {key: value for key, value in ENVIRONMENT.items() if not key.startswith("SLURM_")}
    process = start(folder, "a", "--nodes", "2", environment=environment)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and "takes a Slurm job" in output and "training.nodes to 1" in output


def test_launchers_on_nodes_get_no_log_of_their_own():
    arguments = ["train", "--log", "a.log", "--threads", "2", "--log=b.log", "--config", "c.yaml"]
    assert nodes.without_log(arguments) == ["train", "--threads", "2", "--config", "c.yaml"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_ends_with_143_and_another_number_of_processes_goes_on(folder, number):
    change(folder, checkpoint_every=1000)
    process = start(folder, "a", "--processes", "2")
    until(process, lambda: list((folder / "a").glob("model/tensorboard/*/events*")))
    time.sleep(0.5)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 143, output
    (state,) = (folder / "a").glob("checkpoints/*/step-*.safetensors")
    step = load_state(state)["step"]
    assert 0 < step < STEPS and f"step {step} is saved" in output
    output = finish(folder, "a", "--processes", "1")
    assert f"going on from step {step}" in output
    assert (folder / "a" / "model" / "training.json").exists()


@pytest.mark.slow
def test_a_shard_that_one_process_cannot_read_stops_all_with_its_name(folder):
    tar = folder / "data" / "00001.tar"
    tar.write_bytes(tar.read_bytes()[:-20000])
    process = start(folder, "a", "--processes", "2", "--log", "train.log")
    output, _ = process.communicate(timeout=90)
    assert process.returncode == 1
    assert "00001.tar is damaged" in output and "Traceback" not in output
    assert "00001.tar is damaged" in (folder / "train.log").read_text()
    assert "00001.tar is damaged" in (folder / "train.1.log").read_text()

"""Steps that go on unasked end where steps that are asked end, to the byte, whatever happens on the way."""

import contextlib
import math
import os
import signal

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.conftest import SMALL, make_config, merge
from tests.data.model import write_shards
from vlfm.coefficients.shards import ClipCoefficients, write_shard
from vlfm.errors import Stopped, VLFMError
from vlfm.storage.checkpoints import load_state
from vlfm.training.data import read_moments
from vlfm.training.loader import batches
from vlfm.training.loop import LOG_EVERY, train
from vlfm.training.network import new_model
from vlfm.training.nonfinite_gradients import AskedUpdates, TrustedUpdates, make_updates
from vlfm.training.objective import Objective
from vlfm.training.trainer import Trainer

CPU = torch.device("cpu")
STEPS = 26  # looked at with each checkpoint, at the tenth and the twentieth, and at the end


def config_with(**change):
    settings = {"steps": STEPS, "checkpoint_every": 7, "keep": 9, "max_bad_steps": 30, "batch_size": 2, **change}
    return make_config(**merge(SMALL, {"training": settings}))


@pytest.fixture
def data(tmp_path, small_config):
    (tmp_path / "data").mkdir()
    return write_shards(tmp_path / "data", small_config)


def put_in(data, value, *clips):
    """Write the first shard anew with one coefficient of some clips replaced; its moments stay."""
    made, tars, _ = data
    changed = []
    for index, clip in enumerate(made[::2]):
        coefficients = clip.coefficients.copy()
        if index in clips:
            coefficients[0, 0, 0, 0] = value
        changed.append(ClipCoefficients(**{**vars(clip), "coefficients": coefficients}))
    write_shard(tars[0], iter(changed))


def run(folder, data, **settings):
    _, tars, moments = data
    metrics = folder / "model" / "metrics.csv"
    config = config_with(**settings)
    train(config, tars, moments, folder / "model", folder / "checkpoints", metrics, CPU)


def left(folder):
    """The bytes of all that a run leaves but TensorBoard's files, which have the time in them."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and "tensorboard" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def warnings_of(capsys):
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]


def both(tmp_path, data, capsys, **settings):
    """Train both ways; what they left is equal and is returned, with what they said."""
    run(tmp_path / "asked", data, updates="asked", **settings)
    asked = left(tmp_path / "asked"), warnings_of(capsys)
    run(tmp_path / "trusted", data, updates="trusted", **settings)
    assert (left(tmp_path / "trusted"), warnings_of(capsys)) == asked
    files, told = asked
    assert sum(name.startswith("checkpoints/") for name in files) == 3
    return files, told


@pytest.mark.parametrize(
    "value, settings",
    [
        (0.5, {"ema": 0.9}),
        (math.inf, {"ema": 0.9}),
        pytest.param(math.inf, {"optimizer": "muon", "ema": 0.9}, marks=pytest.mark.slow),
        (3e30, {"optimizer": "adamw", "accumulate": 2}),
    ],
)
def test_trusted_and_asked_steps_leave_the_same_bytes(tmp_path, data, capsys, value, settings):
    put_in(data, value, 1)
    files, told = both(tmp_path, data, capsys, **settings)
    assert (0 < len(told) < STEPS) == (value > 1)
    assert f'"skipped": {len(told)}'.encode() in files["model/training.json"]


@pytest.mark.slow
def test_an_overflow_in_float16_is_found_and_its_scale_the_same(tmp_path, data, capsys):
    put_in(data, 3e4, 1)  # finite, and so is its loss; scaled up, its gradient is not
    _, told = both(tmp_path, data, capsys, precision="float16", ema=0.9)
    assert told and "not finite in the shards" not in told[0]
    state = load_state(max(tmp_path.glob("trusted/checkpoints/*/step-*")))
    assert 0 < state["skipped"] <= len(told) and state["scaler"]["scale"] == 2.0**16 / 2 ** state["skipped"]


def test_ten_bad_steps_in_a_row_change_nothing(tmp_path, data, capsys):
    put_in(data, math.nan, 0, 1, 2, 3)
    _, told = both(tmp_path, data, capsys, batch_size=4)
    assert len(told) >= LOG_EVERY


def test_too_many_bad_steps_end_a_trusted_run_at_the_same_step(tmp_path, data, capsys):
    put_in(data, math.nan, 0, 1, 2, 3)
    said = []
    for name in ("asked", "trusted"):
        with pytest.raises(VLFMError, match=r"not finite in 3 steps in a row, up to step \d+; not finite in") as caught:
            run(tmp_path / name, data, updates=name, batch_size=4, max_bad_steps=3)
        said.append((str(caught.value), warnings_of(capsys)))
    assert said[0] == said[1]


class PowerCut(Exception):
    """Nothing gets the chance to save."""


@contextlib.contextmanager
def at_step(monkeypatch, step, happens):
    backward = Trainer.backward

    def watched(self, parts):
        if self.step == step:
            happens()
        return backward(self, parts)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "backward", watched)
        yield


def cut():
    raise PowerCut


def asked_to_stop():
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("value", [0.5, math.inf])
def test_a_trusted_run_goes_on_from_where_it_was(tmp_path, data, capsys, monkeypatch, value):
    put_in(data, value, 1)
    settings = {"ema": 0.9, "optimizer": "adamw"}
    run(tmp_path / "asked", data, updates="asked", **settings)
    with at_step(monkeypatch, 12, cut), pytest.raises(PowerCut):
        run(tmp_path / "trusted", data, updates="trusted", **settings)
    with at_step(monkeypatch, 16, asked_to_stop), pytest.raises(Stopped, match="step 17 is saved"):
        run(tmp_path / "trusted", data, updates="trusted", **settings)
    assert "going on from step 7" in capsys.readouterr().out
    run(tmp_path / "trusted", data, updates="trusted", **settings)
    assert "going on from step 17" in capsys.readouterr().out
    (stopped,) = tmp_path.glob("trusted/checkpoints/*/step-00000017*")
    stopped.unlink()
    assert left(tmp_path / "trusted") == left(tmp_path / "asked")


class Readings(TorchDispatchMode):
    """Counts what would wait for a GPU: values that become Python's, and shapes that depend on values."""

    WAIT = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique_dim", "_unique2")

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        indices = args[1] if name in ("index", "index_put", "index_put_") else ()
        if name in self.WAIT or any(each is not None and each.dtype == torch.bool for each in indices):
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "settings",
    [{"ema": 0.9}, {"optimizer": "muon"}, {"precision": "float16", "accumulate": 2}, {"caption_dropout": 0.5}],
)
def test_nothing_is_read_in_a_trusted_step(data, settings):
    _, tars, files = data
    config, moments = config_with(**settings), read_moments(files)
    objective = Objective(config, (torch.ones(5, 6), torch.ones(5, dtype=torch.bool)))
    trainer = Trainer(config, new_model(config, moments), CPU, objective)
    counts = {}
    for kind in (TrustedUpdates, AskedUpdates):
        updates = kind(trainer)
        source = batches(tars, moments, 2, config.seed, parts=trainer.parts, start=trainer.step)
        with contextlib.closing(source):
            steps = [trainer.prepare([next(source) for _ in trainer.parts], trainer.step + at) for at in range(4)]
        with Readings() as readings:
            for parts in steps:
                updates.take(parts, trainer.backward(parts))
        counts[kind] = len(readings.seen)
        with Readings() as readings:
            loss, gradient = updates.look()
            loss.item()
        assert "_local_scalar_dense" in readings.seen and math.isfinite(gradient)
    assert counts[TrustedUpdates] == 0
    assert counts[AskedUpdates] >= 4


def test_a_cpu_asks_unless_told(data):
    for name, kind in (("auto", AskedUpdates), ("asked", AskedUpdates), ("trusted", TrustedUpdates)):
        config = config_with(updates=name)
        assert type(make_updates(Trainer(config, new_model(config, read_moments(data[2])), CPU))) is kind


def test_no_step_of_a_look_that_failed_is_kept(data):
    """Weights that a bad step ruined are put back, though nine good steps came after it."""
    config = config_with()
    trainer = Trainer(config, new_model(config, read_moments(data[2])), CPU)
    updates = TrustedUpdates(trainer)
    source = batches(data[1], read_moments(data[2]), 2, config.seed)
    with contextlib.closing(source):
        for step in range(LOG_EVERY):
            batch = next(source)
            if step == 4:
                batch.coefficients[1] = math.nan
            parts = trainer.prepare([batch], step)
            updates.take(parts, trainer.backward(parts))
    assert not all(parameter.isfinite().all() for parameter in trainer.model.parameters())
    _, gradient = updates.look()
    assert math.isfinite(gradient)
    assert (trainer.step, trainer.skipped, trainer.in_a_row) == (LOG_EVERY, 1, 0)
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())

import contextlib
import csv
import math
import os
import re
import signal
import threading
import time

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import SMALL, make_config, merge
from tests.data.model import write_shards
from vlfm.errors import Stopped, VLFMError
from vlfm.model.transformer import VLFMTransformer
from vlfm.storage.checkpoints import Checkpoints, load_state, save_state
from vlfm.storage.files import read_json
from vlfm.training.data import read_moments
from vlfm.training.loader import batches
from vlfm.training.log import MetricsLog
from vlfm.training.loop import train
from vlfm.training.muon import muon_class
from vlfm.training.network import new_model
from vlfm.training.throughput import best_product, flops_per_sample
from vlfm.training.trainer import Trainer, new_optimizer, split_batch

CPU = torch.device("cpu")


def config_with(**change):
    """The small configuration with some of its training keys changed."""
    return make_config(**merge(SMALL, {"training": change}))


def run(folder, config, data, **options):
    _, tars, moments = data
    metrics = folder / "model" / "metrics.csv"
    train(config, tars, moments, folder / "model", folder / "checkpoints", metrics, CPU, **options)
    return load_file(folder / "model" / "transformer" / "diffusion_pytorch_model.safetensors")


def final_checkpoint(folder):
    """The bytes of the newest checkpoint: weights, average, optimizer, counts."""
    return max(folder.glob("checkpoints/*/step-*.safetensors")).read_bytes()


def equal(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def made_trainer(config, data):
    return Trainer(config, new_model(config, read_moments(data[2])), CPU)


def one_batch(config, data, step=0):
    _, tars, moments = data
    return next(batches(tars, read_moments(moments), config.training.batch_size, config.seed, start=step))


@pytest.fixture
def data(tmp_path, small_config):
    (tmp_path / "data").mkdir()
    return write_shards(tmp_path / "data", small_config)


def test_learns_and_writes_what_it_should(tmp_path, data, capfd):
    config = config_with(steps=120, learning_rate=3e-3)
    run(tmp_path, config, data)
    with (tmp_path / "model" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-1]["loss"]) < 0.6 * float(rows[0]["loss"])
    assert [int(row["samples"]) for row in rows] == [4 * int(row["step"]) for row in rows]
    about = read_json(tmp_path / "model" / "training.json")
    assert about["steps"] == 120 and about["skipped"] == 0
    speed = r"120 steps of 4 clips: (\S+) samples/s, MFU"
    assert float(re.search(speed, capfd.readouterr().out)[1]) > 0, "though the last checkpoint had its own line"
    (tmp_path / "model" / "training.json").unlink()
    run(tmp_path, config, data)
    assert "120 steps of 4 clips: no step was left to take" in capfd.readouterr().out
    assert list((tmp_path / "model" / "tensorboard").rglob("events*"))


class Interrupted(Exception):
    """Stands for a power cut: nothing gets the chance to save."""


@contextlib.contextmanager
def failing_at(monkeypatch, step):
    with monkeypatch.context() as patch:
        backward = Trainer.backward

        def fail(self, parts):
            if self.step == step:
                raise Interrupted
            return backward(self, parts)

        patch.setattr(Trainer, "backward", fail)
        yield


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param({"ema": 0.9, "optimizer": "adamw", "accumulate": 2, "workers": 1}, marks=pytest.mark.slow),
        {"optimizer": "muon"},
        pytest.param({"ema": 0.9, "precision": "float16"}, marks=pytest.mark.slow),
    ],
)
def test_killed_and_resumed_equals_straight(tmp_path, data, monkeypatch, settings):
    config = config_with(checkpoint_every=11, **settings)
    straight = run(tmp_path / "a", config, data)
    often = config_with(checkpoint_every=4, **settings)
    for step in (2, 7, 9):  # before the first checkpoint, after it, after the second
        with failing_at(monkeypatch, step), pytest.raises(Interrupted):
            run(tmp_path / "b", often, data)
    assert equal(straight, run(tmp_path / "b", config, data))
    assert final_checkpoint(tmp_path / "a") == final_checkpoint(tmp_path / "b")
    logs = [(tmp_path / name / "model" / "metrics.csv").read_bytes() for name in "ab"]
    assert logs[0] == logs[1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_saves_the_step_and_stops(tmp_path, data, monkeypatch, number):
    config = config_with(checkpoint_every=100)
    straight = run(tmp_path / "a", config, data)
    backward = Trainer.backward

    def asked_at_five(self, parts):
        if self.step == 5:
            os.kill(os.getpid(), number)
        return backward(self, parts)

    handlers = signal.getsignal(number)
    with monkeypatch.context() as patch, pytest.raises(Stopped, match="step 6 is saved"):
        patch.setattr(Trainer, "backward", asked_at_five)
        run(tmp_path / "b", config, data)
    assert signal.getsignal(number) is handlers
    assert load_state(max(tmp_path.glob("b/checkpoints/*/step-*")))["step"] == 6
    assert equal(straight, run(tmp_path / "b", config, data))


def checkpoints(folder):
    return {path.name: path.read_bytes() for path in folder.glob("checkpoints/*/step-*")}


def test_a_checkpoint_is_written_while_steps_go_on(tmp_path, data, monkeypatch):
    config = config_with(checkpoint_every=4, keep=9, ema=0.9)
    run(tmp_path / "a", config, data)
    went_on, update, save = threading.Event(), Trainer.update, Checkpoints.save

    def noted(self):
        if self.step == 6:
            went_on.set()
        return update(self)

    def after_two_more_steps(self, step, state):
        assert went_on.wait(60)
        save(self, step, state)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "update", noted)
        patch.setattr(Checkpoints, "save", after_two_more_steps)
        run(tmp_path / "b", config, data)
    assert checkpoints(tmp_path / "a").keys() == {f"step-{step:08d}.safetensors" for step in (4, 8, 12)}
    assert checkpoints(tmp_path / "a") == checkpoints(tmp_path / "b")


@pytest.mark.slow
def test_a_stop_and_the_end_wait_for_what_is_written(tmp_path, data, monkeypatch):
    """One checkpoint at a time, and the model after the last."""
    save, at_work, events = Checkpoints.save, threading.Lock(), []

    def slowly(self, step, state):
        assert at_work.acquire(blocking=False)
        time.sleep(0.3)
        save(self, step, state)
        events.append((step, (tmp_path / "model" / "training.json").exists()))
        at_work.release()

    backward = Trainer.backward

    def asked_at_five(self, parts):
        if self.step == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return backward(self, parts)

    config = config_with(checkpoint_every=1, keep=99)
    monkeypatch.setattr(Checkpoints, "save", slowly)
    with monkeypatch.context() as patch, pytest.raises(Stopped, match="step 6 is saved"):
        patch.setattr(Trainer, "backward", asked_at_five)
        run(tmp_path, config, data)
    assert events == [(step, False) for step in range(1, 7)]
    run(tmp_path, config, data)
    assert events == [(step, False) for step in range(1, 13)]


def test_a_checkpoint_that_cannot_be_written_ends_training(tmp_path, data, monkeypatch):
    config = config_with(checkpoint_every=4, keep=9)
    run(tmp_path, config, data)
    (folder,) = (tmp_path / "checkpoints").iterdir()
    for path in folder.iterdir():
        path.unlink()
    (folder / "step-00000004.safetensors").mkdir()
    update, steps = Trainer.update, []
    monkeypatch.setattr(Trainer, "update", lambda self: (update(self), steps.append(self.step))[0])
    with pytest.raises(VLFMError, match=r"cannot write .*step-00000004\.safetensors"):
        run(tmp_path, config, data)
    assert 4 <= steps[-1] <= 8, "at the next step, or when the next checkpoint is due"
    assert not list(folder.glob(".*"))


def test_trains_outside_the_main_thread(tmp_path, data):
    thread = threading.Thread(target=run, args=(tmp_path, config_with(steps=2), data))
    thread.start()
    thread.join()
    assert (tmp_path / "model" / "training.json").exists()


def test_how_a_run_is_done_does_not_name_it(tmp_path, data):
    run(tmp_path, config_with(), data)
    changed = config_with(accumulate=2, workers=1, keep=1, checkpoint_every=5, gradient_checkpointing=True, processes=1)
    run(tmp_path, changed, data)
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1
    run(tmp_path, config_with(learning_rate=1e-3), data)
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


def gradients(config, data):
    trainer = made_trainer(config, data)
    for parameter in trainer.model.parameters():
        torch.nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(parameter.numel()))
    batch = one_batch(config, data)
    trainer.backward(trainer.prepare([batch.part(positions) for positions in trainer.parts], 0))
    return [parameter.grad for parameter in trainer.model.parameters()]


@pytest.mark.parametrize("accumulate", [2, 4])
def test_parts_of_a_batch_give_its_gradient(data, accumulate):
    whole = gradients(config_with(precision="float32"), data)
    parts = gradients(config_with(precision="float32", accumulate=accumulate), data)
    assert max(grad.abs().max() for grad in whole) > 1e-3
    for one, two in zip(whole, parts, strict=True):
        assert torch.allclose(one, two, rtol=0, atol=1e-6 * max(1, one.abs().max()))


def test_gradient_checkpointing_changes_nothing(data):
    plain = gradients(config_with(precision="float32"), data)
    saving = gradients(config_with(precision="float32", gradient_checkpointing=True), data)
    for one, two in zip(plain, saving, strict=True):
        assert torch.allclose(one, two, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_a_compiled_network_gives_the_same_gradient(data):
    plain = gradients(config_with(precision="float32"), data)
    compiled = gradients(config_with(precision="float32", compile=True, gradient_checkpointing=True), data)
    for one, two in zip(plain, compiled, strict=True):
        assert torch.allclose(one, two, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_compiled_run_ends_with_a_model_that_is_not(tmp_path, data):
    saved = run(tmp_path, config_with(compile=True, ema=0.9), data)
    assert not [name for name in saved if "_orig_mod" in name]
    assert VLFMTransformer.from_pretrained(tmp_path / "model" / "transformer").config.head == "coefficients"


def test_a_batch_that_does_not_divide_is_refused():
    assert split_batch(8, 2, 2, 1) == [range(2, 4), range(6, 8)]
    with pytest.raises(VLFMError, match=r"batch_size is 8, which 3 processes × training\.accumulate = 1"):
        split_batch(8, 3, 1, 0)


def test_grams_follows_its_paper(small_config):
    """Cao et al., "Grams: Gradient Descent with Adaptive Momentum Scaling", Algorithm 1, written out."""
    generator = torch.Generator().manual_seed(3)
    layer = torch.nn.Linear(20, 30)
    parameters = list(layer.parameters())
    theta = [parameter.detach().clone().double() for parameter in parameters]
    m = [torch.zeros_like(each) for each in theta]
    v = [torch.zeros_like(each) for each in theta]
    optimizer = new_optimizer(small_config, layer, CPU)
    lr, beta1, beta2, epsilon = small_config.training.learning_rate, 0.9, 0.999, 1e-6
    for step in range(1, 301):
        for index, parameter in enumerate(parameters):
            g = torch.randn(parameter.shape, generator=generator) + parameter.detach()
            parameter.grad = g.clone()
            m[index] = beta1 * m[index] + (1 - beta1) * g
            v[index] = beta2 * v[index] + (1 - beta2) * g.double() ** 2
            m_hat, v_hat = m[index] / (1 - beta1**step), v[index] / (1 - beta2**step)
            theta[index] = theta[index] - lr * torch.sign(g) * (m_hat / (v_hat.sqrt() + epsilon)).abs()
        before = [parameter.grad.clone() for parameter in parameters]
        optimizer.step()
        assert all(torch.equal(parameter.grad, kept) for parameter, kept in zip(parameters, before, strict=True))
    for parameter, expected in zip(parameters, theta, strict=True):
        assert (parameter.detach().double() - expected).abs().max() < 5e-6


def test_the_averaged_weights_are_the_average(data):
    config = config_with(ema=0.5)
    trainer = made_trainer(config, data)
    expected = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    for step in range(6):
        trainer.take_step(one_batch(config, data, step))
        # It forgets the start: the decay is 0 at the first step, then (1 + k) / (10 + k) until that is the configured.
        decay = min(0.5, (1 + step) / (10 + step)) if step else 0.0
        for average, parameter in zip(expected, trainer.model.parameters(), strict=True):
            average.mul_(decay).add_(parameter.detach(), alpha=1 - decay)
    now = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    with trainer.averaged() as model:
        assert not model.training
        for average, parameter in zip(expected, model.parameters(), strict=True):
            assert torch.allclose(average, parameter, atol=1e-6)
    assert all(torch.equal(one, two) for one, two in zip(now, trainer.model.parameters(), strict=True))
    assert any(not torch.allclose(one, two, atol=1e-6) for one, two in zip(now, expected, strict=True))
    assert trainer.model.training


def test_the_saved_model_is_the_average(tmp_path, data):
    averaged = run(tmp_path / "a", config_with(ema=0.9), data)
    assert not equal(averaged, run(tmp_path / "b", config_with(), data))
    state = load_state(max(tmp_path.glob("a/checkpoints/*/step-*")))
    assert state["ema"]["decay"] == 0.9 and state["samples"] == 4 * state["step"]


def test_a_step_that_is_not_finite_changes_nothing_and_names_the_clip(data):
    config = config_with(ema=0.9)
    trainer = made_trainer(config, data)
    trainer.take_step(one_batch(config, data))
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    batch = one_batch(config, data, 1)
    batch.coefficients[2, 0, 0, 0, 0] = math.inf
    assert batch.not_finite() == [batch.clip_ids[2]]
    trainer.take_step(batch)
    assert equal(before, trainer.model.state_dict())
    assert (trainer.step, trainer.skipped, trainer.in_a_row) == (2, 1, 1)
    trainer.take_step(one_batch(config, data, 2))
    assert (trainer.step, trainer.skipped, trainer.in_a_row) == (3, 1, 0)
    assert not equal(before, trainer.model.state_dict())


def test_float16_looks_for_its_scale_without_stopping(data):
    trainer = made_trainer(config_with(precision="float16"), data)
    trainer.scaler._init_scale = 2.0**40  # overflows for a while
    steps = 0
    while trainer.skipped == steps:
        trainer.take_step(one_batch(trainer.config, data, steps))
        steps += 1
    assert 2 < trainer.skipped == steps - 1 and trainer.in_a_row == 0


def test_a_preview_sees_the_average_and_disturbs_nothing(tmp_path, data):
    seen = []

    def preview(model, step):
        seen.append((step, model.training, torch.is_grad_enabled(), torch.randn(1)))
        if step == 8:
            raise VLFMError("no ffmpeg")
        if step == 12:
            raise torch.OutOfMemoryError("no room")

    config = config_with(preview_every=4, ema=0.9)
    shown = run(tmp_path / "a", config, data, preview=preview)
    assert [entry[:3] for entry in seen] == [(4, False, False), (8, False, False), (12, False, False)]
    assert equal(shown, run(tmp_path / "b", config, data))


def test_any_seed_will_do(tmp_path, data):
    run(tmp_path, config_with(steps=1).model_copy(update={"seed": 2**62}), data)


def test_several_sizes_and_lengths_in_one_run(tmp_path):
    config = make_config(
        **merge(SMALL, {"clips": {"duration": [0.5, 1.0], "size": [[48, 48], [24, 48]]}, "training": {"steps": 16}})
    )
    for name in "ab":
        (tmp_path / name).mkdir()
    first = write_shards(tmp_path / "a", config)
    second = write_shards(tmp_path / "b", config, shape=(8, 4, 8), duration=1.0, num_frames=24, first_id=100)
    data = [one + two for one, two in zip(first, second, strict=True)]
    run(tmp_path, config, data)
    assert read_json(tmp_path / "model" / "training.json")["clips"] == 14


def test_scales_make_the_network_see_unit_latents(small_config, data):
    made, _, files = data
    model = new_model(small_config, read_moments(files))
    coefficients = torch.stack([torch.from_numpy(clip.coefficients) for clip in made]) / model.latent_scale
    assert coefficients.square().sum(-1).mean().item() == pytest.approx(1, rel=1e-4)
    assert torch.allclose(coefficients.square().mean((0, 1, 2, 3)).sqrt(), model.order_scale, rtol=1e-4)


def test_shards_of_another_order_than_the_configured_are_refused(data):
    config = make_config(**merge(SMALL, {"flow": {"order": 3}}))
    with pytest.raises(VLFMError, match=r"of order 4, flow\.order is 3"):
        new_model(config, read_moments(data[2]))


def test_operations_of_a_step_are_counted(small_config, data):
    model = new_model(small_config, read_moments(data[2]))
    tokens, width = 16, 128
    per_block = 2 * width * (4 * width + 4 * width + 8 * width) * tokens  # attention, cross-attention, MLP
    counted = flops_per_sample(model, one_batch(small_config, data)) / 3
    assert per_block * 0.8 < counted < per_block * 2
    assert all(parameter.device == CPU for parameter in model.parameters())
    assert 1e8 < best_product(CPU, torch.float32) < 1e14


def test_an_optimizer_of_each_name(small_config):
    model = VLFMTransformer(channels=2, positions=4, layers=1, heads=2, head_dim=8, caption_channels=6)
    names = {name: str(new_optimizer(config_with(optimizer=name), model, CPU)) for name in ("grams", "muon")}
    assert names == {"grams": "Grams", "muon": "Muon"}
    assert type(new_optimizer(config_with(optimizer="adamw"), model, CPU)) is torch.optim.AdamW


def test_muon_moves_each_heads_matrices_along_orthogonal_directions_and_the_rest_as_adamw_does():
    model = VLFMTransformer(channels=2, positions=4, layers=1, heads=2, head_dim=8, caption_channels=6, convolution=3)
    config = config_with(optimizer="muon", learning_rate=1e-2)
    optimizer = new_optimizer(config, model, CPU)
    *groups, last = optimizer.param_groups
    block, rest = model.backbone.transformer_blocks[0].block, last["params"]
    by_rows, by_columns, whole = (group["params"] for group in groups)
    assert [group["split"] for group in groups] == ["by_rows", "by_columns", "whole"]
    assert len(by_rows) == 6 and len(whole) == 2  # of two attentions q, k, v; of the MLP
    assert any(each is block.attn2.to_v.weight for each in by_rows)
    assert [id(each) for each in by_columns] == [id(attn.to_out[0].weight) for attn in (block.attn1, block.attn2)]
    moved = [*by_rows, *by_columns, *whole]
    assert {id(each) for each in moved}.isdisjoint(id(each) for each in rest)
    assert len(moved) + len(rest) == len(list(model.parameters()))
    before = [parameter.detach().clone() for parameter in moved]
    still = rest[0].detach().clone()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()
    for place, (parameter, old) in enumerate(zip(moved, before, strict=True)):
        step = (old * (1 - 1e-2 * 0.01) - parameter.detach()) / (1e-2 * 0.2 * max(parameter.shape) ** 0.5)
        parts = step.chunk(2, 0) if place < 6 else step.chunk(2, 1) if place < 8 else [step]
        for part in parts:
            values = torch.linalg.svdvals(part)
            # Newton-Schulz in bfloat16 brings singular values near 1, not to it.
            assert values.min() > 0.3 and values.max() < 1.4
    assert (rest[0].detach() - still).abs().max() < 1.1e-2 + 1e-4 * still.abs().max()


def test_checkpoints_hold_trees_of_any_kind(tmp_path):
    state = {"a": torch.arange(3), "state": {0: {"m": torch.ones(2), "step": 3}}, "list": [1, None, "x", 0.1], "e": {}}
    save_state(tmp_path / "s.safetensors", state)
    again = load_state(tmp_path / "s.safetensors")
    assert again["list"] == state["list"] and again["state"][0]["step"] == 3 and again["e"] == {}
    assert torch.equal(again["a"], state["a"]) and torch.equal(again["state"][0]["m"], torch.ones(2))


def test_the_last_checkpoints_are_kept(tmp_path):
    saved = Checkpoints(tmp_path, keep=2)
    assert saved.newest() is None
    for step in (3, 20, 100):
        saved.save(step, {"step": step})
    assert saved.paths() == [saved.path(20), saved.path(100)] and saved.newest() == {"step": 100}


def test_the_log_drops_rows_past_the_step_it_goes_on_from(tmp_path):
    for step in (0, 20):
        log = MetricsLog(tmp_path / "m.csv", step, tmp_path / "events")
        log.write(step + 10, 40, 0.5, 1.0, 1e-3, 0)
        log.write(step + 20, 80, 0.4, 1.0, 1e-3, 1, samples_per_second=3.0)
        log.write(step + 30, 80, 0.3, 1.0, 1e-3, 1)
        log.close()
    with (tmp_path / "m.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["10", "20", "30", "40", "50"]
    assert rows[1]["skipped"] == "1"


@pytest.mark.parametrize("emulated", [False, True])
def test_muon_moves_whole_matrices_as_the_packages_own_does(emulated, monkeypatch):
    """In float32 where bfloat16 is emulated: another step, but for the rounding of bfloat16 in five products."""
    from pytorch_optimizer import Muon

    def moved(muon):
        shapes = [(64, 64), (64, 64), (32, 96), (96, 32)]
        generator = torch.Generator().manual_seed(0)
        weights = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
        before = [weight.detach().clone() for weight in weights]
        how = {"use_muon": True, "use_adjusted_lr": True, "split": "whole", "heads": 2, "lr": 1e-2}
        optimizer = muon([{"params": weights, **how}])
        for _ in range(3):
            for weight in weights:
                weight.grad = torch.randn(weight.shape, generator=generator)
            optimizer.step()
        return [(weight - start).detach() for weight, start in zip(weights, before, strict=True)]

    monkeypatch.setattr("vlfm.training.muon.fast_bfloat16", lambda device: not emulated)
    for ours, theirs in zip(moved(muon_class(CPU)), moved(Muon), strict=True):
        difference = (ours - theirs).norm() / theirs.norm()
        assert difference < 0.03 and (difference > 0) == emulated


@pytest.mark.parametrize("split", ["by_rows", "by_columns", "whole"])
@pytest.mark.parametrize("shape, rank", [((48, 192), 48), ((192, 48), 8), ((48, 48), 8)])
def test_muon_in_float32_is_the_iteration_itself(split, shape, rank, monkeypatch):
    """Of gradients of few clips too, whose singular values mostly are nothing: as in float64, to a thousandth."""
    from pytorch_optimizer.optimizer.utils.matrix import zero_power_via_newton_schulz_5

    monkeypatch.setattr("vlfm.training.muon.fast_bfloat16", lambda device: False)
    muon = muon_class(CPU)
    generator = torch.Generator().manual_seed(0)
    gradients = []
    for _ in range(2):
        high, wide = (torch.randn(size, rank, generator=generator) for size in shape)
        gradients.append(high * torch.logspace(0, -4, rank) @ wide.T)
    how = {"use_muon": True, "split": split, "heads": 3}
    group = muon([{"params": [torch.nn.Parameter(each) for each in gradients], **how}]).param_groups[0]
    found = muon._orthogonalize(group, gradients)
    along = {"by_rows": 0, "by_columns": 1}.get(split)
    for gradient, made in zip(gradients, found, strict=True):
        parts = [gradient] if along is None else gradient.chunk(3, along)
        expected = [zero_power_via_newton_schulz_5(part.double(), dtype=torch.float64) for part in parts]
        expected = torch.cat(expected, along or 0)
        assert made.shape == gradient.shape and (made - expected).norm() < 1e-3 * expected.norm()

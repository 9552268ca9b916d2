import csv
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import SMALL, make_config
from tests.model_data import write_shards
from vlfm import config as configs
from vlfm.artifacts import read_json
from vlfm.checkpoints import load_state, save_state
from vlfm.errors import VLFMError
from vlfm.training.data import Batch, read_moments
from vlfm.training.trainer import Trainer, new_model, newest_checkpoint, train

CPU = torch.device("cpu")


def run(folder, config, data):
    _, tars, moments = data
    train(config, tars, moments, folder / "model", folder / "checkpoints", folder / "model" / "metrics.csv", CPU)
    return load_file(folder / "model" / "transformer" / "diffusion_pytorch_model.safetensors")


def equal(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


@pytest.fixture
def data(tmp_path, small_config):
    (tmp_path / "data").mkdir()
    return write_shards(tmp_path / "data", small_config)


def test_learns_and_writes_what_it_should(tmp_path, data):
    config = make_config(**SMALL)
    config = config.model_copy(
        update={"training": config.training.model_copy(update={"steps": 120, "learning_rate": 3e-3})}
    )
    run(tmp_path, config, data)
    with (tmp_path / "model" / "metrics.csv").open() as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert losses[-1] < 0.6 * losses[0]
    assert read_json(tmp_path / "model" / "training.json")["steps"] == 120


def test_killed_and_resumed_equals_straight(tmp_path, small_config, data, monkeypatch):
    straight = run(tmp_path / "a", small_config, data)
    steps = 0
    step = Trainer.take_step

    def fail_at_seven(self, batch):
        nonlocal steps
        steps += 1
        if steps == 7:
            raise KeyboardInterrupt
        return step(self, batch)

    monkeypatch.setattr(Trainer, "take_step", fail_at_seven)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "b", small_config, data)
    resumed = run(tmp_path / "b", small_config, data)
    assert steps == 7 + 12 - 4  # six done, one failed, then on from the checkpoint at four
    assert equal(straight, resumed)
    logs = [(tmp_path / name / "model" / "metrics.csv").read_text() for name in "ab"]
    assert logs[0] == logs[1]


@pytest.mark.slow
def test_sigkill_and_resume(tmp_path, small_config, data):
    straight = run(tmp_path / "a", small_config, data)
    configs.save(small_config, tmp_path / "config.yaml")
    (tmp_path / "plan.json").write_text('{"00000": {}, "00001": {}}')
    command = [sys.executable, "-m", "vlfm.cli", "train", "--config", "config.yaml", "--plan", "plan.json"]
    command += ["--coefficients", "data", "--output", "b/model", "--checkpoints", "b/checkpoints"]
    command += ["--metrics", "b/model/metrics.csv", "--device", "cpu", "--threads", str(torch.get_num_threads())]
    process = subprocess.Popen(command, cwd=tmp_path)
    while newest_checkpoint(next((tmp_path / "b" / "checkpoints").glob("*"), tmp_path)) is None:
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    subprocess.run(command, cwd=tmp_path, check=True)
    resumed = load_file(tmp_path / "b" / "model" / "transformer" / "diffusion_pytorch_model.safetensors")
    assert equal(straight, resumed)


def test_scales_make_the_network_see_unit_latents(small_config, data):
    made, _, files = data
    model = new_model(small_config, read_moments(files))
    coefficients = torch.stack([torch.from_numpy(clip.coefficients) for clip in made]) / model.latent_scale
    assert coefficients.square().sum(-1).mean().item() == pytest.approx(1, rel=1e-4)
    assert torch.allclose(coefficients.square().mean((0, 1, 2, 3)).sqrt(), model.order_scale, rtol=1e-4)


def test_a_new_network_predicts_the_mean_path_zero(small_config, data):
    model = new_model(small_config, read_moments(data[2])).eval()
    output = model(torch.randn(2, 8, 8, 8), torch.tensor([0.0, 0.2]), torch.randn(2, 5, 6), torch.ones(2, 5).bool())
    assert output.shape == (2, 8, 8, 8, small_config.flow.order)
    assert torch.equal(output, torch.zeros_like(output))


def test_masked_tokens_do_not_matter(small_config, data):
    config = small_config
    model = new_model(config, read_moments(data[2])).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    psi, times, tokens = torch.randn(2, 8, 8, 8), torch.zeros(2), torch.randn(2, 5, 6)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 0]]).bool()
    changed = tokens.clone()
    changed[~mask] = 7.0
    with torch.no_grad():
        assert torch.allclose(model(psi, times, tokens, mask), model(psi, times, changed, mask), atol=1e-5)
        changed[0, 0] = 7.0
        assert not torch.allclose(model(psi, times, tokens, mask), model(psi, times, changed, mask), atol=1e-3)


def test_a_loss_that_is_not_finite_stops_with_a_message(small_config, data):
    trainer = Trainer(small_config, new_model(small_config, read_moments(data[2])), CPU)
    shape = (2, 8, 8, 8, small_config.flow.order)
    batch = Batch(torch.full((4, *shape[1:]), torch.nan), torch.randn(4, 5, 6), torch.ones(4, 5).bool())
    with pytest.raises(VLFMError, match="not finite at step 1"):
        trainer.take_step(batch)


def test_checkpoints_hold_trees_of_any_kind(tmp_path):
    state = {"a": torch.arange(3), "state": {0: {"m": torch.ones(2), "step": 3}}, "list": [1, None, "x", 0.1], "e": {}}
    save_state(tmp_path / "s.safetensors", state)
    again = load_state(tmp_path / "s.safetensors")
    assert again["list"] == state["list"] and again["state"][0]["step"] == 3 and again["e"] == {}
    assert torch.equal(again["a"], state["a"]) and torch.equal(again["state"][0]["m"], torch.ones(2))


def test_a_damaged_checkpoint_is_told(tmp_path):
    (tmp_path / "s.safetensors").write_bytes(b"no checkpoint")
    with pytest.raises(VLFMError, match="no checkpoint, or a damaged one"):
        load_state(tmp_path / "s.safetensors")

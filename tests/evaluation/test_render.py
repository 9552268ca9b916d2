import numpy as np
import pytest
import torch

from tests.conftest import SMALL, make_config
from tests.model_data import write_shards
from vlfm.errors import VLFMError
from vlfm.evaluation.render import FlowModel, clip_noise, nearest_frames, rate_times
from vlfm.training.trainer import train


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    config = make_config(**SMALL)
    _, tars, moments = write_shards(folder, config)
    train(config, tars, moments, folder / "model", folder / "checkpoints", folder / "m.csv", torch.device("cpu"))
    return FlowModel(folder / "model", torch.device("cpu"))


@pytest.fixture
def caption():
    return torch.randn(2, 5, 6), torch.ones(2, 5).bool(), torch.randn(2, 8, 8, 8)


def test_any_rate_shows_the_same_path(model, caption):
    sparse = model.latents(*caption, torch.tensor([0.125, 0.25, 0.5]))
    dense = model.latents(*caption, torch.arange(1, 25) / 48)
    assert sparse.shape == (2, 3, 8, 8, 8) and dense.shape == (2, 24, 8, 8, 8)
    assert torch.allclose(sparse, dense[:, [5, 11, 23]], atol=1e-5)


@pytest.mark.parametrize("steps", [1, 4])
def test_steps_are_network_evaluations(model, caption, steps):
    calls = []
    hook = model.transformer.register_forward_hook(lambda *_: calls.append(1))
    model.latents(*caption, torch.arange(1, 49) / 96, steps)
    hook.remove()
    assert len(calls) == steps


def test_one_clip_does_not_depend_on_its_neighbour(model, caption):
    tokens, mask, noise = caption
    both = model.latents(tokens, mask, noise, torch.tensor([0.2]))
    alone = model.latents(tokens[1:], mask[1:], noise[1:], torch.tensor([0.2]))
    assert torch.allclose(both[1:], alone, atol=1e-5)


def test_latents_are_in_the_decoders_units(model, caption):
    one = model.latents(*caption, torch.tensor([0.2]))
    model.transformer.latent_scale.mul_(2)
    assert torch.allclose(model.latents(*caption, torch.tensor([0.2])), 2 * one)
    model.transformer.latent_scale.div_(2)


def test_times_outside_the_clip_are_refused(model, caption):
    with pytest.raises(VLFMError):
        model.latents(*caption, torch.tensor([0.6]))


def test_no_model_is_told(tmp_path):
    with pytest.raises(VLFMError, match="no trained model"):
        FlowModel(tmp_path, torch.device("cpu"))


def test_rate_times():
    assert rate_times(8, 0.5).tolist() == [0.125, 0.25, 0.375, 0.5]
    assert len(rate_times(24, 0.5)) == 12 and len(rate_times(30, 0.1)) == 3
    assert rate_times(7, 0.5)[-1] <= 0.5


def test_nearest_frames():
    times = np.array([0.04, 0.09, 0.12, 0.17])
    assert nearest_frames(np.array([0.05, 0.1, 0.15]), times).tolist() == [0, 1, 3]
    assert nearest_frames(np.array([0.08, 0.09, 0.1]), times).tolist() == [1]


def test_noise_belongs_to_the_clip():
    one = clip_noise("00ff00ff00ff00ff", 0, (4, 8, 8))
    assert torch.equal(one, clip_noise("00ff00ff00ff00ff", 0, (4, 8, 8)))
    assert not torch.equal(one, clip_noise("00ff00ff00ff00fe", 0, (4, 8, 8)))
    assert not torch.equal(one, clip_noise("00ff00ff00ff00ff", 1, (4, 8, 8)))
    assert clip_noise("ffffffffffffffff", 3, (2,)).shape == (2,)

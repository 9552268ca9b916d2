"""A rectified flow over all frames: against a Gaussian, whose velocity is known, and through the ordinary trainer."""

import types

import numpy as np
import pytest
import torch

from tests.experiments.conftest import CPU, FRAMES, small
from tests.model.test_flow_model import EMPTY
from vlfm.errors import VLFMError
from vlfm.experiments.shared import all_frames
from vlfm.latents.store import LatentStore
from vlfm.model.flow_model import FlowModel
from vlfm.training.data import Batch, read_moments
from vlfm.training.loader import batches
from vlfm.training.loop import train

MEAN, SPREAD = 0.7, 0.4
SHAPE = (6, 4, 4)


class Gaussian:
    """Knows the velocity of clips whose numbers are all normal: `E[x − z | ψ]`."""

    config = types.SimpleNamespace(durations=(0.5,))
    latent_scale, device = torch.tensor(1.0), CPU

    def __call__(self, psi, t, tokens, mask, duration=None):
        t = t.reshape(-1, 1, 1, 1)
        variance = (1 - t) ** 2 + (t * SPREAD) ** 2
        return MEAN + (t * SPREAD**2 - (1 - t)) / variance * (psi - t * MEAN)


def a_model(network):
    return FlowModel(network, None, 24.0, (0.5,), EMPTY)


def test_steps_lead_from_noise_to_the_clips():
    """The flow of a Gaussian takes z to μ + s z; the error of Euler falls with the length of a step."""
    noise, captions = torch.randn(3, *SHAPE), (torch.zeros(3, 5, 6), torch.ones(3, 5).bool())
    errors = []
    for steps in (1, 8, 64):
        model = a_model(Gaussian())
        errors.append((all_frames.sample(model, *captions, noise, steps) - (MEAN + SPREAD * noise)).abs().max())
        assert model.evaluations == steps
    assert errors[0] > 4 * errors[1] > 20 * errors[2]


def test_one_step_gives_the_mean():
    captions = torch.zeros(3, 5, 6), torch.ones(3, 5).bool()
    first = all_frames.sample(a_model(Gaussian()), *captions, torch.randn(3, *SHAPE), 1)
    assert torch.allclose(first, torch.full_like(first, MEAN), atol=1e-5)


def test_guidance_goes_beyond_what_the_caption_changes():
    class Told(Gaussian):
        def __call__(self, psi, t, tokens, mask, duration=None):
            return torch.ones_like(psi) * tokens[:, 0, 0].reshape(-1, 1, 1, 1)

    model = a_model(Told())
    captions = torch.full((2, 5, 6), 3.0), torch.ones(2, 5).bool()
    found = all_frames.sample(model, *captions, torch.zeros(2, *SHAPE), 4, guidance=2.0)
    empty = float(EMPTY[0][0, 0])
    assert torch.allclose(found, torch.full_like(found, empty + 2 * (3 - empty)), atol=1e-5)
    assert model.evaluations == 8


def objective(**training):
    config = all_frames.configured(small(training={"batch_size": 512, **training}))
    return all_frames.AllFrames(config, EMPTY if training.get("caption_dropout") else None)


def gaussian_batch(count=512, scale=1.0):
    clips = scale * (MEAN + SPREAD * torch.randn(count, *SHAPE))
    tokens, mask = torch.zeros(count, 5, 6), torch.ones(count, 5).bool()
    return Batch(clips[..., None], tokens, mask, torch.full((count,), 0.5), torch.full((count,), 12))


def test_the_best_network_is_left_with_what_no_one_can_know():
    """Of `x − z` given ψ the variance is s² / ((1 − t)² + t² s²); any other velocity has more."""
    flow, batch = objective(), gaussian_batch(scale=2.0)
    draw = flow.draw(0, range(512), batch.shape)
    t = all_frames.logit_normal(draw.uniform)
    least = (SPREAD**2 / ((1 - t) ** 2 + (t * SPREAD) ** 2)).mean()
    network = Gaussian()
    assert flow(network, batch, draw, torch.tensor(2.0)).shape == (512,)
    found = flow(network, batch, draw, torch.tensor(2.0)).mean()
    assert found == pytest.approx(float(least), rel=0.03)
    off = flow(lambda *given: network(*given) + 0.5, batch, draw, torch.tensor(2.0)).mean()
    assert off == pytest.approx(float(least) + 0.25, rel=0.03)


def test_times_are_logit_normal():
    t = all_frames.logit_normal((torch.arange(4001) + 0.5) / 4001)
    logits = torch.logit(t.double())
    assert abs(float(logits.mean())) < 1e-3 and float(logits.std()) == pytest.approx(1, abs=5e-3)
    assert all_frames.logit_normal(torch.zeros(1)) == 0


def test_captions_are_dropped_as_everywhere():
    seen = []

    class Told(Gaussian):
        def __call__(self, psi, t, tokens, mask, duration=None):
            seen.append(tokens)
            return super().__call__(psi, t, tokens, mask)

    flow, batch = objective(caption_dropout=0.3), gaussian_batch()
    draw = flow.draw(0, range(512), batch.shape)
    flow(Told(), batch, draw, torch.tensor(1.0))
    dropped = (seen[0] == EMPTY[0]).flatten(1).all(1)
    assert torch.equal(dropped, draw.uncaptioned) and 0.2 < dropped.float().mean() < 0.4


# ----------------------------------------------------------------------------- through the trainer


@pytest.fixture(scope="module")
def frames(results, tmp_path_factory):
    """A shard of states."""
    output = tmp_path_factory.mktemp("frames") / "00000.tar"
    stages = results / "latents" / "00000.zarr", results / "coefficients" / "00000.json"
    all_frames.write_frames(*stages, output)
    return output


def test_states_are_the_frames_side_by_side(results, frames):
    moments = read_moments([frames.with_suffix(".json")])
    store = LatentStore(results / "latents" / "00000.zarr")
    clips = {clip.clip_id: clip.latents for clip in store}
    assert moments.shape == (FRAMES * 8, 6, 6) and moments.order == 1 and moments.clips == len(clips)
    assert float(moments.mean_square) == pytest.approx(np.mean([np.square(clip).mean() for clip in clips.values()]))
    batch = next(batches([frames], moments, 4, 0))
    for name, state in zip(batch.clip_ids, batch.coefficients, strict=True):
        assert np.array_equal(state.reshape(FRAMES, 8, 6, 6).numpy(), clips[name])


def test_it_is_trained_and_read_again(frames, tmp_path):
    config = all_frames.configured(small(training={"steps": 30, "learning_rate": 3e-3}))
    where = tmp_path / "model", tmp_path / "checkpoints", tmp_path / "metrics.csv"
    moments = frames.with_suffix(".json")
    flow = all_frames.AllFrames(config)
    train(config, [frames], [moments], *where, CPU, flow, network=all_frames.new_network)
    model = FlowModel.from_pretrained(tmp_path / "model")
    assert float(model.transformer.latent_scale) ** 2 == pytest.approx(float(read_moments([moments]).mean_square))
    losses = [float(line.split(",")[2]) for line in (tmp_path / "metrics.csv").read_text().splitlines()[1:]]
    assert losses[-1] < losses[0] < 2.5, "x − z has a mean square of 2, and the untrained network says 0"
    noise = torch.randn(2, FRAMES * 8, 6, 6)
    made = all_frames.sample(model, torch.randn(2, 5, 6), torch.ones(2, 5).bool(), noise, 2)
    assert made.shape == noise.shape and made.isfinite().all()


def test_clips_of_several_lengths_are_refused():
    stores = [types.SimpleNamespace(num_frames=count, lengths={"aa": count}) for count in (12, 24, 12)]
    with pytest.raises(VLFMError, match=r"12 and 24 frames.*clips\.duration"):
        all_frames.check_alike(stores)

"""DDIM both ways, against diffusers' own schedulers and a noise predictor with a known answer."""

import itertools

import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler

from vlfm.decoders import ddim
from vlfm.decoders.embedded import EmbeddedDecoder, new_scheduler, new_unet
from vlfm.decoders.patch_autoencoder import PatchAutoencoder


def gaussian_noise(scheduler, variance=0.25):
    """The exact noise predictor for latents ~ N(0, variance): linear in the state."""

    def predict(state, timestep):
        alpha = scheduler.alphas_cumprod[timestep]
        return state * (1 - alpha).sqrt() / (alpha * variance + 1 - alpha)

    return predict


def test_matches_a_plain_diffusers_loop_without_refinement():
    torch.manual_seed(0)
    unet = new_unet(4, 8, [32]).eval()
    scheduler = new_scheduler()
    latents = torch.randn(3, 4, 8, 8)
    inverse = DDIMInverseScheduler.from_config(scheduler.config)
    inverse.set_timesteps(10)
    state = latents
    with torch.no_grad():
        for timestep in inverse.timesteps:
            state = inverse.step(unet(state, timestep).sample, timestep, state).prev_sample
    ours = ddim.invert(lambda x, t: unet(x, t).sample, latents, scheduler, 10)
    assert torch.allclose(ours, state, atol=1e-5)


@pytest.mark.parametrize("steps", [10, 20, 50])
def test_refinement_closes_the_round_trip(steps):
    scheduler = new_scheduler()
    predict = gaussian_noise(scheduler)
    latents = 0.5 * torch.randn(4, 4, 8, 8)
    errors = []
    for refine in (0, 1, 3, 8):
        noise = ddim.invert(predict, latents, scheduler, steps, refine)
        again = ddim.generate(predict, noise, scheduler, steps)
        errors.append(((again - latents).norm() / latents.norm()).item())
    assert errors[0] > errors[1] > errors[2]
    assert errors[3] < 1e-4


def test_inversion_whitens():
    scheduler = new_scheduler()
    latents = 0.5 * torch.randn(64, 4, 8, 8)
    noise = ddim.invert(gaussian_noise(scheduler), latents, scheduler, 50, 3)
    assert abs(noise.std().item() - 1) < 0.05


def test_embedded_decoder_round_trip_and_folder(tmp_path):
    torch.manual_seed(0)
    pictures = torch.rand(6, 3, 24, 24) * 2 - 1
    unet = new_unet(8, 4, [32])
    # A network fresh from its initialiser is no contraction, and an inversion of it would not converge.
    torch.nn.init.zeros_(unet.conv_out.weight)
    decoder = EmbeddedDecoder(PatchAutoencoder.fit(pictures, 6, 8), unet, new_scheduler(), steps=6, refine=1)
    latents = decoder.invert(pictures)
    assert latents.shape == (6, 8, 4, 4)
    direct = decoder.decode(decoder.encode(pictures))
    assert (decoder.generate(latents) - direct).abs().max() < 1e-3
    decoder.save_pretrained(tmp_path)
    again = EmbeddedDecoder.from_pretrained(tmp_path, steps=6, refine=1)
    assert torch.equal(again.invert(pictures), latents)
    half = EmbeddedDecoder.from_pretrained(tmp_path, steps=6, refine=1, dtype=torch.bfloat16)
    assert half.unet.dtype == torch.bfloat16 and half.invert(pictures).dtype == torch.float32
    assert torch.equal(half.encode(pictures), decoder.encode(pictures))
    assert (half.generate(latents) - direct).abs().max() < 0.1


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_matches_plain_diffusers_loops_whatever_the_network_predicts(prediction):
    scheduler = DDIMScheduler.from_config(new_scheduler().config, prediction_type=prediction)
    unet = new_unet(4, 8, [32]).eval()
    latents = torch.randn(2, 4, 8, 8)
    inverse, forward = DDIMInverseScheduler.from_config(scheduler.config), DDIMScheduler.from_config(scheduler.config)
    ours = ddim.invert(lambda x, t: unet(x, t).sample, latents, scheduler, 7)
    back = ddim.generate(lambda x, t: unet(x, t).sample, ours, scheduler, 7)
    for plain, start, reached in ((inverse, latents, ours), (forward, ours, back)):
        plain.set_timesteps(7)
        state = start
        with torch.no_grad():
            for timestep in plain.timesteps:
                state = plain.step(unet(state, timestep).sample, timestep, state).prev_sample
        assert torch.allclose(reached, state, atol=1e-5)


def test_the_trajectory_leads_from_the_latents_to_their_noise():
    scheduler = new_scheduler()
    predict = gaussian_noise(scheduler)
    latents = 0.5 * torch.randn(4, 4, 8, 8)
    states = list(ddim.trajectory(predict, latents, scheduler, 6, 1))
    assert len(states) == 7 and torch.equal(states[0], latents)
    assert torch.equal(states[-1], ddim.invert(predict, latents, scheduler, 6, 1))
    assert not any(torch.equal(one, other) for one, other in itertools.pairwise(states))


def test_no_gradient_is_kept():
    scheduler = new_scheduler()
    weight = torch.ones((), requires_grad=True)
    latents = torch.randn(1, 4, 8, 8)
    assert not ddim.invert(lambda x, t: weight * x, latents, scheduler, 3).requires_grad
    assert not ddim.generate(lambda x, t: weight * x, latents, scheduler, 3).requires_grad

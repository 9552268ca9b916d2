"""Null-text optimisation, against predictors whose optimum is known and on a small real U-Net."""

import itertools

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import SMALL, make_config, merge
from tests.data import tiny_models
from tests.data.latents import movie, tree, write_clips, write_decoder
from vlfm.clips.shards import read_clips
from vlfm.coefficients.project import project_shard
from vlfm.coefficients.shards import read_shard
from vlfm.decoders import ddim, null_text
from vlfm.decoders.autoencoder import AutoencoderDecoder, LatentAutoencoder
from vlfm.decoders.embedded import EmbeddedDecoder, new_scheduler
from vlfm.decoders.load import load_decoder
from vlfm.decoders.prepare import prepare_decoder
from vlfm.decoders.rectified_flow import RectifiedFlowDecoder
from vlfm.decoders.stable_diffusion import StableDiffusionDecoder
from vlfm.errors import VLFMError
from vlfm.evaluation.evaluate import Example, _evaluate_clip
from vlfm.frames import psnr, to_tensor
from vlfm.latents.invert import invert_shard
from vlfm.latents.store import LatentStore
from vlfm.model.flow_model import FlowModel
from vlfm.model.transformer import VLFMTransformer

pytestmark = pytest.mark.usefixtures("captions_read_once")

CPU = torch.device("cpu")

STEPS = 5


def linear(state, timestep, embeddings):
    """An output that moves with the embedding, one number of it a position: (1, 1, 4) ↔ (1, 2, 2)."""
    return 0.3 * state + embeddings.reshape(1, 1, 2, 2)


def walk(predict, pivots, caption, null, guidance):
    """The guided walk from the pivots' noise, back to latents."""
    noise = null_text.guided(predict, caption[None], null, guidance)
    return ddim.generate(noise, pivots[-1], new_scheduler(), len(null))


def error(states, truth):
    return (states - truth).square().mean().item()


@pytest.fixture
def trajectory():
    latents = torch.randn(3, 1, 2, 2)
    caption = torch.randn(1, 4)
    pivots = list(ddim.trajectory(lambda x, t: linear(x, t, caption), latents, new_scheduler(), STEPS, refine=20))
    return latents, caption, pivots


def test_on_its_own_trajectory_the_optimum_is_the_caption(trajectory):
    latents, caption, pivots = trajectory
    null = null_text.optimise(
        linear,
        pivots,
        caption,
        torch.zeros(1, 4),
        new_scheduler(),
        guidance=4.0,
        iterations=600,
        learning_rate=0.05,
        tolerance=1e-12,
        slack=0,
    )
    assert null.shape == (STEPS, 1, 4)
    assert (null - caption).abs().max() < 2e-3
    assert error(walk(linear, pivots, caption, null, 4.0), latents) < 1e-6
    assert error(walk(linear, pivots, caption, torch.zeros_like(null), 4.0), latents) > 1e-2


def test_frames_that_share_an_embedding_get_the_mean_of_their_optima():
    guidance, frames = 3.0, 4
    caption = torch.randn(1, 4)
    start, end = torch.randn(frames, 1, 2, 2), torch.randn(frames, 1, 2, 2)
    forward = DDIMScheduler.from_config(new_scheduler().config)
    forward.set_timesteps(2)
    timestep = forward.timesteps[0]
    # The step is affine in the output ε: end = base + slope · ε, and ε = 0.3 z + ∅ + w (c − ∅).
    base = forward.step(torch.zeros_like(start), timestep, start).prev_sample
    slope = forward.step(torch.ones_like(start), timestep, start).prev_sample - base
    needed = (end - base) / slope - 0.3 * start
    optima = (needed - guidance * caption.reshape(1, 1, 2, 2)) / (1 - guidance)
    null = null_text.optimise(
        linear,
        [end, end, start],
        caption,
        torch.zeros(1, 4),
        new_scheduler(),
        guidance,
        iterations=500,
        learning_rate=0.05,
        tolerance=0,
        slack=0,
    )
    assert torch.allclose(null[0].reshape(2, 2), optima.mean(0)[0], atol=5e-3)


def test_part_of_a_trajectory_is_optimised_at_the_noise_levels_of_the_whole(trajectory):
    latents, caption, pivots = trajectory
    arguments = (caption, torch.zeros(1, 4), new_scheduler(), 4.0, 600)
    options = {"learning_rate": 0.05, "tolerance": 1e-12, "slack": 0}
    null = null_text.optimise(linear, pivots[:3], *arguments, steps=STEPS, **options)
    assert null.shape == (2, 1, 4) and (null - caption).abs().max() < 2e-3
    noise = null_text.guided(linear, caption[None], null, 4.0)
    assert error(ddim.generate(noise, pivots[2], new_scheduler(), STEPS, 2 / STEPS), latents) < 1e-6
    alone = null_text.optimise(linear, pivots[:3], *arguments, **options)
    assert (alone - caption).abs().max() > 1e-2, "a walk of two steps has other levels"


def test_no_iterations_change_nothing(trajectory):
    _, caption, pivots = trajectory
    empty = torch.randn(1, 4)
    null = null_text.optimise(linear, pivots, caption, empty, new_scheduler(), 7.5, iterations=0)
    assert torch.equal(null, empty.expand(STEPS, 1, 4))


def test_a_step_that_is_near_enough_is_left_alone(trajectory):
    _, caption, pivots = trajectory
    empty = torch.randn(1, 4)
    null = null_text.optimise(linear, pivots, caption, empty, new_scheduler(), 7.5, iterations=5, tolerance=1e6)
    assert torch.equal(null, empty.expand(STEPS, 1, 4))
    slack = null_text.optimise(
        linear, pivots, caption, empty, new_scheduler(), 7.5, iterations=5, tolerance=0, slack=1e6
    )
    assert not torch.equal(slack[0], empty)  # no slack at the first step
    assert torch.equal(slack[0], slack[-1])


@settings(max_examples=25, deadline=None)
@given(guidance=st.floats(-5, 20), seed=st.integers(0, 2**31))
def test_guidance_interpolates_between_the_two_outputs(guidance, seed):
    generator = torch.Generator().manual_seed(seed)
    state, caption, null = (torch.randn(shape, generator=generator) for shape in ((2, 1, 2, 2), (1, 4), (2, 1, 4)))
    time = torch.tensor(1)
    noise = null_text.guided(linear, caption[None], null, guidance)
    for embedding in null:
        without, with_it = linear(state, time, embedding[None]), linear(state, time, caption[None])
        assert torch.allclose(noise(state, time), without + guidance * (with_it - without), atol=1e-4)
    same = null_text.guided(linear, caption[None], caption[None], guidance)
    assert torch.allclose(same(state, time), linear(state, time, caption[None]), atol=1e-4)


class Hungry:
    """A predictor for whose gradients only two frames fit."""

    def __init__(self):
        self.sizes = []

    def __call__(self, state, timestep, embeddings):
        if torch.is_grad_enabled():
            self.sizes.append(len(state))
            if len(state) > 2:
                raise torch.OutOfMemoryError("too much")
        return linear(state, timestep, embeddings)


def test_out_of_memory_halves_the_frames_of_a_pass(trajectory):
    _, caption, pivots = trajectory
    arguments = (pivots, caption, torch.zeros(1, 4), new_scheduler(), 3.0, 4)
    hungry = Hungry()
    null = null_text.optimise(hungry, *arguments)
    assert hungry.sizes[:2] == [3, 1] and max(hungry.sizes[1:]) == 1
    assert torch.allclose(null, null_text.optimise(linear, *arguments), atol=1e-5)

    def starving(state, timestep, embeddings):
        if torch.is_grad_enabled():
            raise torch.OutOfMemoryError("too much")
        return linear(state, timestep, embeddings)

    with pytest.raises(torch.OutOfMemoryError):
        null_text.optimise(starving, *arguments)


# --------------------------------------------------------------------------------- stable diffusion

CAPTION = "a cat"


def load_tiny(folder, **settings):
    """A real U-Net that heeds captions, which one fresh from its initialiser hardly does."""
    decoder = StableDiffusionDecoder.from_folder(folder, steps=STEPS, refine=4, captioned=True, **settings)
    for name, parameter in decoder.network.named_parameters():
        if name.endswith("attn2.to_out.0.weight"):
            parameter.data *= 20
    return decoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_models.stable_diffusion(tmp_path_factory.mktemp("sd"))


@pytest.fixture(scope="module")
def frames():
    return to_tensor(movie(0, frames=3, height=64, width=64))


@pytest.mark.slow
def test_a_guided_round_trip_closes(folder, frames):
    decoder = load_tiny(folder, guidance=3.0, null_text=12)
    latents, null = decoder.invert_guided(frames, CAPTION, batch_size=32)
    captions = [CAPTION] * len(frames)
    assert torch.equal(latents, decoder.invert(frames, captions))
    assert null.shape == (STEPS, 77, tiny_models.WIDTH) and null.dtype == torch.float32 and not null.requires_grad
    direct = decoder.decode(decoder.encode(frames))
    at_one = error(decoder.generate(latents, captions), direct)
    empty = decoder.embed([""]).expand(STEPS, -1, -1)
    without = error(decoder.generate(latents, captions, empty), direct)
    optimised = error(decoder.generate(latents, captions, null), direct)
    assert at_one < 1e-6 and optimised < without / 10
    # As it is stored.
    assert error(decoder.generate(latents, captions, null.half()), direct) < without / 10
    assert all(parameter.grad is None for parameter in decoder.network.parameters())


def test_no_iterations_are_plain_guidance(folder, frames):
    decoder = load_tiny(folder, guidance=3.0)
    _, null = decoder.invert_guided(frames, CAPTION)
    assert torch.equal(null, decoder.embed([""]).expand(STEPS, -1, -1))


def test_frames_are_generated_in_batches_or_one_by_one(folder, frames):
    decoder = load_tiny(folder, guidance=2.0, null_text=1)
    latents, null = decoder.invert_guided(frames, CAPTION)
    whole = decoder.generate(latents, [CAPTION] * 3, null)
    decoder.batch_size = 2
    assert torch.allclose(decoder.generate(latents, [CAPTION] * 3, null), whole, atol=1e-4)
    parted, again = decoder.invert_guided(frames, CAPTION)
    assert torch.allclose(parted, latents, atol=1e-4) and torch.allclose(again, null, atol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize(("depth", "walked"), [(0.1, 1), (0.5, 3), (0.8, 4)])
def test_part_of_the_way_there_is_one_embedding_a_step_walked(folder, frames, depth, walked):
    decoder = load_tiny(folder, guidance=3.0, null_text=12, depth=depth)
    captions = [CAPTION] * len(frames)
    latents, null = decoder.invert_guided(frames, CAPTION)
    assert torch.equal(latents, decoder.invert(frames, captions)) and len(null) == walked
    direct = decoder.decode(decoder.encode(frames))
    empty = decoder.embed([""]).expand(walked, -1, -1)
    assert error(decoder.generate(latents, captions), direct) < 1e-6
    without = error(decoder.generate(latents, captions, empty), direct)
    assert error(decoder.generate(latents, captions, null), direct) < max(without / 5, 1e-5)
    told = rf"of 5 steps, but inversion\.steps 5 at inversion\.depth .* are {walked} steps"
    with pytest.raises(VLFMError, match=told):
        decoder.generate(latents, captions, decoder.embed([""]).expand(STEPS, -1, -1))


def test_null_text_of_other_steps_is_refused(folder):
    decoder = load_tiny(folder, guidance=2.0)
    with pytest.raises(VLFMError, match=r"of 4 steps, but inversion\.steps 5 "):
        decoder.generate(torch.zeros(1, 4, 8, 8), [CAPTION], torch.zeros(4, 77, tiny_models.WIDTH))


def test_decoders_without_guidance_refuse_null_text(tmp_path):
    vae = tiny_models.autoencoder_kl(tmp_path / "vae")
    decoders = (
        AutoencoderDecoder(LatentAutoencoder.from_folder(vae)),
        RectifiedFlowDecoder.from_folder(tiny_models.rectified_flow(tmp_path / "sd3"), steps=2),
        EmbeddedDecoder.from_pretrained(write_decoder(tmp_path / "embedded"), steps=2),
    )
    for decoder in decoders:
        with pytest.raises(VLFMError, match="takes no guidance and so no null text"):
            decoder.generate(torch.zeros(1, 4, 8, 8), [CAPTION], torch.zeros(2, 77, 16))


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    """A configuration with null text, and the first stages of its run."""
    results = tmp_path_factory.mktemp("results")
    change = {
        "clips": {"size": 64, "duration": 4 / 24},
        "decoder": {"name": "stable-diffusion", "model": str(folder)},
        "inversion": {"steps": 2, "batch_size": 4, "prompt": "caption", "guidance": 2.0, "null_text": 1},
        "evaluation": {"fps": [24]},
    }
    config = make_config(**merge(SMALL, change))
    write_clips(results / "clips" / "00000.tar", 2, frames=4, height=64, width=64)
    prepare_decoder(config, [], results / "decoder", CPU)
    return config, results


def invert_run(config, results, output):
    invert_shard(
        config, results / "clips" / "00000.tar", results / "decoder", output, output.with_suffix(".ledger"), CPU
    )


@pytest.mark.slow
def test_the_store_keeps_null_text_and_a_killed_job_ends_with_the_same_bytes(run, tmp_path, monkeypatch):
    config, results = run
    invert_run(config, results, tmp_path / "whole" / "s.zarr")
    store = LatentStore(tmp_path / "whole" / "s.zarr")
    first, second = store
    assert first.null_text.shape == (2, 77, tiny_models.WIDTH) and first.null_text.dtype == np.float32
    assert not np.array_equal(first.null_text, second.null_text)
    decoder = load_decoder(config, results / "decoder", CPU)
    frames = decoder.generate(torch.from_numpy(first.latents), [first.caption] * 4, torch.from_numpy(first.null_text))
    truth = to_tensor(movie(0, frames=4, height=64, width=64))
    assert psnr(frames, truth).mean().item() == pytest.approx(first.round_trip, abs=1e-3)

    class Killed(BaseException):
        pass

    guided, count = StableDiffusionDecoder.invert_guided, itertools.count()

    def dies_at_the_second(self, *arguments):
        if next(count) == 1:
            raise Killed
        return guided(self, *arguments)

    monkeypatch.setattr(StableDiffusionDecoder, "invert_guided", dies_at_the_second)
    with pytest.raises(Killed):
        invert_run(config, results, tmp_path / "again" / "s.zarr")
    invert_run(config, results, tmp_path / "again" / "s.zarr")
    assert next(count) == 3
    assert tree(tmp_path / "again" / "s.zarr") == tree(tmp_path / "whole" / "s.zarr")


def test_stores_without_guidance_have_no_null_text(run, tmp_path):
    config, results = run
    plain = make_config(**merge(config.model_dump(), {"inversion": {"guidance": 1.0, "null_text": 0}}))
    invert_run(plain, results, tmp_path / "s.zarr")
    assert [clip.null_text for clip in LatentStore(tmp_path / "s.zarr")] == [None, None]


def test_evaluation_generates_with_null_text_what_was_inverted_with_it(run, tmp_path, monkeypatch):
    config, results = run
    latents = tmp_path / "s.zarr"
    invert_run(config, results, latents)
    project_shard(config, latents, tmp_path / "c.tar", tmp_path / "c.json", tmp_path / "ledger")
    network = VLFMTransformer(
        channels=4, positions=8, order=4, durations=(4 / 24,), layers=1, heads=2, head_dim=32, caption_channels=384
    )
    model = FlowModel.of(config, network.eval().requires_grad_(False))
    decoder = load_decoder(config, results / "decoder", CPU)
    calls = []
    generate = decoder.generate

    def told(points, captions=None, null_text=None):
        calls.append((len(points), captions, null_text))
        return generate(points, captions, null_text)

    monkeypatch.setattr(decoder, "generate", told)
    clip = next(read_clips(results / "clips" / "00000.tar"))
    stored, coefficients = next(iter(LatentStore(latents))), next(read_shard(tmp_path / "c.tar"))
    record = _evaluate_clip(config, Example(clip, stored, coefficients), model, decoder, tmp_path)
    (given, captions, null_text), (count, seen, none) = calls
    assert given == 8 and captions == [clip.caption] * 8 and np.array_equal(null_text, stored.null_text)
    assert count >= 4 and seen == [clip.caption] * count and none is None
    scores = {row["stage"]: row["psnr"] for row in record["rows"]}
    assert scores["inversion"] == pytest.approx(stored.round_trip, abs=1e-3)


@pytest.mark.parametrize("name", ["embedded", "autoencoder", "rectified-flow"])
def test_the_configuration_refuses_it_for_decoders_without_guidance(name):
    change = {"null_text": 10, "guidance": 3.0, "prompt": "caption"}
    with pytest.raises(VLFMError, match=r"null_text needs decoder\.name stable-diffusion"):
        make_config(decoder={"name": name, "model": "folder"}, inversion=change)

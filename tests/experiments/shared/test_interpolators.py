"""Baselines on motion that is known: what is exact where, and what costs what."""

import numpy as np
import pytest
import torch

from vlfm.decoders.embedded import EmbeddedDecoder, new_scheduler, new_unet
from vlfm.decoders.patch_autoencoder import PatchAutoencoder
from vlfm.errors import VLFMError
from vlfm.evaluation.metrics import psnr
from vlfm.experiments.shared.interpolators import combine, minterpolate
from vlfm.experiments.shared.scene import scene
from vlfm.frames import to_tensor
from vlfm.video.path_weights import DEFAULT_BASIS, path_weights

GIVEN, BETWEEN = np.arange(9) / 12, (np.arange(8) + 0.5) / 12
IRREGULAR = np.array([0.0, 0.1, 0.13, 0.3, 0.35, 0.5])


@pytest.fixture(scope="module")
def frames():
    return to_tensor(scene(1).frames(GIVEN, 48)), to_tensor(scene(1).frames(BETWEEN, 48))


@pytest.fixture(scope="module")
def decoder(frames):
    autoencoder = PatchAutoencoder.fit(torch.cat(frames), 6, 20)
    torch.manual_seed(0)
    return EmbeddedDecoder(autoencoder, new_unet(20, 8, [32]), new_scheduler(), steps=3)


def moving(times, degree):
    """Pictures whose every pixel is a polynomial of that degree in time, within [−1, 1]."""
    powers = torch.as_tensor(np.stack([(2 * np.asarray(times)) ** n for n in range(degree + 1)], -1)).float()
    slopes = torch.rand(degree + 1, 3, 16, 16, generator=torch.Generator().manual_seed(3)) * 0.4 - 0.2
    return torch.einsum("kn,nchw->kchw", powers, slopes).clamp(-1, 1)


def between(kind, values, times, instants, order=5, basis=DEFAULT_BASIS):
    """The path of that kind through pixels or latents."""
    return combine(path_weights(kind, times, instants, order, basis=basis), values)


@pytest.mark.parametrize("kind, degree", [("linear", 1), ("cubic", 3), ("projected", 3), ("hybrid", 3)])
def test_exact_on_its_own_kind_of_motion(kind, degree):
    """At irregular true times; one degree more is not exact, so the test can tell."""
    at = np.linspace(0, 0.5, 13)
    for order, exact in ((degree, True), (degree + 1, False)):
        found = between(kind, moving(IRREGULAR, order), IRREGULAR, at, order=degree + 1, basis="legendre")
        assert torch.allclose(found, moving(at, order), atol=1e-5) == exact


def test_repeat_shows_the_frame_before():
    given = moving(IRREGULAR, 1)
    assert torch.equal(between("repeat", given, IRREGULAR, np.array([0.12, 0.5, 0.9])), given[[1, 5, 5]])
    assert torch.equal(between("nearest", given, IRREGULAR, np.array([0.12, 0.02])), given[[2, 0]])


def test_a_linear_decoder_commutes_with_a_path(frames, decoder):
    """Blending, then the round trip, is the latent line: the same subspace either way."""
    given, _ = frames
    latent = decoder.decode(between("linear", decoder.encode(given), GIVEN, BETWEEN))
    after = decoder.decode(decoder.encode(between("linear", given, GIVEN, BETWEEN)))
    assert torch.allclose(latent, after, atol=1e-5)


def test_they_rank_as_expected(frames, decoder):
    given, truth = frames
    latents = decoder.encode(given)
    made = {
        "minterpolate": minterpolate(given, GIVEN, BETWEEN),
        **{kind: between(kind, given, GIVEN, BETWEEN).clamp(-1, 1) for kind in ("repeat", "linear")},
    }
    through = {name: decoder.decode(decoder.encode(pictures)) for name, pictures in made.items()}
    paths = {
        kind: decoder.decode(between(kind, latents, GIVEN, BETWEEN, order=4))
        for kind in ("linear", "projected", "hybrid")
    }
    for pictures in (*made.values(), *through.values(), *paths.values()):
        assert pictures.shape == truth.shape and pictures.dtype == truth.dtype and pictures.abs().max() <= 1
    pixels, decoded, latent = (
        {name: psnr(pictures, truth).mean().item() for name, pictures in each.items()}
        for each in (made, through, paths)
    )
    assert pixels["repeat"] < min(pixels["linear"], pixels["minterpolate"])
    for name in ("linear", "minterpolate"):  # a repeated frame's error is so large that blurring it may help
        assert decoded[name] < pixels[name]
    assert latent["projected"] < latent["hybrid"]
    assert latent["linear"] == pytest.approx(decoded["linear"], abs=1e-3)


# ------------------------------------------------------------------------------------- minterpolate


def test_minterpolate_follows_a_moving_disc():
    """Shown at its true place between the frames, up to the last gap; the frames themselves come back as given."""
    given, truth = (to_tensor(scene(1).frames(times, 96)) for times in (GIVEN, BETWEEN))
    made = minterpolate(given, GIVEN, BETWEEN)
    assert (psnr(made, truth) > psnr(between("linear", given, GIVEN, BETWEEN), truth)).float().mean() > 0.7
    offset = [psnr(made, to_tensor(scene(1).frames(BETWEEN + d, 96))).mean() for d in (-0.02, 0, 0.02)]
    assert offset[1] == max(offset)
    both = np.sort(np.concatenate([GIVEN, BETWEEN]))
    assert torch.equal(minterpolate(given, GIVEN, both)[::2], given)
    assert torch.equal(minterpolate(given, GIVEN + 7.5, both + 7.5), minterpolate(given, GIVEN, both))


def test_minterpolate_at_thirds_and_at_the_frames(frames):
    given, _ = frames
    thirds = minterpolate(given, GIVEN, np.arange(25) / 36)
    truth = to_tensor(scene(1).frames(np.arange(25) / 36, 48))
    assert psnr(thirds, truth).min() > 20
    assert torch.equal(minterpolate(given, GIVEN, GIVEN[2:4]), given[2:4])
    assert torch.equal(minterpolate(given[:1], GIVEN[:1], BETWEEN[:2]), given[[0, 0]])


def test_minterpolate_refuses_what_it_would_get_wrong(frames):
    given, _ = frames
    with pytest.raises(VLFMError, match="constant frame rate"):
        minterpolate(given[:6], IRREGULAR, BETWEEN)
    with pytest.raises(VLFMError, match="32 pixels or more"):
        minterpolate(given[..., :20], GIVEN, BETWEEN)
    with pytest.raises(VLFMError, match="no grid"):
        minterpolate(given, GIVEN, (np.arange(3) + np.array([0.013, 0.341, 0.577])) / 12)

"""Patches that see their neighbours."""

import pytest
import torch

from vlfm.decoders.embedded import EmbeddedDecoder, new_scheduler
from vlfm.decoders.lapped_autoencoder import LappedAutoencoder
from vlfm.decoders.patch_autoencoder import PatchAutoencoder
from vlfm.errors import VLFMError


@pytest.fixture
def frames():
    return torch.rand(8, 3, 48, 60, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture
def lapped(frames):
    torch.manual_seed(0)
    patches = PatchAutoencoder.fit(frames, 6, 8)
    return patches, LappedAutoencoder.of_patches(patches, width=16, blocks=2).requires_grad_(False)


def test_it_begins_as_the_patches(lapped, frames):
    patches, model = lapped
    assert torch.allclose(model.encode(frames), patches.encode(frames), atol=1e-4)
    assert torch.allclose(model.decode(model.encode(frames)), patches.decode(patches.encode(frames)), atol=1e-4)


def test_normalised_latents_are_centred_and_of_unit_variance_and_pictures_the_same(lapped, frames):
    _, model = lapped
    model.analysis.weight.mul_(3)
    model.analysis.bias.add_(1)
    before = model.decode(model.encode(frames))
    model.normalise([frames[:5], frames[5:]])
    latents = model.encode(frames)
    assert latents.mean((0, 2, 3)).abs().max() < 1e-4
    assert latents.var((0, 2, 3), correction=0).mean() == pytest.approx(1, rel=1e-3)
    assert torch.allclose(model.decode(latents), before, atol=1e-4)


def test_a_patch_sees_its_neighbours_and_no_further_than_its_convolutions(lapped):
    _, model = lapped
    torch.nn.init.normal_(model.correct.weight)
    latents = torch.zeros(1, 8, 15, 15)
    other = latents.clone()
    other[..., 7, 7] = 1
    changed = (model.decode(other) - model.decode(latents)).abs().amax((0, 1)) > 0
    assert changed[7 * 6, 6 * 6] and changed[7 * 6, 4 * 6] and not changed[7 * 6, 3 * 6]


def test_a_folder_says_which_autoencoder_is_in_it(lapped, frames, tmp_path):
    for index, autoencoder in enumerate(lapped):
        EmbeddedDecoder(autoencoder, None, new_scheduler(), depth=0).save_pretrained(tmp_path / str(index))
        read = EmbeddedDecoder.from_pretrained(tmp_path / str(index), depth=0)
        assert type(read.autoencoder) is type(autoencoder)
        assert torch.equal(read.encode(frames), autoencoder.encode(frames))
    config = tmp_path / "0" / "autoencoder" / "config.json"
    config.write_text(config.read_text().replace("PatchAutoencoder", "Evil"))
    with pytest.raises(VLFMError, match=r"names 'Evil'; there are PatchAutoencoder, LappedAutoencoder"):
        EmbeddedDecoder.from_pretrained(tmp_path / "0", depth=0)

"""Autoencoders alone, against diffusers' own classes."""

import diffusers
import pytest
import torch

from tests.data import tiny_models
from vlfm.decoders.autoencoder import AutoencoderDecoder, LatentAutoencoder, locate_autoencoder
from vlfm.errors import VLFMError
from vlfm.storage.files import read_json

CAPTIONS = ["a cat", "a dog", "a cat"]


@pytest.mark.parametrize("kind", ["autoencoder_kl", "autoencoder_tiny", "autoencoder_dc"])
@pytest.mark.parametrize("nested", [False, True])
def test_autoencoders_alone(tmp_path, frames, kind, nested):
    place = getattr(tiny_models, kind)(tmp_path / "vae")
    found = locate_autoencoder(str(tmp_path if nested else place))
    assert found == place
    decoder = AutoencoderDecoder(LatentAutoencoder.from_folder(found))
    latents = decoder.invert(frames, CAPTIONS)
    assert latents.shape == (3, *decoder.latent_shape(64, 64))
    network = getattr(diffusers, read_json(place / "config.json")["_class_name"]).from_pretrained(place)
    with torch.no_grad():
        encoded = network.encode(frames)
        plain = encoded.latent_dist.mode() if kind == "autoencoder_kl" else encoded[0]
        torch.testing.assert_close(latents, plain * network.config.scaling_factor, atol=1e-5, rtol=0)
        pictures = network.decode(plain).sample.clamp(-1, 1)
    torch.testing.assert_close(decoder.generate(latents), pictures, atol=1e-4, rtol=0)


def test_latents_are_shifted_before_they_are_scaled(tmp_path, frames):
    shifted = LatentAutoencoder.from_folder(tiny_models.autoencoder_kl(tmp_path, shift_factor=0.5))
    plain = shifted.network.encode(frames).latent_dist.mode()
    torch.testing.assert_close(shifted.encode(frames), (plain - 0.5) * 4, atol=1e-5, rtol=0)


def test_many_frames_go_through_in_parts(tmp_path, monkeypatch):
    autoencoder = LatentAutoencoder.from_folder(tiny_models.autoencoder_tiny(tmp_path))
    frames = torch.rand(5, 3, 32, 32) * 2 - 1
    whole = autoencoder.encode(frames)
    monkeypatch.setattr("vlfm.decoders.autoencoder.PIXELS", 2 * 32 * 32)
    sizes = []
    autoencoder.network.encoder.register_forward_pre_hook(lambda module, arguments: sizes.append(len(arguments[0])))
    torch.testing.assert_close(autoencoder.encode(frames), whole, atol=1e-5, rtol=0)
    assert sizes == [2, 2, 1]


def test_what_is_no_autoencoder_is_refused(tmp_path, stable_diffusion):
    with pytest.raises(VLFMError, match="no autoencoder, neither there nor in a subfolder vae"):
        locate_autoencoder(str(stable_diffusion / "scheduler"))
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "config.json").write_text("{}")
    (tmp_path / "vae" / "diffusion_pytorch_model.bin").write_bytes(b"")
    with pytest.raises(VLFMError, match=r"weights only as diffusion_pytorch_model\.bin"):
        locate_autoencoder(str(tmp_path))
    with pytest.raises(VLFMError, match="holds a UNet2DConditionModel; the autoencoders that can be used are"):
        LatentAutoencoder.from_folder(stable_diffusion / "unet")

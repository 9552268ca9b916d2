import torch

from vlfm.decoders.patch_autoencoder import PatchAutoencoder
from vlfm.frames import psnr


def frames(count=12, side=24):
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    return torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic").clamp(0, 1) * 2 - 1


def test_all_components_reconstruct_exactly():
    pictures = frames()
    model = PatchAutoencoder.fit(pictures, patch=4, channels=48)
    assert torch.allclose(model.decode(model.encode(pictures)), pictures, atol=1e-5)


def test_basis_is_orthonormal_and_latents_have_unit_variance():
    pictures = frames()
    model = PatchAutoencoder.fit(pictures, patch=6, channels=5)
    assert torch.allclose(model.basis @ model.basis.T, torch.eye(5), atol=1e-5)
    latents = model.encode(pictures)
    assert latents.shape == (12, 5, 4, 4)
    assert abs(latents.var().item() - 1) < 0.01


def test_error_is_the_variance_of_the_components_left_out():
    pictures = frames()
    model = PatchAutoencoder.fit(pictures, patch=4, channels=6)
    full = PatchAutoencoder.fit(pictures, patch=4, channels=48)
    left_out = (full.encode(pictures) * full.scale)[:, 6:].square().sum(1).mean() / 48
    error = (model.decode(model.encode(pictures)) - pictures).square().mean()
    assert torch.isclose(error, left_out, rtol=1e-3)


def test_no_other_basis_of_that_size_does_better():
    pictures = frames()
    fitted = PatchAutoencoder.fit(pictures, patch=4, channels=6)
    other = PatchAutoencoder.fit(pictures, patch=4, channels=6)
    other.basis.copy_(torch.linalg.qr(other.basis.T + 0.2 * torch.randn(48, 6))[0].T)
    assert psnr(fitted.decode(fitted.encode(pictures)), pictures).mean() > (
        psnr(other.decode(other.encode(pictures)), pictures).mean()
    )


def test_save_and_load(tmp_path):
    pictures = frames()
    model = PatchAutoencoder.fit(pictures, patch=6, channels=5)
    model.save_pretrained(tmp_path)
    assert [path.suffix for path in tmp_path.iterdir() if "json" not in path.name] == [".safetensors"]
    again = PatchAutoencoder.from_pretrained(tmp_path)
    assert torch.equal(again.encode(pictures), model.encode(pictures))


def test_the_same_frames_give_the_same_basis_whatever_their_order():
    pictures = frames()
    one = PatchAutoencoder.fit(pictures, patch=4, channels=6)
    two = PatchAutoencoder.fit(pictures.flip(0), patch=4, channels=6)
    assert torch.allclose(one.basis, two.basis, atol=1e-4)

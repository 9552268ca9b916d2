"""A shard of small clips and a decoder folder, made in a moment: what inversion reads."""

import io
import json

import numpy as np
import torch
from PIL import Image

from tests.conftest import SMALL, make_config, merge
from vlfm.decoders.embedded import EmbeddedDecoder, new_scheduler, new_unet
from vlfm.decoders.patch_autoencoder import PatchAutoencoder
from vlfm.frames import to_tensor
from vlfm.storage.files import write_json
from vlfm.storage.tar import write_tar

FPS, FRAMES, SIZE, CHANNELS = 24.0, 6, 24, 8


def movie(seed, frames=FRAMES, height=SIZE, width=SIZE):
    """Smooth moving pictures, uint8 (N, H, W, 3)."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 3, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(frames, height, width), mode="trilinear")[0]
    return (smooth.permute(1, 2, 3, 0) * 255).byte().numpy()


def write_clips(path, count, caption="a picture", **shape):
    """A tar as `vlfm decode` writes it; captions of every second clip are the same."""
    samples = []
    for index in range(count):
        frames = movie(index, **shape)
        name = f"{index:016x}"
        info = {
            "clip_id": name,
            "times": (np.arange(1, len(frames) + 1) / FPS).tolist(),
            "source": "made.mp4",
            "row": index + 2,
            "fps": FPS,
            "duration": len(frames) / FPS,
        }
        members = {"json": json.dumps(info).encode(), "txt": f"{caption} {index % 2}".encode()}
        for number, frame in enumerate(frames):
            buffer = io.BytesIO()
            Image.fromarray(frame).save(buffer, "png")
            members[f"{number:03d}.png"] = buffer.getvalue()
        samples.append({"__key__": name, **members})
    write_tar(path, samples)
    return path


def write_decoder(folder, fingerprint="d0", predictor=True):
    """A folder as `vlfm prepare-decoder` writes it. Its network, if any, has not learnt a thing, but is gentle."""
    torch.manual_seed(0)
    unet = new_unet(CHANNELS, SIZE // 6, [32]) if predictor else None
    if predictor:
        unet.conv_out.weight.data *= 0.1
    frames = torch.cat([to_tensor(movie(seed)) for seed in range(8)])
    autoencoder = PatchAutoencoder.fit(frames, 6, CHANNELS)
    EmbeddedDecoder(autoencoder, unet, new_scheduler(), depth=float(predictor)).save_pretrained(folder)
    write_json(
        folder / "decoder.json",
        {"name": "embedded", "fingerprint": fingerprint, "shape": [CHANNELS, SIZE // 6, SIZE // 6]},
    )
    return folder


def small(**inversion):
    """The configuration for such clips, two of which make a batch."""
    return make_config(
        **merge(SMALL, {"clips": {"size": SIZE}, "inversion": {"steps": 2, "batch_size": 2 * FRAMES} | inversion})
    )


def tree(folder):
    """Every file under a folder with its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

"""What a path runs through: the pixels themselves, or the latents of an autoencoder.

A path is linear, and so is a `PatchAutoencoder`, whose round trip is a projection P: then `D(M E(x)) = P(M x)`, the
path on pixels with the projection's loss on top, for more work (`2C` operations a value each way, against `2N` for
the path itself). So pixels are what a linear decoder can at best be, and the default; latents are for autoencoders
that are not linear, and for seeing what a decoder costs.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch.nn import functional

from vlfm.decoders.autoencoder import AutoencoderDecoder, LatentAutoencoder, locate_autoencoder
from vlfm.decoders.embedded import Autoencoder, load_autoencoder
from vlfm.decoders.patch_autoencoder import PatchAutoencoder
from vlfm.errors import VLFMError
from vlfm.frames import to_tensor, to_uint8
from vlfm.storage.files import read_json
from vlfm.video.source import Source

CHUNK = 1 << 15  # values of a picture multiplied at a time: the floats of a window then stay in the cache
PATCH = 8  # of the autoencoder that is fitted on a video
SAMPLES = 12  # frames it is fitted on
CROPS, SIDE = 24, 8  # places taken of each, at random, and their side in patches


class Space(Protocol):
    """Where frames are combined. `exact`: whether a frame's own weight gives the frame back."""

    exact: bool

    def put(self, frame: np.ndarray):
        """Take a frame, uint8 (H, W, 3), into what `combine` wants."""

    def frame(self, item) -> np.ndarray:
        """The frame that was put."""

    def combine(self, weights: np.ndarray, lines: np.ndarray, items: list) -> np.ndarray:
        """Frames uint8 (K, H, W, 3) at `weights` (K, N) of N items; `lines` (K, N), linear interpolation's."""


class Pixels:
    """The path straight on the pixels.

    A frame costs `2N` operations a byte, N the frames with any weight in it (up to 12 for windows of 8). Frames are
    made several at a time, so that each byte is read, and made a float, once for all of them: at 720p 66 MFLOP and
    about 8 ms of one core a frame, a third of what encoding it takes.
    """

    exact = True

    def put(self, frame: np.ndarray) -> np.ndarray:
        return frame

    def frame(self, item: np.ndarray) -> np.ndarray:
        return item

    def combine(self, weights: np.ndarray, lines: np.ndarray, items: list[np.ndarray]) -> np.ndarray:
        used = np.flatnonzero(np.abs(weights).max(0) > 1e-9)
        matrix = torch.from_numpy(weights[:, used]).float()
        flat = [items[index].reshape(-1) for index in used]
        made = torch.empty((len(matrix), flat[0].size), dtype=torch.uint8)
        for start in range(0, flat[0].size, CHUNK):
            part = torch.from_numpy(np.stack([values[start : start + CHUNK] for values in flat])).float()
            made[:, start : start + CHUNK] = (matrix @ part).round_().clamp_(0, 255)
        return made.view(len(matrix), *items[0].shape).numpy()


@dataclass
class _Encoded:
    frame: np.ndarray
    latents: torch.Tensor
    detail: torch.Tensor | None = None


class Latents:
    """The path through an autoencoder's latents, at the video's own size (padded to whole patches).

    What the autoencoder drops of the given frames, `x − D(E(x))`, is carried along: interpolated linearly and
    added. Then the given frames come back exactly, and frames between them are as sharp; else the video would
    pulse between the one and the other.

    Args:
        autoencoder: `encode`, `decode` and a device; frames in [−1, 1].
        unit: both sides of its frames must be multiples of it.
        detail: False leaves the dropped part out everywhere: the decoder's own picture.
    """

    def __init__(self, autoencoder, unit: int, detail: bool = True) -> None:
        self._autoencoder, self._unit = autoencoder, unit
        self.exact = detail

    def put(self, frame: np.ndarray) -> _Encoded:
        return _Encoded(frame, self._autoencoder.encode(self._tensor(frame)).cpu())

    def frame(self, item: _Encoded) -> np.ndarray:
        return item.frame

    @torch.no_grad()
    def combine(self, weights: np.ndarray, lines: np.ndarray, items: list[_Encoded]) -> np.ndarray:
        height, width = items[0].frame.shape[:2]
        used = np.flatnonzero(np.abs(weights).max(0) > 1e-9)
        latents = torch.cat([items[index].latents for index in used])
        mixed = torch.from_numpy(weights[:, used]).float() @ latents.flatten(1)
        made = []
        for row, latent in zip(lines, mixed.view(-1, *latents.shape[1:]), strict=True):
            frame = self._decode(latent[None])
            if self.exact:
                for index in np.flatnonzero(np.abs(row) > 1e-9):
                    frame += float(row[index]) * self._detail(items[index]).float()
            made.append(to_uint8(frame[0, :, :height, :width]))
        if self.exact:
            for item, column in zip(items, lines.T, strict=True):
                if not np.abs(column).max() > 1e-9:
                    item.detail = None
        return np.stack(made)

    def _detail(self, item: _Encoded) -> torch.Tensor:
        if item.detail is None:
            item.detail = (self._tensor(item.frame) - self._decode(item.latents)).half()
        return item.detail

    def _tensor(self, frame: np.ndarray) -> torch.Tensor:
        frame = to_tensor(np.array(frame))[None]
        down, right = -frame.shape[-2] % self._unit, -frame.shape[-1] % self._unit
        return functional.pad(frame, (0, right, 0, down), mode="replicate")

    def _decode(self, latents: torch.Tensor) -> torch.Tensor:
        return self._autoencoder.decode(latents).float().cpu()


def open_space(name: str, source: Source, detail: bool, quality: float, seed: int, device: torch.device) -> Space:
    """The space that `--decoder` names.

    Args:
        name: `pixels`; `fitted`, a patch autoencoder fitted on the video itself; else a folder: a run's
            `results/decoder`, an embedded decoder's, or that of a diffusers autoencoder.
        detail: see `Latents`. quality: dB that the fitted autoencoder reaches. seed: of the places it is fitted on.

    Raises:
        VLFMError: for a folder in which there is no autoencoder.
    """
    if name == "pixels":
        return Pixels()
    if name == "fitted":
        autoencoder = fit_autoencoder(source, quality, seed).to(device)
        return Latents(_OnDevice(autoencoder, device), PATCH, detail)
    folder = Path(name)
    if (folder / "autoencoder").is_dir():
        autoencoder = load_autoencoder(folder / "autoencoder").eval().to(device)
        return Latents(_OnDevice(autoencoder, device), autoencoder.config.patch, detail)
    model = name
    if (folder / "decoder.json").exists():
        about = read_json(folder / "decoder.json")
        model = about.get("vae") or about.get("model") or name
    decoder = AutoencoderDecoder(LatentAutoencoder.from_folder(locate_autoencoder(model, "--decoder"))).to(device)
    return Latents(decoder, decoder.autoencoder.unit, detail)


class _OnDevice:
    """An embedded decoder's autoencoder that takes frames and latents from anywhere."""

    def __init__(self, autoencoder: Autoencoder, device: torch.device) -> None:
        self._autoencoder, self._device = autoencoder.requires_grad_(False), device

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        return self._autoencoder.encode(frames.to(self._device))

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return self._autoencoder.decode(latents.to(self._device)).clamp(-1, 1)


def fit_autoencoder(source: Source, quality: float = 40.0, seed: int = 0) -> PatchAutoencoder:
    """A patch autoencoder with as few components as reach `quality` dB on frames from all over a video.

    The frames are the first ones of `SAMPLES` equal stretches; of each, `CROPS` places are looked at.

    Raises:
        VLFMError: if not one frame can be read.
    """
    random = np.random.default_rng(seed)
    length = source.media.duration or 0.0
    crops = []
    for since in np.arange(SAMPLES) * length / SAMPLES:
        for _, frame in source.frames(float(since)):
            crops += _crops(to_tensor(np.array(frame)), random)
            break
        if not length:
            break
    if not crops:
        raise VLFMError(f"{source.file}: not one frame can be decoded; replace the file")
    tiles = torch.stack(crops)
    features = 3 * PATCH**2
    whole = PatchAutoencoder.fit(tiles, PATCH, features)
    variances = (whole.encode(tiles) * whole.scale).double().movedim(1, 0).flatten(1).square().mean(1)
    # The basis is orthonormal: what is left out is what the picture loses.
    lost = variances.sum() - variances.cumsum(0)
    enough = 10 * torch.log10(4 * features / lost.clamp_min(1e-12)) >= quality
    channels = int(enough.double().argmax()) + 1 if enough.any() else features
    autoencoder = PatchAutoencoder(PATCH, channels)
    autoencoder.basis.copy_(whole.basis[:channels])
    autoencoder.mean.copy_(whole.mean)
    autoencoder.scale.copy_(variances[:channels].mean().sqrt().clamp_min(1e-6))
    return autoencoder.eval()


def _crops(frame: torch.Tensor, random: np.random.Generator) -> list[torch.Tensor]:
    """Square pieces of a frame (3, H, W), padded where it is smaller than one."""
    side = PATCH * SIDE
    down, right = max(0, side - frame.shape[-2]), max(0, side - frame.shape[-1])
    frame = functional.pad(frame[None], (0, right, 0, down), mode="replicate")[0]
    _, height, width = frame.shape
    tops, lefts = random.integers(0, height - side + 1, CROPS), random.integers(0, width - side + 1, CROPS)
    return [frame[:, top : top + side, left : left + side] for top, left in zip(tops, lefts, strict=True)]

"""What a clip of moving digits shows, read from its pictures alone and compared with its caption.

Colour and motion are measured; only which digit it is takes a network, a small one trained on the training clips.
Digits are bright on a dark ground that does not move, and two of them differ in colour
(`vlfm.clips.moving_digits.language`).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise, permutations
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from vlfm.clips.moving_digits.language import ATTRIBUTES, COLOURS, DIRECTIONS, SPEEDS, WORDS, MovingDigit, parse_caption
from vlfm.errors import VLFMError
from vlfm.evaluation.generation.features import Clips, sampled
from vlfm.evaluation.generation.fitted_networks import fill, read_fitted, save_fitted
from vlfm.learning_rate import warmup_cosine
from vlfm.progress import progress
from vlfm.storage.fingerprints import fingerprint
from vlfm.words import plural

KIND = "digits"
CROP = 32  # pixels a side of what the network sees
SEEN = 9 / 16  # of the picture's shorter side, around the digit: a whole one, with the ink that fades around its pixels
TRAINING_FRAMES = 3  # of a clip that the network is trained on
READ_FRAMES = 5  # of a clip that the network votes on
TRAINING_CLIPS = 4096  # at most
STEPS, BATCH, LEARNING_RATE, WARMUP = 600, 128, 2e-3, 20
CHUNK = 32  # clips at once
FAINTEST = 25  # grey levels above the ground: below, there is no digit
EDGE = 0.3  # of the brightest: what is darker has no say in where a digit is
LEAST = 0.1  # of the first colour's mass: a second colour with less is none
WHOLE = 0.8  # of its usual mass: with less, a digit is hidden in a frame, and its middle is not where it seems

_PALETTE = torch.tensor(list(COLOURS.values()), dtype=torch.float32)


@dataclass(frozen=True)
class _Layers:
    """The digits of B clips, one layer each.

    Attributes:
        brightness: (B, count, N, H, W), 0 … 1.
        colours: (B, count), indices into COLOURS.
        found: (B, count) bool, whether there is anything.
    """

    brightness: torch.Tensor
    colours: torch.Tensor
    found: torch.Tensor


class DigitJudge:
    """Reads clips of moving digits. Made by `fit` or `load`."""

    def __init__(self, network: nn.Module, identity: str):
        self._network = network.eval().requires_grad_(False)
        self.fingerprint = identity

    @classmethod
    def fit(cls, clips: Clips, captions: Sequence[str], seed: int) -> "DigitJudge":
        """Train the network that tells the digits, on true clips of one size and their captions.

        Args:
            clips: uint8 (B, N, H, W, 3).
            captions: B of them, of the language of `vlfm.clips.moving_digits.language`.
            seed: of the weights, the order and the variations; same seed and data, same judge.

        Raises:
            VLFMError: if there is not one caption a clip, or one is of another language.
        """
        random = np.random.default_rng(seed)
        chosen = np.sort(random.permutation(len(clips))[:TRAINING_CLIPS])
        told = _parsed(clips, captions)
        crops, digits = _training_crops([clips[index] for index in chosen], [told[index] for index in chosen])
        data = hashlib.sha256(crops.numpy().data)
        data.update(digits.numpy().data)
        identity = fingerprint({"steps": STEPS, "seed": seed, "data": data.hexdigest()})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = _new_network()
        _train(network, crops, digits, torch.Generator().manual_seed(seed))
        return cls(network, identity)

    def save(self, folder: Path | str) -> None:
        """Write the network as a folder, `digits.json` last."""
        save_fitted(folder, KIND, self._network, {"fingerprint": self.fingerprint, "crop": CROP})

    @classmethod
    def load(cls, folder: Path | str) -> "DigitJudge":
        """Read what `save` wrote.

        Raises:
            VLFMError: if the folder is not whole or holds something else.
        """
        weights, description = read_fitted(folder, KIND)
        network = _new_network()
        fill(network, weights, folder)
        return cls(network, description["fingerprint"])

    def read(self, clips: Clips, fps: float, count: int) -> list[tuple[MovingDigit, ...]]:
        """What each clip shows: at most `count` digits, the larger first; fewer where fewer are seen.

        A digit that does not move, at less than half the lowest speed, has "" for direction and speed.

        Args:
            clips: uint8 (B, N, H, W, 3), all of one size, digits about as large in them as in those of training.
            fps: frames a second.
            count: 1 or 2. One is read as all that is bright; two as the two colours of which there is most.
        """
        read: list[tuple[MovingDigit, ...]] = []
        for start in range(0, len(clips), CHUNK):
            read += self._read(np.stack(clips[start : start + CHUNK]), fps, count)
        return read

    @torch.no_grad()
    def _read(self, frames: np.ndarray, fps: float, count: int) -> list[tuple[MovingDigit, ...]]:
        layers = _separated(frames, count)
        places, mass = _places(layers.brightness)
        velocity = _velocity(places, mass, fps) / min(frames.shape[2:4])
        votes = self._votes(layers.brightness, places, mass)
        return [
            tuple(
                _digit(votes[clip, each], layers.colours[clip, each], velocity[clip, each])
                for each in range(count)
                if layers.found[clip, each]
            )
            for clip in range(len(frames))
        ]

    def scores(self, clips: Clips, captions: Sequence[str], fps: float) -> np.ndarray:
        """Which of `ATTRIBUTES` each clip shows as its caption says: (B, 4) bool; right altogether is `.all(1)`.

        An attribute is right if it is for all digits of the caption. Two digits are compared in the order in which more
        attributes are right. A digit that is not there is wrong in all four.

        Raises:
            VLFMError: if there is not one caption a clip, or one is of another language.
        """
        told = _parsed(clips, captions)
        scores = np.zeros((len(clips), len(ATTRIBUTES)), dtype=bool)
        for count in sorted({len(digits) for digits in told}):
            rows = [row for row, digits in enumerate(told) if len(digits) == count]
            for row, seen in zip(rows, self.read([clips[row] for row in rows], fps, count), strict=True):
                if len(seen) == count:
                    scores[row] = max((_agreement(order, told[row]) for order in permutations(seen)), key=np.sum)
        return scores

    def _votes(self, brightness: torch.Tensor, places: torch.Tensor, mass: torch.Tensor) -> torch.Tensor:
        """(B, count, 10) log probabilities, over the frames in which the digit is seen best."""
        batch, count = mass.shape[:2]
        whole = mass >= WHOLE * mass.amax(-1, keepdim=True)
        # Frames in which it is whole come first, in their order; of these some, spread over the clip.
        order = torch.argsort((~whole).int(), dim=-1, stable=True)
        chosen = torch.linspace(0, 1, READ_FRAMES) * (whole.sum(-1, keepdim=True) - 1)
        chosen = order.gather(-1, chosen.round().long())
        grid = chosen[..., None, None].expand(-1, -1, -1, *brightness.shape[-2:])
        pictures = brightness.gather(2, grid).flatten(0, 2)
        around = places.gather(2, chosen[..., None].expand(-1, -1, -1, 2)).flatten(0, 2)
        votes = self._network(_crops(pictures, around)).log_softmax(-1)
        return votes.view(batch, count, READ_FRAMES, -1).mean(2)


def _parsed(clips: Clips, captions: Sequence[str]) -> list[tuple[MovingDigit, ...]]:
    if len(clips) != len(captions):
        raise VLFMError(f"{plural(len(clips), 'clip')} of moving digits with {plural(len(captions), 'caption')}")
    try:
        return [parse_caption(caption) for caption in captions]
    except ValueError as error:
        raise VLFMError(f"the judge of moving digits reads no other captions: {error}") from None


def _agreement(seen: Sequence[MovingDigit], told: Sequence[MovingDigit]) -> np.ndarray:
    """(4,) bool, for each attribute whether it is that of the caption for all digits, in this order."""
    return np.array(
        [
            all(getattr(one, field.name) == getattr(other, field.name) for one, other in zip(seen, told, strict=True))
            for field in fields(MovingDigit)
        ]
    )


def _digit(votes: torch.Tensor, colour: torch.Tensor, velocity: torch.Tensor) -> MovingDigit:
    """What was measured, in words; velocity (2,) in sides a second, to the right and downwards."""
    along = {name: float(velocity @ torch.tensor(way, dtype=velocity.dtype)) for name, way in DIRECTIONS.items()}
    direction = max(along, key=along.get)
    speeds = sorted(SPEEDS, key=SPEEDS.get)
    speed = next(
        (slower for slower, faster in pairwise(speeds) if along[direction] < (SPEEDS[slower] + SPEEDS[faster]) / 2),
        speeds[-1],
    )
    if along[direction] < SPEEDS[speeds[0]] / 2:
        direction = speed = ""
    return MovingDigit(int(votes.argmax()), list(COLOURS)[int(colour)], direction, speed)


# --------------------------------------------------------------------------------------- measuring


def _separated(frames: np.ndarray, count: int, colours: torch.Tensor | None = None) -> _Layers:
    """The digits of clips (B, N, H, W, 3) uint8, by colour where there are several.

    Args:
        colours: (B, count), those of the digits if they are known.
    """
    pixels = torch.from_numpy(frames).float()
    # Digits cover less than half of the picture.
    ground = pixels.flatten(1, 3).median(1).values[:, None, None, None]
    away = pixels - ground
    strength = away.amax(-1).clamp_min(0)
    highest = max(1, strength[0].numel() // 200)
    peak = strength.flatten(1).topk(highest).values[:, -1].view(-1, 1, 1, 1)
    brightness = (strength / peak.clamp_min(FAINTEST)).clamp(0, 1)
    visible = peak.flatten() >= FAINTEST
    weights = (brightness - EDGE).clamp_min(0)
    palette = functional.normalize(_PALETTE - ground[:, 0, 0], dim=-1)  # (B, 4, 3)
    if count == 1:
        mean = (away * weights[..., None]).sum((1, 2, 3))
        seen = (palette @ mean[..., None])[..., 0].argmax(1, keepdim=True)
        return _Layers(brightness[:, None], seen if colours is None else colours, visible[:, None])
    # Of antialiased edges too the colour's direction from the ground is the digit's.
    nearest = torch.einsum("bnhwc,bkc->bnhwk", away, palette).argmax(-1)
    masses = torch.stack([(weights * (nearest == each)).sum((1, 2, 3)) for each in range(len(COLOURS))], 1)
    if colours is None:
        colours = masses.topk(count).indices
    brightness = torch.stack([brightness * (nearest == colours[:, each, None, None, None]) for each in range(count)], 1)
    mass = masses.gather(1, colours)
    return _Layers(brightness, colours, visible[:, None] & (mass > LEAST * masses.amax(1, keepdim=True)))


def _places(brightness: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The middle of what is bright in frames (…, N, H, W): (…, N, 2), right and down in pixels; and its mass (…, N)."""
    weights = (brightness - EDGE).clamp_min(0)
    mass = weights.sum((-1, -2))
    total = mass.clamp_min(1e-6)
    down = (weights.sum(-1) * torch.arange(weights.shape[-2])).sum(-1) / total
    right = (weights.sum(-2) * torch.arange(weights.shape[-1])).sum(-1) / total
    return torch.stack([right, down], -1), mass


def _velocity(places: torch.Tensor, mass: torch.Tensor, fps: float) -> torch.Tensor:
    """Pixels a second (…, 2): the median slope over pairs of frames (Theil, 1950; Sen, 1968), places (…, N, 2).

    A pair has as many votes as frames lie between: its slope is the surer. Only frames in which the digit is whole
    count, where there are two. 0 where there are no two frames.
    """
    frames = mass.shape[-1]
    if frames < 2:
        return torch.zeros_like(places[..., 0, :])
    whole = mass >= WHOLE * mass.quantile(0.75, -1, keepdim=True)
    counts = torch.where(whole.sum(-1, keepdim=True) >= 2, whole, mass > 0)
    first, second = torch.triu_indices(frames, frames, 1)
    slopes = (places[..., second, :] - places[..., first, :]) * (fps / (second - first))[:, None]
    votes = (counts[..., first] & counts[..., second]) * (second - first)
    slopes, order = slopes.sort(-2)
    reached = votes[..., None].expand_as(slopes).gather(-2, order).cumsum(-2)
    total = reached[..., -1:, :]
    middle = (reached * 2 >= total).int().argmax(-2, keepdim=True)
    return torch.where(total > 0, slopes.gather(-2, middle), 0)[..., 0, :]


def _crops(pictures: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """What surrounds the places (M, 2) in pictures (M, H, W): (M, 1, CROP, CROP), `SEEN` wide."""
    height, width = pictures.shape[-2:]
    reach = SEEN * min(height, width) / 2
    size = torch.tensor([width, height])
    matrix = torch.zeros(len(pictures), 2, 3)
    matrix[:, 0, 0], matrix[:, 1, 1] = 2 * reach / width, 2 * reach / height
    matrix[:, :, 2] = (2 * places + 1) / size - 1
    grid = functional.affine_grid(matrix, [len(pictures), 1, CROP, CROP], align_corners=False)
    return functional.grid_sample(pictures[:, None], grid, align_corners=False)


# ----------------------------------------------------------------------------------------- network


def _new_network() -> nn.Module:
    layers: list[nn.Module] = []
    for inside, outside in ((1, 24), (24, 48), (48, 96)):
        layers += [nn.Conv2d(inside, outside, 3, 2, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(96 * 4, len(WORDS)))


def _training_crops(
    clips: Sequence[np.ndarray], told: Sequence[tuple[MovingDigit, ...]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Crops (M, 1, CROP, CROP) around the digits, and which they are (M,)."""
    crops, digits = [], []
    names = list(COLOURS)
    for count in sorted({len(each) for each in told}):
        rows = [row for row, each in enumerate(told) if len(each) == count]
        for start in range(0, len(rows), CHUNK):
            part = rows[start : start + CHUNK]
            frames = np.stack([clips[row][sampled(TRAINING_FRAMES, len(clips[row]))] for row in part])
            colours = torch.tensor([[names.index(digit.colour) for digit in told[row]] for row in part])
            layers = _separated(frames, count, colours)
            places, mass = _places(layers.brightness)
            seen = mass >= WHOLE * mass.amax(-1, keepdim=True).clamp_min(1e-6)
            crops.append(_crops(layers.brightness[seen], places[seen]))
            which = torch.tensor([[digit.digit for digit in told[row]] for row in part])
            digits.append(which[..., None].expand_as(seen)[seen])
    return torch.cat(crops), torch.cat(digits)


def _train(network: nn.Module, crops: torch.Tensor, digits: torch.Tensor, generator: torch.Generator) -> None:
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE)
    scale = torch.optim.lr_scheduler.LambdaLR(optimizer, warmup_cosine(STEPS, WARMUP))
    network.train()
    for _ in progress(range(STEPS), total=STEPS, what="digit judge", unit="step"):
        chosen = torch.randint(len(crops), (BATCH,), generator=generator)
        loss = functional.cross_entropy(network(_varied(crops[chosen], generator)), digits[chosen])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        scale.step()


def _varied(crops: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Crops turned, scaled and shifted a little, half of them blurred, all noisy: as decoders leave them."""
    count = len(crops)
    turn, wide, high = (torch.rand(3, count, generator=generator) * 2 - 1) * torch.tensor([[0.2], [0.15], [0.15]])
    matrix = torch.zeros(count, 2, 3)
    matrix[:, 0, 0], matrix[:, 0, 1] = turn.cos() * (1 + wide), -turn.sin()
    matrix[:, 1, 0], matrix[:, 1, 1] = turn.sin(), turn.cos() * (1 + high)
    matrix[:, :, 2] = (torch.rand(count, 2, generator=generator) * 2 - 1) * 4 / CROP
    grid = functional.affine_grid(matrix, list(crops.shape), align_corners=False)
    varied = functional.grid_sample(crops, grid, align_corners=False)
    blurred = functional.avg_pool2d(varied, 3, 1, 1)
    half = torch.rand(count, 1, 1, 1, generator=generator) < 0.5
    return torch.where(half, blurred, varied) + 0.05 * torch.randn(crops.shape, generator=generator)

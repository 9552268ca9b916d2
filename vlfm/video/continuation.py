"""A trained model goes on where a film ends.

Under the schedule `exact` the flow at the first frame's time, t₁ = T/N, is that frame's latents and noise of σ_min.
So the film's last frame, inverted, is such a state, and one evaluation of the network there gives the path H of a clip
that begins with it and follows the caption. What the path's first picture lacks of the frame is added to those after it
and dies away. Where the path ends the next begins, from the last latents.

Measured on 12 of the demo's clips, given the first frame and the caption, PSNR of the 11 frames after it: 27.7 dB, and
20.8 holding the frame. Nothing carried along: 27.2, with a jump at the seam; the difference of the latents kept, as the
exact solution of the flow with H held does: 26.0, dying away: 27.0. At the films' own size, in the part that the model
sees, it is 24.5 dB against 20.2 by the tail `motion` and 19.9 by `hold`. These are the clips and captions of its
training. With another clip's caption it shows that other clip: one that has learnt one clip a caption hardly looks at
the frame.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from vlfm.clips.windows import choose_size
from vlfm.errors import VLFMError
from vlfm.frames import to_tensor, to_uint8
from vlfm.pipeline import VLFMPipeline

FADING = 4.0  # frame intervals of its clips in which what the path lacks dies away; 1, 2 and 8 lose 0.1 to 0.2 dB
FEATHER = 1 / 8  # of a side, where the model's picture goes over into what surrounds it


@dataclass(frozen=True)
class ModelSettings:
    """The model that a film is to go on by.

    Attributes:
        folder: of a trained model. caption: what happens after the film's end.
        guidance: see `FlowModel.latents`; None is `evaluation.guidance` of the model's training.
        seed: of the noise, 0 or more.
    """

    folder: Path
    caption: str
    guidance: float | None = None
    seed: int = 0

    def __post_init__(self):
        if not 0 <= self.seed < 2**63:
            raise VLFMError(f"--seed is a whole number from 0 up; it is {self.seed}")


class Continuation:
    """Frames after a film's last one: `begin(frame)`, then calls with ever later times.

    The model sees of the film what its clips showed of their videos: the middle, cropped to the shape of the nearest of
    its sizes and scaled down to it. Its frames are scaled up again, and what they lack of the last frame's detail dies
    away as well. Around them, if the shapes differ, another tail's frames stay.

    Args:
        size: (H, W) of the film, pixels. aspect: width of its pixels over their height.

    Attributes:
        passes: paths begun so far.
        seen: "640×272", the part of the picture that the model sees. size: (height, width) that it sees it at.

    Raises:
        VLFMError: for a model that cannot begin with a frame.
    """

    def __init__(self, pipeline: VLFMPipeline, settings: ModelSettings, size: tuple[int, int], aspect: float = 1.0):
        flow = pipeline.flow
        self._pipeline, self._settings, self._path = pipeline, settings, flow.path()
        own = pipeline.config.evaluation.guidance
        self._guidance = own if settings.guidance is None else settings.guidance
        head = flow.transformer.config.head
        if head != "coefficients":
            raise VLFMError(f"{settings.folder} has the head {head}; only the head coefficients goes on from a frame")
        begins = torch.tensor([self._path.schedule.lead_in, self._path.duration], dtype=torch.float64)
        self._first, self._last = flow.hold(begins).tolist()
        if not self._last > self._first:
            raise VLFMError(
                f"the clips that {settings.folder} was trained on have one frame: nothing follows a first one"
            )
        rows, columns = size
        self.size = choose_size(columns * aspect, rows, pipeline.config.clips.sizes)
        shape = self.size[1] / self.size[0]
        down, across = round(min(rows, columns * aspect / shape)), round(min(columns, rows * shape / aspect))
        top, left = (rows - down) // 2, (columns - across) // 2
        self._place = slice(top, top + down), slice(left, left + across)
        self._share = _ramp(down, down < rows)[:, None, None] * _ramp(across, across < columns)[:, None]
        self._captions = pipeline.encoder.encode([settings.caption])
        self.seen, self.passes = f"{across}×{down}", 0

    def begin(self, frame: np.ndarray) -> None:
        """Take the film's last frame, uint8 (H, W, 3)."""
        self._generator = torch.Generator().manual_seed(self._settings.seed)
        part = frame[self._place]
        small = np.asarray(Image.fromarray(part).resize(self.size[::-1], Image.Resampling.LANCZOS))
        latents = self._pipeline.decoder.invert(to_tensor(small.copy())[None], [self._settings.caption])
        self.passes = 0
        self._pass(latents, part.astype(np.float32))

    def __call__(self, ahead: np.ndarray, around: np.ndarray) -> np.ndarray:
        """Frames, uint8 (K, H, W, 3).

        Args:
            ahead: (K,) seconds after the film's last frame, rising, none before those of the call before.
            around: (K, H, W, 3) uint8, what is shown where the model does not see.
        """
        made = around.copy()
        reach = self._last - self._first
        passes = np.maximum(np.ceil(ahead / reach - 1e-9).astype(int), 1)
        for number in np.unique(passes):
            while self.passes < number:
                end = np.array([reach])
                self._pass(self._latents(end), next(self._pictures(end)))
            chosen = np.flatnonzero(passes == number)
            pictures = self._pictures(ahead[chosen] - (number - 1) * reach)
            for frame, picture in zip((made[index][self._place] for index in chosen), pictures, strict=True):
                frame[:] = (frame + self._share * (picture - frame)).round().clip(0, 255).astype(np.uint8)
        return made

    def _pass(self, latents: torch.Tensor, picture: np.ndarray) -> None:
        """Begin a path at latents (1, C, h, w), where the film shows `picture`, float32, in its own size."""
        noise = torch.randn(latents.shape, generator=self._generator)
        self._coefficients = self._pipeline.flow.coefficients_from(
            *(self._captions.tokens, self._captions.mask),
            *(latents, noise, self._path.schedule.lead_in),
            guidance=self._guidance,
        )
        self._rest = np.float32(0)
        self._rest = picture - next(self._pictures(np.zeros(1)))
        self.passes += 1

    def _latents(self, since: np.ndarray) -> torch.Tensor:
        """(K, C, h, w) at times since the beginning of the pass, seconds."""
        times = torch.from_numpy(self._first + since).clamp(max=self._last).to(self._coefficients.device)
        return self._path.mean(self._coefficients, times[None])[0][0].float()

    def _pictures(self, since: np.ndarray) -> Iterator[np.ndarray]:
        """What is shown of the model, float32 (rows, columns, 3), as large as the part of the film that it sees."""
        captions = [self._settings.caption] * len(since)
        frames = to_uint8(self._pipeline.decoder.generate(self._latents(since), captions))
        fading = np.exp(-since / (FADING * self._path.schedule.lead_in)).astype(np.float32)
        size = tuple(place.stop - place.start for place in self._place[::-1])
        for frame, share in zip(frames, fading, strict=True):
            enlarged = Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC)
            yield np.asarray(enlarged, dtype=np.float32) + share * self._rest


def _ramp(length: int, feathered: bool) -> np.ndarray:
    """The model's share along a side, float32 (length,): 1, falling towards its ends if there is picture beyond."""
    if not feathered:
        return np.ones(length, np.float32)
    end = np.minimum(np.arange(length) + 1, np.arange(length, 0, -1)) / max(1, math.ceil(FEATHER * length))
    return np.minimum(end, 1).astype(np.float32)


def open_continuation(
    settings: ModelSettings, size: tuple[int, int], aspect: float, device: torch.device
) -> Continuation:
    """The continuation by a model that is read from its folder; see `Continuation`.

    Raises:
        VLFMError: if there is no trained model there, or not with all its parts.
    """
    return Continuation(VLFMPipeline.from_pretrained(settings.folder, device), settings, size, aspect)

"""Frames between two frames along the motion between them, in pixels or on the decoder's own grid of latents.

Optical flow is estimated on the given frames alone (DIS; Kroeger et al., 2016, as in OpenCV), both ways.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample, interpolate, pad

from vlfm.errors import VLFMError
from vlfm.frames import to_uint8
from vlfm.video.motion import dense_flow

SMALLEST = 12  # pixels, of a picture that OpenCV's DIS takes
WINDOW = 5  # pixels over which two moved frames are compared
SHARPNESS = 60.0  # of the change from moved to blended, a unit of error in [−1, 1]


@dataclass(frozen=True)
class Motion:
    """How one frame becomes the next.

    Attributes:
        forward, backward: (2, H, W) pixels, x first: where a point of the first frame lies in the second, less where
            it is; and the reverse.
        first, second: the frames, (3, H, W) in [−1, 1].
    """

    forward: Tensor
    backward: Tensor
    first: Tensor
    second: Tensor

    def between(self, left: Tensor, right: Tensor, share: float) -> Tensor:
        """What lies `share` (0 … 1) of the way from `left` to `right`, (C, h, w) each: the frames, their latents, or
        anything else that moves with them.

        Both are moved to the instant along the flow through it (Jiang et al., 2018, "Super SloMo", Eq. 4) and mixed
        as near as each is. Where the moved frames agree less than the frames as they stand, the motion is not
        believed, and these are mixed.
        """
        to_first, to_second = self._flows(share)
        moved = [_warp(frame, flow) for frame, flow in ((self.first, to_first), (self.second, to_second))]
        trust = torch.sigmoid(SHARPNESS * (_apart(self.first, self.second) - _apart(*moved)))
        size = left.shape[-2:]
        if left.shape[-2:] != trust.shape[-2:]:
            to_first, to_second = _resized(to_first, size), _resized(to_second, size)
            trust = interpolate(trust[None], size=size, mode="area")[0]
        along = (1 - share) * _warp(left, to_first) + share * _warp(right, to_second)
        across = (1 - share) * left + share * right
        return trust * along + (1 - trust) * across

    def _flows(self, share: float) -> tuple[Tensor, Tensor]:
        rest = 1 - share
        return (
            share * (share * self.backward - rest * self.forward),
            rest * (rest * self.forward - share * self.backward),
        )


def estimate(first: Tensor, second: Tensor) -> Motion:
    """The motion between two frames (3, H, W) in [−1, 1]; the same on every call.

    Raises:
        VLFMError: for pictures below 12 pixels.
    """
    if min(first.shape[-2:]) < SMALLEST:
        height, width = first.shape[-2:]
        raise VLFMError(f"optical flow needs pictures of {SMALLEST} pixels or more; they are {width}×{height}")
    flows = dense_flow(to_uint8(first), to_uint8(second), careful=True, finest=0)
    forward, backward = (torch.from_numpy(flow).movedim(-1, 0) for flow in flows)
    return Motion(forward, backward, first, second)


def along_motion(motions: list[Motion], values: Tensor, times: np.ndarray, instants: np.ndarray) -> Tensor:
    """Values (N, C, h, w) at `times` → (K, C, h, w) at `instants`, moved along the motion of the frames.

    Args:
        motions: N − 1, between each two frames.
        times: (N,) seconds, increasing. instants: (K,); outside the frames' span the first or the last value holds.
    """
    made = []
    for instant in np.clip(instants, times[0], times[-1]):
        left = int(np.clip(np.searchsorted(times, instant, side="right") - 1, 0, len(times) - 2))
        share = float((instant - times[left]) / (times[left + 1] - times[left]))
        known = {0.0: left, 1.0: left + 1}.get(share)
        between = values[known] if known is not None else motions[left].between(values[left], values[left + 1], share)
        made.append(between)
    return torch.stack(made)


def _warp(values: Tensor, flow: Tensor) -> Tensor:
    """`values` (C, h, w) read at every position plus `flow` (2, h, w), in positions."""
    height, width = values.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    place = torch.stack([(x + flow[0] + 0.5) * 2 / width - 1, (y + flow[1] + 0.5) * 2 / height - 1], -1)
    moved = grid_sample(
        values[None], place[None].to(values), mode="bicubic", padding_mode="border", align_corners=False
    )
    return moved[0]


def _resized(flow: Tensor, size: tuple[int, int]) -> Tensor:
    """The flow of a picture on a coarser grid, in positions of that grid."""
    height, width = flow.shape[-2:]
    scale = torch.tensor([size[1] / width, size[0] / height])[:, None, None]
    return interpolate(flow[None], size=size, mode="area")[0] * scale


def _apart(first: Tensor, second: Tensor) -> Tensor:
    """How far two pictures are apart around each pixel, (1, H, W)."""
    edge = WINDOW // 2
    error = (first - second).abs().mean(0, keepdim=True)[None]
    return avg_pool2d(pad(error, (edge,) * 4, mode="reflect"), WINDOW, stride=1)[0]

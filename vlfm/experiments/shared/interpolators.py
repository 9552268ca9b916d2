"""Ways to make frames between given frames, for the table that ranks them honestly."""

import math
import subprocess

import imageio_ffmpeg
import numpy as np
import torch

from vlfm.errors import VLFMError
from vlfm.frames import to_tensor, to_uint8

SMALLEST = 32  # pixels: below, minterpolate finds no room for its blocks
FINEST = 32  # instants between two frames, at most, that minterpolate is asked for


def combine(weights: np.ndarray, values: torch.Tensor) -> torch.Tensor:
    """`weights @ values`: (K, N) and (N, *shape) → (K, *shape), in the values' dtype."""
    matrix = torch.as_tensor(np.array(weights), dtype=values.dtype, device=values.device)
    return (matrix @ values.reshape(len(values), -1)).reshape(len(matrix), *values.shape[1:])


def minterpolate(frames: torch.Tensor, times: np.ndarray, instants: np.ndarray) -> torch.Tensor:
    """ffmpeg's motion-compensated interpolation (`minterpolate`, mci, its defaults otherwise) in yuv444p.

    It knows frame rates, not times: the frames must lie at a constant rate and the instants on a grid that divides
    it. To compare it on irregular clips, give it nominal times, and say so.

    Args:
        frames: (N, 3, H, W) in [−1, 1]. times: (N,), seconds, theirs.
        instants: (K,), seconds; before the first frame that one holds, after the last that.

    Returns:
        (K, 3, H, W).

    Raises:
        VLFMError: for times more than 1 % of the interval off a constant rate, instants that no grid of 32 steps
            between two frames holds, pictures below 32 pixels, or when ffmpeg fails.
    """
    times, instants = np.asarray(times, dtype=np.float64), np.asarray(instants, dtype=np.float64)
    count, _, height, width = frames.shape
    if min(height, width) < SMALLEST:
        raise VLFMError(f"minterpolate needs pictures of {SMALLEST} pixels or more; they are {width}×{height}")
    if count < 2:
        return frames[:1].expand(len(instants), -1, -1, -1).clone()
    step = (times[-1] - times[0]) / (count - 1)
    if not step > 0 or np.abs(times - times[0] - step * np.arange(count)).max() > 0.01 * step:
        raise VLFMError(
            "minterpolate assumes a constant frame rate, and these frames are not equally far apart; leave it out "
            "here, or give it nominal times"
        )
    place = (np.clip(instants, times[0], times[-1]) - times[0]) / step
    for finer in range(1, FINEST + 1):
        index = np.round(place * finer).astype(int)
        if np.abs(place * finer - index).max(initial=0) <= 0.01 * finer:
            break
    else:
        raise VLFMError(f"minterpolate: the instants lie on no grid of {FINEST} steps or fewer between two frames")
    if finer == 1:
        return frames[index].clone()
    # It holds two frames back at the end: the last is repeated so that they come out.
    given = to_uint8(torch.cat([frames, frames[-1:], frames[-1:]]))
    command = [
        *(imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-v", "error"),
        *("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-framerate", "24", "-i", "pipe:0"),
        *("-vf", f"format=yuv444p,minterpolate=fps={24 * finer}:mi_mode=mci", "-fps_mode", "passthrough"),
        *("-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1"),
    ]
    done = subprocess.run(command, input=np.ascontiguousarray(given).tobytes(), capture_output=True)
    made = np.frombuffer(done.stdout, np.uint8)
    needed = (count - 1) * finer + 1
    if done.returncode or made.size < needed * math.prod(given.shape[1:]):
        said = done.stderr.decode(errors="replace").strip()[-300:]
        raise VLFMError(f"ffmpeg's minterpolate gave too few frames or failed ({said}); leave it out here")
    made = made.reshape(-1, *given.shape[1:])[index]
    exact = index % finer == 0
    result = to_tensor(np.ascontiguousarray(made)).to(frames)
    # Given frames come back through yuv: they are taken as given, as every other baseline has them.
    result[exact] = frames[index[exact] // finer]
    return result

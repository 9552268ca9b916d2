"""VMAF, Netflix's learned measure of what viewers see, by the libvmaf that is built into ffmpeg."""

import json
import subprocess
import tempfile
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import torch

from vlfm.errors import VLFMError
from vlfm.frames import to_uint8

# Its features are computed on four octaves; at 16 pixels it crashes, and just above the numbers mean nothing.
SMALLEST = 32


def vmaf(frames: torch.Tensor, truth: torch.Tensor, fps: float = 24.0) -> torch.Tensor:
    """VMAF of every frame, 0 … 100: (K, 3, H, W) in [−1, 1] twice → (K,).

    The model is libvmaf's built-in `vmaf_v0.6.1`, trained on 1080p at three picture heights: on small pictures
    the numbers rank methods, they do not tell what a viewer would say. Frames are compared as 8-bit yuv420p,
    cropped to even sides. Pictures below 32 pixels give NaN. The first frame is judged without motion, and comes
    out lower.

    Args:
        fps: frames a second; only names the frames to ffmpeg.

    Raises:
        VLFMError: if ffmpeg fails or has no libvmaf, with what it said.
    """
    count, _, height, width = truth.shape
    if min(height, width) < SMALLEST:
        return torch.full((count,), torch.nan)
    # Every file has a fixed name in a folder of its own: nothing of the data reaches a filter's syntax.
    with tempfile.TemporaryDirectory(prefix="vlfm-vmaf-") as folder:
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-nostdin", "-v", "error"]
        for name, pictures in {"frames.rgb": frames, "truth.rgb": truth}.items():
            np.ascontiguousarray(to_uint8(pictures)).tofile(Path(folder) / name)
            command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{fps:g}", "-i", name]
        even = "crop=trunc(iw/2)*2:trunc(ih/2)*2,format=yuv420p"
        graph = (
            f"[0:v]{even}[a];[1:v]{even}[b];"
            "[a][b]libvmaf=log_fmt=json:log_path=log.json:model=version=vmaf_v0.6.1:n_threads=1"
        )
        done = subprocess.run(
            [*command, "-lavfi", graph, "-f", "null", "-"], cwd=folder, capture_output=True, stdin=subprocess.DEVNULL
        )
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip()[-300:]
            raise VLFMError(f"ffmpeg could not compute VMAF ({said}); install imageio-ffmpeg, whose ffmpeg has libvmaf")
        frames_said = json.loads((Path(folder) / "log.json").read_text())["frames"]
    scores = [frame["metrics"]["vmaf"] for frame in frames_said]
    if len(scores) != count:
        raise VLFMError(f"libvmaf scored {len(scores)} of {count} frames; install imageio-ffmpeg anew")
    return torch.tensor(scores)

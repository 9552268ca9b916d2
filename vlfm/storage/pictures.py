"""Frames → files a person can look at: MP4 and contact sheets."""

from pathlib import Path

import ffmpeg
import imageio_ffmpeg
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vlfm.errors import VLFMError
from vlfm.storage.files import atomic_path

# How ffmpeg resizes pictures and turns YUV into RGB and back. In its usual way they get a level darker, lose 20 dB on
# the way there and back, and differ from one kind of processor to the next.
EXACT = "lanczos+accurate_rnd+full_chroma_int+bitexact"


def write_mp4(
    path: Path | str, frames: np.ndarray, fps: float, pixels: str = "yuv420p", group: int | None = None
) -> None:
    """Write uint8 frames (K, H, W, 3) as H.264, atomically; as it is by default, every browser plays it.

    Args:
        pixels: yuv420p, or yuv444p, which keeps the colour of every pixel.
        group: frames from one key frame to the next, always, none of which needs a later one; None where x264 may
            choose.

    Raises:
        VLFMError: if ffmpeg fails, with what it said.
    """
    height, width = frames.shape[1:3]
    keys = {} if group is None else {"g": group, "keyint_min": group, "sc_threshold": 0, "bf": 0}
    with atomic_path(path) as temporary:
        stream = ffmpeg.input("pipe:", format="rawvideo", pix_fmt="rgb24", s=f"{width}x{height}", framerate=fps)
        if pixels == "yuv420p":
            # It halves the colour planes: odd sides are padded by one pixel. (yuv444p is always converted exactly.)
            stream = stream.filter("pad", "ceil(iw/2)*2", "ceil(ih/2)*2").filter("scale", flags=EXACT)
        command = stream.output(
            str(temporary),
            vcodec="libx264",
            pix_fmt=pixels,
            crf=12,
            movflags="+faststart",
            threads=1,
            # No version string or date: the same frames give the same bytes.
            **{"fflags": "+bitexact", "flags:v": "+bitexact"},
            **keys,
        ).overwrite_output()
        try:
            command.run(
                cmd=imageio_ffmpeg.get_ffmpeg_exe(),
                input=np.ascontiguousarray(frames).tobytes(),
                capture_stdout=True,
                capture_stderr=True,
            )
        except ffmpeg.Error as error:
            raise VLFMError(f"ffmpeg could not write {path}: {error.stderr.decode(errors='replace')[-500:]}") from error


def contact_sheet(rows: dict[str, np.ndarray], times: np.ndarray, title: str) -> Image.Image:
    """One picture: a row of frames per stage, labelled, with the time of each column.

    Args:
        rows: label → uint8 (N, H, W, 3).
        times: (N,) seconds.
    """
    margin, label, gap = 22, 84, 2
    count, height, width = next(iter(rows.values())).shape[:3]
    font = ImageFont.load_default(size=13)
    sheet = Image.new(
        "RGB", (label + count * (width + gap), 2 * margin + len(rows) * (height + gap)), color=(250, 250, 250)
    )
    draw = ImageDraw.Draw(sheet)
    draw.text((6, 3), title, fill=(20, 20, 20), font=font)
    for column, time in enumerate(times):
        draw.text((label + column * (width + gap) + 2, margin), f"{time:.3f} s", fill=(90, 90, 90), font=font)
    for index, (name, frames) in enumerate(rows.items()):
        top = 2 * margin + index * (height + gap)
        draw.text((6, top + height // 2 - 8), name, fill=(20, 20, 20), font=font)
        for column, frame in enumerate(frames):
            sheet.paste(Image.fromarray(frame), (label + column * (width + gap), top))
    return sheet


def write_png(path: Path | str, image: Image.Image) -> None:
    """Write a picture, atomically."""
    with atomic_path(path) as temporary:
        image.save(temporary, optimize=True)

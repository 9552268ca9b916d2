"""A picture of a run for a README: true frames above generated ones, a few clips."""

from pathlib import Path

import imageio_ffmpeg
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vlfm.errors import VLFMError
from vlfm.report.embedded_videos import spread
from vlfm.storage.files import read_json
from vlfm.storage.pictures import write_png

CLIPS, FRAMES, COLOURS = 6, 4, 64
GAP, TITLE, LABEL, SIDE = 2, 18, 70, 96  # pixels


def write_picture(results: Path, output: Path, fps: float) -> None:
    """Write a PNG of clips spread over a finished run, two side by side: true frames above those generated from the
    caption, at the clips' own rate `fps`, evenly spaced in time. Few colours: it is for a page of text.

    Raises:
        VLFMError: if the run has no videos, or none at that rate.
    """
    folder = results / "eval" / "videos"
    clips = [clip for clip in read_json(folder / "index.json")["clips"] if f"{fps:g}" in clip["videos"]]
    if not clips:
        raise VLFMError(f"{folder} holds no video at the clips' own rate; add {fps:g} to evaluation.fps")
    blocks = [_block(folder, clip, f"{fps:g}") for clip in spread(clips, CLIPS)]
    columns = min(2, len(blocks))
    lines = [blocks[start : start + columns] for start in range(0, len(blocks), columns)]
    width = max(sum(block.width for block in line) for line in lines) + 12 * (columns - 1)
    picture = Image.new("RGB", (width, sum(max(block.height for block in line) for line in lines)), "white")
    top = 0
    for line in lines:
        left = 0
        for block in line:
            picture.paste(block, (left, top))
            left += block.width + 12
        top += max(block.height for block in line)
    write_png(output, picture.quantize(COLOURS, dither=Image.Dither.NONE))
    print(f"{output}: {picture.width}×{picture.height} pixels, {output.stat().st_size / 1000:.0f} kB")


def _block(folder: Path, clip: dict, rate: str) -> Image.Image:
    rows = {"true": _frames(folder / clip["videos"]["true"]), "generated": _frames(folder / clip["videos"][rate])}
    places = np.linspace(0, min(map(len, rows.values())) - 1, FRAMES).round().astype(int)
    height, width = rows["true"].shape[1:3]
    height, width = round(height * SIDE / max(height, width)), round(width * SIDE / max(height, width))
    block = Image.new("RGB", (LABEL + FRAMES * (width + GAP), TITLE + 2 * (height + GAP) + 8), "white")
    draw, font = ImageDraw.Draw(block), ImageFont.load_default(size=12)
    title = clip["caption"]
    while draw.textlength(title, font) > block.width:
        title = title.removesuffix("…")[:-1].rstrip(" ,;") + "…"
    draw.text((0, 1), title, fill=(20, 20, 20), font=font)
    for row, (label, frames) in enumerate(rows.items()):
        top = TITLE + row * (height + GAP)
        draw.text((0, top + height // 2 - 8), label, fill=(90, 90, 90), font=font)
        for column, place in enumerate(places):
            frame = Image.fromarray(frames[place]).resize((width, height), Image.Resampling.LANCZOS)
            block.paste(frame, (LABEL + column * (width + GAP), top))
    return block


def _frames(path: Path) -> np.ndarray:
    """uint8 (K, H, W, 3)."""
    if not path.exists():
        raise VLFMError(f"{path} is missing; remove the index.json beside it and run `vlfm evaluate` again")
    reader = imageio_ffmpeg.read_frames(str(path))
    width, height = next(reader)["size"]
    return np.stack([np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader])

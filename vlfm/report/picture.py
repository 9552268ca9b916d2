"""A picture of a run for a README: a few clips, true frames and generated ones; still or moving."""

from pathlib import Path

import imageio_ffmpeg
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vlfm.errors import VLFMError
from vlfm.splits import TEST
from vlfm.spread import spread
from vlfm.storage.files import atomic_path, read_json
from vlfm.storage.pictures import write_png

CLIPS, FRAMES, COLOURS = 6, 4, 64
GAP, TITLE, LABEL, SIDE = 2, 18, 70, 96  # pixels
CAPTIONS, VIDEOS = 6, 4  # of a moving picture: captions, and videos of each beside the true clip
QUALITY = 80  # of its WebP, of 100


def write_picture(results: Path, output: Path, fps: float) -> None:
    """Write a picture of a finished run: a WebP of videos of captions, which moves, or a PNG of clips.

    Raises:
        VLFMError: for another ending than `.png` and `.webp`; as `write_still` and `write_moving` do.
    """
    ending = output.suffix.lower()
    if ending not in (".png", ".webp"):
        raise VLFMError(f"--picture {output}: a picture ends in .png, or in .webp, which moves")
    if ending == ".webp":
        write_moving(results, output)
    else:
        write_still(results, output, fps)
    with Image.open(output) as picture:
        print(f"{output}: {picture.width}×{picture.height} pixels, {output.stat().st_size / 1000:.0f} kB")


def write_moving(results: Path, output: Path) -> None:
    """Write a WebP of what was made of captions, two captions side by side: a true clip, and videos beside it.

    Held-out captions where there are such.

    Raises:
        VLFMError: if the run has no videos of captions.
    """
    folder = results / "eval" / "generation"
    groups = read_json(folder / "index.json")["groups"]
    groups = [group for group in groups if group["split"] == TEST] or groups
    if not groups:
        raise VLFMError(f"{folder} holds no video; run `vlfm evaluate-generation`")
    blocks, rates = [], []
    for group in spread(groups, CAPTIONS):
        videos = group["videos"][: VIDEOS + 1]
        blocks.append(_moving_block(group["title"], [_frames(folder / video["file"]) for video in videos]))
        rates.append(videos[0]["fps"])
    count = min(map(len, blocks))
    pictures = [_two_columns([block[place] for block in blocks]) for place in range(count)]
    with atomic_path(output) as temporary:
        first, *others = pictures
        moving = {"save_all": True, "append_images": others, "duration": round(1000 / rates[0]), "loop": 0}
        first.save(temporary, **moving, quality=QUALITY, method=6)


def _moving_block(title: str, clips: list[np.ndarray]) -> list[Image.Image]:
    """A caption, and below it clips side by side, the true one set apart: a picture for each frame."""
    height, width = clips[0].shape[1:3]
    height, width = round(height * SIDE / max(height, width)), round(width * SIDE / max(height, width))
    apart = 8
    frames = []
    for place in range(min(map(len, clips))):
        block = Image.new("RGB", (len(clips) * (width + GAP) + apart, TITLE + height + 10), "white")
        _write_title(block, title)
        for column, clip in enumerate(clips):
            frame = Image.fromarray(clip[place]).resize((width, height), Image.Resampling.LANCZOS)
            block.paste(frame, (column * (width + GAP) + apart * (column > 0), TITLE))
        frames.append(block)
    return frames


def write_still(results: Path, output: Path, fps: float) -> None:
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
    picture = _two_columns(blocks)
    write_png(output, picture.quantize(COLOURS, dither=Image.Dither.NONE))


def _two_columns(blocks: list[Image.Image]) -> Image.Image:
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
    return picture


def _block(folder: Path, clip: dict, rate: str) -> Image.Image:
    rows = {"true": _frames(folder / clip["videos"]["true"]), "generated": _frames(folder / clip["videos"][rate])}
    places = np.linspace(0, min(map(len, rows.values())) - 1, FRAMES).round().astype(int)
    height, width = rows["true"].shape[1:3]
    height, width = round(height * SIDE / max(height, width)), round(width * SIDE / max(height, width))
    block = Image.new("RGB", (LABEL + FRAMES * (width + GAP), TITLE + 2 * (height + GAP) + 8), "white")
    draw, font = ImageDraw.Draw(block), ImageFont.load_default(size=12)
    _write_title(block, clip["caption"])
    for row, (label, frames) in enumerate(rows.items()):
        top = TITLE + row * (height + GAP)
        draw.text((0, top + height // 2 - 8), label, fill=(90, 90, 90), font=font)
        for column, place in enumerate(places):
            frame = Image.fromarray(frames[place]).resize((width, height), Image.Resampling.LANCZOS)
            block.paste(frame, (LABEL + column * (width + GAP), top))
    return block


def _write_title(block: Image.Image, title: str) -> None:
    """Write a caption at the top, cut where it is too long."""
    draw, font = ImageDraw.Draw(block), ImageFont.load_default(size=12)
    while draw.textlength(title, font) > block.width:
        title = title.removesuffix("…")[:-1].rstrip(" ,;") + "…"
    draw.text((0, 1), title, fill=(20, 20, 20), font=font)


def _frames(path: Path) -> np.ndarray:
    """uint8 (K, H, W, 3)."""
    if not path.exists():
        raise VLFMError(f"{path} is missing; remove the index.json beside it and run its rule again")
    reader = imageio_ffmpeg.read_frames(str(path))
    width, height = next(reader)["size"]
    return np.stack([np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader])

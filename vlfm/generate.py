"""Captions → video files: `vlfm generate`.

What can be refused without the model is refused before torch is imported and the model is read.
"""

import contextlib
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vlfm.errors import VLFMError
from vlfm.progress import progress
from vlfm.storage.files import atomic_path
from vlfm.storage.pictures import contact_sheet, write_png
from vlfm.video.writer import CONTAINERS, video_writer
from vlfm.words import plural

if TYPE_CHECKING:
    import torch

SUFFIXES = (*CONTAINERS, ".gif", ".png")
CRF = 12.0  # clips are short: better than a film's quality
GIF_RATE = 50  # pictures a second; players show what is faster as 10 a second


def read_captions(given: Sequence[str], file: Path | None) -> list[str]:
    """The captions on the command line, then those of a file, a line each; empty lines are none.

    Raises:
        VLFMError: for a file that is not there or not text, and where there is no caption at all.
    """
    captions = list(given)
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise VLFMError(
                f"--captions {file} cannot be read ({error}); give a UTF-8 text, a caption a line"
            ) from None
        captions += [line.strip() for line in lines if line.strip()]
    if not captions:
        raise VLFMError("there is no caption: give one or several in quotes, or --captions FILE with one a line")
    return captions


def plan_outputs(captions: Sequence[str], output: Path, folder: bool, suffix: str = ".mp4") -> list[Path]:
    """Where the video of each caption goes.

    Args:
        folder: `output` is a folder, of files `0001-the-caption.mp4`; else it is the file of the one caption.
        suffix: of the files in a folder.

    Raises:
        VLFMError: for a suffix that is not written here, and a place where nothing can be written.
    """
    if folder and output.suffix.lower() in SUFFIXES and not output.is_dir():
        raise VLFMError(f"{output}: several captions make several files; give -o a folder, and --format for their kind")
    outputs = [output]
    if folder:
        outputs = [output / f"{number:04d}-{_slug(text)}{suffix}" for number, text in enumerate(captions, 1)]
    if not folder and output.is_dir():
        raise VLFMError(f"{output} is a folder; give the video's own name, {output / 'video.mp4'} for example")
    if outputs[0].suffix.lower() not in SUFFIXES:
        raise VLFMError(f"{outputs[0]}: the output must end in one of {', '.join(SUFFIXES)}")
    place = outputs[0].parent
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise VLFMError(f"nothing can be written into {outputs[0].parent}: {place} is no folder that you may write to")
    return outputs


def generate(
    captions: Sequence[str],
    outputs: Sequence[Path],
    model: Path,
    device: Callable[[], "torch.device"],
    fps: str | None = None,
    seconds: float | None = None,
    size: tuple[int | None, int | None] = (None, None),
    steps: int | None = None,
    guidance: float | None = None,
    seed: int = 0,
) -> None:
    """Write one video a caption. A video depends on its caption and the seed, not on the captions beside it. For a
    caption unlike all those of the model's training a warning goes to stderr; its video is made all the same.

    Args:
        outputs: a file a caption, each of one of `SUFFIXES`: a video, an animated GIF, or a PNG of all frames side by
            side. Each appears when it is whole.
        model: the folder of a trained model. device: where it is to run, asked when it is needed.
        fps: see `vlfm.video.convert.parse_rate`; `2x` is twice the rate of the model's clips; by default their rate.
        seconds, size, steps, guidance: `duration`, `height` and `width`, `num_inference_steps` and `guidance_scale`
            of `VLFMPipeline`.
        seed: of the noise, 0 or more.

    Raises:
        VLFMError: with what was wrong and what to do; videos that were written before stay.
    """
    if not (model / "flow.json").exists():
        raise VLFMError(
            f"there is no trained model in {model}; `snakemake --cores all train` makes results/model, or name "
            "another folder with --model"
        )
    if not 0 <= seed < 2**63:
        raise VLFMError(f"--seed is a whole number from 0 up; it is {seed}")
    place = device()

    import torch

    from vlfm.pipeline import VLFMPipeline
    from vlfm.video.convert import parse_rate

    pipeline = VLFMPipeline.from_pretrained(model, place)
    own = Fraction(pipeline.flow.fps).limit_denominator(1001)
    rate = parse_rate(fps, own) if fps else own
    if rate > GIF_RATE and any(path.suffix.lower() == ".gif" for path in outputs):
        raise VLFMError(f"a GIF shows up to {GIF_RATE} pictures a second; ask for --fps {GIF_RATE}, or for .mp4")
    for caption, output in progress(
        zip(captions, outputs, strict=True), total=len(captions), what="generate", unit="video"
    ):
        with _plain_warnings():
            video = pipeline(
                caption,
                fps=float(rate),
                duration=seconds,
                height=size[0],
                width=size[1],
                num_inference_steps=steps,
                guidance_scale=guidance,
                generator=torch.Generator().manual_seed(seed),
            )
        frames = (video.frames[0] * 255).round().astype(np.uint8)
        _write(output, frames, rate, video.times, caption)
        count, height, width = frames.shape[:3]
        print(
            f"{output}: {plural(count, 'frame')} at {float(rate):.6g} a second, {width}×{height}, seed {seed}, "
            f"network evaluations: {pipeline.evaluations}"
        )


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
    """Say of a caption that it is unlike the training's in one sentence, without the line of code that Python adds."""
    from vlfm.pipeline import UnlikeCaptionWarning

    def show(message: Warning | str, category: type[Warning], *place) -> None:
        if issubclass(category, UnlikeCaptionWarning):
            print(f"warning: {message}", file=sys.stderr)
        else:
            usual(message, category, *place)

    with warnings.catch_warnings():
        usual, warnings.showwarning = warnings.showwarning, show
        warnings.simplefilter("always", UnlikeCaptionWarning)
        yield


def _write(path: Path, frames: np.ndarray, rate: Fraction, times: np.ndarray, caption: str) -> None:
    """Frames uint8 (K, H, W, 3) → the file that the suffix says."""
    suffix = path.suffix.lower()
    if suffix == ".png":
        write_png(path, contact_sheet({f"{float(rate):.4g} fps": frames}, times, caption))
    elif suffix == ".gif":
        _write_gif(path, frames, rate)
    else:
        with video_writer(path, frames.shape[1:3], rate, crf=CRF) as write:
            for frame in frames:
                write(frame)


def _write_gif(path: Path, frames: np.ndarray, rate: Fraction) -> None:
    """An animated GIF that repeats; its times are hundredths of a second, rounded so that none is lost in the sum."""
    from PIL import Image

    ends = [round(100 * index / rate) for index in range(len(frames) + 1)]
    pictures = [Image.fromarray(frame) for frame in frames]
    with atomic_path(path) as temporary:
        pictures[0].save(
            temporary,
            save_all=True,
            append_images=pictures[1:],
            duration=[10 * (after - before) for before, after in pairwise(ends)],
            loop=0,
        )


def _slug(caption: str) -> str:
    """The beginning of a caption as part of a file's name."""
    words = re.sub(r"[^\w]+", "-", caption.lower()).strip("-")
    return words.encode()[:48].decode(errors="ignore").strip("-") or "empty"

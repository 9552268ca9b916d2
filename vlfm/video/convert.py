"""Whole videos, of any length: `vlfm interpolate` and `vlfm extrapolate`."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from vlfm.clips.shots import CutDetector
from vlfm.errors import VLFMError
from vlfm.flow.tails import TAILS
from vlfm.progress import progress
from vlfm.video.resample import PathSettings, Resampler
from vlfm.video.source import Source, check_whole, open_source, sound_frames
from vlfm.video.spaces import open_space
from vlfm.video.writer import check_output, video_writer

if TYPE_CHECKING:
    from vlfm.video.continuation import Continuation, ModelSettings

FASTEST = 1000  # frames a second
ALONG = ("motion", *TAILS)


@dataclass(frozen=True)
class Options:
    """What both tools take, besides what they are for.

    Attributes:
        path: how paths run.
        decoder, detail, quality: the space they run in (`vlfm.video.spaces.open_space`).
        shot_threshold: of cuts, PySceneDetect's; 0 takes the video for one shot.
        crf: x264's quality.
        keep_damaged: go on where the decoder complains.
        seed: of the places a fitted autoencoder looks at.
    """

    path: PathSettings = field(default_factory=lambda: PathSettings("motion"))
    decoder: str = "pixels"
    detail: bool = True
    quality: float = 40.0
    shot_threshold: float = 27.0
    crf: float = 16.0
    keep_damaged: bool = False
    seed: int = 0

    def __post_init__(self):
        if self.path.kind == "motion" and self.decoder != "pixels":
            raise VLFMError(
                f"--path motion moves pixels, not latents of --decoder {self.decoder}; choose --path hybrid there"
            )
        if not 0 <= self.crf <= 51:
            raise VLFMError(f"--crf lies between 0 (lossless) and 51; it is {self.crf:g}")
        if not self.shot_threshold >= 0:
            raise VLFMError(f"--shot-threshold is 0 (no cuts) or more; it is {self.shot_threshold:g}")
        if not 0 < self.quality <= 100:
            raise VLFMError(f"--quality is a PSNR in dB, up to 100; it is {self.quality:g}")


@dataclass(frozen=True)
class Extension:
    """How long a video goes on, seconds, by which tail, and by which model, if by one."""

    seconds: float
    tail: str
    model: "Continuation | None" = None

    def __str__(self) -> str:
        if self.model is None:
            return f"tail {self.tail}"
        height, width = self.model.size
        passes = "one pass" if self.model.passes == 1 else f"{self.model.passes} passes"
        return f"{passes} of the model, which sees the middle {self.model.seen} at {width}×{height}"


def parse_rate(text: str, rate: Fraction) -> Fraction:
    """A frame rate as people write it: 48, 29.97, 60000/1001, or 2x, twice the video's own `rate`.

    Decimals next to a broadcast rate mean it: 29.97 is 30000/1001, 23.976 and 23.98 are 24000/1001.

    Raises:
        VLFMError: for anything else, and beyond 1000 frames a second.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:/\s*(\d+)|([xX×]))?\s*", text)
    if match is None or (match[2] and not int(match[2])):
        raise VLFMError(f"--fps {text}: give frames a second (48, 29.97, 60000/1001) or a multiple of the video's (2x)")
    number = Fraction(match[1]) / int(match[2] or 1)
    if match[3]:
        number *= rate
    elif not match[2] and number.denominator > 1:
        whole = round(number * 1001 / 1000)
        if abs(Fraction(whole * 1000, 1001) - number) < Fraction(1, 150):
            number = Fraction(whole * 1000, 1001)
    if not 0 < number <= FASTEST:
        raise VLFMError(f"--fps {text}: the output must have more than 0 and at most {FASTEST} frames a second")
    return number


def interpolate(
    source: str | Path, output: Path, fps: str, options: Options, device: torch.device, threads: int = 1
) -> None:
    """Write a video at another frame rate: frames on paths through the given ones, at the exact instants.

    The output begins with the input's first frame and lasts as long as its pictures do: `duration × fps` frames.
    Its sound is the input's, packet for packet. See `vlfm.video.resample` for what happens between frames.

    Args:
        source: a file, or `package:NAME/PATH`.
        output: .mp4, .m4v, .mov or .mkv; it appears when it is whole.
        fps: see `parse_rate`.
        threads: of x264 and of the motion's estimation.

    Raises:
        VLFMError: what was wrong, where; nothing is written then.
    """
    opened = open_source(source)
    check_output(output, opened.file)
    rate = parse_rate(fps, opened.rate)
    _convert(opened, output, rate, options, device, threads, "interpolate")


def extrapolate(
    source: str | Path,
    output: Path,
    seconds: float,
    tail: str,
    options: Options,
    device: torch.device,
    fps: str | None = None,
    threads: int = 1,
    model: "ModelSettings | None" = None,
) -> None:
    """Write a video that goes on `seconds` after its last frame, from the path through its last window.

    Up to its end it is the input, interpolated where `fps` asks for instants between its frames. The sound ends
    where it ends.

    Args:
        seconds: after the end of the pictures, above 0.
        tail: see `Resampler.extrapolate`. fps: default the input's own rate. The others as in `interpolate`.
        model: a trained model to go on by, see `vlfm.video.continuation`; the tail then is for what it does not see.

    Raises:
        VLFMError: as `interpolate`, for a tail that is refused, and for a model that is not there.
    """
    if not 0 < seconds <= 3600:
        raise VLFMError(f"--seconds is how long the video goes on, above 0 and up to 3600; it is {seconds:g}")
    if tail not in ALONG:
        raise VLFMError(f"unknown tail {tail!r}; there are {', '.join(ALONG)}")
    opened = open_source(source)
    check_output(output, opened.file)
    rate = parse_rate(fps, opened.rate) if fps else opened.rate
    _convert(opened, output, rate, options, device, threads, "extrapolate", Extension(seconds, tail), model)


def _convert(
    source: Source,
    output: Path,
    rate: Fraction,
    options: Options,
    device: torch.device,
    threads: int,
    what: str,
    extension: Extension | None = None,
    model: "ModelSettings | None" = None,
) -> None:
    if not options.keep_damaged:
        check_whole(source)
    if model is not None:
        from vlfm.video.continuation import open_continuation

        shape = (source.media.height, source.media.width)
        extension = replace(extension, model=open_continuation(model, shape, source.media.aspect, device))
    space = open_space(options.decoder, source, options.detail, options.quality, options.seed, device)
    resampler = Resampler(space, rate, source.rate, options.path)
    if options.path.kind == "motion":
        import cv2

        cv2.setNumThreads(threads)
    total = None
    if source.media.duration:
        total = round((source.media.duration + (extension.seconds if extension else 0)) * rate)
    bar = progress(_frames(source, resampler, options, extension), total=total, what=what, unit="frame")
    size = (source.media.height, source.media.width)
    with video_writer(output, size, rate, source, options.crf, threads) as write:
        for frame in bar:
            write(frame)
    shots = f"{resampler.shots} shots" if resampler.shots != 1 else "one shot"
    print(
        f"{output}: {resampler.made} frames at {float(rate):.6g} a second from {float(source.rate):.6g} ({shots}), "
        f"{resampler.given} of them as given, path {options.path.kind} on {options.decoder}"
        + (f", {extension.seconds:g} s more by {extension}" if extension else "")
        + (", sound as it was" if source.sound else "")
    )


def _frames(
    source: Source, resampler: Resampler, options: Options, extension: Extension | None
) -> Iterator[np.ndarray]:
    """The frames of the output."""
    begins = CutDetector(options.shot_threshold)
    for shown, frame in sound_frames(source, options.keep_damaged):
        if frame.shape[:2] != (source.media.height, source.media.width):
            raise VLFMError(
                f"{source.file} changes its picture size at {shown:.3f} s, from {source.media.width}×"
                f"{source.media.height} to {frame.shape[1]}×{frame.shape[0]}; cut it there, or scale it to one size"
            )
        yield from resampler.push(shown, frame, begins(frame))
    end = resampler.last + resampler.interval
    if source.media.duration and not source.sound and not options.keep_damaged:
        # A last frame that is shown long is known by the container alone; with sound its length may be the sound's.
        stated = source.media.duration - source.media.offset
        end = stated if stated > end + resampler.interval else end
    if extension is None:
        yield from resampler.finish(end)
    else:
        yield from resampler.extrapolate(end + extension.seconds, extension.tail, extension.model)

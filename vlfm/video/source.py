"""A whole video to read: what a second video made of it has to keep, and its frames at their true times."""

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import imageio_ffmpeg
import numpy as np

from vlfm.clips.locate import is_file, local_file
from vlfm.clips.video_files import DAMAGE, FFmpegFrames, Media, probe, said
from vlfm.errors import VLFMError

TIMEOUT = 60.0  # seconds for the first frame of a file
REMEDY = "replace the file, or go on with what can be decoded of it with --keep-damaged"


@dataclass(frozen=True)
class Source:
    """A video file.

    Attributes:
        file: its path.
        media: what the decoders need to know (`vlfm.clips.video_files`). Width and height are those of the picture as
            it is shown, turned upright where the file says so.
        rate: frames a second, exactly, as the container states it.
        sound: whether it has an audio stream.
        colours: the file's own tags in ffmpeg's words: those of `colorspace`, `color_primaries`, `color_trc` it has.
    """

    file: Path
    media: Media
    rate: Fraction
    sound: bool
    colours: dict[str, str]

    def frames(self, since: float = 0.0) -> FFmpegFrames:
        """Iterates (seconds since the first frame, uint8 (H, W, 3) turned upright), one frame in memory."""
        return FFmpegFrames(self.file, self.media, since)


def open_source(source: str | Path, timeout: float = TIMEOUT) -> Source:
    """Open a file, or `package:NAME/PATH`, a file inside an installed Python package.

    Raises:
        VLFMError: not there, or not a video that can be decoded; the message says what is in it.
    """
    if not is_file(str(source)):
        raise VLFMError(f"{source} is not a file on this machine; download it first, or unpack it, and give the file")
    file = local_file(str(source))
    media = probe(file, timeout)
    command = [
        *(imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-nostdin", "-nostats"),
        *("-protocol_whitelist", "file,pipe", "-i", f"file:{file}"),
        *("-map", "0:V:0", "-vf", "showinfo=checksum=0", "-frames:v", "1", "-f", "null", "-"),
    ]
    try:
        done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=timeout)
    except subprocess.TimeoutExpired:
        raise VLFMError(f"{file} gave no frame in {timeout:g} s; replace the file") from None
    text = done.stderr.decode(errors="replace")
    stated = re.search(r"config in time_base: \S+ frame_rate: (\d+)/(\d+)", text)
    if stated and int(stated[1]) and int(stated[2]):
        rate = Fraction(int(stated[1]), int(stated[2]))
    elif media.fps:
        rate = Fraction(media.fps).limit_denominator(1001)
    else:
        raise VLFMError(f"{file} states no frame rate; put it in a container that has one (ffmpeg -i … out.mp4)")
    tags = re.search(r"color_space:(\S+) color_primaries:(\S+) color_trc:(\S+)", text)
    names = ("colorspace", "color_primaries", "color_trc")  # as the filter setparams calls them
    found = zip(names, tags.groups(), strict=True) if tags else ()
    return Source(
        file=file,
        media=media,
        rate=rate,
        sound=re.search(r"Stream #0:\d+.*: Audio:", text.partition("Stream mapping:")[0]) is not None,
        colours={name: value for name, value in found if value not in ("unknown", "reserved", "gbr")},
    )


def check_whole(source: Source) -> None:
    """Read a file through once without decoding it, so that one that was cut short fails now, not hours later.

    Raises:
        VLFMError: with what is missing.
    """
    command = [
        *(imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-v", "error", "-protocol_whitelist", "file,pipe"),
        *("-i", f"file:{source.file}", "-map", "0:V:0", "-c", "copy", "-f", "null", "-"),
    ]
    done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL)
    for line in done.stderr.decode(errors="replace").splitlines():
        if "ended prematurely" in line or DAMAGE.search(line):
            raise VLFMError(f"{source.file} is damaged or cut short ({said(line)}); {REMEDY}")


def sound_frames(source: Source, keep_damaged: bool = False) -> Iterator[tuple[float, np.ndarray]]:
    """The frames of a source, none of them damaged unless asked for.

    Raises:
        VLFMError: at the decoder's first complaint, with the time and what it said; if no frame comes at all.
    """
    frames = source.frames()
    shown = None
    for shown, frame in frames:
        if frames.damaged and not keep_damaged:
            raise _damaged(source, frames.damaged[0], shown)
        yield shown, frame
    if shown is None:
        raise VLFMError(f"{source.file}: not one frame can be decoded; replace the file")
    if frames.damaged and not keep_damaged:
        raise _damaged(source, frames.damaged[0], shown)


def _damaged(source: Source, complaint: str, shown: float) -> VLFMError:
    return VLFMError(f"{source.file} is damaged at about {shown:.1f} s ({complaint}); {REMEDY}")

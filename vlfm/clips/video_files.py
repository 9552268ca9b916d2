"""Video files through ffmpeg and decord: what is in them, their frames, and the instants they are shown at.

Time zero of a source is its first video frame, whatever offset the container gives it; both decoders then
agree.
"""

import contextlib
import ctypes
import fcntl
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

import ffmpeg
import imageio_ffmpeg
import numpy as np

from vlfm.clips.center_crop import center_box
from vlfm.clips.windows import TIE
from vlfm.errors import BadClip
from vlfm.storage.pictures import EXACT
from vlfm.words import first_line

# Playlists name further files or hosts to read; a clip's source is one file.
REFUSED = ("hls", "concat", "dash", "ffconcat", "sdp", "rtsp", "imf", "image2", "tty")

# Where decord was measured to give ffmpeg's frames at ffmpeg's times (benchmarks/decoders.py). On MPEG program streams
# its times are wrong without a warning, on transport streams its frames are; 0.6.0 rounds 10-bit video differently.
DECORD = ("mov", "mp4", "matroska", "webm")
DECORD_PIXELS = re.compile(r"(yuvj?4(20|22|44)p|gray)\b")

# Without an index, which knows the key frames: a seek ends between two of them, and nothing comes before the next.
UNINDEXED = ("mpegts", "mpeg")
LEAD = 12.0  # seconds between two key frames, at most: x264's are 10 s apart at 25 frames a second

LARGEST = 1 << 26  # pixels of a picture, twice 8K: a few bytes can announce more than there is memory
COMPLAINTS = 1000  # of a decoder about one file that are kept
PIPE = 1 << 20  # bytes between ffmpeg and us: with the usual 64 KiB they wait for each other tens of times a frame
NO_FRAME = (17, 5)  # width and height, which no clip has, for a picture that is no frame
KEY, CORRUPT = 1, 2  # ffmpeg's flags of a packet
NO_TIME = -(1 << 63)  # ffmpeg's number for a frame of which it does not know when it is shown

DAMAGE = re.compile(
    r"error while decoding|corrupt decoded frame|concealing \d+|Invalid NAL unit|Error submitting packet|"
    r"Invalid data found|corrupted macroblock|missing reference|partial file|Packet corrupt|"
    r"error, .*concealment|ac-tex damaged|mb_type .* (invalid|damaged)|no frame!|[Tt]runcat",
)


def die_with_parent() -> None:
    """Have the system kill this process when its parent dies, so that a killed job leaves nothing running.

    Linux only; elsewhere a no-op.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class Suspicious(Exception):
    """What decord gave cannot be trusted; ask ffmpeg."""


@dataclass(frozen=True)
class Media:
    """What ffmpeg says about a file.

    Attributes:
        duration: seconds, from the header; None where it does not say.
        fps: average frames a second, from the header; None where it does not say.
        ticks: time base, ticks a second, where it is a whole number; else None.
        zero: the container's time of the first frame, seconds.
        offset: seconds from the container's start to the first frame (sound may begin before it).
        aspect: width of a pixel over its height.
        lead: seconds by which a seek has to go too far back, to find a key frame.
        plain: whether decord can be relied on for such a file.
        width, height: of the frames in pixels, turned upright.
    """

    duration: float | None
    fps: float | None
    ticks: int | None
    zero: float
    offset: float
    aspect: float
    lead: float
    plain: bool
    width: int
    height: int


def _command(file: Path | str, before: dict, output: str, after: dict, *flags: str) -> list[str]:
    """An ffmpeg argument list; the protocols are the ones that cannot reach the network."""
    stream = ffmpeg.input(f"file:{file}", protocol_whitelist="file,pipe", max_pixels=LARGEST, **before)
    stream = stream.output(output, map="0:V:0", **after)
    stream = stream.global_args("-hide_banner", "-nostdin", "-nostats", *flags)
    return ffmpeg.compile(stream, cmd=imageio_ffmpeg.get_ffmpeg_exe())


def probe(file: Path | str, timeout: float) -> Media:
    """Open a file and decode its first frame, in a child with `timeout` seconds to live.

    Raises:
        BadClip: not a readable video; the message says what is in the file.
    """
    first = {"c:v": "rawvideo", "frames:v": 1, "fps_mode": "passthrough", "enc_time_base": "demux", "f": "framecrc"}
    command = _command(file, {}, "-", first, "-copyts")
    try:
        done = subprocess.run(command, capture_output=True, timeout=timeout, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise BadClip(f"{file} gave no frame in {timeout:g} s (clips.timeout); replace the file") from None
    # What a file is called, and what is written in it (indented), may look like ffmpeg's own lines.
    text = os.fsdecode(done.stderr).replace(str(file), "")
    header = re.split("^Stream mapping:", text, maxsplit=1, flags=re.M)[0]
    kind = re.search(r"^Input #0, (\S+), from", header, re.M)
    if kind and set(kind[1].split(",")) & set(REFUSED):
        raise BadClip(f"{file} is a list of other files or pictures ({kind[1]}), not a video file")
    if kind and kind[1].endswith("_pipe"):
        raise BadClip(f"{file} is a picture ({kind[1].removesuffix('_pipe')}), not a video file")
    videos = re.findall(r"^ *Stream #0:\d+.*: Video: (.*)", header, re.M)
    stream = next((video for video in videos if "(attached pic)" not in video), None)
    if stream is None:
        if kind and re.search(r"^ *Stream #0:\d+.*: Audio:", header, re.M):
            raise BadClip(f"{file} holds sound but no video; give a video file")
        if kind and not re.search("^ *Stream #0:", header, re.M):
            raise BadClip(f"{file} holds no video (an empty {kind[1].split(',')[0]} file); give a video file")
        trouble = [line for line in text.splitlines() if re.search("[Ee]rror|[Ii]nvalid|not found", line)]
        reason = said((trouble or [text.strip()])[0])
        raise BadClip(f"{file} is not a video that ffmpeg can open ({reason}); replace the file")
    found = re.fullmatch(
        r"(?s).*#tb 0: (\d+)/(\d+)\n.*#dimensions 0: (\d+)x(\d+)\n#sar 0: (\d+)/(\d+)\n0, *-?\d+, *(-?\d+),.*",
        done.stdout.decode(),
    )
    if found is None:
        trouble = next((line for line in text.splitlines() if DAMAGE.search(line)), "no frame came out")
        raise BadClip(f"{file}: not one frame can be decoded ({said(trouble)}); replace the file")
    one, ticks, width, height, across, down, shown = map(int, found.groups())
    if shown == NO_TIME:
        raise BadClip(f"{file} has no timestamps; put it in a container that has them (ffmpeg -i … out.mp4)")
    zero = shown * one / ticks
    begin = re.search(r"^  Duration: .* start: (-?[\d.]+)", header, re.M)
    length = re.search(r"^  Duration: (\d+):(\d+):([\d.]+)", header, re.M)
    fps = re.search(r"([\d.]+)(k?) fps", stream)
    return Media(
        duration=int(length[1]) * 3600 + int(length[2]) * 60 + float(length[3]) if length else None,
        fps=float(fps[1]) * (1000 if fps[2] else 1) if fps else None,
        ticks=ticks if one == 1 else None,
        zero=zero,
        offset=zero - float(begin[1]) if begin else 0.0,
        aspect=across / down if across and down else 1.0,
        lead=LEAD if kind[1] in UNINDEXED else 0.0,
        plain=(
            bool(set(kind[1].split(",")) & set(DECORD))
            and DECORD_PIXELS.search(stream) is not None
            and len(videos) == 1  # decord chooses another of several than ffmpeg does
            and "displaymatrix" not in header.lower().replace(" ", "")
        ),
        width=width,
        height=height,
    )


def _fit(media: Media, height: int, width: int) -> str:
    """ffmpeg's filters that make a clip's picture of a frame, and of a frame of another shape a picture of no clip."""
    box = center_box(media.height, media.width, media.aspect, height, width)
    frame = f"eq(iw,{media.width})*eq(ih,{media.height})"
    part = f"eq(iw,{box.width})*eq(ih,{box.height})"
    columns, rows = NO_FRAME
    return (
        f"crop='if({frame},{box.width},min(iw,{columns}))':'if({frame},{box.height},min(ih,{rows}))'"
        f":{box.left}:{box.top}:exact=1,scale='if({part},{width},{columns})':'if({part},{height},{rows})':flags={EXACT}"
    )


class FFmpegFrames:
    """The frames of a file through an ffmpeg process, one at a time: `for shown, array in frames`.

    Every frame has the size that `probe` found, or the one asked for. Where a stream changes its size, ffmpeg scales
    the pictures of the same shape; those of another shape are no frames and left out.

    Args:
        file: the source.
        media: what `probe` says about it.
        since: seconds; frames before it need not come. Below a second everything is decoded from the start.
        width: scale down to this width, whatever the shape (for shot detection), or None for the picture as it is.
        size: height and width of a clip: its part of the picture (`center_box`), resized. ffmpeg does it before it
            makes RGB of the picture, and much less goes through the pipe.

    Yields:
        seconds since the first frame of the source, and the frame, uint8 (height, width, 3), turned upright.

    Attributes:
        damaged: messages of the decoder about frames up to the last one yielded, and perhaps a few later ones.
        reshaped: seconds since the first frame at which a picture of another shape came, or None.
    """

    def __init__(
        self,
        file: Path | str,
        media: Media,
        since: float = 0.0,
        width: int | None = None,
        size: tuple[int, int] | None = None,
    ) -> None:
        self.damaged: list[str] = []
        self.reshaped: float | None = None
        self._heard, self._rest = 0, b""
        self._file, self._media = file, media
        since -= media.lead
        self._before = {"ss": f"{since + media.offset:.6f}"} if since >= 1 else {}
        if size is not None:  # shards are decoded side by side, a core each
            self._before["threads"] = 1
        self._height, self._width = media.height, media.width
        how = f"force_original_aspect_ratio=decrease:flags={EXACT}"
        if width and width < media.width:
            self._height = max(2, 2 * round(width * media.height / media.width / 2))
            self._width, how = width, "flags=area"
        self._scale = f"scale={self._width}:{self._height}:{how}"
        if size is not None:
            self._scale += f",{_fit(media, *size)}"
            self._height, self._width = size

    def __iter__(self) -> Iterator[tuple[float, np.ndarray]]:
        reading, writing = os.pipe()
        after = {
            "vf": f"{self._scale},format=rgb24",
            "fps_mode": "passthrough",
            "enc_time_base": "demux",
            "noautoscale": None,
            # When each frame is shown, and how many bytes it has: the line comes before the frame.
            "stats_enc_post": f"pipe:{writing}",
            "stats_enc_post_fmt": "{pts} {tb} {size}",
            "f": "rawvideo",
        }
        command = _command(self._file, self._before, "pipe:1", after, "-copyts")
        with open(reading) as lines, tempfile.TemporaryFile() as log:
            with open(writing, "w"):
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    pass_fds=[writing],
                    preexec_fn=die_with_parent,
                )
            # Another system than Linux may not know it, and Linux may refuse it where there are many pipes.
            with contextlib.suppress(AttributeError, OSError):
                fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, PIPE)
            try:
                yield from self._read(lines, process.stdout, log)
            finally:
                process.kill()
                process.stdout.close()
                process.wait()

    def _read(self, lines: IO[str], pictures: IO[bytes], log: IO[bytes]) -> Iterator[tuple[float, np.ndarray]]:
        last, size = -np.inf, self._height * self._width * 3
        for line in lines:
            pts, base, length = line.split()
            data = pictures.read(int(length))
            if len(data) < int(length):
                break
            self._listen(log)
            one, ticks = map(int, base.split("/"))
            moment = int(pts) * one / ticks - self._media.zero
            if int(pts) == NO_TIME or moment <= last:  # broken timestamps: such a frame has no place in time
                continue
            if len(data) != size:
                self.reshaped = moment if self.reshaped is None else self.reshaped
                continue
            last = moment
            yield moment, np.frombuffer(data, np.uint8).reshape(self._height, self._width, 3)
        self._listen(log)

    def _listen(self, log: IO[bytes]) -> None:
        """Take in what the decoder has said by now: it speaks before the frame comes that it speaks of."""
        # A file, not a pipe: nobody has to read it at the same time, and its place is shared with the child.
        while data := os.pread(log.fileno(), 1 << 16, self._heard):
            self._heard += len(data)
            *whole, self._rest = (self._rest + data).split(b"\n")
            for text in (line.decode(errors="replace") for line in whole):
                if DAMAGE.search(text) and len(self.damaged) < COMPLAINTS:
                    self.damaged.append(said(text))


def damage(file: Path | str, media: Media, start: float, duration: float) -> str | None:
    """Decode a stretch by itself, from the key frame before it, and return the decoder's first complaint, if any.

    Args:
        start, duration: seconds in the source.
    """
    if media.lead:
        lines = _complaints_about_packets(file, media, start, duration)
        return next((said(line) for line in lines if DAMAGE.search(line)), None)
    command = _command(
        file,
        # One thread: the more there are, the further they look ahead, at damage that is none of the window's.
        {"ss": f"{max(0.0, start + media.offset):.6f}", "threads": 1},
        "-",
        {"t": f"{duration:.6f}", "f": "null"},
        "-v",
        "error",
    )
    done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL)
    lines = done.stderr.decode(errors="replace").splitlines()
    return next((said(line) for line in lines if DAMAGE.search(line)), None)


def _complaints_about_packets(file: Path | str, media: Media, start: float, duration: float) -> list[str]:
    """What is said of a stretch of a file in which a seek ends anywhere.

    A decoder reads ahead, so that when it complains says little about which frame it means. So it is given the packets
    of the stretch alone, from the key frame before it. Of a picture that lost its end it may say nothing; then the
    reader of the container does.
    """
    since = start - media.lead
    before = {"ss": f"{since + media.offset:.6f}"} if since >= 1 else {}
    packets = _packets(file, media, before, start + duration)
    inside = [index for index, packet in enumerate(packets) if packet.shown <= start + duration]
    if not inside:
        return []
    keys = [index for index, packet in enumerate(packets) if packet.key and packet.shown <= start + TIE]
    stretch = packets[max(keys, default=0) :]
    last = packets[inside[-1]].place
    step = float(np.median(np.diff([packet.decoded for packet in stretch]))) if len(stretch) > 1 else 0.0
    for index, packet in enumerate(stretch):
        if packet.corrupt and packet.place <= last and not _at_a_join(stretch[index : index + 3], step):
            return [f"Packet corrupt at {packet.shown:.3f} s"]
    first = stretch[0].place
    drop = f"lt(dts,{first})+gt(dts,{last})".replace(",", "\\,")
    chosen = {"c": "copy", "bsf:v": f"noise=drop={drop}", "f": "nut"}
    copied = _command(file, before, "-", chosen, "-copyts", "-v", "quiet")
    decoded = ffmpeg.input("pipe:0", f="nut", threads=1).output("-", f="null")
    decode = ffmpeg.compile(decoded.global_args("-hide_banner", "-v", "error"), cmd=imageio_ffmpeg.get_ffmpeg_exe())
    with subprocess.Popen(
        copied, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, preexec_fn=die_with_parent
    ) as process:
        done = subprocess.run(decode, stdin=process.stdout, capture_output=True)
        process.kill()
    return done.stderr.decode(errors="replace").splitlines()


def _at_a_join(packets: list["_Packet"], step: float) -> bool:
    """Whether a packet is flagged only as two files were put together there, and nothing is lost.

    Then it is the last of the first file or the one before it, and time goes on evenly to the second's key frame.
    """
    gaps = np.diff([packet.decoded for packet in packets])
    return any(packet.key for packet in packets[1:]) and 0 <= min(gaps) and max(gaps) < 1.5 * step


class _Packet(NamedTuple):
    """Of a video stream: when it is decoded, in ticks of the time base, and when it is decoded and shown, seconds."""

    place: int
    decoded: float
    shown: float
    key: bool
    corrupt: bool


def _packets(file: Path | str, media: Media, before: dict, end: float) -> list[_Packet]:
    """The packets up to `end`, seconds, and two more; `before` says where to begin."""
    listed = _command(file, before, "-", {"c": "copy", "f": "framecrc"}, "-copyts", "-v", "quiet")
    one, ticks = 1, 1
    packets: list[_Packet] = []
    with subprocess.Popen(
        listed, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, preexec_fn=die_with_parent
    ) as process:
        for line in process.stdout:
            if found := re.match(rb"#tb 0: (\d+)/(\d+)", line):
                one, ticks = map(int, found.groups())
            elif found := re.match(rb"0, *(-?\d+), *(-?\d+), *\d+, *\d+, *\w+(?:, F=0x([0-9A-F]+))?", line):
                decoded, shown = ((int(pts) * one / ticks - media.zero) for pts in found.groups()[:2])
                flags = int(found[3] or b"1", 16)
                packets.append(_Packet(int(found[1]), decoded, shown, bool(flags & KEY), bool(flags & CORRUPT)))
                if len(packets) > 2 and packets[-2].decoded > end:  # what comes is shown later than it is decoded
                    break
        process.kill()
    return packets


class DecordFrames:
    """The frames of a file through decord, in order from the first: `for shown, array in frames`.

    One thread and `next()` alone: seeking and batches are where decord reads ahead and repeats frames.

    Attributes:
        reported: how many frames the container announces.

    Raises:
        Suspicious: decord cannot open or go on, or its timestamps are no sequence.
    """

    def __init__(self, file: Path | str, media: Media) -> None:
        try:
            import decord  # has no wheel for every platform

            decord.logging.set_level(decord.logging.ERROR)
            # The whole path: it takes what a name begins with ("concat:") for a protocol.
            self._video = decord.VideoReader(str(Path(file).absolute()), num_threads=1)
            self.reported = len(self._video)
            times = self._video.get_frame_timestamp(range(self.reported))[:, 0].astype(np.float64)
        except Exception as error:
            raise Suspicious(f"decord cannot open it: {said(first_line(error))}") from error
        if media.ticks is not None and media.ticks <= 100_000:
            times = np.round(times * media.ticks) / media.ticks  # decord keeps them in float32
        self._shape = (media.height, media.width, 3)
        self._shown = times - times[0]
        if np.any(np.diff(self._shown) <= 0):
            raise Suspicious("decord's timestamps do not increase")

    def __iter__(self) -> Iterator[tuple[float, np.ndarray]]:
        for shown in self._shown:
            try:
                frame = self._video.next().asnumpy()
            except (Exception, StopIteration) as error:
                raise Suspicious(f"decord stopped at {shown:.3f} s: {said(first_line(error))}") from error
            if frame.shape != self._shape:  # (…, 4) where 3 · width, rounded up to 64 bytes, is 4 · width
                raise Suspicious(f"decord gives pictures of {frame.shape}, not {self._shape}, at {shown:.3f} s")
            yield float(shown), frame


def said(line: str) -> str:
    """A decoder's message without the address in memory of who says it."""
    return re.sub(r"\[(\S+) @ 0x\w+\]", r"\1:", line.strip())[:200]

"""Video files through ffmpeg and decord: what is in them, their frames, and the instants they are shown at.

Time zero of a source is its first video frame, whatever offset the container gives it; both decoders then
agree.
"""

import ctypes
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import ffmpeg
import imageio_ffmpeg
import numpy as np

from vlfm.errors import BadClip

# Playlists name further files or hosts to read; a clip's source is one file.
REFUSED = ("hls", "concat", "dash", "ffconcat", "sdp", "rtsp", "imf", "image2", "tty")

# Where decord was measured to give ffmpeg's frames at ffmpeg's times. On MPEG program streams it gives others
# without a word, transport streams it does not read, and ten-bit pictures it rounds differently.
DECORD = ("mov", "mp4", "matroska", "webm")
DECORD_PIXELS = re.compile(r"(yuvj?4(20|22|44)p|gray)\b")

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
        plain: whether decord can be relied on for such a file.
        width, height: of the stored frames in pixels.
    """

    duration: float | None
    fps: float | None
    ticks: int | None
    zero: float
    offset: float
    aspect: float
    plain: bool
    width: int
    height: int


def _command(file: Path | str, before: dict, output: str, after: dict, *flags: str) -> list[str]:
    """An ffmpeg argument list; the protocols are the ones that cannot reach the network."""
    stream = ffmpeg.input(f"file:{file}", protocol_whitelist="file,pipe", **before)
    stream = stream.output(output, map="0:V:0", **after)
    stream = stream.global_args("-hide_banner", "-nostdin", "-nostats", *flags)
    return ffmpeg.compile(stream, cmd=imageio_ffmpeg.get_ffmpeg_exe())


def probe(file: Path | str, timeout: float) -> Media:
    """Open a file and decode its first frame, in a child with `timeout` seconds to live.

    Raises:
        BadClip: not a readable video; the message says what is in the file.
    """
    command = _command(file, {}, "-", {"vf": "showinfo=checksum=0", "frames:v": 1, "f": "null"}, "-copyts")
    try:
        done = subprocess.run(command, capture_output=True, timeout=timeout, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise BadClip(f"{file} gave no frame in {timeout:g} s (clips.timeout); replace the file") from None
    text = done.stderr.decode(errors="replace")
    kind = re.search(r"Input #0, (\S+), from", text)
    if kind and set(kind[1].split(",")) & set(REFUSED):
        raise BadClip(f"{file} is a list of other files or pictures ({kind[1]}), not a video file")
    header = text.partition("Stream mapping:")[0]
    stream = re.search(r"Stream #0:\d+.*: Video: (?!.*\(attached pic\)).*", header)
    if stream is None:
        if kind and ": Audio:" in header:
            raise BadClip(f"{file} holds sound but no video; give a video file")
        if kind and "Stream #0:" not in header:
            raise BadClip(f"{file} holds no video (an empty {kind[1].split(',')[0]} file); give a video file")
        trouble = [line for line in text.splitlines() if re.search("[Ee]rror|[Ii]nvalid|not found", line)]
        reason = said((trouble or [text.strip()])[0])
        raise BadClip(f"{file} is not a video that ffmpeg can open ({reason}); replace the file")
    frame = re.search(r"n:\s*0 pts:\s*(-?\d+|NOPTS) .* sar:(\d+)/(\d+) s:(\d+)x(\d+)", text)
    base = re.search(r"config in time_base: (\d+)/(\d+)", text)
    if frame is None or base is None:
        trouble = next((line for line in text.splitlines() if DAMAGE.search(line)), "no frame came out")
        raise BadClip(f"{file}: not one frame can be decoded ({said(trouble)}); replace the file")
    if frame[1] == "NOPTS":
        raise BadClip(f"{file} has no timestamps; put it in a container that has them (ffmpeg -i … out.mp4)")
    zero = int(frame[1]) * int(base[1]) / int(base[2])
    begin = re.search(r"Duration: .* start: (-?[\d.]+)", header)
    length = re.search(r"Duration: (\d+):(\d+):([\d.]+)", text)
    fps = re.search(r"([\d.]+)(k?) fps", stream[0])
    ticks = int(base[2]) if int(base[1]) == 1 else None
    return Media(
        duration=int(length[1]) * 3600 + int(length[2]) * 60 + float(length[3]) if length else None,
        fps=float(fps[1]) * (1000 if fps[2] else 1) if fps else None,
        ticks=ticks,
        zero=zero,
        offset=zero - float(begin[1]) if begin else 0.0,
        aspect=int(frame[2]) / int(frame[3]) if int(frame[2]) and int(frame[3]) else 1.0,
        plain=(
            bool(set(kind[1].split(",")) & set(DECORD))
            and DECORD_PIXELS.search(stream[0]) is not None
            and "displaymatrix" not in header.lower().replace(" ", "")
        ),
        width=int(frame[4]),
        height=int(frame[5]),
    )


class FFmpegFrames:
    """The frames of a file through an ffmpeg process, one at a time: `for shown, array in frames`.

    Args:
        file: the source.
        media: what `probe` says about it.
        since: seconds; frames before it need not come. Below a second everything is decoded from the start.
        width: scale down to this width (for shot detection), or None for the picture as it is.

    Yields:
        seconds since the first frame of the source, and the frame, uint8 (height, width, 3), turned upright.

    Attributes:
        damaged: messages of the decoder about frames up to the last one yielded, and perhaps a few later
        ones.
    """

    def __init__(self, file: Path | str, media: Media, since: float = 0.0, width: int | None = None) -> None:
        self.damaged: list[str] = []
        self._media = media
        before = {"ss": f"{since + media.offset:.6f}"} if since >= 1 else {}
        scale = f"scale={width}:-2:flags=area," if width and width < media.width else ""
        self._command = _command(
            file,
            before,
            "pipe:1",
            {"vf": f"{scale}format=rgb24,showinfo=checksum=0", "fps_mode": "passthrough", "f": "rawvideo"},
            "-copyts",
        )

    def __iter__(self) -> Iterator[tuple[float, np.ndarray]]:
        process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=die_with_parent,
        )
        shown: queue.Queue = queue.Queue()
        reader = threading.Thread(target=self._read_log, args=(process.stderr, shown), daemon=True)
        reader.start()
        last = -np.inf
        try:
            # showinfo speaks before its frame is written, and the decoder speaks before showinfo.
            while (item := shown.get()) is not None:
                moment, width, height = item
                data = process.stdout.read(width * height * 3)
                if len(data) < width * height * 3:
                    break
                if moment is None or moment <= last:  # broken timestamps: such a frame has no place in time
                    continue
                last = moment
                yield moment, np.frombuffer(data, np.uint8).reshape(height, width, 3)
        finally:
            process.kill()
            process.stdout.close()
            process.wait()
            reader.join()
            process.stderr.close()

    def _read_log(self, log, shown: queue.Queue) -> None:
        base = (0, 1)
        for line in log:
            text = line.decode(errors="replace")
            if match := re.search(r"showinfo.* n:\s*\d+ pts:\s*(-?\d+|NOPTS) .* s:(\d+)x(\d+)", text):
                moment = None if match[1] == "NOPTS" else int(match[1]) * base[0] / base[1] - self._media.zero
                shown.put((moment, int(match[2]), int(match[3])))
            elif match := re.search(r"showinfo.* config in time_base: (\d+)/(\d+)", text):
                base = (int(match[1]), int(match[2]))
            elif DAMAGE.search(text) and len(self.damaged) < 100:
                self.damaged.append(said(text))
        shown.put(None)


def damage(file: Path | str, media: Media, start: float, duration: float) -> str | None:
    """Decode a stretch by itself, from the key frame before it, and return the decoder's first complaint, if
    any.

    Args:
        start, duration: seconds in the source.
    """
    command = _command(
        file,
        {"ss": f"{max(0.0, start + media.offset):.6f}"},
        "-",
        {"t": f"{duration:.6f}", "f": "null"},
        "-v",
        "error",
    )
    done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL)
    lines = done.stderr.decode(errors="replace").splitlines()
    return next((said(line) for line in lines if DAMAGE.search(line)), None)


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
            self._video = decord.VideoReader(str(file), num_threads=1)
            self.reported = len(self._video)
            times = self._video.get_frame_timestamp(range(self.reported))[:, 0].astype(np.float64)
        except Exception as error:
            raise Suspicious(f"decord cannot open it: {_first_line(error)}") from error
        if media.ticks is not None and media.ticks <= 100_000:
            times = np.round(times * media.ticks) / media.ticks  # decord keeps them in float32
        self._shown = times - times[0]
        if np.any(np.diff(self._shown) <= 0):
            raise Suspicious("decord's timestamps do not increase")

    def __iter__(self) -> Iterator[tuple[float, np.ndarray]]:
        for shown in self._shown:
            try:
                frame = self._video.next().asnumpy()
            except (Exception, StopIteration) as error:
                raise Suspicious(f"decord stopped at {shown:.3f} s: {_first_line(error)}") from error
            if frame.shape[-1] != 3:  # version 0.6.0, where 3 · width rounded up to 64 bytes is 4 · width: 48, 72, …
                raise Suspicious(f"decord gives pictures of {frame.shape[-1]} colours at width {frame.shape[1]}")
            yield float(shown), frame


def _first_line(error: BaseException) -> str:
    return said((str(error).splitlines() or [type(error).__name__])[0])


def said(line: str) -> str:
    """A decoder's message without the address in memory of who says it."""
    return re.sub(r"\[(\S+) @ 0x\w+\]", r"\1:", line.strip())[:200]

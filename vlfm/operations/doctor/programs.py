"""ffmpeg with what the project asks of it, and the browser of the tests."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from vlfm.operations.doctor.check import Check

PART = "programs"
TIMEOUT = 30.0  # seconds
REMEDY = "pip install --force-reinstall --no-deps imageio-ffmpeg, and unset IMAGEIO_FFMPEG_EXE"
# What a run cannot do without: ffmpeg's list → names, and what for.
NEEDED = {
    "encoders": {"libx264": "videos", "rawvideo": "frames"},
    "decoders": {"h264": "most videos", "rawvideo": "frames"},
    "muxers": {"mp4": "videos", "framecrc": "the times of frames", "rawvideo": "frames"},
    "demuxers": {"mov": "MP4 files", "matroska": "MKV and WebM files", "rawvideo": "frames"},
    "filters": {"scale": "frames", "format": "frames", "minterpolate": "the experiment interpolation"},
}
# What some clips or measures need.
USEFUL = {
    "decoders": {
        "hevc": "H.265 clips",
        "vp9": "VP9 clips",
        "av1": "AV1 clips",
        "libdav1d": "AV1 clips",
        "mpeg4": "old MP4 and AVI clips",
    },
    "filters": {"libvmaf": "the metric VMAF"},
}
EITHER = (("av1", "libdav1d"),)  # one of them is enough


def check_programs() -> Iterator[Check]:
    """ffmpeg, and a browser."""
    yield from check_ffmpeg()
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    purpose = "tests of the report page in a browser; no run needs it"
    if browser:
        yield Check(PART, "chromium", browser)
    else:
        yield Check(PART, "chromium", f"not here: {purpose}", "optional", "Debian: apt-get install chromium")


def check_ffmpeg() -> Iterator[Check]:
    """The ffmpeg that the project uses, and whether it has the codecs, formats and filters that are asked of it."""
    import imageio_ffmpeg

    asked = os.environ.get("IMAGEIO_FFMPEG_EXE")
    try:
        program = imageio_ffmpeg.get_ffmpeg_exe()
        version = _output(program, "-version").splitlines()[0]
        has = {kind: _names(_output(program, f"-{kind}")) for kind in NEEDED}
    except (RuntimeError, OSError, subprocess.SubprocessError, IndexError) as error:
        where = f"{asked} (IMAGEIO_FFMPEG_EXE)" if asked else "imageio-ffmpeg's"
        yield Check(PART, "ffmpeg", f"{where} does not run ({error})", "missing", REMEDY)
        return
    named = version.removeprefix("ffmpeg version ").split(" Copyright")[0]
    whose = "by IMAGEIO_FFMPEG_EXE" if asked else "of imageio-ffmpeg" if "imageio_ffmpeg" in program else "in PATH"
    yield Check(PART, "ffmpeg", f"{named}, {Path(program)}, {whose}")
    lacks = _lacking(NEEDED, has)
    if lacks:
        yield Check(PART, "ffmpeg's parts", f"it lacks {', '.join(lacks)}", "missing", REMEDY)
    lost = _lacking(USEFUL, has)
    if lost:
        yield Check(PART, "ffmpeg's codecs", f"it lacks {', '.join(lost)}", "warning", REMEDY)
    if not lacks and not lost:
        count = sum(len(names) for table in (NEEDED, USEFUL) for names in table.values())
        yield Check(PART, "ffmpeg's parts", f"all {count} codecs, formats and filters that are used")


def _output(program: str, option: str) -> str:
    done = subprocess.run(
        [program, "-hide_banner", "-nostdin", option], capture_output=True, text=True, timeout=TIMEOUT, check=True
    )
    return done.stdout


def _names(listed: str) -> set[str]:
    """Of a list of ffmpeg's: lines of flags, a name or several with commas, and a description."""
    rows = re.findall(r"^ *[A-Z.|]+ +([\w,.-]+)", listed, re.MULTILINE)
    return {name for row in rows for name in row.split(",")}


def _lacking(asked: dict[str, dict[str, str]], has: dict[str, set[str]]) -> list[str]:
    """What is not there, with what it is for."""
    lacking = {
        name: purpose for kind, names in asked.items() for name, purpose in names.items() if name not in has[kind]
    }
    for pair in EITHER:
        if not set(pair) <= lacking.keys():
            lacking = {name: purpose for name, purpose in lacking.items() if name not in pair}
    return [f"{name} ({purpose})" for name, purpose in lacking.items()]

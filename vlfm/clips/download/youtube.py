"""A video of YouTube, or a section of one, through yt-dlp: `youtube:ID?start=SECONDS&end=SECONDS`.

yt-dlp runs in a child that can be killed. A section is fetched by itself, by ffmpeg, and encoded anew, almost without
loss: only so does it begin with the frame it should begin with.
"""

import contextlib
import importlib.util
import math
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import imageio_ffmpeg

from vlfm.clips.download.cache import hash_name
from vlfm.clips.download.downloads import Downloads
from vlfm.clips.download.retries import Again, Tries
from vlfm.clips.download.web import is_http
from vlfm.clips.video_files import die_with_parent
from vlfm.errors import BadClip, VLFMError

YOUTUBE = "youtube:"
ID = re.compile(r"[A-Za-z0-9_-]{11}")
ADDRESS = "https://www.youtube.com/watch?v={id}"
MIRROR = "VLFM_YOUTUBE"  # the environment variable for another address, with {id} in it
HEIGHT = 720  # rows of the picture; more is seldom there, and clips are smaller
# The sound is left out. Every frame keeps its time, and one thread gives the same bytes everywhere.
ENCODE = (
    "-an -c:v libx264 -preset veryfast -crf 12 -threads 1 -fps_mode passthrough -f mp4 -map_metadata -1 "
    "-fflags +bitexact -flags:v +bitexact"
)
EARLY = 0.001  # seconds; containers round a frame's time to milliseconds, and the one at the start must not be missed
PASSES = re.compile(
    r"HTTP Error (408|425|429|5\d\d)|timed out|Connection|Temporary failure|IncompleteRead|bytes read|reset by peer|"
    r"ffmpeg exited"
)


@dataclass(frozen=True)
class Video:
    """`name`: YouTube's 11 characters. `start`, `end`: seconds; None for the video's own."""

    name: str
    start: float | None
    end: float | None


def split_youtube(source: str) -> Video:
    """What `youtube:ID?start=SECONDS&end=SECONDS` names; both seconds may be missing.

    Raises:
        BadClip: no such id, seconds that are none, or a start that is not before the end.
    """
    name, mark, query = source.removeprefix(YOUTUBE).partition("?")
    if not ID.fullmatch(name):
        raise BadClip(f"{source}: {name!r} is no id of YouTube, which has 11 letters, digits, - or _; correct it")
    given: dict[str, float] = {}
    for part in query.split("&") if mark else []:
        key, _, value = part.partition("=")
        if key not in ("start", "end") or key in given or not re.fullmatch(r"\d{1,9}(\.\d{1,9})?", value):
            raise BadClip(
                f"{source}: {part!r} is no start=SECONDS or end=SECONDS; write youtube:ID?start=SECONDS&end=SECONDS"
            )
        given[key] = float(value)
    if given.get("start", 0.0) >= given.get("end", math.inf):
        raise BadClip(f"{source}: start is not before end; correct them (seconds)")
    return Video(name, given.get("start"), given.get("end"))


def fetch_video(source: str, downloads: Downloads) -> Path:
    """Download a video or a section once, see `Cache.obtain`. A section's first frame is the first at `start` or after.

    `clips.download.rate` holds for each whole video by itself, and for sections not at all.

    Raises:
        BadClip: unavailable, private, removed, …: the message has the reason that YouTube gives.
        VLFMError: yt-dlp is not installed, or `VLFM_YOUTUBE` is no address.
        OSError: the folder cannot be written.
    """
    video = split_youtube(source)
    mirror = os.environ.get(MIRROR) or ADDRESS
    if not is_http(mirror) or "{id}" not in mirror:
        raise VLFMError(f"{MIRROR} is {mirror!r}; give an http(s) address with {{id}} in it, or unset it")

    def make(path: Path) -> None:
        if importlib.util.find_spec("yt_dlp") is None:
            raise VLFMError(f"{source} is fetched by yt-dlp, which is not installed: pip install 'vlfm[youtube]'")
        downloads.cache.make_room()
        work = path.with_suffix(".work")
        command = _command(mirror.replace("{id}", video.name), video, downloads)
        try:
            Tries(source, downloads.settings.attempts).persist(lambda: _try(source, command, work, path, downloads))
        finally:
            shutil.rmtree(work, ignore_errors=True)
        downloads.cache.make_room()

    return downloads.cache.obtain(hash_name(source), make)


def _command(address: str, video: Video, downloads: Downloads) -> list[str]:
    """An argument list for yt-dlp: nothing of the user's or the machine's settings, no file but the video."""
    tall = f"[height<={HEIGHT}]"
    options = {
        "--format": f"bv{tall}/b{tall}/bv/b",
        "--output": "video.%(ext)s",
        "--ffmpeg-location": imageio_ffmpeg.get_ffmpeg_exe(),
        "--match-filters": "!is_live",
        "--color": "never",
        "--socket-timeout": f"{downloads.web.timeout:g}",
        "--retries": str(downloads.settings.attempts),
    }
    if downloads.settings.rate:
        options["--limit-rate"] = f"{downloads.settings.rate * 1e6:.0f}"
    flags = ["--ignore-config", "--no-plugin-dirs", "--no-cache-dir", "--no-playlist", "--no-mtime", "--newline"]
    if video.start is not None or video.end is not None:
        start = max(0.0, (video.start or 0.0) - EARLY)
        options["--download-sections"] = f"*{start:.6f}-{'inf' if video.end is None else f'{video.end:.6f}'}"
        options["--downloader-args"] = f"ffmpeg_o:{ENCODE}"
        flags.append("--force-keyframes-at-cuts")
    listed = [part for option in options.items() for part in option]
    return [sys.executable, "-m", "yt_dlp", *flags, *listed, "--", address]


def _try(source: str, command: list[str], work: Path, path: Path, downloads: Downloads) -> None:
    """Run yt-dlp in an empty folder, and take the one file that it leaves there."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    with tempfile.TemporaryFile(dir=work) as out, tempfile.TemporaryFile(dir=work) as errors:
        code = _run(command, work, out, errors, downloads)
        said, complaints = _lines(out), [line for line in _lines(errors) if line.startswith("ERROR:")]
    found = [file for file in work.iterdir() if file.is_file() and not file.name.endswith((".part", ".ytdl"))]
    if code is None:
        raise Again(f"nothing came for {downloads.web.timeout:g} s (clips.timeout)")
    if code == 0 and len(found) == 1 and found[0].stat().st_size:
        with open(found[0], "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(found[0], path)
        return
    downloads.allow(source, sum(file.stat().st_size for file in work.iterdir()) + 1)
    # A video that is shown live at the moment is no error to it.
    reason = [f"status {code}", *said, *complaints][-1].removeprefix("ERROR:").strip()[:300]
    if PASSES.search(reason):
        raise Again(reason)
    raise BadClip(f"{source} cannot be downloaded ({reason}); leave the row out")


def _run(command: list[str], work: Path, out: BinaryIO, errors: BinaryIO, downloads: Downloads) -> int | None:
    """The exit status, or None where the child was killed because it neither wrote nor said anything for too long."""
    process = subprocess.Popen(
        command,
        cwd=work,
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=errors,
        start_new_session=True,
        preexec_fn=lambda: _confine(int(downloads.settings.largest * 1e9)),
    )
    seen, since = None, time.monotonic()
    try:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(0.1)
            # Not what goes to stderr: ffmpeg keeps on saying there that nothing has come.
            signs = os.fstat(out.fileno()).st_size, *((file.name, _size(file)) for file in sorted(work.iterdir()))
            if signs != seen:
                seen, since = signs, time.monotonic()
            elif time.monotonic() - since > downloads.web.timeout:
                return None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _confine(largest: int) -> None:
    """In the child: die with the parent, and write no file that is larger than it may be."""
    die_with_parent()
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    if hard == resource.RLIM_INFINITY or hard > largest:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, hard))


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def _lines(file: BinaryIO) -> list[str]:
    file.seek(max(0, file.seek(0, os.SEEK_END) - 10_000))
    return file.read().decode(errors="replace").splitlines()

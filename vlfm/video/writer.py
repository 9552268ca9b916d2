"""Frames, one at a time, → a video file: H.264 through a pipe, with the sound of the video they were made from."""

import contextlib
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import imageio_ffmpeg
import numpy as np

from vlfm.clips.video_files import die_with_parent
from vlfm.clips.video_files import said as cleaned
from vlfm.errors import VLFMError
from vlfm.storage.files import atomic_path
from vlfm.storage.pictures import EXACT
from vlfm.video.source import Source

CONTAINERS = (".mp4", ".m4v", ".mov", ".mkv")


def check_output(path: Path, source: Path | None = None) -> None:
    """Raises `VLFMError` for a container that is not written here, or an output that is the input itself."""
    if path.suffix.lower() not in CONTAINERS:
        raise VLFMError(f"{path}: the output must end in one of {', '.join(CONTAINERS)}")
    if source is not None and path.exists() and path.samefile(source):
        raise VLFMError(f"{path} is the input itself; give the output another name")


@contextlib.contextmanager
def video_writer(
    path: Path | str,
    size: tuple[int, int],
    fps: Fraction,
    source: Source | None = None,
    crf: float = 16.0,
    threads: int = 1,
) -> Iterator[Callable[[np.ndarray], None]]:
    """Yield a function that takes frames, uint8 (H, W, 3); the file is there, whole, when the block succeeds.

    Of the source it keeps the sound (the packets as they are, in step with the picture wherever it began), the
    shape of the pixels, the colour tags and the title. The picture is 8-bit yuv420p, so odd sides are made even by
    repeating the last row or column.

    Args:
        path: ends in one of `CONTAINERS`. size: (H, W). fps: exact.
        crf: x264's quality: 0 lossless, 16 hard to tell from the original, 23 its default.
        threads: of x264. Another number gives other bytes, the same number the same.

    Raises:
        VLFMError: if ffmpeg fails, with what it said; what the block raises is passed on, and no file is left.
    """
    path = Path(path)
    check_output(path)
    height, width = size
    odd = (height % 2, width % 2)
    command = [
        *(imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-nostdin", "-v", "error", "-y"),
        *_sound_first(source),
        *("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width + odd[1]}x{height + odd[0]}"),
        *("-framerate", str(fps), "-i", "pipe:0"),
    ]
    if source is not None:
        command += ["-protocol_whitelist", "file,pipe", "-i", f"file:{source.file}"]
        command += ["-map", "0:v:0", "-map", "1:a?", "-c:a", "copy", "-map_metadata", "1"]
    colours = source.colours if source else {}
    matrix = f":out_color_matrix={colours['colorspace']}" if "colorspace" in colours else ""
    scale = f"scale=out_range=tv{matrix}:flags={EXACT}"
    tags = "".join(f":{name}={value}" for name, value in colours.items())
    shape = Fraction(source.media.aspect).limit_denominator(1000) if source else Fraction(1)
    with atomic_path(path) as temporary, tempfile.TemporaryFile() as said:
        command += [
            *("-vf", f"{scale},format=yuv420p,setparams=range=tv{tags},setsar={shape}:max=1000"),
            *("-fps_mode", "passthrough"),
            # Measured on a 720p film: veryfast takes 40 % of the time of the default preset, for 46.5 dB, not 48.3.
            *("-c:v", "libx264", "-preset", "veryfast", "-crf", f"{crf:g}", "-threads", str(threads)),
            # No version string or date: the same frames give the same bytes.
            *("-fflags", "+bitexact", "-flags:v", "+bitexact"),
            *(() if path.suffix.lower() == ".mkv" else ("-movflags", "+faststart")),
            f"file:{temporary}",
        ]
        # A session of its own: Ctrl-C ends this program, which then ends ffmpeg and removes what it has written.
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said,
            preexec_fn=die_with_parent, start_new_session=True,
        )  # fmt: skip

        def write(frame: np.ndarray) -> None:
            if frame.shape != (height, width, 3) or frame.dtype != np.uint8:
                raise ValueError(f"frames must be uint8 {(height, width, 3)}; got {frame.dtype} {frame.shape}")
            if any(odd):
                frame = np.pad(frame, ((0, odd[0]), (0, odd[1]), (0, 0)), mode="edge")
            process.stdin.write(np.ascontiguousarray(frame).data)

        try:
            yield write
            process.stdin.close()
            failed = process.wait() != 0 or not temporary.exists()
        except BrokenPipeError:
            failed = True
        finally:
            process.kill()
            process.wait()
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        if failed:
            said.seek(0)
            lines = "; ".join(map(cleaned, said.read().decode(errors="replace").strip().splitlines()[:2]))
            hint = "; sound that this container does not take goes into .mkv" if source and source.sound else ""
            raise VLFMError(f"ffmpeg could not write {path}: {lines or 'it gave no reason'}{hint}")


def _sound_first(source: Source | None) -> tuple[str, ...]:
    """The delay of the picture where the sound begins before it; sound itself is never moved or cut."""
    delay = source.media.offset if source and source.sound else 0.0
    return ("-itsoffset", f"{delay:.6f}") if delay > 1e-4 else ()

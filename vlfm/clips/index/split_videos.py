"""The user's videos → a CSV of windows, ready for captions."""

import csv
import io
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from vlfm import config
from vlfm.clips.datasets.csv import REQUIRED
from vlfm.clips.index.cutting import Cutter
from vlfm.clips.index_files.rows import plain_seconds
from vlfm.clips.index_files.videos import VIDEOS
from vlfm.errors import BadClip, VLFMError
from vlfm.progress import progress
from vlfm.storage.files import write_bytes
from vlfm.words import plural


def split_video(paths: Iterable[Path | str], output_csv: Path, clips: config.Clips) -> None:
    """Cut videos at shot boundaries into windows and list them in a CSV with empty captions.

    A window is as long as the longest of the durations that fits, see `cut_windows`.

    Args:
        paths: videos, or folders of them (searched through and through, by the endings in `VIDEOS`).
        output_csv: source, start, end, caption; filled in, it is a `clips.index`. Sources are absolute paths.
        clips: the settings: durations, the shot threshold, the timeout.

    Raises:
        VLFMError: a path that is not there, or no window in any video; with the reasons.
    """
    videos: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            videos += sorted(file for file in path.rglob("*") if file.suffix.lower() in VIDEOS and file.is_file())
        elif path.exists():
            videos.append(path)
        else:
            raise VLFMError(f"{path}: no such file or folder")
    cutter = Cutter(clips, output_csv.parent)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(REQUIRED)
    count, reasons = 0, []
    for video in progress(list(dict.fromkeys(video.absolute() for video in videos)), what="split", unit="video"):
        try:
            os.fsencode(video).decode()
        except UnicodeDecodeError:
            reasons.append(f"{os.fsencode(video)!r}: its name is not UTF-8, which a CSV is written in; rename it")
            continue
        try:
            windows = cutter.windows(str(video), None, None)
        except BadClip as error:
            reasons.append(str(error))
            continue
        writer.writerows([str(video), plain_seconds(start), plain_seconds(end), ""] for start, end in windows)
        count += len(windows)
    listed = "\n".join(f"  {reason}" for reason in reasons)
    if not count:
        raise VLFMError(
            f"no clip can be cut from {', '.join(map(str, paths)) or 'nothing'}:\n{listed or '  no videos'}"
        )
    if reasons:
        print(f"{plural(count, 'window')}; left out:\n{listed}", file=sys.stderr)
    write_bytes(output_csv, text.getvalue().encode())

"""Rows and whole videos → windows that cross no cut, and the size of their frames."""

from pathlib import Path
from typing import Any

from vlfm import config
from vlfm.clips import video_files, worker
from vlfm.clips.locate import find, is_remote
from vlfm.clips.windows import choose_size, cut_windows
from vlfm.errors import BadClip


class Cutter:
    """Finds windows; remembers what it knows about each source.

    Args:
        clips: the settings: durations, sizes, the shot threshold, the timeout.
        downloads: folder for sources that must be downloaded to be cut, or to know their size.
    """

    def __init__(self, clips: config.Clips, downloads: Path) -> None:
        self._clips = clips
        self._downloads = downloads
        self._known: dict[str, video_files.Media | BadClip] = {}

    def windows(self, source: str, start: float | None, end: float | None) -> list[tuple[float, float]]:
        """The windows of a stretch: itself where it has one of the durations, else consecutive ones within shots.

        A local file is opened once; a remote one is downloaded only if it has to be cut.

        Args:
            source: as the manifest names it.
            start, end: seconds in the source; None for its own start and end.

        Returns:
            (start, start + T) pairs, seconds; at least one.

        Raises:
            BadClip: no readable video, start beyond its end, or no room for a window.
        """
        shortest = self._clips.shortest
        length = None if end is None else end - (start or 0.0)
        single = None if length is None else self._clips.duration_near(length)
        if length is not None and single is None and length < shortest:
            raise BadClip(
                f"{source}: start and end are {length:g} s apart, less than a clip of {shortest:g} s "
                f"(clips.duration); "
                "move them apart"
            )
        begin = round(start or 0.0, 6)
        if single and is_remote(source):
            return [(begin, round(begin + single, 6))]
        file, found = self._open(source)
        if found.duration is not None and begin >= found.duration:
            raise BadClip(f"{source}: start {begin:g} is beyond its end at {found.duration:g} s; correct start")
        if single:
            return [(begin, round(begin + single, 6))]
        return self._cut(source, file, found, begin, end)

    def size(self, source: str) -> tuple[int, int]:
        """(height, width) of the clips of a source, see `choose_size`.

        Where there is one size nothing is opened. Where there are several the picture has to be seen: a remote source
        is then downloaded.

        Raises:
            BadClip: no readable video.
        """
        if len(self._clips.sizes) == 1:
            return self._clips.sizes[0]
        _, found = self._open(source)
        return choose_size(found.width * found.aspect, found.height, self._clips.sizes)

    def _open(self, source: str) -> tuple[Path, video_files.Media]:
        known = self._known.get(source)
        if isinstance(known, BadClip):
            raise BadClip(str(known))
        try:
            # Every time: what was downloaded may have been removed, to make room for another source.
            file = find(source, self._downloads, self._clips.timeout, self._clips.download)
            self._known[source] = known = known or video_files.probe(file, self._clips.timeout)
        except BadClip as error:
            self._known[source] = known = error if source in str(error) else BadClip(f"{source}: {error}")
            raise BadClip(str(known)) from error
        return file, known

    def _cut(
        self, source: str, file: Path, found: video_files.Media, start: float, end: float | None
    ) -> list[tuple[float, float]]:
        task: dict[str, Any] = {
            "do": "cuts",
            "file": str(file),
            "media": vars(found),
            "start": start,
            "end": end,
            "threshold": self._clips.shot_threshold,
        }
        cuts: list[float] = []
        first = last = None
        try:
            for report in worker.run(task, self._clips.timeout):
                if "cut" in report:
                    cuts.append(report["cut"])
                elif "last" in report:
                    first, last = report["first"], report["last"]
        except worker.Died as error:
            raise BadClip(f"{source} cannot be decoded: {error}; replace the file or raise clips.timeout") from None
        if last is None:
            raise BadClip(f"{source}: no frame can be decoded from {start:g} s on; correct start or replace the file")
        windows = cut_windows(max(start, first), last, cuts, self._clips.durations)
        if not windows:
            raise BadClip(
                f"{source}: no shot between {start:g} and {last:g} s is as long as a clip of "
                f"{self._clips.shortest:g} s "
                f"({len(cuts)} cuts found); raise clips.shot_threshold or lower clips.duration"
            )
        return windows

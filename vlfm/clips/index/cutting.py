"""Rows and whole videos → windows that cross no cut, and the size of their frames."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from vlfm import config
from vlfm.clips import video_files, worker
from vlfm.clips.locate import find, is_file
from vlfm.clips.windows import choose_size, cut_windows
from vlfm.errors import BadClip

OPENED = 1000  # sources of single windows that are opened: it takes 0.05 s each


class Cutter:
    """Finds windows; remembers what it knows about each source.

    Args:
        clips: the settings: durations, sizes, the shot threshold, the timeout.
        downloads: folder for sources that must be downloaded to be cut, or to know their size.
    """

    def __init__(self, clips: config.Clips, downloads: Path) -> None:
        self._clips = clips
        self._sizes = clips.sizes
        # Published lengths recur, a million times over: the arithmetic is done once for each.
        self._near = lru_cache(4096)(clips.duration_near)
        self._cut_evenly = lru_cache(4096)(lambda start, end: cut_windows(start, end, (), clips.durations))
        self._downloads = downloads
        self._known: dict[str, video_files.Media | BadClip] = {}

    def windows(
        self, source: str, start: float | None, end: float | None, one_shot: bool = False
    ) -> list[tuple[float, float]]:
        """The windows of a stretch: itself where it has one of the durations, else consecutive ones within shots.

        A local file is opened once; one that is elsewhere is fetched only if it has to be cut. After the first thousand
        sources those that need not be cut are only looked for: what is wrong in them is left to decoding.

        Args:
            source: as the manifest names it.
            start, end: seconds in the source; None for its own start and end.
            one_shot: whether start and end are of one shot of a video that is there: then nothing is opened.

        Returns:
            (start, start + T) pairs, seconds; at least one.

        Raises:
            BadClip: no readable video, start beyond its end, or no room for a window.
        """
        length = None if end is None else end - (start or 0.0)
        single = None if length is None else self._near(length)
        if length is not None and single is None and length < self._clips.shortest:
            raise BadClip(
                f"{source}: start and end are {length:g} s apart, less than a clip of {self._clips.shortest:g} s "
                "(clips.duration); move them apart"
            )
        begin = round(start or 0.0, 6)
        if single and (one_shot or not is_file(source)):
            return [(begin, round(begin + single, 6))]
        if one_shot and end is not None:
            return self._cut_evenly(begin, end)
        if single and source not in self._known and len(self._known) >= OPENED:
            find(source, self._downloads, self._clips.timeout, self._clips.download)
            return [(begin, round(begin + single, 6))]
        file, found = self._open(source)
        if found.duration is not None and begin >= found.duration:
            raise BadClip(f"{source}: start {begin:g} is beyond its end at {found.duration:g} s; correct start")
        if single:
            return [(begin, round(begin + single, 6))]
        return self._cut(source, file, found, begin, end)

    def size(self, source: str, shown: tuple[float, float] | None = None) -> tuple[int, int]:
        """(height, width) of the clips of a source, see `choose_size`.

        Where there is one size nothing is opened. Where there are several the picture has to be seen, unless the
        width and height it is shown at are published (`shown`): a remote source is then downloaded.

        Raises:
            BadClip: no readable video.
        """
        if len(self._sizes) == 1:
            return self._sizes[0]
        if shown is None:
            _, found = self._open(source)
            shown = found.width * found.aspect, found.height
        return choose_size(*shown, self._sizes)

    def fps(self, source: str) -> float:
        """The frame rate of a source, which is opened.

        Raises:
            BadClip: no readable video, or it does not tell.
        """
        _, found = self._open(source)
        if not found.fps:
            raise BadClip(f"{source} states no frame rate, to turn its frame numbers into seconds; leave the row out")
        return found.fps

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

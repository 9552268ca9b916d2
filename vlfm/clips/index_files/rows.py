"""What every index file is read into: rows, one after another, and what is asked for to read it."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vlfm.clips.download.youtube import ID, YOUTUBE
from vlfm.clips.index_files.videos import Videos
from vlfm.errors import BadClip
from vlfm.splits import TRAIN


@dataclass(slots=True)  # frozen, a million of them take seconds more
class Row:
    """One line of an index file, checked.

    Attributes:
        line: where it stands in its file; in a file of lines, counted from 1.
        source: as the manifest names it.
        start, end: seconds in the source; None for its own start and end.
        caption: text; empty where a model is to caption the clips (`Request.captioned`).
        split: `train` or `test`.
        file: name of the index file; "" where there is only one.
        key: what the data set calls the row, the same wherever its video lies.
        licence: its terms, may be "".
        columns: published column → value, and `seconds`, `width`, `height` where they are known: what `where` sees.
        extra: those of the columns that the manifest keeps beside the caption.
        shown: (width, height) of the video in pixels, where published.
        frames: (first, last + 1) in place of start and end, where the file counts in frames and tells no frame rate.
        one_shot: whether start … end is of one shot, as published or for want of a look: the source need not be opened.
        find: finds out source, start, end and one_shot, where that costs something, or raises BadClip where the video
            is not there: it is called for rows that are wanted alone.
    """

    line: int
    source: str
    start: float | None
    end: float | None
    caption: str
    split: str = TRAIN
    file: str = ""
    key: str = ""
    licence: str = ""
    columns: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    shown: tuple[float, float] | None = None
    frames: tuple[int, int] | None = None
    one_shot: bool = False
    find: "Callable[[], Place] | None" = None


@dataclass(frozen=True, slots=True)
class Bad:
    """A line of an index file that is no row."""

    line: int
    source: str
    reason: str
    file: str = ""


@dataclass(frozen=True)
class Request:
    """What a data set is read from.

    Attributes:
        files: its index files, in the order given.
        videos: what the user has of its videos.
        caption: the column that captions come from, one of the data set's.
        cache: folder for what has been asked of the network, once.
        timeout: seconds without an answer after which a server is given up.
        captioned: whether rows without a caption are given one later, and may be without.
    """

    files: tuple[Path, ...]
    videos: Videos
    caption: str
    cache: Path
    timeout: float
    captioned: bool = False


def one_line(text: str, what: str, may_be_empty: bool = False) -> str:
    """A caption without line breaks and double spaces.

    Args:
        what: names the row.
        may_be_empty: whether it is given a caption later, if it has none.

    Raises:
        BadClip: nothing is left of it.
    """
    plain = text.isascii() and text.isprintable() and "  " not in text  # most are, and are left as they are
    caption = text.strip() if plain else " ".join(text.split())
    if not caption and not may_be_empty:
        raise BadClip(f"{what}: the caption is empty; write what the window shows")
    return caption


def seconds_of(source: str, column: str, cell: str) -> float | None:
    """A cell of seconds; None where it is empty.

    Raises:
        BadClip: no number, or less than 0.
    """
    if not cell:
        return None
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise BadClip(f"{source}: {column} is {cell!r}; give seconds from the start of the source, 0 or more")
    return value


def clock(name: str, column: str, text: str) -> float:
    """Seconds of a timestamp in a video, `1:30:42` or `00:03:10.567`.

    Raises:
        BadClip: it is none.
    """
    match = re.fullmatch(r"(\d+):([0-5]?\d):([0-5]?\d(?:\.\d+)?)", text.strip())
    if match is None:
        raise BadClip(f"{name}: {column} is {text!r}, which is no time hours:minutes:seconds")
    return round(int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3]), 6)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a stretch of a video is to be had: `source`, `start`, `end` and `one_shot` of a `Row`."""

    source: str
    start: float | None
    end: float | None
    one_shot: bool


def missing(reason: str) -> "Callable[[], Place]":
    """The `find` of a row whose video is not there."""

    def find() -> Place:
        raise BadClip(reason)

    return find


def at_place(row: Row, place: Place) -> Row:
    """A row with what its place says."""
    return replace(row, source=place.source, start=place.start, end=place.end, one_shot=place.one_shot, find=None)


def place_of(
    videos: Videos,
    cut: tuple[str, ...],
    whole: tuple[str, ...],
    start: float,
    end: float,
    remote: str,
    one_shot: bool = False,
) -> Place:
    """Where a stretch of a published video is: a file that holds just that, or all of the video, or on the network.

    A stretch on the network is taken to be of one shot: to see its cuts it would have to be downloaded.

    Args:
        cut: names that a file of just the stretch may have. whole: names that a file of all of it may have.
        start, end: the stretch, seconds in the whole video.
        remote: the source in the manifest if neither file is there; if it is of YouTube, its time zero is `start`.
        one_shot: whether the data set says that the stretch is of one shot.
    """
    length = round(end - start, 6)
    if source := videos.find(*cut):
        if one_shot or videos.remote:
            return Place(source, 0.0, length, True)
        return Place(source, None, None, False)
    if source := videos.find(*whole):
        return Place(source, start, end, one_shot)
    if remote.startswith(YOUTUBE):
        return Place(remote, 0.0, length, True)
    return Place(remote, start, end, True)


def youtube(video: str, start: float | None = None, end: float | None = None) -> str:
    """The source of a video of YouTube, or of a section of it; `start`, `end` in seconds.

    Raises:
        BadClip: it is no id of a video.
    """
    if not ID.fullmatch(video):
        raise BadClip(f"{video!r} is no id of a video of YouTube, which has eleven letters, digits, - and _")
    if start is None or end is None:
        return f"{YOUTUBE}{video}"
    return f"{YOUTUBE}{video}?start={plain_seconds(start)}&end={plain_seconds(end)}"


def plain_seconds(seconds: float) -> str:
    """To the microsecond, without zeros at the end: `59`, `0.5`."""
    return f"{seconds:.6f}".rstrip("0").rstrip(".")

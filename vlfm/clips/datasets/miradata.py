"""MiraData: long takes with structured captions (Ju et al., https://arxiv.org/abs/2407.06358).

Terms: for information only, not for any commercial use, and not to be passed on; the repository is GPL-3.0, the videos
are their owners'.

Index: the CSVs of version 0 (`index,video_id,start_frame,end_frame,…_caption,fps,start_timestep,end_timestep,,`) and
of version 1 (`clip_id,source,video_url,video_id,width,height,fps,seconds,timestamp,frame_number,framestamp,file_path,
…_caption`). A take is looked for in `videos` under the names that the set's own script gives it (`file_path`,
`{index}.mp4`), then as the whole video. Where neither is there, it is a section of YouTube, or the whole of
`video_url` for videos of other sites. `caption` is `short_caption`, `dense_caption` or another of its captions.
"""

import re
from collections.abc import Iterator
from functools import partial

from vlfm.clips.index_files.csv_files import make_rows
from vlfm.clips.index_files.rows import Bad, Request, Row, clock, one_line, place_of, seconds_of, youtube
from vlfm.errors import BadClip

FILES = ("*.csv",)
LICENCE = "information only, not commercial (MiraData); videos: their owners'"
CAPTIONS = (
    "short_caption",
    "dense_caption",
    "main_object_caption",
    "background_caption",
    "style_caption",
    "camera_caption",
)
FIRST = ("index", "video_id", "start_frame", "end_frame", "fps", "start_timestep", "end_timestep")
SECOND = ("clip_id", "source", "video_url", "video_id", "width", "height", "fps", "seconds", "timestamp", "file_path")
COLUMNS = (*dict.fromkeys((*FIRST, *SECOND, *CAPTIONS)),)
ADVICE = "An index of MiraData has clip_id, video_url, timestamp and file_path (v1), or index, start_frame and fps (v0)"


def read(request: Request) -> Iterator[Row | Bad]:
    """The rows of the CSVs, of either version."""
    for path in request.files:
        make = partial(_row, request, path.name)
        yield from make_rows(path, ("video_id", request.caption), ADVICE, "video_id", make)


def _row(request: Request, file: str, line: int, video: str, values: dict[str, str]) -> Row:
    if "clip_id" in values:
        key, start, end, cut, whole, remote = _second(video, values)
    else:
        key, start, end, cut, whole, remote = _first(video, values)
    if start >= end:
        raise BadClip(f"{key}: it starts at {start:g} s, not before its end at {end:g} s")
    place = place_of(request.videos, cut, (*whole, video), start, end, remote)
    shown = [seconds_of(key, name, values.get(name, "")) for name in ("width", "height")]
    return Row(
        line,
        place.source,
        place.start,
        place.end,
        one_line(values[request.caption], key, request.captioned),
        file=file,
        key=key,
        licence=LICENCE,
        columns={**values, "seconds": end - start},
        extra={name: cell for name, cell in values.items() if name != request.caption and cell},
        shown=tuple(shown) if all(shown) else None,
        one_shot=place.one_shot,
    )


def _first(video: str, values: dict[str, str]) -> tuple[str, float, float, tuple[str, ...], tuple[str, ...], str]:
    """Version 0: frames and their rate, which are more exact than the times beside them."""
    name = values.get("index", "")
    try:
        start, end = (round(int(values[column]) / float(values["fps"]), 6) for column in ("start_frame", "end_frame"))
    except (KeyError, ValueError, ZeroDivisionError):
        raise BadClip(f"{name or video}: start_frame, end_frame and fps are no numbers of frames") from None
    return name, start, end, (name,), (name.rpartition("-")[0],), youtube(video, start, end)


def _second(video: str, values: dict[str, str]) -> tuple[str, float, float, tuple[str, ...], tuple[str, ...], str]:
    """Version 1: `timestamp` is a pair of times in the video."""
    name = values["clip_id"]
    times = re.findall(r"[\d:.]+", values.get("timestamp", ""))
    if len(times) != 2:
        raise BadClip(f"{name}: timestamp is {values.get('timestamp', '')!r}, which is no pair of times")
    start, end = (clock(name, "timestamp", text) for text in times)
    download = re.match(r"\d+", name)
    whole = (f"{int(download[0]):012d}",) if download else ()
    if "youtube" in values.get("source", "").lower():
        remote = youtube(video, start, end)
    elif (remote := values.get("video_url", "")).lower().startswith(("http://", "https://")):
        pass
    else:
        raise BadClip(f"{name}: video_url is {remote!r}, which is no http(s) address")
    cut = (values["file_path"],) if values.get("file_path") else ()
    return name, start, end, cut, whole, remote

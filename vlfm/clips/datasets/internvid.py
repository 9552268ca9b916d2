"""InternVid: captioned shots of YouTube (Wang et al., https://arxiv.org/abs/2307.06942).

Terms: the captions are CC BY-NC-SA 4.0, not to be used to harm people; the videos are their uploaders'.

Index: JSON lines as InternVid-10M-FLT has them, with `YoutubeID`, `Start_timestamp`, `End_timestamp` (`00:03:10.567`),
`Caption`, `Aesthetic_Score`, `UMT_Score`. A shot is looked for in `videos` as
`{YoutubeID}_{Start_timestamp}_{End_timestamp}.mp4`, then as the whole video `{YoutubeID}.mp4`, and is a section of
YouTube where neither is there.
"""

import json
from collections.abc import Iterator
from typing import Any

from vlfm.clips.index_files.json_files import read_lines
from vlfm.clips.index_files.rows import Bad, Request, Row, clock, one_line, place_of, youtube
from vlfm.errors import BadClip

FILES = ("*.jsonl",)
LICENCE = "CC BY-NC-SA 4.0; videos: their uploaders'"
NEEDED = ("YoutubeID", "Start_timestamp", "End_timestamp", "Caption")
COLUMNS = (*NEEDED, "Aesthetic_Score", "UMT_Score", "seconds")
CAPTIONS = ()


def read(request: Request) -> Iterator[Row | Bad]:
    """The rows of the files, one a line."""
    for path in request.files:
        for line, text in read_lines(path):
            video = ""
            try:
                values = _object(text)
                video = str(values["YoutubeID"])
                yield _row(request, line, path.name, video, values)
            except BadClip as error:
                yield Bad(line, video, str(error), path.name)


def _object(text: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except ValueError as error:
        raise BadClip(f"the line is no JSON ({error})") from None
    if not isinstance(values, dict) or not set(NEEDED) <= values.keys():
        raise BadClip(f"the line is no object with {', '.join(NEEDED)}")
    return values


def _row(request: Request, line: int, file: str, video: str, values: dict[str, Any]) -> Row:
    first, last = str(values["Start_timestamp"]), str(values["End_timestamp"])
    start, end = clock(video, "Start_timestamp", first), clock(video, "End_timestamp", last)
    if start >= end:
        raise BadClip(f"{video}: Start_timestamp {first} is not before End_timestamp {last}")
    remote = youtube(video, start, end)
    place = place_of(request.videos, (f"{video}_{first}_{last}",), (video,), start, end, remote, one_shot=True)
    return Row(
        line,
        place.source,
        place.start,
        place.end,
        one_line(str(values["Caption"] or ""), video, request.captioned),
        file=file,
        key=f"{video}_{first}_{last}",
        licence=LICENCE,
        columns={**values, "seconds": end - start},
        extra={name: value for name, value in values.items() if name != "Caption"},
        one_shot=place.one_shot,
    )

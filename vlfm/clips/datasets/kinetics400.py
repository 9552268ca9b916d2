"""Kinetics-400: clips of ten seconds of human actions on YouTube (Kay et al., https://arxiv.org/abs/1705.06950).

Terms: the annotations are CC BY 4.0. The videos are their uploaders'; those with `is_cc` 1 are CC BY by YouTube.

Index: `train.csv`, `val.csv`, `test.csv`, each `label,youtube_id,time_start,time_end,split,is_cc`. A clip is looked
for in `videos` as `{id}_{start:06d}_{end:06d}.mp4`, the name that copies of the set use, then as the whole video
`{id}.mp4`, and is a section of YouTube where neither is there. Clips of `val` and `test` are test clips.
"""

from collections.abc import Iterator
from functools import partial

from vlfm.clips.index_files.csv_files import make_rows
from vlfm.clips.index_files.rows import Bad, Request, Row, one_line, place_of, seconds_of, youtube
from vlfm.errors import BadClip
from vlfm.splits import TEST, TRAIN

FILES = ("train.csv", "val.csv", "validate.csv", "test.csv")
LICENCE = "CC BY 4.0; videos: their uploaders'"
CREATIVE = "CC BY 4.0; video: CC BY (YouTube)"
COLUMNS = ("label", "youtube_id", "time_start", "time_end", "split", "is_cc", "seconds")
CAPTIONS = ()
NEEDED = ("label", "youtube_id", "time_start", "time_end", "split")


def read(request: Request) -> Iterator[Row | Bad]:
    """The rows of the CSVs."""
    advice = f"An index of Kinetics has {', '.join(COLUMNS[:6])}"
    for path in request.files:
        yield from make_rows(path, NEEDED, advice, "youtube_id", partial(_row, request, path.name))


def _row(request: Request, file: str, line: int, video: str, values: dict[str, str]) -> Row:
    if not video:
        raise BadClip("the cell youtube_id is empty")
    start = seconds_of(video, "time_start", values["time_start"])
    end = seconds_of(video, "time_end", values["time_end"])
    if start is None or end is None or start >= end:
        raise BadClip(f"{video}: time_start {values['time_start']!r} is not before time_end {values['time_end']!r}")
    cut = f"{video}_{int(start):06d}_{int(end):06d}"
    place = place_of(request.videos, (cut,), (video,), start, end, youtube(video, start, end))
    creative = values.get("is_cc") == "1"
    return Row(
        line,
        place.source,
        place.start,
        place.end,
        one_line(values["label"], video),
        TRAIN if values["split"] == "train" else TEST,
        file,
        f"{video}_{values['time_start']}_{values['time_end']}",
        CREATIVE if creative else LICENCE,
        columns={**values, "seconds": end - start},
        extra={name: values[name] for name in ("youtube_id", "time_start", "time_end", "is_cc") if name in values},
        one_shot=place.one_shot,
    )

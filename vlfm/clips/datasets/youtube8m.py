"""YouTube-8M: labelled videos of YouTube (Abu-El-Haija et al., https://arxiv.org/abs/1609.08675).

Terms: the labels are CC BY 4.0; the videos are their uploaders'.

Index: `vocabulary.csv` and the video-level TFRecord files (`train0000.tfrecord`, …; patterns and folders may be given),
of which `id` and `labels` are read. A caption is the labels' names. Files of `validate` and `test` hold test clips.

An id of four characters stands for a video whose true id the data set's server tells. It is asked for once, and only
for rows that are to be used. A video is looked for in `videos` as `{id}.mp4`, by either id; where it is not there it is
a section of YouTube, ten seconds from 0:55 on: which part of a video shows its labels is not published, and none is
shorter than two minutes.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from vlfm.clips.index_files.csv_files import read_csv
from vlfm.clips.index_files.pseudo_ids import PseudoIds
from vlfm.clips.index_files.rows import Bad, Place, Request, Row, at_place, youtube
from vlfm.clips.index_files.tfrecord import read_features
from vlfm.errors import BadClip, VLFMError
from vlfm.splits import TEST, TRAIN

FILES = ("vocabulary.csv", "*.tfrecord")
LICENCE = "CC BY 4.0; videos: their uploaders'"
COLUMNS = ("id", "labels", "split")
CAPTIONS = ()
SECTION = (55.0, 65.0)  # seconds


def read(request: Request) -> Iterator[Row | Bad]:
    """The rows of the TFRecord files, a row's line being its record's place in its file, from 1.

    Raises:
        VLFMError: no vocabulary, or a file that is no TFRecord.
    """
    records = [path for path in request.files if path.suffix != ".csv"]
    labels = _vocabulary([path for path in request.files if path.suffix == ".csv"])
    ids = PseudoIds(request.cache / "youtube8m.txt", request.timeout)
    for path in records:
        split = TRAIN if path.name.startswith("train") else TEST
        for line, features in read_features(path, ("id", "video_id", "labels")):
            name = b"".join(features.get("id") or features.get("video_id") or []).decode(errors="replace")
            try:
                yield _row(request, ids, labels, line, path.name, name, features.get("labels", []), split)
            except BadClip as error:
                yield Bad(line, name, str(error), path.name)


def _row(
    request: Request, ids: PseudoIds, names: dict[int, str], line: int, file: str, name: str, labels: list, split: str
) -> Row:
    if not re.fullmatch(r"[\w-]{4,11}", name):
        raise BadClip(f"the record's id is {name!r}, which is none of YouTube-8M")
    if not labels:
        raise BadClip(f"{name}: the record has no labels, so there is no caption")
    if unknown := [label for label in labels if label not in names]:
        raise BadClip(f"{name}: vocabulary.csv has no label {unknown[0]}; both are to be of one version")
    source = request.videos.find(name)
    place = partial(_ask, request, ids, name) if source is None else _place(request, source)
    columns = {"id": name, "labels": ",".join(map(str, labels)), "split": split}
    caption = ", ".join(names[label] for label in labels)
    extra = {"id": name, "labels": list(labels)}
    row = Row(line, "", None, None, caption, split, file, name, LICENCE, columns=columns, extra=extra)
    return replace(row, find=place) if callable(place) else at_place(row, place)


def _ask(request: Request, ids: PseudoIds, name: str) -> Place:
    true = ids.find(name)
    if source := request.videos.find(true):
        return _place(request, source)
    return Place(youtube(true, *SECTION), 0.0, SECTION[1] - SECTION[0], True)


def _place(request: Request, source: str) -> Place:
    """A whole video: its length is known once it is opened, and an address is not."""
    return Place(source, *SECTION, True) if request.videos.remote else Place(source, None, None, False)


def _vocabulary(paths: list[Path]) -> dict[int, str]:
    if len(paths) != 1:
        raise VLFMError("YouTube-8M is read with one vocabulary.csv, which names its labels; add it to `index`")
    names = {}
    for line, values, wrong in read_csv(paths[0], ("Index", "Name"), "It is YouTube-8M's vocabulary.csv"):
        try:
            if wrong:
                raise ValueError(wrong)
            # A few labels have no name of their own.
            names[int(values["Index"])] = values["Name"] or values.get("KnowledgeGraphId", "") or values["Index"]
        except ValueError as error:
            raise VLFMError(f"{paths[0]}, line {line}: {error}; fetch it again") from None
    return names

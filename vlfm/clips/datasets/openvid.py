"""OpenVid-1M: a million captioned clips (Nan et al., https://arxiv.org/abs/2407.02371).

Terms: the captions and scores are CC BY 4.0. The videos are of Panda-70M, ChronoMagic, Open-Sora-Plan and CelebV-HQ,
and their terms hold for them.

Index: `OpenVid-1M.csv` or `OpenVidHD.csv`, `video,caption,aesthetic score,motion score,temporal consistency
score,camera motion,frame,fps,seconds`. The clips are single shots, in archives `OpenVid_partN.zip`; which is in which
is not in the CSV. So one of

- `videos` is a folder of clips, as `unzip -j` leaves them, or of the archives as they were downloaded (`_partaa` and
  `_partab` need not be joined): they are looked into, not unpacked;
- a second index file is a listing, parquet or CSV: `video` and `part_id`, N of the archive (the data set
  bigdata-pw/OpenVid-1M has one), or `video` and `zip`, the archive's name (two parts joined by `|`). `videos` is
  then the address that the archives' names are put behind, by default the data set's own.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from vlfm.clips.download.zips import ZIP
from vlfm.clips.index_files.csv_files import make_rows, read_csv
from vlfm.clips.index_files.name_table import NameTable
from vlfm.clips.index_files.rows import Bad, Request, Row, missing, one_line, seconds_of
from vlfm.errors import VLFMError

FILES = ("OpenVid*.csv", "*.parquet")
LICENCE = "CC BY 4.0; videos: terms of Panda-70M, ChronoMagic, Open-Sora-Plan, CelebV-HQ"
KEPT = (
    "aesthetic score",
    "motion score",
    "temporal consistency score",
    "camera motion",
    "frame",
    "fps",
    "seconds",
)
COLUMNS = ("video", "caption", *KEPT)
CAPTIONS = ()

HOME = "https://huggingface.co/datasets/nkp37/OpenVid-1M/resolve/main"
# Published in two parts, by the repository's list of large files.
SPLIT = frozenset((73, 76, 78, 83, 88, 89, 92, 95, 96, 98, 102, 103, 111, 118, 183, 184, 185))
NOWHERE = "is neither in `videos` nor in a listing; fetch it, or leave the row out"
ADVICE = f"An index of OpenVid has the columns {', '.join(COLUMNS)}; a listing has video, and part_id or zip"


def read(request: Request) -> Iterator[Row | Bad]:
    """The rows of the CSVs; those whose video is neither in `videos` nor in a listing are bad.

    Raises:
        VLFMError: neither videos nor a listing, no index among the files, or a file that is neither.
    """
    indices, listings = [], []
    for path in request.files:
        (listings if _is_listing(path) else indices).append(path)
    if not indices:
        raise VLFMError(f"{', '.join(map(str, request.files))}: a listing alone has no captions; add OpenVid-1M.csv")
    if not listings and (not request.videos or request.videos.remote):
        raise VLFMError(
            "OpenVid-1M.csv does not say which archive a clip is in: let `videos` be the folder of its clips or of "
            "its archives, or add a listing (video, part_id) to `index`"
        )
    listed = Listing(listings, request.videos.address or HOME)
    for path in indices:
        yield from make_rows(path, COLUMNS, ADVICE, "video", partial(_row, request, listed, path.name))


def _row(request: Request, listed: "Listing", file: str, line: int, video: str, values: dict[str, str]) -> Row:
    source = None if request.videos.remote else request.videos.find(video)
    source = source or listed.find(video)
    seconds = seconds_of(video, "seconds", values["seconds"])
    return Row(
        line,
        source or video,
        0.0,
        seconds,
        one_line(values["caption"], video, request.captioned),
        file=file,
        key=video,
        licence=LICENCE,
        columns=values,
        extra={name: values[name] for name in KEPT},
        one_shot=seconds is not None,
        find=None if source else missing(f"{video} {NOWHERE}"),
    )


def _is_listing(path: Path) -> bool:
    if path.suffix == ".parquet":
        return True
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            columns = [name.strip() for name in file.readline().split(",")]
    except OSError as error:
        raise VLFMError(f"{path} cannot be read ({error.strerror}); correct its path in clips.index") from None
    return "caption" not in columns and bool({"part_id", "zip"} & set(columns))


class Listing:
    """Video → archive, by listings; twelve bytes a video are kept.

    Args:
        paths: parquet or CSV, with `video` and either `part_id` or `zip`; what comes first holds.
        address: what the archives' names are put behind.
    """

    def __init__(self, paths: list[Path], address: str) -> None:
        numbers: dict[str, int] = {}
        self._videos = NameTable()
        for path in paths:
            for video, archive in _read_listing(path):
                self._videos.add(video, numbers.setdefault(archive, len(numbers)))
        self._archives = ["|".join(f"{address}/{part}" for part in archive.split("|")) for archive in numbers]

    def find(self, video: str) -> str | None:
        """The source of a video, or None where no listing has it."""
        found = self._videos.find(video)
        return None if found is None else f"{ZIP}{self._archives[found]}!{video}"


def _read_listing(path: Path) -> Iterator[tuple[str, str]]:
    """(video, archive) pairs of a listing."""
    if path.suffix == ".parquet":
        yield from _read_parquet(path)
        return
    for line, values, wrong in read_csv(path, ("video",), ADVICE):
        try:
            if wrong:
                raise ValueError(wrong)
            yield values["video"], values.get("zip") or archive_of(int(values.get("part_id", "")))
        except ValueError as error:
            raise VLFMError(f"{path}, line {line}: {error}; a listing has video, and part_id or zip") from None


def _read_parquet(path: Path) -> Iterator[tuple[str, str]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            columns = [name for name in ("video", "part_id", "zip") if name in file.schema_arrow.names]
            for batch in file.iter_batches(1 << 16, columns=columns):
                for row in batch.to_pylist():
                    yield row["video"], row.get("zip") or archive_of(int(row["part_id"]))
    except (pa.ArrowException, KeyError, OSError, TypeError, ValueError) as error:
        raise VLFMError(f"{path} is no listing of OpenVid ({error}); it has video, and part_id or zip") from None


def archive_of(part: int) -> str:
    """The name of archive N, its parts joined by `|` where it is published in two."""
    name = f"OpenVid_part{part}"
    return f"{name}_partaa|{name}_partab" if part in SPLIT else f"{name}.zip"

"""What every stage shares on disk: fingerprints, atomic writes, the ledger, the shard plan, tar shards.

Nothing here knows about video or about models. Files are tar, parquet, json and npy only; no pickle is
ever written or read.
"""

import contextlib
import hashlib
import io
import json
import math
import os
import shutil
import sys
import tarfile
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vlfm.errors import FingerprintMismatch, VLFMError
from vlfm.splits import TRAIN

MEMBERS = ("png", "jpg", "json", "txt", "npy")
NPY_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def fingerprint(settings: Mapping[str, Any]) -> str:
    """The identity of what made a store: 16 hex digits of the SHA-256 of `settings` as canonical JSON."""
    canonical = json.dumps(settings, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def check_fingerprint(found: str | None, expected: str, store: Path, remedy: str) -> None:
    """Refuse a store made by other settings.

    Raises:
        FingerprintMismatch: naming the store, both fingerprints and the `remedy`.
    """
    if found != expected:
        raise FingerprintMismatch(
            f"{store} was made with other settings (fingerprint {found}, now {expected}). " + remedy
        )


@contextlib.contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it takes the final name only if the block succeeds.

    The suffix is kept, so that writers that look at it behave. The file is flushed to disk before it is
    renamed: after a crash there is the old file, the new file or none, never half of one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        with open(temporary, "rb") as handle:
            os.fsync(handle.fileno())
        # Some libraries (safetensors) give files to their owner alone; results are shared on clusters.
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    """The process's file mode mask, which can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def write_bytes(path: Path | str, data: bytes) -> None:
    """Write `data` to `path`, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def remove_partial(partial: Path) -> None:
    """Remove the folder `….partial-IDENTITY` of work that is complete; with a word also those of the same work under
    other identities, which nothing will go on with."""
    for folder in partial.parent.glob(f"{partial.name.rpartition('-')[0]}-*"):
        if folder != partial:
            print(f"removing {folder}: work on this shard under other settings, never finished", file=sys.stderr)
        shutil.rmtree(folder)


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as readable JSON, atomically."""
    write_bytes(path, (json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n").encode())


def read_json(path: Path | str) -> Any:
    """Read a JSON file.

    Raises:
        VLFMError: if there is no such file or it is not JSON, naming it.
    """
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise VLFMError(f"{path} is missing: the stage that writes it has not run here") from None
    except ValueError as error:
        raise VLFMError(f"{path} is not valid JSON ({error}); remove it and run the rule again") from error


# ------------------------------------------------------------------------------------------- ledger


@dataclass(frozen=True)
class LedgerRow:
    """What one stage did with one clip (or, before a clip exists, with one row of the user's CSV).

    Attributes:
        clip_id: the clip, or "" where the row never became one.
        stage: index, decode, invert, …
        status: `ok` or `bad`.
        reason: empty when ok, else what was wrong, where, in one sentence.
        source: file or URL the clip comes from.
        row: line of the user's CSV, the header being line 1.
        seconds: wall time spent on it.
        bytes: what was written for it.
    """

    clip_id: str
    stage: str
    status: str
    reason: str = ""
    source: str = ""
    row: int = 0
    seconds: float = 0.0
    bytes: int = 0


def write_ledger(path: Path | str, rows: Iterable[LedgerRow]) -> None:
    """Write ledger rows as parquet, atomically, in the order given."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            ("clip_id", pa.string()),
            ("stage", pa.string()),
            ("status", pa.string()),
            ("reason", pa.string()),
            ("source", pa.string()),
            ("row", pa.int64()),
            ("seconds", pa.float64()),
            ("bytes", pa.int64()),
        ]
    )
    with atomic_path(path) as temporary:
        pq.write_table(pa.Table.from_pylist([asdict(row) for row in rows], schema=schema), temporary)


def read_ledger(path: Path | str) -> list[LedgerRow]:
    """Read the rows that `write_ledger` wrote."""
    import pyarrow.parquet as pq

    return [LedgerRow(**row) for row in pq.read_table(path).to_pylist()]


def check_share_of_bad(rows: list[LedgerRow], allowed: float, what: str) -> None:
    """Fail a unit of work in which too much went wrong.

    Raises:
        VLFMError: if more than the `allowed` share of `rows` is bad, or none is good; with the first reasons.
    """
    bad = [row for row in rows if row.status != "ok"]
    if rows and (len(bad) > allowed * len(rows) or len(bad) == len(rows)):
        reasons = "\n".join(f"  {row.clip_id or f'row {row.row}'}: {row.reason}" for row in bad[:10])
        raise VLFMError(
            f"{what}: {len(bad)} of {len(rows)} clips are bad, more than the allowed share {allowed:g} "
            f"(clips.max_bad), or none is left:\n{reasons}"
        )


# --------------------------------------------------------------------------------------- shard plan


@dataclass(frozen=True)
class Clip:
    """One row of the manifest: a window of a source video and its caption.

    Attributes:
        clip_id: 16 hex digits, a hash of source, start and end; names the clip in every store.
        source: `path`, `http(s)://…` or `package:NAME/PATH` (a file inside an installed Python package).
        start, end: seconds in the source.
        caption: text.
        row: line of the user's CSV.
        shard: index of the shard the clip lies in, frozen when the plan is made.
        height, width: of its decoded frames in pixels, the same in all clips of a shard.
        split: `train` or `test`, the same in all clips of a shard; a manifest without it holds training clips.
    """

    clip_id: str
    source: str
    start: float
    end: float
    caption: str
    row: int
    shard: int
    height: int
    width: int
    split: str = TRAIN

    @property
    def duration(self) -> float:
        """T, seconds, to a microsecond."""
        return round(self.end - self.start, 6)


def clip_id(source: str, start: float, end: float) -> str:
    """A clip's name: a hash of what it is, never of where it stands in a list."""
    return hashlib.sha256(f"{source}\n{start:.6f}\n{end:.6f}".encode()).hexdigest()[:16]


def write_manifest(path: Path | str, clips: Iterable[Clip]) -> None:
    """Write the manifest (one row per `Clip`, grouped by shard) as parquet, atomically."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            ("clip_id", pa.string()),
            ("source", pa.string()),
            ("start", pa.float64()),
            ("end", pa.float64()),
            ("caption", pa.string()),
            ("row", pa.int64()),
            ("shard", pa.int32()),
            ("height", pa.int32()),
            ("width", pa.int32()),
            ("split", pa.string()),
        ]
    )
    with atomic_path(path) as temporary:
        pq.write_table(pa.Table.from_pylist([asdict(clip) for clip in clips], schema=schema), temporary)


def read_manifest(path: Path | str, shard: int | None = None) -> list[Clip]:
    """Read the manifest, or the clips of one shard of it, in plan order.

    Raises:
        VLFMError: if the shard is not in the plan, or another version wrote it.
    """
    import pyarrow.parquet as pq

    filters = None if shard is None else [("shard", "==", shard)]
    try:
        clips = [Clip(**row) for row in pq.read_table(path, filters=filters).to_pylist()]
    except TypeError as error:
        raise VLFMError(f"{path} was written by another version ({error}); run `vlfm index` again") from None
    if shard is not None and not clips:
        raise VLFMError(f"shard {shard} is not in the plan {path}")
    return clips


def shard_digest(clips: Iterable[Clip]) -> str:
    """What a shard's content depends on; unchanged clips keep their digest when the plan grows."""
    return fingerprint({"clips": [[c.clip_id, c.source, c.start, c.end, c.caption] for c in clips]})


# --------------------------------------------------------------------------------------- tar shards


def npy_bytes(array: np.ndarray) -> bytes:
    """`array` in npy format."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def load_npy(data: bytes, where: str) -> np.ndarray:
    """The array in npy bytes.

    Raises:
        VLFMError: if they are not npy, would need pickle, or are not as many as their header promises: memory is
            only taken for what is there.
    """
    # Not `np.load`, which opens zip archives too and takes the memory that a header asks for.
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        if version not in NPY_HEADERS:
            raise ValueError(f"npy version {version}")
        shape, fortran, dtype = NPY_HEADERS[version](stream)
        if dtype.hasobject:
            raise ValueError("it holds Python objects, which only pickle reads")
        if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(data) - stream.tell():
            raise ValueError(f"{len(data) - stream.tell()} bytes are not {shape} of {dtype}")
        flat = np.frombuffer(data, dtype, math.prod(shape), stream.tell()).copy()
        return flat.reshape(shape, order="F" if fortran else "C")
    except (ValueError, EOFError, OSError) as error:
        raise VLFMError(f"{where} is not a plain npy array ({error})") from error


def write_tar(path: Path | str, samples: Iterable[Mapping[str, Any]]) -> int:
    """Write a webdataset shard atomically; the same samples give the same bytes.

    Args:
        samples: mappings with `__key__` and members `EXTENSION: bytes`; extensions end in one of `MEMBERS`.

    Returns:
        How many samples were written.
    """
    import webdataset

    count = 0
    with atomic_path(path) as temporary:
        writer = webdataset.TarWriter(str(temporary), encoder=False, mtime=0, user="vlfm", group="vlfm", mode=0o644)
        with contextlib.closing(writer):
            for sample in samples:
                writer.write({key: sample[key] for key in ["__key__", *sorted(sample.keys() - {"__key__"})]})
                count += 1
    return count


@contextlib.contextmanager
def open_tar(path: Path | str) -> Iterator[tuple[tarfile.TarFile, Iterator[tuple[str, str, tarfile.TarInfo]]]]:
    """Open a webdataset shard: yield it and its members as (key, extension, header), each checked as it comes.

    Raises:
        VLFMError: on a damaged tar, a member that is no plain file, or one whose type is not in `MEMBERS`
            (a pickle, for example): the message names shard and member.
    """
    try:
        with tarfile.open(path, "r:") as tar:
            yield tar, _checked_members(tar, path)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise damaged_tar(path, error) from error


def _checked_members(tar: tarfile.TarFile, path: Path | str) -> Iterator[tuple[str, str, tarfile.TarInfo]]:
    for member in tar:
        key, _, extension = member.name.partition(".")
        if not member.isfile() or member.issparse() or extension.rsplit(".", 1)[-1] not in MEMBERS:
            raise VLFMError(
                f"{path}: member {member.name!r} is not one of {', '.join(MEMBERS)}; "
                "the shard was not written by this pipeline and is not read further"
            )
        yield key, extension, member
    tar.fileobj.seek(tar.offset)  # tarfile takes a cut archive for its end, if the cut is in a header
    if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("it is cut short")


def damaged_tar(path: Path | str, why: object) -> VLFMError:
    """What to raise for a shard that cannot be read."""
    return VLFMError(f"{path} is damaged ({why}); remove it and run its rule again")


def read_tar(path: Path | str, only: Collection[str] | None = None) -> Iterator[dict[str, Any]]:
    """Yield the samples of a webdataset shard as `{"__key__": str, EXTENSION: bytes}`.

    Args:
        only: keys of the samples that are wanted; of others no more than the headers is read.

    Raises:
        VLFMError: as `open_tar` does.
    """
    sample: dict[str, Any] = {}
    with open_tar(path) as (tar, members):
        for key, extension, member in members:
            if only is not None and key not in only:
                continue
            if sample and sample["__key__"] != key:
                yield sample
                sample = {}
            sample["__key__"] = key
            sample[extension] = tar.extractfile(member).read()
    if sample:
        yield sample


# ----------------------------------------------------------------------------------------- progress


def progress(iterable: Iterable | None = None, *, total: int | None = None, what: str, unit: str = "clip"):
    """A tqdm bar with ETA on a terminal, silence elsewhere (logs of a cluster job stay readable)."""
    from tqdm import tqdm

    # The original stream, which a copy into a job's log does not see.
    return tqdm(
        iterable, total=total, desc=what, unit=unit, disable=None, mininterval=0.5, smoothing=0.1, file=sys.__stderr__
    )


class Stopwatch:
    """Seconds since it was made: `Stopwatch()` … `.seconds`."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._start

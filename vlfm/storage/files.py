"""Files that are there whole or not at all: atomic writes, and JSON."""

import contextlib
import errno
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlfm.errors import VLFMError

# The process's file mode mask can only be read by setting it: once, while there is no thread that makes a file.
UMASK = os.umask(0o022)
os.umask(UMASK)

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # the errors of a full disk, or of a limit on it


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
        temporary.chmod(0o666 & ~UMASK)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def disk_may_be_full(output: Path) -> Iterator[None]:
    """Say of a full disk, as a `VLFMError`, what could not be written."""
    try:
        yield
    except OSError as error:
        if told := full_disk(error, output):
            raise told from error
        raise


def full_disk(error: OSError, output: Path, finished: str = "what is finished") -> VLFMError | None:
    """What to say of an error of writing where the disk is full; None where it is another error.

    Args:
        finished: what the rule goes on after, when it is run again.
    """
    if error.errno not in FULL:
        return None
    return VLFMError(
        f"{output} cannot be written ({error.strerror}); free space there and run the rule again, which goes on after "
        f"{finished}"
    )


def write_bytes(path: Path | str, data: bytes) -> None:
    """Write `data` to `path`, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def remove_partial(partial: Path) -> None:
    """Remove the folder `….partial-IDENTITY` of work that is complete. Remove those of the same work under other
    identities as well, which nothing will go on with, and say so on stderr."""
    for folder in partial.parent.glob(f"{partial.name.rpartition('-')[0]}-*"):
        if folder != partial:
            print(f"removing {folder}: work under other settings, never finished", file=sys.stderr)
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

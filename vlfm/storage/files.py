"""Files that are there whole or not at all: atomic writes, and JSON."""

import contextlib
import errno
import json
import os
import platform
import re
import shutil
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlfm.errors import VLFMError

# The process's file mode mask can only be read by setting it: once, while there is no thread that makes a file.
UMASK = os.umask(0o022)
os.umask(UMASK)


def _machine() -> str:
    """Names the processes that have numbers of their own: clusters share folders, and containers a host's name."""
    told = [platform.node()]
    with contextlib.suppress(OSError):
        told += [Path("/proc/sys/kernel/random/boot_id").read_text(), os.readlink("/proc/self/ns/pid")]
    return f"{zlib.crc32(''.join(told).encode()):08x}"


MACHINE = _machine()
LEFTOVER = re.compile(r"\..+\.([0-9a-f]{8})-(\d+)\.tmp(\.[^.]*)?", re.S)
ABANDONED = 86400.0  # seconds without a write after which another machine's temporary file has no writer any more

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # the errors of a full disk, or of a limit on it


@contextlib.contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it takes the final name only if the block succeeds.

    The suffix is kept, so that writers that look at it behave. The file is flushed to disk before it is
    renamed: after a crash there is the old file, the new file or none, never half of one. A killed process leaves its
    temporary file. The next process that writes into the folder removes it, that of another machine after a day.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path.parent)
    temporary = path.with_name(f".{path.stem}.{MACHINE}-{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        with open(temporary, "rb") as handle:
            os.fsync(handle.fileno())
        # Some libraries (safetensors) give files to their owner alone; results are shared on clusters.
        temporary.chmod(0o666 & ~UMASK)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


_looked_through: set[str] = set()


def _remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of killed processes; a process looks through a folder once."""
    name = os.path.abspath(folder)
    if name in _looked_through:
        return
    _looked_through.add(name)
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if found := LEFTOVER.fullmatch(entry.name):
                with contextlib.suppress(OSError):
                    if _has_no_writer(entry, found[1], int(found[2])):
                        os.unlink(entry)


def _has_no_writer(entry: "os.DirEntry[str]", machine: str, process: int) -> bool:
    if machine != MACHINE:
        return time.time() - entry.stat(follow_symlinks=False).st_mtime > ABANDONED
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):  # somebody else's process, or no number of one
        pass
    return False


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

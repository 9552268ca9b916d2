"""The GPUs of one machine, shared by the jobs of its workflows: each job sees only those that no other job uses.

A job takes a GPU by an exclusive lock on a file, which the system frees when the process ends, however it ends. On a
cluster the cluster does this, and nothing here runs.
"""

import contextlib
import fcntl
import json
import os
import re
import stat
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from vlfm.errors import VLFMError

# What the workflow tells its jobs, as JSON: the GPUs that they share, in the form that `find_gpus` returns.
SHARED = "VLFM_SHARED_GPUS"
WAIT = 0.2  # seconds between two looks at the locks

_held: list[IO[str]] = []  # open as long as this process lives


def find_gpus() -> dict[str, str]:
    """The GPUs that a process may use: each one's name in `CUDA_VISIBLE_DEVICES` → its unique name (UUID).

    If `CUDA_VISIBLE_DEVICES` is set, these are the GPUs it names, in its order and spelling; else all that `nvidia-smi`
    lists, with each part of a divided GPU (MIG) by itself. Empty without `nvidia-smi`. Does not start CUDA.
    """
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    whole: dict[str, list[str]] = {}
    for kind, name in re.findall(r"^\s*(GPU|MIG) .*\(UUID: ([\w-]+)\)\s*$", listed, re.MULTILINE):
        if kind == "GPU":
            whole[name] = []
        elif whole:
            whole[list(whole)[-1]].append(name)
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        return {name: name for gpu, parts in whole.items() for name in parts or [gpu]}
    return _named(given, list(whole), [*whole, *(name for parts in whole.values() for name in parts)])


def _named(given: str, gpus: list[str], names: list[str]) -> dict[str, str]:
    """What `CUDA_VISIBLE_DEVICES` names, by numbers or the beginnings of unique names; as in CUDA, the first word that
    names nothing ends the list."""
    found: dict[str, str] = {}
    for word in (part.strip() for part in given.split(",")):
        matches = [name for name in names if word and name.startswith(word)]
        if word.isdigit() and int(word) < len(gpus):
            matches = [gpus[int(word)]]
        if len(matches) != 1:
            break
        found[word] = matches[0]
    return found


def share(gpus: Mapping[str, str]) -> None:
    """Tell the processes that this one starts which GPUs `claim` may take; an empty mapping takes that back."""
    os.environ.pop(SHARED, None)
    if gpus:
        os.environ[SHARED] = json.dumps(dict(gpus))


def claim(count: int = 1) -> list[str]:
    """Take GPUs for this process alone, until it ends, and make CUDA see no other; wait until so many are free.

    To be called before anything starts CUDA. Does nothing where no workflow shares GPUs (see `share`), and nothing in
    the processes that this one starts, which see what it took.

    Returns:
        The unique names of what was taken.

    Raises:
        VLFMError: if the machine has fewer.
    """
    shared = json.loads(os.environ.pop(SHARED, "{}"))
    if not shared:
        return []
    if count > len(shared):
        raise VLFMError(
            f"{count} processes want a GPU each, and this machine shares {len(shared)} ({', '.join(shared)}): set "
            f"training.processes to {len(shared)} or less"
        )
    folder, told = _folder(), False
    while len(taken := _lock(folder, shared, count)) < count:
        if not told:
            print(f"waiting: of the GPUs {', '.join(shared)}, fewer than {count} are free", flush=True)
            told = True
        time.sleep(WAIT)
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(taken)
    _held.extend(taken.values())
    names = [shared[word] for word in taken]
    print(f"GPU: {', '.join(names)}", flush=True)
    return names


def _lock(folder: Path, shared: Mapping[str, str], count: int) -> dict[str, IO[str]]:
    """`count` GPUs with their locked files; none if fewer are free: two jobs with a part each would wait forever."""
    taken: dict[str, IO[str]] = {}
    with (folder / "choosing").open("a") as choosing:
        fcntl.flock(choosing, fcntl.LOCK_EX)  # one at a time: what is given back below was missed by nobody
        for word, name in shared.items():
            file = (folder / name).open("a")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                continue
            taken[word] = file
            if len(taken) == count:
                return taken
        for file in taken.values():
            file.close()
    return {}


def _folder() -> Path:
    """Where the locks lie: on this machine, for this user."""
    folder = Path(tempfile.gettempdir()) / f"vlfm-gpus-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    about = folder.lstat()
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid():
        raise VLFMError(f"{folder} is not a folder of this user: remove it, or set TMPDIR to a folder of your own")
    return folder

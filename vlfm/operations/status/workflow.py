"""What Snakemake's own folder, `.snakemake`, says of a run: whether one goes on, what it has begun, what failed.

Its files are read as they lie there (those of Snakemake 9): to ask Snakemake itself would take its lock.
"""

import contextlib
import os
import platform
import re
import time
from base64 import urlsafe_b64decode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import psutil

TAIL = 32 << 20  # bytes of a log's end that are read: a job of thousands of inputs takes a hundred kilobytes
STEPS = re.compile(r"^(\d+) of (\d+) steps \(", re.MULTILINE)
# The time stands before it in brackets, the logs of the job among the lines after it, which are indented.
FAILED = re.compile(
    r"^\[(?P<when>[^\]\n]+)\]\n *Error in rule (?P<rule>\w+):\n(?:(?! *log: )[ ].*\n)*? *log: (?P<logs>.+?) \(check",
    re.MULTILINE,
)
State = Literal["idle", "starting", "running", "elsewhere", "gone"]


@dataclass(frozen=True)
class Failure:
    """A job that the newest run saw fail: its rule, its logs (paths as the rule has them), when (epoch seconds)."""

    rule: str
    logs: tuple[str, ...]
    when: float


@dataclass(frozen=True)
class Workflow:
    """What is known of the runs in a folder.

    Attributes:
        state: `idle`, nobody works there; `running`; `starting`, Snakemake is there and has locked nothing: it
            reads the plan, or only says what it would do; `elsewhere`, another machine locked the folder, and whether
            it still works cannot be seen from here; `gone`, it is locked by a run that is no more, killed perhaps.
        process: Snakemake's number, where it runs on this machine.
        host: the machine that the newest run was started on, "" before the first.
        since, heard: when the newest run began and last wrote a line, seconds since the epoch.
        done, jobs: of the newest run, by its log; None before the first job is done.
        begun: output → when the job began that has not ended yet, or never will.
        failures: of the newest run, the latest last.
        workers: processes of vlfm that work in the folder on this machine: number → subcommand.
    """

    state: State = "idle"
    process: int | None = None
    host: str = ""
    since: float | None = None
    heard: float | None = None
    done: int | None = None
    jobs: int | None = None
    begun: Mapping[str, float] = field(default_factory=dict)
    failures: tuple[Failure, ...] = ()
    workers: Mapping[int, str] = field(default_factory=dict)

    def works_on(self, output: str) -> bool:
        """Whether the job that makes `output` is at work now, as far as can be known."""
        at_work = self.state in ("running", "elsewhere") and self.since is not None
        return at_work and self.begun.get(output, 0.0) >= self.since


def read_workflow(directory: Path) -> Workflow:
    """What the folder `.snakemake` in `directory` says, and the processes of this machine that work there."""
    own = directory / ".snakemake"
    log = _newest_log(own / "log")
    text = "" if log is None else _tail(log)
    host = re.search(r"^  Host: (.+)$", _head(log), re.MULTILINE) if log else None
    where = host[1] if host else ""
    snakemake, workers = _processes(directory)
    steps = STEPS.findall(text)
    return Workflow(
        state=_state(_is_locked(own / "locks"), snakemake, where),
        process=snakemake,
        host=where,
        since=None if log is None else _began(log),
        heard=None if log is None else _changed(log),
        done=int(steps[-1][0]) if steps else None,
        jobs=int(steps[-1][1]) if steps else None,
        begun=dict(_begun(own / "incomplete")),
        failures=tuple(_failures(text)),
        workers=workers,
    )


def _state(locked: bool, snakemake: int | None, host: str) -> State:
    if snakemake is not None:
        return "running" if locked else "starting"
    if not locked:
        return "idle"
    return "gone" if host in ("", platform.node()) else "elsewhere"


def _is_locked(folder: Path) -> bool:
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        return any(entry.name.endswith(".lock") for entry in entries)
    return False


def _newest_log(folder: Path) -> Path | None:
    """The newest log of a run; `snakemake --unlock` leaves one too, which names no machine."""
    names: list[str] = []
    with contextlib.suppress(OSError):
        names = sorted(name for name in os.listdir(folder) if name.endswith(".snakemake.log"))
    return next((folder / name for name in reversed(names) if "  Host: " in _head(folder / name)), None)


def _head(log: Path) -> str:
    with contextlib.suppress(OSError), log.open("rb") as file:
        return file.read(1 << 14).decode(errors="replace")
    return ""


def _tail(log: Path) -> str:
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
        return file.read().decode(errors="replace")
    return ""


def _began(log: Path) -> float | None:
    """When the run began that a log is of, by its name: `2026-11-27T095406.571554.snakemake.log`, local time."""
    with contextlib.suppress(ValueError):
        return time.mktime(time.strptime(log.name.partition(".")[0], "%Y-%m-%dT%H%M%S"))
    return _changed(log)


def _changed(path: Path) -> float | None:
    with contextlib.suppress(OSError):
        return path.stat().st_mtime
    return None


def _begun(folder: Path) -> Iterator[tuple[str, float]]:
    """Output → when its job began. A marker's name is the output's in base64; a long one is cut into folders (`@…`)."""
    for place, _, names in os.walk(folder):
        before = "".join(part.removeprefix("@") for part in Path(place).relative_to(folder).parts)
        for name in names:
            with contextlib.suppress(OSError, ValueError):
                began = os.stat(os.path.join(place, name)).st_mtime
                yield urlsafe_b64decode(before + name).decode(), began


def _failures(text: str) -> Iterator[Failure]:
    for match in FAILED.finditer(text):
        with contextlib.suppress(ValueError):
            when = time.mktime(time.strptime(match["when"], "%a %b %d %H:%M:%S %Y"))
            yield Failure(match["rule"], tuple(match["logs"].split(", ")), when)


def _processes(directory: Path) -> tuple[int | None, dict[int, str]]:
    """The Snakemake that runs in a folder on this machine, and the processes of vlfm there, number → subcommand."""
    place = directory.resolve()
    snakemakes: list[tuple[float, int]] = []
    workers: dict[int, tuple[int, str]] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            words = process.cmdline()
            name = _program(words)
            if process.pid == os.getpid() or name is None or Path(process.cwd()) != place:
                continue
            if name == "snakemake":
                # Its jobs on a cluster's nodes are Snakemakes as well.
                if not {"subprocess", "remote"} & set(words):
                    snakemakes.append((process.create_time(), process.pid))
            else:
                workers[process.pid] = process.ppid(), name
    # What reads ahead for a training was forked from it, under the same name.
    first = {number: name for number, (parent, name) in workers.items() if parent not in workers}
    return min(snakemakes)[1] if snakemakes else None, first


def _program(words: list[str]) -> str | None:
    """`snakemake`, vlfm's subcommand, or None for anything else. Both are Python: their names come second or later."""
    for place, word in enumerate(words[:4]):
        name = Path(word).name
        if name == "snakemake":
            return name
        if name in ("vlfm", "vlfm.cli"):
            command = next(iter(words[place + 1 :]), "")
            return None if command in ("status", "doctor") else command
    return None

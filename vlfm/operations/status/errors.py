"""Which jobs failed, and what they said, by their logs."""

import contextlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from vlfm.operations.status.files import changed, files_within
from vlfm.operations.status.jobs import job_of_log
from vlfm.operations.status.progress import RunFolder

READ = 1 << 14  # bytes of a log's end: the message stands there
# What the command line prints of an error it knows; see vlfm/cli.py.
TOLD = re.compile(r"^vlfm [\w-]+(?:, process \d+)?: ", re.MULTILINE)
TRACEBACK = "Traceback (most recent call last):"
# The last line of a traceback: the exception, whose message may go on after it.
RAISED = re.compile(r"^(?:[\w.]+(?:Error|Exception|Interrupt|Exit|Warning|Died)\b.*|\w+(?:\.\w+)+: .*)$", re.MULTILINE)


@dataclass(frozen=True)
class JobError:
    """A job that failed and has not ended well since.

    Attributes:
        job: as its log is called, `decode/00012`. when: it ended, seconds since the epoch.
        log: its path. message: what it said, "" where it said nothing: it was killed, perhaps.
    """

    job: str
    when: float
    log: Path
    message: str


def read_errors(run: RunFolder) -> list[JobError]:
    """The jobs that failed, the newest first: those whose log ends with an error, and those that Snakemake saw fail.

    A job that ended well later has a benchmark that is newer than its log, and one that was begun again has no error
    yet.
    """
    logs = run.results / "logs"
    found: dict[str, JobError] = {}
    for name, when, size in files_within(logs, ".log"):
        job = name.removesuffix(".log")
        if size and not _is_over(run, job, when) and (message := _message(logs / name)):
            found[job] = JobError(job, when, logs / name, message)
    for failure in run.workflow.failures:
        for log in failure.logs:
            job = job_of_log(log)
            if job and job not in found and not _is_over(run, job, failure.when):
                found[job] = JobError(job, failure.when, run.results.parent / log, "")
    return sorted(found.values(), key=lambda error: (-error.when, error.job))


def _is_over(run: RunFolder, job: str, when: float) -> bool:
    """Whether what a log said at a time is of the past: the job ended well since, or was begun again."""
    ended, begun = changed(run.results / "benchmarks" / f"{job}.tsv"), run.begun(job)
    return (ended is not None and ended >= when) or (begun is not None and begun > when)


def _message(log: Path) -> str:
    """The error that a log ends with, "" if there is none."""
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - READ))
        text = file.read().decode(errors="replace").strip()
        if told := list(TOLD.finditer(text)):
            return text[told[-1].start() :]
        if TRACEBACK in text:
            last = text[text.rindex(TRACEBACK) :]
            raised = list(RAISED.finditer(last))
            return last[raised[-1].start() :] if raised else last.splitlines()[-1]
    return ""

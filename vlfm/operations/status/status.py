"""How far a run has come, whether one goes on, what stopped and what failed: gathered, and as text."""

import contextlib
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vlfm import config as configs
from vlfm.errors import VLFMError
from vlfm.operations.status.errors import JobError, read_errors
from vlfm.operations.status.jobs import stage_of
from vlfm.operations.status.progress import Progress, RunFolder, kept, read_stages
from vlfm.operations.status.workflow import Workflow, read_workflow
from vlfm.splits import checked_plan
from vlfm.storage.files import read_json
from vlfm.words import plural, seconds_in_words, table_in_words

SHOWN = 10  # jobs of a kind and errors that the text names
LINES = 4  # of an error's message


@dataclass(frozen=True)
class OpenJob:
    """A job that was begun and has not ended: when, and how many clips it keeps of its unfinished work."""

    job: str
    begun: float
    clips: int


@dataclass(frozen=True)
class Status:
    """What is known of a run.

    Attributes:
        directory: the run's. now: seconds since the epoch, when it was looked at.
        clips, shards: of the plan; None before there is one.
        workflow: what Snakemake says.
        stages: how far each has come, in the order of the data.
        at_work: jobs at work now. unfinished: those that were begun, and are not finished, and nobody works on.
        errors: jobs that failed, the newest first.
        troubles: what could not be read.
    """

    directory: Path
    now: float
    clips: int | None
    shards: int | None
    workflow: Workflow
    stages: Sequence[Progress]
    at_work: Sequence[OpenJob]
    unfinished: Sequence[OpenJob]
    errors: Sequence[JobError]
    troubles: Sequence[str] = ()

    def as_json(self) -> dict[str, Any]:
        """Everything as JSON values."""
        failed = Counter(stage_of(error.job) for error in self.errors)
        stages = [
            {**asdict(stage), "finished": stage.finished, "failed": failed[stage.stage], "seconds_left": stage.seconds}
            for stage in self.stages
        ]
        workflow = asdict(self.workflow)
        del workflow["begun"], workflow["failures"]
        return {
            "directory": str(self.directory),
            "time": self.now,
            "clips": self.clips,
            "shards": self.shards,
            "workflow": workflow,
            "stages": stages,
            "at_work": [asdict(job) for job in self.at_work],
            "unfinished": [asdict(job) for job in self.unfinished],
            "errors": [{**asdict(error), "log": str(error.log)} for error in self.errors],
            "troubles": list(self.troubles),
        }


def read_status(directory: Path) -> Status:
    """Look at the run in a folder; nothing in it is changed.

    A file tells that its job is done, not that its settings are today's: `snakemake --dry-run` tells that.

    Raises:
        VLFMError: there is no run in the folder.
    """
    results = directory / "results"
    if not results.is_dir():
        raise VLFMError(f"{directory} has no folder results: nothing was run here; name the run's folder (--directory)")
    # Snakemake first: what ends while the files are counted is then counted once, as at work or as done.
    workflow = read_workflow(directory)
    troubles: list[str] = []
    config = plan = None
    with _told(troubles):
        if (results / "config.yaml").is_file():
            config = configs.load(results / "config.yaml")
    with _told(troubles):
        if (results / "clips" / "shards.json").is_file():
            plan = checked_plan(read_json(results / "clips" / "shards.json"), results / "clips" / "shards.json")
    run = RunFolder(results, config, plan, workflow, time.time())
    stages = read_stages(run)
    jobs = [OpenJob(job, begun, kept(run, job).clips) for job, begun in sorted(run.open_jobs.items())]
    return Status(
        directory=directory.resolve(),
        now=run.now,
        clips=None if plan is None else sum(int(about["clips"]) for about in plan.values()),
        shards=None if plan is None else len(plan),
        workflow=workflow,
        stages=stages,
        at_work=[job for job in jobs if run.at_work(job.job)],
        unfinished=[job for job in jobs if not run.at_work(job.job)],
        errors=read_errors(run),
        troubles=troubles,
    )


@contextlib.contextmanager
def _told(troubles: list[str]) -> Iterator[None]:
    """One file that cannot be read leaves the others to look at."""
    try:
        yield
    except VLFMError as error:
        troubles.append(str(error))


# ------------------------------------------------------------------------------------------------ text


def in_words(status: Status) -> str:
    """The status as text, for a terminal."""
    planned = "no plan yet"
    if status.clips is not None and status.shards is not None:
        planned = f"{status.clips:,} clips in {plural(status.shards, 'shard')}"
    lines = [f"{status.directory}: {planned}", *_workflow(status), "", *_stages(status)]
    if status.at_work:
        lines += ["", "at work now:", *_open_jobs(status.at_work, status.now)]
    if status.unfinished:
        lines += ["", "begun and not finished, no run has them:", *_open_jobs(status.unfinished, status.now)]
    if status.errors:
        more = f", the newest {SHOWN}" if len(status.errors) > SHOWN else ""
        lines += ["", f"{plural(len(status.errors), 'job')} failed{more}:", *_errors(status.errors[:SHOWN])]
    if status.troubles:
        lines += ["", *status.troubles]
    return "\n".join(lines)


def _workflow(status: Status) -> list[str]:
    flow = status.workflow
    if flow.since is None and flow.process is None:
        text = "Snakemake has not run here"
    elif flow.state == "running":
        text = f"a run goes on: process {flow.process} on {flow.host}, for {_ago(status.now, flow.since)}"
    elif flow.state == "starting":
        text = f"Snakemake is there (process {flow.process}) and has locked nothing yet: it plans, or it is a dry run"
    elif flow.state == "elsewhere":
        text = (
            f"locked by a run on {flow.host}, since {_clock(flow.since)}; whether it is alive is to be seen there. It "
            f"wrote its last line {_ago(status.now, flow.heard)} ago"
        )
    elif flow.state == "gone":
        text = (
            f"no run goes on. The last one, of {_clock(flow.since)}, was killed and has left its lock: {_unlock(flow)}"
        )
    else:
        text = f"no run goes on; the last one began {_clock(flow.since)}"
    if flow.done is not None:
        text += f"; its jobs: {flow.done:,} of {flow.jobs:,} done"
    lines = [text]
    if flow.workers and flow.state in ("idle", "gone"):
        lines.append(
            f"yet jobs are at work here: {_workers(flow)}. Wait for them, or end them, before you start another run: "
            "two would write to the same files"
        )
    return lines


def _unlock(flow: Workflow) -> str:
    return "`snakemake --unlock`, then start it again" + (", once its jobs have ended" if flow.workers else "")


def _workers(flow: Workflow) -> str:
    return ", ".join(f"{name} (process {number})" for number, name in sorted(flow.workers.items()))


def _stages(status: Status) -> list[str]:
    header = ("stage", "done", "of", "", "bad", "jobs", "of", "at work", "failed", "rate", "left")
    failed = Counter(stage_of(error.job) for error in status.errors)
    busy = Counter(stage_of(job.job) for job in status.at_work)
    rows = [
        (
            stage.stage,
            f"{stage.done:,}",
            _count(stage.total),
            stage.unit,
            f"{stage.bad:,}" if stage.bad else "",
            f"{stage.jobs_done:,}",
            _count(stage.jobs),
            f"{busy[stage.stage]:,}" if busy[stage.stage] else "",
            f"{failed[stage.stage]:,}" if failed[stage.stage] else "",
            f"{stage.rate:.3g}/s" if stage.rate else "",
            "done" if stage.finished else "?" if stage.seconds is None else seconds_in_words(stage.seconds),
        )
        for stage in status.stages
    ]
    lines = table_in_words([header, *rows], left=(0, 3))
    left = [stage for stage in status.stages if not stage.finished]
    known = [stage.seconds for stage in left if stage.seconds is not None]
    if known:
        unknown = [stage.stage for stage in left if stage.seconds is None]
        rest = f"; not known: {', '.join(unknown)}" if unknown else ""
        lines.append(f"left, one stage after the other: {seconds_in_words(sum(known))}{rest}")
    return lines


def _open_jobs(jobs: Sequence[OpenJob], now: float) -> Iterator[str]:
    for job in sorted(jobs, key=lambda job: job.begun)[:SHOWN]:
        clips = f", {plural(job.clips, 'clip')} kept" if job.clips else ""
        yield f"  {job.job}: begun {_ago(now, job.begun)} ago{clips}"
    if len(jobs) > SHOWN:
        yield f"  … and {len(jobs) - SHOWN:,} more"


def _errors(errors: Sequence[JobError]) -> Iterator[str]:
    for error in errors:
        said = error.message or "nothing: it was killed, or ran out of memory or time"
        first, *rest = said.splitlines()
        yield f"  {_clock(error.when)} {error.job} ({error.log}) said"
        yield from (f"    {line}" for line in [first, *rest[: LINES - 1]])
        if len(rest) >= LINES:
            yield "    …"


def _count(number: int | None) -> str:
    return "?" if number is None else f"{number:,}"


def _ago(now: float, when: float | None) -> str:
    return "?" if when is None else seconds_in_words(max(0.0, now - when))


def _clock(when: float | None) -> str:
    return "?" if when is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(when))

"""How far each stage has come: done, bad, left, how fast, how long yet."""

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlfm import config as configs
from vlfm.errors import VLFMError
from vlfm.experiments.names import EXPERIMENTS, HEADS, ON_REQUEST
from vlfm.operations.status.files import changed, count_bad, names
from vlfm.operations.status.jobs import job_of
from vlfm.operations.status.training import read_steps
from vlfm.operations.status.workflow import Workflow
from vlfm.splits import TEST, shards_of, splits_of
from vlfm.storage.files import read_json
from vlfm.storage.job_timings import benchmark_seconds

LATEST = 64  # jobs that tell a stage's rate: those that ended last


@dataclass(frozen=True)
class Progress:
    """How far a stage has come.

    Attributes:
        stage: its name. unit: what is counted: clips, steps or jobs.
        done, total: of these; total is None where it is not known yet. A job that is not finished counts with
            the clips that it keeps.
        bad: clips that were left out.
        jobs_done, jobs: of Snakemake's; jobs is None where it is not known yet.
        rate: units a second while it works; None where nothing tells.
        seconds: that the rest takes at this rate; 0 where nothing is left, None where it is not known.
    """

    stage: str
    unit: str
    done: int
    total: int | None
    jobs_done: int
    jobs: int | None
    bad: int = 0
    rate: float | None = None

    @property
    def finished(self) -> bool:
        return self.jobs is not None and self.jobs_done >= self.jobs

    @property
    def seconds(self) -> float | None:
        if self.finished:
            return 0.0
        return None if self.total is None or not self.rate else max(0, self.total - self.done) / self.rate


@dataclass(frozen=True)
class Kept:
    """What a job that is not finished keeps: so many clips, so many of them made since it began."""

    clips: int
    new: int


@dataclass(frozen=True)
class Sharded:
    """A stage with a job a shard: where its outputs, its ledgers and its unfinished work lie below the results.

    `{shard}` stands for each; `unfinished` is what the names of folders of unfinished work begin with; in them is a
    file with `piece` at its end for each clip.
    """

    stage: str
    outputs: tuple[str, ...]
    ledger: str
    unfinished: str = ""
    piece: str = ""


DECODE = Sharded("decode", ("clips/{shard}.tar",), "clips/{shard}.ledger.parquet", "clips/.{shard}.partial-", ".tar")
# With a captioner, decoded clips lie in another folder, and are removed once they have their captions.
DECODE_UNCAPTIONED = Sharded(
    "decode",
    ("clips/uncaptioned/{shard}.tar",),
    "clips/{shard}.ledger.parquet",
    "clips/uncaptioned/.{shard}.partial-",
    ".tar",
)
CAPTION = Sharded("caption", ("clips/{shard}.tar",), "clips/captions/{shard}.ledger.parquet")
INVERT = Sharded(
    "invert",
    ("latents/{shard}.zarr",),
    "latents/{shard}.ledger.parquet",
    "latents/.{shard}.zarr.partial-",
    ".safetensors",
)
PROJECT = Sharded(
    "project",
    ("coefficients/{shard}.tar", "coefficients/{shard}.json"),
    "coefficients/{shard}.ledger.parquet",
)


class RunFolder:
    """A run's files: its plan, its configuration, what Snakemake says, and what was seen of the folders.

    Args:
        results: the folder. config: None where there is none yet. plan: shard → what it holds; None before the index.
        now: seconds since the epoch.
    """

    def __init__(
        self,
        results: Path,
        config: configs.Config | None,
        plan: Mapping[str, Mapping[str, Any]] | None,
        workflow: Workflow,
        now: float,
    ):
        self.results, self.config, self.plan, self.workflow, self.now = results, config, plan, workflow, now
        # Where clips and latents are taken from another run, its ledgers tell which clips are bad.
        self.made_in = config.made_in(results) if config else results
        here = config is not None and config.latents_from is None
        self.captioned = here and config.clips.captioner is not None
        self._begun: dict[str, float] = {}
        self._at_work: set[str] = set()
        for output, when in workflow.begun.items():
            if job := job_of(output, self.captioned):
                self._begun[job] = max(when, self._begun.get(job, 0.0))
                if workflow.works_on(output):
                    self._at_work.add(job)
        self._names: dict[str, frozenset[str]] = {}

    def begun(self, job: str) -> float | None:
        """When a job began that has not ended; None where it has, or never began."""
        return self._begun.get(job)

    @property
    def open_jobs(self) -> dict[str, float]:
        """Every job that was begun and has not ended → when it began."""
        return dict(self._begun)

    def at_work(self, job: str) -> bool:
        return job in self._at_work

    def names(self, folder: str) -> frozenset[str]:
        """The names in a folder of the results, listed once."""
        if folder not in self._names:
            self._names[folder] = frozenset(names(self.results / folder))
        return self._names[folder]

    def holds(self, path: str) -> bool:
        """Whether a file or folder of the results is there, finished: not what a job is at."""
        folder, _, name = path.rpartition("/")
        return name in self.names(folder)

    def done(self, jobs: Mapping[str, str]) -> list[str]:
        """Those of the jobs, job → last output, that are finished."""
        return [job for job, output in jobs.items() if job not in self._begun and self.holds(output)]


def read_stages(run: RunFolder) -> list[Progress]:
    """How far every stage is, in the order of the data."""
    ledger = run.results / "clips" / "index.ledger.parquet"
    stages = [replace(_jobs(run, "index", _index(run)), bad=count_bad([ledger]).get(ledger, 0))]
    bad: dict[str, int] = {}
    first = (DECODE_UNCAPTIONED, CAPTION) if run.captioned else (DECODE,)
    stages += [_sharded(run, sharded, bad) for sharded in first]
    stages.append(_jobs(run, "prepare decoder", {"prepare_decoder": "decoder/decoder.json"}))
    stages += [_sharded(run, sharded, bad) for sharded in (INVERT, PROJECT)]
    stages += [_train(run), _evaluate(run, bad)]
    generation = {"fit_judges": "judges/judges.json", "generation": "eval/generation/index.json"}
    if (run.plan and shards_of(run.plan, TEST)) or any(map(run.holds, generation.values())):
        stages.append(_jobs(run, "generation", generation))
    stages.append(_jobs(run, "experiments", _experiments(run)))
    stages += [_jobs(run, name, {name: f"{name}/index.html"}) for name in ("theory", "report")]
    return stages


def kept(run: RunFolder, job: str) -> Kept:
    """What a job of a shard keeps of its unfinished work, in the newest folder of it: others are of other settings."""
    stage, _, shard = job.partition("/")
    sharded = {"decode": DECODE_UNCAPTIONED if run.captioned else DECODE, "invert": INVERT}.get(stage)
    if sharded is None:
        return Kept(0, 0)
    folder, _, begins = sharded.unfinished.format(shard=shard).rpartition("/")
    return _kept(run.results / folder, begins, run.names(folder), sharded.piece, run.begun(job))


def _kept(folder: Path, begins: str, there: Iterable[str], piece: str, begun: float | None) -> Kept:
    found = [(changed(folder / name) or 0.0, name) for name in there if name.startswith(begins)]
    if not found:
        return Kept(0, 0)
    place = folder / max(found)[1]
    # What is being written has a name that begins with a dot; captions are no clip.
    pieces = [name for name in names(place) if name.endswith(piece) and name[0] != "." and not name.startswith("capt")]
    return Kept(len(pieces), _since(place, pieces, begun))


def _since(folder: Path, pieces: Sequence[str], begun: float | None) -> int:
    return 0 if begun is None else sum((changed(folder / name) or 0.0) >= begun for name in pieces)


def _sharded(run: RunFolder, sharded: Sharded, bad_before: dict[str, int]) -> Progress:
    """A stage with a job a shard. Adds its bad clips to `bad_before`: shard → clips that later stages do not see."""
    if run.plan is None:
        return Progress(sharded.stage, "clips", 0, None, 0, None)
    clips = {shard: max(0, int(about["clips"]) - bad_before.get(shard, 0)) for shard, about in run.plan.items()}
    written = {shard for shard in clips if all(run.holds(output.format(shard=shard)) for output in sharded.outputs)}
    finished = {shard for shard in written if run.begun(f"{sharded.stage}/{shard}") is None}
    if sharded is DECODE_UNCAPTIONED:
        finished |= {shard for shard in clips if run.holds(f"clips/{shard}.tar")}
    made_in = run.results if sharded is PROJECT else run.made_in
    ledgers = {made_in / sharded.ledger.format(shard=shard): shard for shard in finished}
    bad = {ledgers[path]: count for path, count in count_bad(ledgers).items() if count}
    for shard, count in bad.items():
        bad_before[shard] = bad_before.get(shard, 0) + count
    unfinished = _unfinished(run, sharded, clips.keys() - finished)
    done = sum(max(0, clips[shard] - bad.get(shard, 0)) for shard in finished)
    # Outputs appear whole: a job that has written its own is tidying up. What a killed one wrote is made again.
    ending = {shard for shard in written - finished if run.at_work(f"{sharded.stage}/{shard}")}
    done += sum(clips[shard] for shard in ending)
    done += sum(min(clips[shard], part.clips) for shard, part in unfinished.items() if shard not in ending)
    return Progress(
        stage=sharded.stage,
        unit="clips",
        done=done,
        total=sum(clips.values()) - sum(bad.values()),
        jobs_done=len(finished),
        jobs=len(clips),
        bad=sum(bad.values()),
        rate=_rate(run, sharded.stage, clips) or _rate_of_pieces(run, sharded.stage, unfinished),
    )


def _unfinished(run: RunFolder, sharded: Sharded, shards: Iterable[str]) -> dict[str, Kept]:
    """Shard → what is kept of it, of those of `shards` that have something."""
    if not sharded.unfinished:
        return {}
    folder, _, pattern = sharded.unfinished.rpartition("/")
    before, after = pattern.split("{shard}")
    hidden = [name for name in run.names(folder) if name.startswith(before) and after in name]
    there = {name.removeprefix(before).partition(after)[0] for name in hidden}
    return {shard: kept(run, f"{sharded.stage}/{shard}") for shard in there & set(shards)}


def _rate(run: RunFolder, stage: str, clips: Mapping[str, int]) -> float | None:
    """Clips a second in the jobs that ended last: of the time in which at least one of them was at work."""
    folder = run.results / "benchmarks" / stage
    ended = [
        (when, shard)
        for name in run.names(f"benchmarks/{stage}")
        if (shard := name.removesuffix(".tsv")) in clips and (when := changed(folder / name)) is not None
    ]
    spans, done = [], 0
    for end, shard in sorted(ended)[-LATEST:]:
        seconds = benchmark_seconds(folder / f"{shard}.tsv")
        if seconds is not None:
            spans.append((end - seconds, end))
            done += clips[shard]
    busy = _length(spans)
    return done / busy if busy else None


def _length(spans: Iterable[tuple[float, float]]) -> float:
    """Of the union of intervals."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def _rate_of_pieces(run: RunFolder, stage: str, unfinished: Mapping[str, Kept]) -> float | None:
    """Before the first job has ended: clips a second in those at work since they began, all together."""
    rates = [
        part.new / (run.now - begun)
        for shard, part in unfinished.items()
        if run.at_work(f"{stage}/{shard}") and (begun := run.begun(f"{stage}/{shard}")) and run.now > begun
    ]
    return sum(rates) or None


def _jobs(run: RunFolder, stage: str, jobs: Mapping[str, str]) -> Progress:
    done = len(run.done(jobs))
    return Progress(stage, "jobs", done, len(jobs), done, len(jobs))


def _index(run: RunFolder) -> dict[str, str]:
    drawn = run.config is not None and run.config.clips.index == "moving-digits" and run.made_in == run.results
    return {**({"make_digits": "clips/digits/digits.csv"} if drawn else {}), "index": "clips/shards.json"}


def _experiments(run: RunFolder) -> dict[str, str]:
    """Job → its output. Those that are asked for by name count once they are there."""
    jobs = {name: f"eval/{name}/index.json" for name in EXPERIMENTS}
    if run.config is not None and run.config.clips.fps not in run.config.evaluation.fps:
        del jobs["ledger"]  # it is taken at the clips' own rate; see workflow/rules/experiments.smk
    jobs |= {f"ablation/{head}": f"eval/ablation/{head}/result.json" for head in HEADS}
    return jobs | {name: f"eval/{name}/index.json" for name in ON_REQUEST if run.holds(f"eval/{name}")}


def _train(run: RunFolder) -> Progress:
    total = run.config.training.steps if run.config else None
    at_work = run.at_work("train") or "train" in run.workflow.workers.values()
    steps = read_steps(run.results, run.begun("train"), at_work)
    # A finished one with other steps than are asked for now is trained again.
    finished = steps.finished and total in (None, steps.taken)
    return Progress(
        stage="train",
        unit="steps",
        done=steps.taken,
        total=steps.taken if finished else total,
        jobs_done=int(finished),
        jobs=1,
        rate=steps.rate,
    )


def _evaluate(run: RunFolder, bad: Mapping[str, int]) -> Progress:
    """Clips scored of those that are asked for, so many of each split."""
    seconds = benchmark_seconds(run.results / "benchmarks" / "evaluate.tsv")
    if run.done({"evaluate": "eval/videos/index.json"}) and run.holds("eval/psnr.csv"):
        done = _scored(run.results / "eval" / "videos" / "index.json")
        return Progress("evaluate", "clips", done, done, 1, 1, rate=done / seconds if seconds else None)
    if run.plan is None or run.config is None:
        return Progress("evaluate", "clips", 0, None, 0, 1)
    of_split: dict[str, int] = {}
    splits = splits_of(run.plan)
    for shard, about in run.plan.items():
        of_split[splits[shard]] = of_split.get(splits[shard], 0) + int(about["clips"]) - bad.get(shard, 0)
    total = sum(min(count, run.config.evaluation.clips) for count in of_split.values())
    part = _kept(run.results / "eval", ".videos.partial-", run.names("eval"), ".json", run.begun("evaluate"))
    begun, rate = run.begun("evaluate"), None
    if run.at_work("evaluate") and begun is not None and run.now > begun:
        rate = part.new / (run.now - begun) or None
    return Progress("evaluate", "clips", part.clips, total, 0, 1, rate=rate)


def _scored(index: Path) -> int:
    """The clips that an evaluation's index lists."""
    with contextlib.suppress(VLFMError, KeyError, TypeError):
        return len(read_json(index)["clips"])
    return 0

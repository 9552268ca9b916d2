"""Clips with fewer frames than a path has coefficients: how are the coefficients that no frame decides found?

    python benchmarks/slow_sources.py [--seconds 0.5 1 2] [--clips 12] [--out FILE.json]

Of clips at 24 frames a second every 2nd, 3rd or 4th frame is given, from the first and from the second on. Paths are
drawn through the given frames' latents, and decoded at all. Compared: the order lowered to a share of the frames,
higher coefficients at zero; and the full order with a ridge. Scored: the mean PSNR at the frames that were not given,
from the first to the last that was.
"""

import argparse
import json
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from basis import decoded
from machine import machine

from vlfm.decoders.patch_autoencoder import PatchAutoencoder
from vlfm.errors import VLFMError
from vlfm.flow.bases import BASES, make_basis
from vlfm.flow.projection import ProjectionWarning, projection_matrix
from vlfm.frames import psnr, to_tensor

LOWERED = (1.0, 0.75, 0.5)
RIDGES = (1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3)
Fit = Callable[[torch.Tensor], torch.Tensor | None]  # times given (n,) → weights (n, s), None where there are none


def main() -> None:
    """Run, print, and write the JSON record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, nargs="+", default=[0.5, 1, 2])
    parser.add_argument("--clips", type=int, default=12, help="of each length and source, at most")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "slow_sources.json")
    arguments = parser.parse_args()
    rows = []
    for seconds in arguments.seconds:
        for data in ("demo", "digits"):
            with tempfile.TemporaryDirectory() as folder:
                clips, patch = decoded(data, seconds, Path(folder), arguments.clips)
            if len(clips) >= 2:
                rows += measure(data, seconds, clips, patch)
    record = {"machine": machine(torch.device("cpu")), "arguments": {"clips": arguments.clips}, "rows": rows}
    arguments.out.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    show(rows)


def measure(data: str, seconds: float, clips: list, patch: int) -> list[dict]:
    """A row for each basis, rate, order and rule."""
    frames = [to_tensor(clip.frames) for clip in clips]
    autoencoder = PatchAutoencoder.fit(torch.cat(frames), patch, 16)
    latents = [autoencoder.encode(each) for each in frames]
    count = len(frames[0])
    rows = []
    for name in BASES:
        for order in sorted({count // 2, count}):
            basis = make_basis(name, order, seconds, count)
            for every in (2, 3, 4):
                for rule, fit in rules(name, basis, seconds, count).items():
                    found = []
                    for clip, u, truth in zip(clips, latents, frames, strict=True):
                        times = torch.from_numpy(clip.times)
                        for first in (0, 1):
                            given = np.arange(first, count, every)
                            held = np.setdiff1d(np.arange(given[0], given[-1]), given)
                            weights = fit(times[given])
                            if weights is None:
                                continue
                            share = basis.evaluate(times[held]) @ weights.T
                            made = torch.einsum("kn,nchw->kchw", share.float(), u[given])
                            found.append(float(psnr(autoencoder.decode(made), truth[held]).mean()))
                    if found:
                        rows.append(
                            {
                                "data": data,
                                "seconds": seconds,
                                "basis": name,
                                "order": order,
                                "fps": round(count / seconds / every, 3),
                                "frames": count // every,
                                "rule": rule,
                                "psnr": round(float(np.mean(found)), 3),
                            }
                        )
    return rows


def rules(name: str, basis, seconds: float, count: int) -> dict[str, Fit]:
    """Every way to find the coefficients."""

    def lowered(share: float) -> Fit:
        def fit(times: torch.Tensor) -> torch.Tensor:
            order = max(1, min(basis.order, int(share * BASES[name].safe_order(len(times)))))
            weights = projection_matrix(times, make_basis(name, order, seconds, count))
            return torch.nn.functional.pad(weights, (0, basis.order - order))

        return fit

    def ridged(ridge: float) -> Fit:
        def fit(times: torch.Tensor) -> torch.Tensor | None:
            try:
                return projection_matrix(times, basis, ridge=ridge)
            except VLFMError:
                return None

        return fit

    return {
        **{f"{share:g} of the safe order": quiet(lowered(share)) for share in LOWERED},
        **{f"ridge {ridge:g}": quiet(ridged(ridge)) for ridge in RIDGES},
    }


def quiet(fit: Fit) -> Fit:
    """Without the warnings of orders that are measured here."""

    def silent(times: torch.Tensor) -> torch.Tensor | None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ProjectionWarning)
            return fit(times)

    return silent


def show(rows: list[dict]) -> None:
    """PSNR in dB by frames a second, of each rule."""
    kinds = dict.fromkeys((row["data"], row["seconds"], row["basis"], row["order"]) for row in rows)
    names = list(dict.fromkeys(row["rule"] for row in rows))
    for kind in kinds:
        of = [row for row in rows if (row["data"], row["seconds"], row["basis"], row["order"]) == kind]
        print(*kind)
        for name in names:
            values = [f"{row['fps']:g}: {row['psnr']:.2f}" for row in of if row["rule"] == name]
            print(f"    {name:24} {'  '.join(values)}")


if __name__ == "__main__":
    main()

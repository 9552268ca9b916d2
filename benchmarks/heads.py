"""What the network predicts and when it is trained: the heads of Table 1 and the time distributions, measured.

    python benchmarks/heads.py --results results [--steps 900] [--seconds 300] [--clips 12] [--out FILE.json]

On the coefficients of a finished run (the demo), with its own network, optimizer and batch: every variant is trained
for the same number of steps and, if --seconds is given, also for the same time. Shown for each: the PSNR of the
decoded frames that it renders from the captions against the true ones, before and after training, at the head's usual
cost, in evaluations of the network for a video. The ceiling is the PSNR of the projection itself, decoded. The record
is written after each variant, and what an earlier call measured stays in it: `--only` adds or repeats some.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from finished_run import (
    FinishedRun,
    changed,
    parsed,
    parser_of,
    read_run,
    rendered,
    taken,
    train,
    true_latents,
    write_record,
)

from vlfm.decoders.base import VisualDecoder
from vlfm.decoders.load import load_decoder
from vlfm.frames import psnr, to_tensor
from vlfm.model.flow_model import FlowModel
from vlfm.storage.files import read_json
from vlfm.training.network import new_model

PAPER = {"training.pure_noise": 0.0, "training.lead_in": 0.0}
OURS = {"training.pure_noise": 0.75, "training.lead_in": 0.25, "training.emphasis": 2.0}
VELOCITY = {"model.head": "velocity", **PAPER}
VARIANTS = {
    "coefficients": OURS,
    "coefficients, emphasis 1": {**OURS, "training.emphasis": 1.0},
    "coefficients, all at t = 0": {"training.pure_noise": 1.0, "training.lead_in": 0.0},
    "coefficients, paper's times": PAPER,
    "velocity, paper's times": VELOCITY,
    "velocity, paper's times, inverse energy": {**VELOCITY, "training.weighting": "inverse_energy"},
    "velocity, half in the lead-in": {**VELOCITY, "training.lead_in": 0.5},
    "velocity, half in the lead-in, emphasis 2": {**VELOCITY, "training.lead_in": 0.5, "training.emphasis": 2.0},
    "velocity, paper's schedule and times": {**VELOCITY, "flow.schedule": "paper"},
    "direct, paper's times": {"model.head": "direct", **PAPER},
}
COLUMNS = {
    "variant": "variant",
    "steps": "steps",
    "seconds": "seconds",
    "evaluations": "evaluations a video",
    "psnr_before": "PSNR before",
    "psnr_after": "PSNR after",
}


def main() -> None:
    """Train every variant, render, write the record."""
    parser = parser_of("heads", __doc__)
    parser.add_argument("--seconds", type=float, help="of training: train each variant again, for as long")
    parser.add_argument("--clips", type=int, default=12, help="clips decoded for the PSNR")
    parser.add_argument("--only", nargs="*", help="variants whose name contains one of these")
    arguments, described = parsed(parser)
    device = arguments.device
    run = read_run(arguments.results)
    judge = Judge(run, arguments.clips, device)
    ceiling = judge.ceiling()
    rows = measured_before(arguments.out, run)
    for seconds in (None, arguments.seconds) if arguments.seconds else (None,):
        for name, changes in VARIANTS.items():
            if arguments.only and not any(part in name for part in arguments.only):
                continue
            config = changed(run.config, {"training.steps": arguments.steps, **changes})
            before = FlowModel.of(config, new_model(config, run.moments).to(device).eval())
            model, about = train(config, run, run.batch, device, seconds)
            asked = {"variant": name, "asked": f"{seconds:g} s" if seconds else f"{arguments.steps} steps"}
            scores = {"psnr_before": judge.psnr(before), "psnr_after": judge.psnr(model)}
            rows = [row for row in rows if any(row[key] != value for key, value in asked.items())]
            rows.append({**asked, "settings": changes, **about, **scores, "evaluations": model.evaluations})
            print(rows[-1], file=sys.stderr)
            write_record(
                arguments.out,
                {
                    "what": f"{len(run.clips)} clips, order {run.moments.order}: PSNR of {len(judge.chosen)} of them, "
                    f"{ceiling:.2f} dB for the projection itself",
                    "machine": described,
                    "psnr_of_the_projection": ceiling,
                    "coefficients": run.moments.fingerprint,
                    "rows": rows,
                },
                COLUMNS,
            )


def measured_before(out: Path, run: FinishedRun) -> list[dict]:
    """The rows of an earlier call, on the same coefficients and with the settings that the variants have now."""
    record = read_json(out) if out.exists() else {}
    if record.get("coefficients") != run.moments.fingerprint:
        return []
    return [row for row in record["rows"] if VARIANTS.get(row["variant"]) == row["settings"]]


class Judge:
    """Scores models on a run's clips; PSNR on some of them, evenly chosen."""

    def __init__(self, run: FinishedRun, count: int, device: torch.device):
        self.run = run
        frames = run.frames()
        picked = np.linspace(0, len(run.clips) - 1, min(count, len(run.clips))).round().astype(int)
        self.chosen = [int(index) for index in picked]
        self.frames = [frames[run.clips[index].clip_id] for index in self.chosen]
        self.decoder: VisualDecoder = load_decoder(run.config, run.folder / "decoder", device)
        self.noise = torch.randn(len(run.clips), *run.batch.shape, generator=torch.Generator().manual_seed(1))

    @torch.no_grad()
    def psnr(self, model: FlowModel) -> float:
        """Of the decoded frames at their own times, dB, the mean over frames."""
        return self._psnr(
            [
                rendered(model, taken(self.run.batch, [index]), self.noise[[index]], torch.from_numpy(clip.times))[0]
                for index, clip in zip(self.chosen, self.frames, strict=True)
            ]
        )

    @torch.no_grad()
    def ceiling(self) -> float:
        """Of the projection, decoded."""
        model = FlowModel.of(self.run.config, new_model(self.run.config, self.run.moments))
        return self._psnr(
            [
                true_latents(model, taken(self.run.batch, [index]), torch.from_numpy(clip.times))[0]
                for index, clip in zip(self.chosen, self.frames, strict=True)
            ]
        )

    def _psnr(self, latents: list[torch.Tensor]) -> float:
        scores = []
        for shown, clip in zip(latents, self.frames, strict=True):
            made = self.decoder.generate(shown.float(), [clip.caption] * len(shown)).cpu()
            scores.append(psnr(made, to_tensor(clip.frames)))
        return float(torch.cat(scores).mean())


if __name__ == "__main__":
    main()

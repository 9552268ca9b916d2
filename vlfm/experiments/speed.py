"""How long a clip takes to render, and how often the network is evaluated: by head, solver and frame rate.

The networks are the ablation's, whose size and training differ in the head alone. The paper's path is the velocity
head, integrated from frame to frame; ours is one evaluation of the coefficients head, whatever the rate.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from vlfm.clips.shards import DecodedClip
from vlfm.errors import VLFMError
from vlfm.evaluation.means import number
from vlfm.evaluation.metrics import psnr
from vlfm.experiments.names import HEADS
from vlfm.experiments.shared.common import COLOURS, cached, write_experiment
from vlfm.finished_run import Run
from vlfm.frames import to_tensor
from vlfm.latents.store import ClipLatents
from vlfm.model.flow_model import FlowModel
from vlfm.model.frame_times import rate_times
from vlfm.plots import WIDTH, legend_below, svg
from vlfm.progress import Stopwatch, with_progress
from vlfm.splits import TRAIN
from vlfm.storage.tables import Row
from vlfm.words import plural

REPEATS = 3  # timings of which the fastest counts: the others waited for something else
LONG = 1.0  # seconds from which one timing is enough
ADAPTIVE = "dopri5"  # chooses its steps itself
SCORED = 2  # clips the PSNR at their own rate is a mean of
WAYS = {
    "velocity": [
        ("midpoint", {"solver": "midpoint"}),
        ("euler", {"solver": "euler"}),
        (ADAPTIVE, {"solver": ADAPTIVE}),
    ],
    "direct": [("a frame at a time", {})],
    "coefficients": [("exponential, 1 step", {"steps": 1}), ("exponential, 8 steps", {"steps": 8})],
}


def run(run: Run, output: Path) -> None:
    """Write `speed.csv`, `.svg` and `speed/index.json` in `output`, from the models that `ablation.run_part` left
    there; see `common.write_experiment`.

    A row is a head, a solver and a frame rate: evaluations of the network for one clip, the seconds they take and those
    of decoding, how many times fewer evaluations than the paper's path (velocity, midpoint, `evaluation.solver_steps`
    a frame interval) at that rate, and, at the clips' own rate, the PSNR. The adaptive solver, whose steps do not
    depend on the rate, is measured at the clips' own rate alone, and has no row where it gives up.
    """
    models = output / "ablation"
    names = run.clip_ids(SCORED, TRAIN)
    decoded = run.frames(names)
    clips = [(run.latents(name), decoded[name]) for name in names]
    rates = sorted({*run.config.evaluation.fps, run.config.clips.fps})
    # Timings are not what a rerun must repeat: the models' own files say which they are of.
    identity = run.identity(
        "evaluation", models=[str((models / head / "result.json").stat().st_mtime_ns) for head in HEADS]
    )
    rows: list[Row] = []
    with cached(output / "speed", identity) as measured:
        ways = [(head, name, how) for head, several in WAYS.items() for name, how in several]
        decoding = {
            rate: measured(f"decoding-{rate:g}", lambda rate=rate: _decoding(run, clips[0][0], rate)) for rate in rates
        }
        for place, (head, solver, how) in enumerate(with_progress(ways, "speed")):

            def way(head: str = head, how: dict = how) -> dict:
                adaptive = how.get("solver") == ADAPTIVE
                try:
                    model = FlowModel.from_pretrained(models / head / "model", run.device)
                    return _measure(run, model, how, clips, [run.config.clips.fps] if adaptive else rates)
                except VLFMError as error:
                    if not adaptive:
                        raise
                    print(f"{head}: {error}")
                    return {"rates": {}, "psnr": None}

            record = measured(f"way-{place}", way)
            for rate in rates:
                cost = record["rates"].get(f"{rate:g}")
                if cost is None:
                    continue
                own = rate == run.config.clips.fps
                rows.append(
                    {
                        "head": head,
                        "solver": solver,
                        "fps": f"{rate:g}",
                        "evaluations": cost["evaluations"],
                        "network_seconds": cost["network_seconds"],
                        "decoder_seconds": decoding[rate],
                        "psnr": record["psnr"] if own else None,
                    }
                )
        paper = {
            row["fps"]: row["evaluations"] for row in rows if (row["head"], row["solver"]) == ("velocity", "midpoint")
        }
        for row in rows:
            row["fewer"] = paper[row["fps"]] / row["evaluations"]
        own = {(row["head"], row["solver"]): row for row in rows if float(row["fps"]) == run.config.clips.fps}
        ours, theirs = own["coefficients", "exponential, 1 step"], own["velocity", "midpoint"]
        caption = (
            f"At {run.config.clips.fps:g} frames a second one clip takes "
            f"{plural(ours['evaluations'], 'network evaluation')} and "
            f"{ours['network_seconds']:.3f} s with the coefficients head ({ours['psnr']:.2f} dB), "
            f"{theirs['evaluations']} and {theirs['network_seconds']:.2f} s with the paper's ({theirs['psnr']:.2f} dB)."
        )
        write_experiment(output, "speed", "What a clip costs to render", caption, rows, {}, _figure(rows), [])
    print(caption)


def _measure(
    run: Run, model: FlowModel, how: dict, clips: Sequence[tuple[ClipLatents, DecodedClip]], rates: Sequence[float]
) -> dict:
    """Evaluations and seconds of the network for the first clip at each rate, and the mean PSNR of all at their own."""
    evaluation = run.config.evaluation.model_copy(update={"guidance": 1.0, **how})
    changed = replace(run, config=run.config.model_copy(update={"evaluation": evaluation}))
    first, found, scores = clips[0][0], {}, []
    for rate in rates:
        times = torch.from_numpy(rate_times(rate, first.duration))
        seconds = _fastest(lambda times=times: changed.rendered(first, times, model))
        found[f"{rate:g}"] = {"evaluations": model.evaluations, "network_seconds": seconds}
    for stored, decoded in clips:
        latents = changed.rendered(stored, torch.from_numpy(decoded.times), model)
        frames = run.coder(stored).without_null_text().generate(latents)
        scores.append(float(psnr(frames, to_tensor(decoded.frames)).mean()))
    return {"rates": found, "psnr": number(np.mean(scores))}


def _decoding(run: Run, clip, rate: float) -> float:
    """Seconds to decode one clip's frames at a rate."""
    count = len(rate_times(rate, clip.duration))
    latents = torch.from_numpy(clip.latents)
    latents = latents[torch.arange(count) % len(latents)]
    return _fastest(lambda: run.coder(clip).generate(latents))


def _fastest(call) -> float:
    """Seconds of the fastest of a few calls, of a slow one after a single call; the first warms up."""
    seconds = []
    while len(seconds) <= REPEATS:
        watch = Stopwatch()
        call()
        seconds.append(watch.seconds)
        if len(seconds) == 1 and seconds[0] > LONG:
            break
    return round(min(seconds), 5)


def _figure(rows: list[Row]) -> str:
    """Network evaluations a clip against the frame rate."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(WIDTH, 3.4), layout="constrained")
    ways = dict.fromkeys((row["head"], row["solver"]) for row in rows)
    for way, colour in zip(ways, COLOURS, strict=False):
        chosen = [row for row in rows if (row["head"], row["solver"]) == way]
        axes.plot(
            [float(row["fps"]) for row in chosen],
            [row["evaluations"] for row in chosen],
            "o-",
            color=colour,
            markersize=3.5,
            label=", ".join(way),
        )
    axes.set(xlabel="frames a second", ylabel="network evaluations a clip", yscale="log")
    legend_below(figure, axes, columns=2)
    return svg(figure, "speed")

"""Equal seconds for networks whose steps take longer or shorter: how many steps each gets.

The clock of a whole training depends on what else the machine does in these minutes, and a learning rate that decays
must know its last step from the first. So the seconds of a step are measured once, of all variants in turns in one job
with the same threads, and become a number of steps for each.
"""

import contextlib
import statistics
from collections.abc import Mapping

import torch

from vlfm.experiments.shared.variants import Variant
from vlfm.progress import Stopwatch, progress
from vlfm.training.data import read_moments
from vlfm.training.loader import batches

FIRST = 2  # steps of each that do not count: memory is taken, kernels are chosen
ROUNDS = 9  # in each, every variant takes its turn
TURN = 2  # steps in a turn


def seconds_a_step(variants: Mapping[str, Variant], device: torch.device) -> dict[str, float]:
    """The seconds that a training step of each variant takes, the wait for its clips included: the median of 18.

    Raises:
        VLFMError: as training does.
    """
    times: dict[str, list[float]] = {name: [] for name in variants}
    with contextlib.ExitStack() as stack:
        running = {}
        for name, variant in variants.items():
            settings = variant.config.training
            trainer = variant.trainer(device)
            source = batches(
                variant.shards,
                read_moments(variant.moment_files),
                settings.batch_size,
                variant.config.seed,
                stop=FIRST + ROUNDS * TURN,
                workers=settings.workers,
                pin_memory=device.type == "cuda",
            )
            running[name] = trainer, stack.enter_context(contextlib.closing(source))
            for _ in range(FIRST):
                trainer.take_step(next(source))
        for _ in progress(range(ROUNDS), total=ROUNDS, what="seconds a step", unit="round"):
            for name, (trainer, source) in running.items():
                for _ in range(TURN):
                    watch = Stopwatch()
                    trainer.take_step(next(source))
                    times[name].append(watch.seconds)
    return {name: statistics.median(taken) for name, taken in times.items()}


def steps_within(seconds: float, a_step: float) -> int:
    """How many steps of `a_step` seconds fit into `seconds`; at least 1."""
    return max(1, int(seconds / a_step))

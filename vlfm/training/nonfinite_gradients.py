"""Steps whose gradient is not finite: how it is found out, what is said of them, and when they end a run.

To change weights only if its gradient is finite, a step has to know whether it is. On a GPU that means waiting, at each
step, for all the work that it was given. So steps there are trusted: they go on, and every few of them one look tells
whether all were good. If one was not, everything is put back to where it was at the look before, and the same steps
are taken again, asking at each. What comes of it is the same.
"""

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch

from vlfm.errors import VLFMError
from vlfm.storage.checkpoints import copied
from vlfm.training.trainer import Part, Trainer


class Updates(Protocol):
    """How a trainer's gradients become its next weights."""

    def take(self, parts: Sequence[Part], loss: torch.Tensor) -> None:
        """Move the weights by the gradients of `parts`, whose loss was `loss`."""

    def look(self) -> tuple[torch.Tensor, float]:
        """Make sure of all steps so far. All processes must ask alike.

        Returns:
            The last step's loss, of this process and on the device, and its gradient's norm before clipping.

        Raises:
            VLFMError: after `training.max_bad_steps` steps in a row whose gradient was not finite.
        """


def make_updates(trainer: Trainer) -> Updates:
    """What `training.updates` asks for."""
    name = trainer.config.training.updates
    if name == "auto":
        name = "asked" if trainer.device.type == "cpu" else "trusted"
    return TrustedUpdates(trainer) if name == "trusted" else AskedUpdates(trainer)


class AskedUpdates:
    """Each step is known to be good or bad before the next."""

    def __init__(self, trainer: Trainer):
        self._trainer = trainer
        self._last = torch.zeros(()), math.nan

    def take(self, parts: Sequence[Part], loss: torch.Tensor) -> None:
        gradient = self._trainer.update()
        _tell(self._trainer, parts, gradient)
        self._last = loss, gradient

    def look(self) -> tuple[torch.Tensor, float]:
        return self._last


class TrustedUpdates:
    """Steps go on unasked until somebody looks.

    It keeps a copy of all that a step changes, on the device, and the clips of the steps since the last look.
    """

    def __init__(self, trainer: Trainer):
        self._trainer = trainer
        self._parts: list[Sequence[Part]] = []
        self._norms: list[torch.Tensor] = []
        self._loss = torch.zeros(())
        self._norm = math.nan
        self._before: Any = copied(trainer.state())

    def take(self, parts: Sequence[Part], loss: torch.Tensor) -> None:
        self._parts.append(parts)
        self._norms.append(self._trainer.update_unasked())
        self._loss = loss

    def look(self) -> tuple[torch.Tensor, float]:
        if self._parts:
            # The one place where steps wait for the device.
            norms = torch.stack(self._norms).tolist()
            self._norm = norms[-1]
            if all(map(math.isfinite, norms)):
                self._trainer.in_a_row = 0
            else:
                self._take_again()
            self._parts, self._norms = [], []
            self._before = None  # before the next: there is room for one
            self._before = copied(self._trainer.state())
        return self._loss, self._norm

    def _take_again(self) -> None:
        self._trainer.restore(self._before)
        asked = AskedUpdates(self._trainer)
        for parts in self._parts:
            asked.take(parts, self._trainer.backward(parts))
        self._loss, self._norm = asked.look()


def _tell(trainer: Trainer, parts: Sequence[Part], gradient: float) -> None:
    """Tell of a step whose gradient was not finite, and of the clips to blame, if they are.

    Raises:
        VLFMError: after `training.max_bad_steps` of them in a row.
    """
    if math.isfinite(gradient):
        return
    names = trainer.group.gather([name for batch, _ in parts for name in batch.not_finite()])
    clips = sorted({name for each in names for name in each})
    blame = f"; not finite in the shards: {', '.join(clips)}" if clips else ""
    if trainer.accelerator.is_main_process:
        print(f"warning: step {trainer.step} is skipped, its gradient is not finite{blame}", flush=True)
    if trainer.in_a_row >= trainer.config.training.max_bad_steps:
        remedy = (
            "remove the shards of these clips and run `snakemake` again"
            if clips
            else "lower training.learning_rate, or set training.precision to float32, and run the rule again"
        )
        raise VLFMError(
            f"the gradient is not finite in {trainer.in_a_row} steps in a row, up to step {trainer.step}{blame}; "
            f"{remedy}"
        )

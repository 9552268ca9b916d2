"""Seconds of training as steps."""

import time

import pytest

from tests.experiments.conftest import CPU, small
from vlfm.experiments.shared import equal_seconds
from vlfm.experiments.shared.variants import projected
from vlfm.training.trainer import Trainer


@pytest.mark.parametrize(("seconds", "a_step", "steps"), [(240, 0.5, 480), (10, 3, 3), (1, 5, 1)])
def test_as_many_steps_as_fit(seconds, a_step, steps):
    assert equal_seconds.steps_within(seconds, a_step) == steps


@pytest.mark.slow
def test_a_slower_variant_is_seen_to_be_slower_and_a_stall_of_the_machine_is_not(run, monkeypatch):
    """Steps that wait 60 and 20 ms more; one of them stalls once."""
    config = small(training={"batch_size": 2})
    slow, fast = projected(run, config), projected(run, config.model_copy(update={"seed": 1}))
    real, taken = Trainer.take_step, []

    def delayed(self, batch):
        taken.append(self.config.seed)
        time.sleep(1.0 if len(taken) == 12 else 0.02 if self.config.seed else 0.06)
        return real(self, batch)

    monkeypatch.setattr(Trainer, "take_step", delayed)
    found = equal_seconds.seconds_a_step({"slow": slow, "fast": fast}, CPU)
    assert 0.06 < found["slow"] and 0.02 < found["fast"]
    assert 0.01 < found["slow"] - found["fast"] < 0.2
    counted = taken[2 * equal_seconds.FIRST :]
    assert counted[: 2 * equal_seconds.TURN] == [0] * equal_seconds.TURN + [1] * equal_seconds.TURN, "in turns"
    assert counted.count(0) == counted.count(1) == equal_seconds.ROUNDS * equal_seconds.TURN

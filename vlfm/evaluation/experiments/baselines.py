"""What a user would otherwise pick, after equally many seconds of training: other heads, and a flow over all frames.

Each variant is the configured backbone under the ordinary trainer, with the configured optimizer, caption dropout and
guidance; its steps are what `experiments.baseline_seconds` are worth on one machine (`equal_seconds`), and its learning
rate decays over exactly these. Each is trained with several seeds and sampled in several numbers of steps; what it makes
of the captions is judged beside what takes no training: the nearest training caption's clip, and averages.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from vlfm import config as configs
from vlfm.artifacts import Stopwatch, read_json, write_json
from vlfm.errors import VLFMError
from vlfm.evaluation.experiments import all_frames
from vlfm.evaluation.experiments.common import Run, watched
from vlfm.evaluation.experiments.equal_seconds import seconds_a_step, steps_within
from vlfm.evaluation.experiments.variants import ALL_FRAMES, HEADS, Variant, of_all_frames, projected, with_head

VARIANTS = ("coefficients", "velocity", "direct", ALL_FRAMES)


def configured(config: configs.Config, variant: str, seed: int = 0, steps: int = 1) -> configs.Config:
    """The configuration that trains one variant with a seed, for so many steps.

    Raises:
        VLFMError: for an unknown variant.
    """
    if variant not in VARIANTS:
        raise VLFMError(f"unknown variant {variant!r}; there are {', '.join(VARIANTS)}")
    training = {"steps": steps, "warmup": min(config.training.warmup, steps // 5), "preview_every": 0}
    head = variant if variant in HEADS else config.model.head
    return with_head(config.model_copy(update={"seed": seed}), head, **training)

"""What the tests share: the configuration, made small, and a run's worth of real clips."""

from pathlib import Path

import pytest
import torch
import yaml

from vlfm import config as configs

ROOT = Path(__file__).parents[1]


def merge(base: dict, change: dict) -> dict:
    """`base` with the nested keys of `change` replaced."""
    merged = dict(base)
    for key, value in change.items():
        merged[key] = merge(base[key], value) if isinstance(value, dict) else value
    return merged


def make_config(**change) -> configs.Config:
    """config.yaml with some keys changed: `make_config(flow={"order": 4})`."""
    return configs.parse(merge(yaml.safe_load((ROOT / "config.yaml").read_text()), change))


# Large enough to go through every stage, small enough for seconds.
SMALL = {
    "clips": {"size": 48, "shard_size": 3},
    "decoder": {"embedded": {"channels": 8, "unet_channels": [32], "steps": 20, "batch_size": 8}},
    "inversion": {"steps": 4, "batch_size": 24},
    "flow": {"order": 4},
    "model": {"layers": 1, "heads": 2, "head_dim": 64},
    "training": {"steps": 12, "workers": 0, "batch_size": 4, "warmup": 2, "checkpoint_every": 4},
    "evaluation": {"clips": 3},
}


@pytest.fixture(scope="session")
def small_config() -> configs.Config:
    return make_config(**SMALL)


@pytest.fixture(autouse=True)
def _same_numbers_everywhere():
    torch.manual_seed(0)

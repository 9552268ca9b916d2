"""Tiny models of every kind, in diffusers' folders, and frames for them."""

import pytest
import torch

from tests import tiny_models


@pytest.fixture(scope="session")
def stable_diffusion(tmp_path_factory):
    return tiny_models.stable_diffusion(tmp_path_factory.mktemp("sd"))


@pytest.fixture(scope="session")
def sd3(tmp_path_factory):
    return tiny_models.rectified_flow(tmp_path_factory.mktemp("sd3"))


@pytest.fixture
def frames():
    return torch.rand(3, 3, 64, 64) * 2 - 1

import pytest
import torch


@pytest.fixture
def frames():
    return torch.rand(3, 3, 64, 64) * 2 - 1

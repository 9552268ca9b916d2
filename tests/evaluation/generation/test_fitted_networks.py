import json

import pytest
import torch
from torch import nn

from vlfm.errors import VLFMError
from vlfm.evaluation.generation.fitted_networks import WEIGHTS, fill, read_fitted, save_fitted


@pytest.fixture
def folder(tmp_path):
    save_fitted(tmp_path / "fit", "judge", nn.Linear(2, 3), {"fingerprint": "abc", "size": 3})
    return tmp_path / "fit"


def test_a_network_comes_back(folder):
    weights, description = read_fitted(folder, "judge")
    network = nn.Linear(2, 3)
    fill(network, weights, folder)
    assert description == {"fingerprint": "abc", "size": 3} and not network.training
    assert torch.equal(network.weight, weights["weight"]) and not network.weight.requires_grad
    assert sorted(path.name for path in folder.iterdir()) == ["judge.json", WEIGHTS]


def test_what_is_not_whole_is_refused(folder):
    with pytest.raises(VLFMError, match="another network's weights"):
        fill(nn.Linear(2, 4), read_fitted(folder, "judge")[0], folder)
    with pytest.raises(VLFMError, match=r"features.json is missing"):
        read_fitted(folder, "features")
    (folder / "judge.json").write_text(json.dumps({"fingerprint": "def"}))
    with pytest.raises(VLFMError, match="different fits"):
        read_fitted(folder, "judge")
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:50])
    with pytest.raises(VLFMError, match="is damaged"):
        read_fitted(folder, "judge")
    (folder / WEIGHTS).unlink()
    with pytest.raises(VLFMError, match=r"model.safetensors is missing"):
        read_fitted(folder, "judge")

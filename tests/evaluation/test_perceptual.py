"""LPIPS and FVD: their formulas on small or random weights, and what is said where weights are missing."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from vlfm.errors import VLFMError
from vlfm.evaluation.perceptual import LPIPS_FILE, VIDEOMAE_FOLDER, load_fvd, load_lpips, missing

CONVOLUTIONS = {
    "net.slice1.0": (3, 64, 11),
    "net.slice2.3": (64, 192, 5),
    "net.slice3.6": (192, 384, 3),
    "net.slice4.8": (384, 256, 3),
    "net.slice5.10": (256, 256, 3),
}


@pytest.fixture
def weights(tmp_path):
    """Random weights under the names of the lpips package, and their folder."""
    torch.manual_seed(0)
    state = {}
    for index, (name, (inside, outside, side)) in enumerate(CONVOLUTIONS.items()):
        state[f"{name}.weight"] = torch.randn(outside, inside, side, side) / (inside * side**2) ** 0.5
        state[f"{name}.bias"] = torch.randn(outside) * 0.1
        state[f"lin{index}.model.1.weight"] = torch.rand(1, outside, 1, 1)
    save_file(state, tmp_path / LPIPS_FILE)
    return state


def frames(seed, count=3, side=70):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_lpips_against_alexnet_as_layers(weights, tmp_path):
    """torchvision's AlexNet written out: ReLU after each convolution, pooling before the second and third."""
    pool, relu = nn.MaxPool2d(3, 2), nn.ReLU()
    layers, taps = [], []
    for (name, (inside, outside, side)), stride, padding in zip(
        CONVOLUTIONS.items(), (4, 1, 1, 1, 1), (2, 2, 1, 1, 1), strict=True
    ):
        convolution = nn.Conv2d(inside, outside, side, stride, padding)
        convolution.load_state_dict({"weight": weights[f"{name}.weight"], "bias": weights[f"{name}.bias"]})
        layers += [convolution, relu]
        taps.append(len(layers))
        if name in ("net.slice1.0", "net.slice2.3"):
            layers.append(pool)
    network = nn.Sequential(*layers)
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    expected = torch.zeros(3)
    with torch.no_grad():
        for index, tap in enumerate(taps):
            ours, theirs = (
                nn.functional.normalize(network[:tap]((x - shift.view(3, 1, 1)) / scale.view(3, 1, 1)), eps=1e-10)
                for x in (frames(1), frames(2))
            )
            expected += (weights[f"lin{index}.model.1.weight"][0] * (ours - theirs) ** 2).sum(1).mean((1, 2))
    lpips = load_lpips(tmp_path)
    torch.testing.assert_close(lpips(frames(1), frames(2)), expected, rtol=1e-4, atol=1e-5)
    assert lpips(frames(1), frames(1)).tolist() == [0, 0, 0]
    with pytest.raises(VLFMError, match="31 pixels"):
        lpips(frames(1, side=30), frames(2, side=30))
    assert lpips(frames(1, side=31), frames(2, side=31)).isfinite().all()


def test_what_is_missing_is_said(weights, tmp_path):
    assert set(missing(tmp_path)) == {"fvd"} and set(missing(tmp_path / "none")) == {"lpips", "fvd"}
    with pytest.raises(VLFMError, match=r"LPIPS: .*lpips-alex.safetensors is missing; .*python -c"):
        load_lpips(tmp_path / "none")
    with pytest.raises(VLFMError, match=r"FVD: .*videomae is missing; .*hf download"):
        load_fvd(tmp_path)
    save_file({"net.slice1.0.weight": weights["net.slice1.0.weight"]}, tmp_path / LPIPS_FILE)
    with pytest.raises(VLFMError, match=r"holds no net.slice1.0.bias"):
        load_lpips(tmp_path)


def test_fvd_through_a_network(tmp_path):
    from transformers import VideoMAEConfig, VideoMAEModel

    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = VideoMAEConfig(image_size=32, patch_size=8, num_frames=4, **small)
    VideoMAEModel(config).save_pretrained(tmp_path / VIDEOMAE_FOLDER)
    assert "fvd" not in missing(tmp_path)
    fvd = load_fvd(tmp_path)
    clips = torch.stack([frames(seed, count=7, side=40) for seed in range(6)])
    assert fvd(clips, clips) == pytest.approx(0, abs=1e-6)
    slightly, much = fvd(clips * 0.9, clips), fvd(clips * 0.2, clips)
    assert 0 < slightly < much

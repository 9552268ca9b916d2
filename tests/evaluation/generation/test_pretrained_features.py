import json

import numpy as np
import pytest
import torch

from vlfm.errors import VLFMError
from vlfm.evaluation.generation.pretrained_features import PretrainedFeatures

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def save(folder, name="VideoMAE", **settings):
    import transformers

    torch.manual_seed(0)
    sizes = {"image_size": 32, "patch_size": 8, "num_frames": 4}
    config = getattr(transformers, f"{name}Config")(**sizes | SMALL | settings)
    network = getattr(transformers, f"{name}Model")(config)
    network.save_pretrained(folder)
    return network.eval()


def clips(count=3, frames=7, height=40, width=48, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, frames, height, width, 3), dtype=np.uint8)


def test_features_are_the_mean_of_the_networks_tokens(tmp_path):
    network = save(tmp_path)
    features = PretrainedFeatures(tmp_path, batch_size=2)
    given = clips(frames=4, height=32, width=32)
    found = features.extract(given)
    assert found.shape == (3, features.dims) == (3, 16) and found.dtype == np.float64
    pictures = torch.from_numpy(given).movedim(-1, 2).float() / 255
    mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    with torch.no_grad():
        tokens = network((pictures - mean) / deviation).last_hidden_state
    assert found == pytest.approx(tokens.mean(1).double().numpy(), abs=1e-5)


def test_clips_of_any_length_and_size_are_sampled_and_resized(tmp_path):
    save(tmp_path)
    features = PretrainedFeatures(tmp_path)
    mixed = [clips(1)[0], clips(1, frames=2, height=20, width=64)[0]]
    assert features.extract(mixed).shape == (2, 16) and features.extract([]).shape == (0, 16)
    longer = np.repeat(clips(1, frames=4), 3, axis=1)[:, [0, 2, 3, 5, 6, 8, 9, 11]]
    chosen = np.linspace(0, 7, 4).round().astype(int)
    assert features.extract(longer) == pytest.approx(features.extract(longer[:, chosen]), abs=1e-6)


@pytest.mark.parametrize(
    "name, settings",
    [
        ("Timesformer", {}),
        ("Vivit", {"tubelet_size": [2, 8, 8]}),
        ("VJEPA2", {"crop_size": 32, "frames_per_clip": 4, "pred_hidden_size": 16, "pred_num_attention_heads": 2,
                    "pred_num_hidden_layers": 1, "mlp_ratio": 1.0}),
    ],
)  # fmt: skip
def test_other_video_networks(tmp_path, name, settings):
    save(tmp_path, name, **settings)
    found = PretrainedFeatures(tmp_path).extract(clips())
    assert found.shape == (3, 16) and np.isfinite(found).all() and np.ptp(found, axis=0).min() > 0


def test_colours_are_those_of_the_folders_processor(tmp_path):
    save(tmp_path)
    plain = PretrainedFeatures(tmp_path)
    settings = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    other = PretrainedFeatures(tmp_path)
    assert plain.fingerprint != other.fingerprint
    assert np.abs(plain.extract(clips()) - other.extract(clips())).max() > 1e-3
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**settings, "do_normalize": False}))
    assert PretrainedFeatures(tmp_path).extract(clips()).shape == (3, 16)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5]}))
    with pytest.raises(VLFMError, match="three numbers each"):
        PretrainedFeatures(tmp_path)


def test_what_is_no_video_network_is_refused(tmp_path):
    from transformers import BertConfig, BertModel, ViTConfig, ViTModel

    BertModel(BertConfig(vocab_size=10, **SMALL)).save_pretrained(tmp_path / "text")
    with pytest.raises(VLFMError, match="holds a bert model and no video network"):
        PretrainedFeatures(tmp_path / "text")
    ViTModel(ViTConfig(image_size=32, patch_size=8, **SMALL)).save_pretrained(tmp_path / "pictures")
    with pytest.raises(VLFMError, match="has no num_frames or frames_per_clip"):
        PretrainedFeatures(tmp_path / "pictures")
    with pytest.raises(VLFMError, match=r"evaluation\.features is"):
        PretrainedFeatures(tmp_path / "nothing here", key="evaluation.features")


def test_only_safetensors_are_read(tmp_path):
    network = save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(network.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(VLFMError, match="only safetensors are read"):
        PretrainedFeatures(tmp_path)

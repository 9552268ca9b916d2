"""Training the embedded decoder on shards of one size and of several."""

import io
import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.conftest import SMALL, make_config, merge
from vlfm.decoders import fit_embedded
from vlfm.decoders.embedded import EmbeddedDecoder
from vlfm.decoders.load import load_decoder
from vlfm.decoders.patch_autoencoder import PatchAutoencoder
from vlfm.errors import VLFMError
from vlfm.storage.files import read_json, write_json
from vlfm.storage.tar import read_tar, write_tar

SIZES = [[48, 48], [36, 60]]


@pytest.fixture
def config():
    return make_config(**merge(SMALL, {"decoder": {"embedded": {"steps": 6}}, "clips": {"size": SIZES}}))


def picture(random, height, width):
    """Smooth colours, which patches are worth an autoencoder for."""
    rows, columns = np.mgrid[:height, :width] / 20
    waves = [np.sin(random.uniform(-1, 1) * rows + random.uniform(-1, 1) * columns + k) for k in range(3)]
    return ((np.stack(waves, -1) + 1) * 127).astype(np.uint8)


@pytest.fixture
def shards(tmp_path):
    """A shard of four clips for each size, the second of longer clips."""
    random = np.random.default_rng(0)
    paths = []
    for number, (height, width) in enumerate(SIZES):
        samples = []
        for clip in range(4):
            count = 4 + 4 * number
            sample = {"__key__": f"{number:08x}{clip:08x}", "txt": b"waves"}
            sample["json"] = json.dumps({"times": (np.arange(1, count + 1) / 24).tolist()}).encode()
            for index in range(count):
                data = io.BytesIO()
                Image.fromarray(picture(random, height, width)).save(data, "PNG")
                sample[f"{index:03d}.png"] = data.getvalue()
            samples.append(sample)
        paths.append(tmp_path / f"{number:05d}.tar")
        write_tar(paths[-1], samples)
    return paths


def test_one_decoder_for_all_sizes(config, shards, tmp_path):
    fit_embedded.fit_decoder(config, shards, tmp_path / "decoder", torch.device("cpu"))
    about = read_json(tmp_path / "decoder" / "decoder.json")
    assert about["held_out_frames"] + about["training_frames"] == 4 * 4 + 4 * 8
    assert about["shape"] == [8, 8, 8] and about["held_out_psnr"] > 25
    decoder = EmbeddedDecoder.from_pretrained(tmp_path / "decoder", steps=4)
    for height, width in SIZES:
        frames = torch.rand(2, 3, height, width)
        assert decoder.generate(decoder.invert(frames)).shape == frames.shape
        assert decoder.latent_shape(height, width) == (8, height // 6, width // 6)


def test_in_bfloat16_as_much_is_learnt_and_the_decoder_itself_is_float32(shards, tmp_path):
    told = {}
    for name in ("none", "float32", "bfloat16"):
        about = {"steps": 0} if name == "none" else {"steps": 60, "precision": name}
        embedded = {"channels": 3, "autoencoder": about}  # few: patches alone then lose much
        change = {"decoder": {"embedded": embedded}, "clips": {"size": SIZES}, "inversion": {"depth": 0}}
        fit_embedded.fit_decoder(make_config(**merge(SMALL, change)), shards, tmp_path / name, torch.device("cpu"))
        told[name] = read_json(tmp_path / name / "decoder.json")
    weights = load_file(tmp_path / "bfloat16" / "autoencoder" / "diffusion_pytorch_model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float32}
    scores = {name: about["held_out_psnr"] for name, about in told.items()}
    assert scores["bfloat16"] != scores["float32"]  # it was not float32 after all
    assert abs(scores["bfloat16"] - scores["float32"]) < (scores["float32"] - scores["none"]) / 4


def test_what_auto_stands_for_is_part_of_the_fingerprint(shards, tmp_path, monkeypatch):
    """A fit that was begun in bfloat16 is not gone on with in float32 on another machine."""
    config, found = make_config(**merge(SMALL, {"clips": {"size": SIZES}, "inversion": {"depth": 0}})), []
    for dtype in (torch.float32, torch.bfloat16):
        monkeypatch.setattr("vlfm.precision.fast_bfloat16", lambda device, dtype=dtype: dtype == torch.bfloat16)
        fit_embedded.fit_decoder(config, shards, tmp_path / "decoder", torch.device("cpu"))
        found.append(read_json(tmp_path / "decoder" / "decoder.json"))
    assert [about["dtype"] for about in found] == ["torch.float32", "torch.bfloat16"]
    assert found[0]["fingerprint"] != found[1]["fingerprint"]


@pytest.mark.parametrize("steps", [0, 20])
def test_at_depth_0_there_is_no_noise_predictor(config, shards, tmp_path, monkeypatch, steps):
    fit_embedded.fit_decoder(config, shards, tmp_path / "decoder", torch.device("cpu"))
    trained = read_json(tmp_path / "decoder" / "decoder.json")
    assert (tmp_path / "decoder" / "unet").exists()
    without = make_config(
        **merge(config.model_dump(), {"decoder": {"embedded": {"steps": steps}}, "inversion": {"depth": 0}})
    )
    monkeypatch.setattr(fit_embedded, "_train_unet", None)
    fit_embedded.fit_decoder(without, shards, tmp_path / "decoder", torch.device("cpu"))
    about = read_json(tmp_path / "decoder" / "decoder.json")
    assert about["fingerprint"] != trained["fingerprint"] and about["held_out_psnr"] == trained["held_out_psnr"]
    assert not (tmp_path / "decoder" / "unet").exists(), "nor that of the training before"
    decoder = load_decoder(without, tmp_path / "decoder", torch.device("cpu"))
    frames = torch.rand(2, 3, 36, 60)
    assert torch.equal(decoder.generate(decoder.invert(frames)), decoder.decode(decoder.encode(frames)))
    with pytest.raises(VLFMError, match="no noise predictor"):
        load_decoder(config, tmp_path / "decoder", torch.device("cpu"))


@pytest.mark.parametrize("part", ["autoencoder", "unet"])
def test_a_killed_training_on_several_sizes_ends_the_same(config, shards, tmp_path, monkeypatch, part):
    fit_embedded.fit_decoder(config, shards, tmp_path / "straight", torch.device("cpu"), every=2)
    saved = fit_embedded.save_state

    def save_and_die(path, state):
        saved(path, state)
        if state["step"] == 4 and part in path.name:
            raise KeyboardInterrupt

    monkeypatch.setattr(fit_embedded, "save_state", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        fit_embedded.fit_decoder(config, shards, tmp_path / "killed", torch.device("cpu"), every=2)
    monkeypatch.undo()
    fit_embedded.fit_decoder(config, shards, tmp_path / "killed", torch.device("cpu"), every=2)
    names = [path.relative_to(tmp_path / "straight") for path in sorted((tmp_path / "straight").rglob("*.*"))]
    assert len(names) > 5
    for name in names:
        if (tmp_path / "straight" / name).is_file():
            assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes(), name


def test_other_frames_of_the_same_clips_are_another_fit(config, shards, tmp_path, monkeypatch):
    """Another clips.fps, say: ids and shards keep their names. What was learnt from the earlier frames is not used."""

    def begun(folder):
        with monkeypatch.context() as patch:
            patch.setattr(fit_embedded, "save_state", lambda path, state: (saved(path, state), sys.exit()))
            with pytest.raises(SystemExit):
                fit_embedded.fit_decoder(config, shards, folder, torch.device("cpu"), every=2)
        return {path.name for path in folder.parent.glob(f".{folder.name}.partial-*")}

    saved = fit_embedded.save_state
    (first,) = begun(tmp_path / "decoder")
    samples = list(read_tar(shards[1]))
    for members in samples:
        del members["007.png"]
        members["json"] = json.dumps({"times": (np.arange(1, 8) / 21).tolist()}).encode()
    write_tar(shards[1], samples)
    (second,) = begun(tmp_path / "decoder") - {first}
    assert "autoencoder" in first
    fit_embedded.fit_decoder(config, shards, tmp_path / "decoder", torch.device("cpu"), every=2)
    fit_embedded.fit_decoder(config, shards, tmp_path / "afresh", torch.device("cpu"), every=2)
    written = [read_json(tmp_path / name / "decoder.json") for name in ("decoder", "afresh")]
    assert written[0] == written[1] and written[0]["fingerprint"] in second
    weights = "unet/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "decoder" / weights).read_bytes() == (tmp_path / "afresh" / weights).read_bytes()


def test_a_sample_of_a_large_data_set_holds_every_size(shards, monkeypatch):
    monkeypatch.setattr(fit_embedded, "MAX_FRAMES", 20)
    training, held_out, _ = fit_embedded._frames(shards, 0.1, 0)
    assert training.keys() == {(48, 48), (36, 60)} and len(held_out) == 1
    assert 4 <= len(training[48, 48]) <= 12 and 8 <= len(training[36, 60]) <= 24


def test_of_many_clips_no_more_are_looked_at_than_are_taken(shards, monkeypatch):
    looked, real = [], fit_embedded.read_clips

    def read(path):
        for clip in real(path):
            looked.append(clip.clip_id)
            yield clip

    monkeypatch.setattr(fit_embedded, "read_clips", read)
    fit_embedded._frames(shards, 0.5, 0)
    assert len(set(looked)) == 8
    monkeypatch.setattr(fit_embedded, "MAX_FRAMES", 2)
    looked.clear()
    training, held_out, _ = fit_embedded._frames(shards, 0.5, 0)
    assert len(set(looked)) < 8 and sum(map(len, training.values())) == 12 == sum(map(len, held_out.values()))


def test_something_is_left_to_train_on(shards):
    training, _, _ = fit_embedded._frames(shards, 1.0, 0)
    assert sum(map(len, training.values())) in (4, 8)


def test_a_folder_of_another_decoder_is_refused(config, tmp_path):
    write_json(tmp_path / "decoder.json", {"name": "stable-diffusion"})
    with pytest.raises(VLFMError, match=r"is of the decoder stable-diffusion, not of an embedded one; run `vlfm prep"):
        load_decoder(config, tmp_path, torch.device("cpu"))


def test_the_basis_does_not_depend_on_how_patches_lie():
    frames = torch.rand(3, 3, 48, 48) * 2 - 1
    whole = PatchAutoencoder.fit(frames, 6, 8)
    parts = PatchAutoencoder.fit([frames[:, :, :12], frames[:, :, 12:]], 6, 8)
    assert torch.allclose(whole.basis, parts.basis, atol=1e-5) and torch.allclose(whole.mean, parts.mean, atol=1e-6)

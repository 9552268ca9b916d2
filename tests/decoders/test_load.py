"""Decoders of every kind prepared, loaded and taken through the stages."""

import os
import re
import shutil
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import ROOT, make_config
from tests.data import tiny_models
from tests.data.latents import write_clips
from vlfm.decoders import load
from vlfm.decoders.load import FOUND, UNMEASURED, load_decoder
from vlfm.decoders.prepare import prepare_decoder
from vlfm.errors import VLFMError
from vlfm.latents.invert import invert_shard, latents_fingerprint
from vlfm.latents.store import LatentStore
from vlfm.storage.files import read_json

pytestmark = pytest.mark.usefixtures("captions_read_once")

CPU = torch.device("cpu")


def config_for(name, model, **change):
    return make_config(
        clips={"size": 64, "duration": 0.25},
        decoder={"name": name, "model": str(model), "vae": change.pop("vae", None)},
        inversion={"steps": 3, "precision": "float32", **change.pop("inversion", {})},
        flow={"order": 4},
        model={"heads": 2, "head_dim": 64},
        **change,
    )


@pytest.mark.parametrize(
    ("name", "make", "text", "prompt"),
    [
        ("stable-diffusion", tiny_models.stable_diffusion, "clip", "caption"),
        ("stable-diffusion", tiny_models.stable_diffusion, "minilm", "empty"),
        ("autoencoder", tiny_models.autoencoder_kl, "minilm", "empty"),
        ("rectified-flow", tiny_models.rectified_flow, "minilm", "caption"),
    ],
)
def test_through_the_stages(tmp_path, name, make, text, prompt):
    folder = make(tmp_path / "model")
    inversion = {"prompt": prompt, "refine": 2, "batch_size": 8, "check": 1}
    config = config_for(name, folder, text={"encoder": text}, inversion=inversion)
    prepare_decoder(config, [], tmp_path / "decoder", CPU)
    about = read_json(tmp_path / "decoder" / "decoder.json")
    assert about["name"] == name and about["shape"] == [4, 8, 8] and about["model"] == str(folder)
    clips = write_clips(tmp_path / "clips.tar", 3, height=64, width=64)
    invert_shard(config, clips, tmp_path / "decoder", tmp_path / "s.zarr", tmp_path / "s.parquet", CPU)
    store = LatentStore(tmp_path / "s.zarr")
    decoder = load_decoder(config, tmp_path / "decoder", CPU)
    for clip in store:
        assert clip.latents.shape == (6, 4, 8, 8) and 0 < clip.round_trip < 60
        assert decoder.generate(torch.from_numpy(clip.latents), [clip.caption] * 6).shape == (6, 3, 64, 64)
    assert store.fingerprint == latents_fingerprint(config, tmp_path / "decoder")


@pytest.mark.parametrize(
    ("precision", "network", "autoencoder"),
    [("float32", torch.float32, torch.float32), ("bfloat16", torch.bfloat16, torch.bfloat16)],
)
def test_precision_and_the_other_settings_reach_the_decoder(
    stable_diffusion, tmp_path, precision, network, autoencoder
):
    asked = {"precision": precision, "steps": 7, "refine": 2, "prompt": "caption", "batch_size": 5, "depth": 0.5}
    config = config_for("stable-diffusion", stable_diffusion, inversion=asked)
    prepare_decoder(config, [], tmp_path, CPU)
    decoder = load_decoder(config, tmp_path, CPU)
    assert decoder.network.dtype == network and decoder.autoencoder.network.dtype == autoencoder
    assert (decoder.steps, decoder.refine, decoder.captioned, decoder.batch_size) == (7, 2, True, 5)
    assert decoder.depth == 0.5


def test_the_autoencoder_stays_exact_where_the_network_is_rounded(stable_diffusion, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    config = config_for("stable-diffusion", stable_diffusion, inversion={"precision": "auto", "batch_size": "auto"})
    prepare_decoder(config, [], tmp_path, CPU)
    decoder = load_decoder(config, tmp_path, CPU)
    assert decoder.network.dtype == torch.bfloat16 and decoder.autoencoder.network.dtype == torch.float32
    assert decoder.batch_size == UNMEASURED


def identity(config, output):
    prepare_decoder(config, [], output, CPU)
    return latents_fingerprint(config, output)


def test_the_fingerprint_tells_the_depth_where_there_is_one(stable_diffusion, tmp_path):
    identities = {
        name: [
            identity(config_for(name, stable_diffusion, inversion={"depth": depth}), tmp_path / name)
            for depth in (0, 0.5, 1)
        ]
        for name in ("stable-diffusion", "autoencoder")
    }
    assert [len(set(each)) for each in identities.values()] == [3, 1]


def test_the_fingerprint_is_of_weights_and_autoencoder_not_of_the_path(stable_diffusion, tmp_path):
    first = identity(config_for("stable-diffusion", stable_diffusion), tmp_path / "a")
    shutil.copytree(stable_diffusion, tmp_path / "copy")
    assert identity(config_for("stable-diffusion", tmp_path / "copy"), tmp_path / "b") == first
    own = tmp_path / "copy" / "vae"
    assert identity(config_for("stable-diffusion", stable_diffusion, vae=str(own)), tmp_path / "c") == first
    # A folder with an autoencoder in it names that autoencoder.
    assert identity(config_for("stable-diffusion", stable_diffusion, vae=str(own.parent)), tmp_path / "c") == first
    other = tiny_models.autoencoder_kl(tmp_path / "other", seed=3)
    seen = {first, identity(config_for("stable-diffusion", stable_diffusion, vae=str(other)), tmp_path / "d")}
    assert len(seen) == 2
    for part in ("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"):
        weights = tmp_path / "copy" / f"{part}.safetensors"
        state = load_file(weights)
        state[min(state)] += 1e-3
        save_file(state, weights)
        seen.add(identity(config_for("stable-diffusion", tmp_path / "copy"), tmp_path / "e"))
    assert len(seen) == 5
    nested = identity(config_for("autoencoder", stable_diffusion), tmp_path / "f")
    assert nested == identity(config_for("autoencoder", stable_diffusion / "vae"), tmp_path / "g")
    assert nested not in seen


def test_the_third_text_tower_is_part_of_the_fingerprint(tmp_path):
    folder = tiny_models.rectified_flow(tmp_path / "m", t5=True)
    config = config_for("rectified-flow", folder)
    with_it = identity(config, tmp_path / "a")
    assert "text_encoder_3" in read_json(tmp_path / "a" / "decoder.json")["parts"]
    assert load_decoder(config, tmp_path / "a", CPU).seen(None)[0][:, 77:].abs().max() > 0
    shutil.rmtree(folder / "text_encoder_3")
    assert identity(config, tmp_path / "b") != with_it
    assert "text_encoder_3" not in read_json(tmp_path / "b" / "decoder.json")["parts"]


def test_what_does_not_fit_fails_before_any_inversion(stable_diffusion, tmp_path):
    def refusal(**change):
        config = config_for("stable-diffusion", stable_diffusion).model_copy(deep=True)
        for key, value in change.items():
            section, name = key.split("__")
            part = getattr(config, section).model_copy(update={name: value})
            config = config.model_copy(update={section: part})
        with pytest.raises(VLFMError) as error:
            prepare_decoder(config, [], tmp_path / "decoder", CPU)
        assert not (tmp_path / "decoder" / "decoder.json").exists()
        return str(error.value)

    assert "clips.size 100×100" in (text := refusal(clips__size=100)) and "multiples of 8: 96×96 would do" in text
    assert "clips.size 96×40" in (text := refusal(clips__size=[(64, 64), (40, 96)])) and "model.patch = 2" in text
    assert "model.heads × model.head_dim is 32, less than the 64" in refusal(model__head_dim=16)


def test_a_decoder_folder_of_another_decoder_or_model_that_is_gone(stable_diffusion, tmp_path):
    shutil.copytree(stable_diffusion, tmp_path / "m")
    config = config_for("stable-diffusion", tmp_path / "m")
    prepare_decoder(config, [], tmp_path / "decoder", CPU)
    with pytest.raises(
        VLFMError, match=r"prepared for another decoder\.name than autoencoder .it has stable-diffusion"
    ):
        load_decoder(config_for("autoencoder", tmp_path / "m"), tmp_path / "decoder", CPU)
    with pytest.raises(VLFMError, match=r"prepared for another decoder\.model than elsewhere"):
        load_decoder(config_for("stable-diffusion", "elsewhere"), tmp_path / "decoder", CPU)
    with pytest.raises(VLFMError, match=r"prepared for another decoder\.vae than other"):
        load_decoder(config_for("stable-diffusion", tmp_path / "m", vae="other"), tmp_path / "decoder", CPU)
    shutil.rmtree(tmp_path / "m")
    with pytest.raises(VLFMError, match="which is no more; run `vlfm prepare-decoder` again"):
        load_decoder(config, tmp_path / "decoder", CPU)
    with pytest.raises(VLFMError, match="there is no such folder"):
        prepare_decoder(config, [], tmp_path / "decoder", CPU)


def test_a_model_that_was_replaced_since_is_noticed(stable_diffusion, tmp_path):
    shutil.copytree(stable_diffusion, tmp_path / "m")
    config = config_for("stable-diffusion", tmp_path / "m")
    prepare_decoder(config, [], tmp_path / "decoder", CPU)
    weights = tmp_path / "m" / "vae" / "diffusion_pytorch_model.safetensors"
    save_file({name: value * 1.01 for name, value in load_file(weights).items()}, weights)
    with pytest.raises(VLFMError, match="run `vlfm prepare-decoder` again"):
        load_decoder(config, tmp_path / "decoder", CPU)
    prepare_decoder(config, [], tmp_path / "decoder", CPU)
    load_decoder(config, tmp_path / "decoder", CPU)


@pytest.fixture
def read_through(monkeypatch):
    """The folders whose files were read for a fingerprint, in order; changes are told apart at once."""
    folders = []
    taken = load.fingerprint_folder
    monkeypatch.setattr(
        load, "fingerprint_folder", lambda folder, parts: folders.append(folder) or taken(folder, parts)
    )
    monkeypatch.setattr(load, "SETTLED", 0.0)
    time.sleep(0.02)  # longer than a file system's clock takes from one time to the next
    return folders


@pytest.fixture
def prepared(stable_diffusion, tmp_path):
    shutil.copytree(stable_diffusion, tmp_path / "m")
    return config_for("stable-diffusion", tmp_path / "m"), tmp_path / "decoder", tmp_path / "m"


def test_a_job_does_not_read_the_model_again_for_its_fingerprint(prepared, read_through):
    config, decoder, model = prepared
    prepare_decoder(config, [], decoder, CPU)
    assert read_through == [model, model / "vae"]
    about, seen = (decoder / "decoder.json").read_bytes(), (decoder / load.RECORD).read_bytes()
    load_decoder(config, decoder, CPU)
    assert len(read_through) == 2
    # The same content with another time: read once, and known again after that.
    os.utime(model / "unet" / "config.json")
    for _ in range(2):
        time.sleep(0.02)
        load_decoder(config, decoder, CPU)
        assert len(read_through) == 4
    assert (decoder / "decoder.json").read_bytes() == about, "or what was made with it would be made again"
    assert (decoder / load.RECORD).read_bytes() != seen
    for damaged in ("", "[]", "{}", '{"files": 3}'):
        (decoder / load.RECORD).write_text(damaged)
        before = len(read_through)
        load_decoder(config, decoder, CPU)
        assert len(read_through) == before + 2
    prepare_decoder(config, [], decoder, CPU)
    assert len(read_through) == before + 4, "asked to, it reads them"


def test_a_changed_file_is_noticed_whatever_its_times_say(prepared, read_through):
    config, decoder, model = prepared
    prepare_decoder(config, [], decoder, CPU)
    weights = model / "vae" / "diffusion_pytorch_model.safetensors"
    stat, whole = weights.stat(), weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (weights.stat().st_size, weights.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    with pytest.raises(VLFMError, match="run `vlfm prepare-decoder` again"):
        load_decoder(config, decoder, CPU)
    with pytest.raises(VLFMError, match="run `vlfm prepare-decoder` again"):
        load_decoder(config, decoder, CPU)
    weights.write_bytes(whole)
    load_decoder(config, decoder, CPU)
    (model / "unet" / "another.json").write_text("{}")
    with pytest.raises(VLFMError, match="run `vlfm prepare-decoder` again"):
        load_decoder(config, decoder, CPU)


def test_files_that_changed_just_now_are_not_vouched_for(prepared, read_through, monkeypatch):
    """Two changes within one tick of the file system's clock have the same time."""
    monkeypatch.setattr(load, "SETTLED", 60.0)
    config, decoder, _ = prepared
    prepare_decoder(config, [], decoder, CPU)
    assert not (decoder / load.RECORD).exists()
    load_decoder(config, decoder, CPU)
    assert len(read_through) == 4


def test_the_rules_run_again_for_what_says_where_a_decoder_is():
    """The workflow lists the same settings: to import them would cost every start of Snakemake the import of torch."""
    rules = (ROOT / "workflow" / "rules" / "latents.smk").read_text()
    assert tuple(re.findall(r'"([\w.]+)"', rules.split("FOUND = [")[1].split("]")[0])) == FOUND

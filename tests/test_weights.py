"""Where models are found: folders, the hub's cache, and a hub that is played by a real HTTP server."""

import hashlib
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

from tests.conftest import ROOT
from tests.data import tiny_models
from vlfm.errors import VLFMError
from vlfm.weights import fingerprint_folder, load_network, locate

PARTS = {"scheduler", "text_encoder", "tokenizer", "unet", "vae"}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A Stable Diffusion folder with everything else that its repository has as well."""
    folder = tiny_models.stable_diffusion(tmp_path_factory.mktemp("model"))
    (folder / "model_index.json").write_text("{}")
    for name in (
        "v1-5-pruned.ckpt",
        "v1-5-pruned.safetensors",
        "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "text_encoder/model.fp16.safetensors",
        "safety_checker/model.safetensors",
        "safety_checker/config.json",
        "feature_extractor/preprocessor_config.json",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"not to be read")
    return folder


class Hub(http.server.ThreadingHTTPServer):
    """The three answers that a download asks the hub for: the commit, the tree, the files."""

    def __init__(self, folder: Path, name: str):
        super().__init__(("127.0.0.1", 0), _Answer)
        self.folder, self.name, self.served = folder, name, []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Answer(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def _answer(self, body):
        path = unquote(urlsplit(self.path).path)
        name = self.server.name
        if path == f"/api/models/{name}/revision/main":
            return self._send(json.dumps({"id": name, "sha": COMMIT, "siblings": []}).encode(), body)
        if path == f"/api/models/{name}/tree/{COMMIT}":
            files = [file for file in sorted(self.server.folder.rglob("*")) if file.is_file()]
            tree = [
                {
                    "type": "file",
                    "path": str(file.relative_to(self.server.folder)),
                    "size": file.stat().st_size,
                    "oid": hashlib.sha1(file.read_bytes()).hexdigest(),
                }
                for file in files
            ]
            return self._send(json.dumps(tree).encode(), body)
        prefix = f"/{name}/resolve/{COMMIT}/"
        file = self.server.folder / path.removeprefix(prefix)
        if path.startswith(prefix) and file.is_file():
            if body:
                self.server.served.append(path.removeprefix(prefix))
            return self._send(file.read_bytes(), body)
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, data, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def hub(model):
    server = Hub(model, "someone/tiny-sd")
    yield server
    server.shutdown()
    server.server_close()


def locate_elsewhere(home, endpoint, name, parts=PARTS):
    """`locate` in a process of its own: the hub's address and cache are read when its library is imported."""
    code = (
        "import sys\nfrom vlfm.errors import VLFMError\nfrom vlfm.weights import locate\n"
        f"try:\n    print('FOUND', locate({name!r}, {set(parts)!r}))\n"
        "except VLFMError as error:\n    print('ERROR', error)\n"
    )
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(home), "PYTHONPATH": str(ROOT)}
    environment.pop("HF_HUB_OFFLINE", None)
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout


def found(output):
    return Path(re.search(r"^FOUND (.*)$", output, re.M)[1])


def test_a_hub_id_is_fetched_once_and_only_what_is_needed(model, hub, tmp_path):
    output = locate_elsewhere(tmp_path, hub.url, hub.name)
    assert "fetching" in output
    names = set(hub.served)
    assert {"unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors", "unet/config.json"} <= names
    assert {"tokenizer/vocab.json", "tokenizer/merges.txt", "scheduler/scheduler_config.json"} <= names
    assert not [name for name in names if name.endswith((".bin", ".ckpt")) or "fp16" in name or "non_ema" in name]
    assert not [name for name in names if "/" not in name or name.split("/")[0] not in PARTS]
    # The same content has the same fingerprint, in the cache as in the folder that it came from.
    assert fingerprint_folder(found(output), PARTS) == fingerprint_folder(model, PARTS)

    hub.served.clear()
    hub.shutdown()
    again = locate_elsewhere(tmp_path, hub.url, hub.name)
    assert found(again) == found(output) and "fetching" not in again
    assert not hub.served


def test_what_another_part_left_out_is_fetched_later(hub, tmp_path):
    parts = {"text_encoder", "tokenizer"}
    locate_elsewhere(tmp_path, hub.url, hub.name, parts)
    assert {name.split("/")[0] for name in hub.served} == parts
    hub.served.clear()
    assert found(locate_elsewhere(tmp_path, hub.url, hub.name, parts | {"vae"})).is_dir()
    assert {name.split("/")[0] for name in hub.served} == {"vae"}


def test_nothing_here_and_no_network_says_what_to_fetch(tmp_path):
    output = locate_elsewhere(tmp_path, "http://127.0.0.1:9", "someone/tiny-sd")
    assert output.count("ERROR") == 1 and "FOUND" not in output
    assert "decoder.model is someone/tiny-sd" in output
    assert "hf download someone/tiny-sd --include" in output and "'unet/*.json'" in output
    assert "or set decoder.model to a folder that holds scheduler, text_encoder, tokenizer, unet, vae" in output


def test_a_repository_the_hub_does_not_know(hub, tmp_path):
    assert "hf download someone/else" in locate_elsewhere(tmp_path, hub.url, "someone/else")


def test_a_repository_without_safetensors(model, tmp_path):
    bare = tmp_path / "repository"
    shutil.copytree(model, bare)
    (bare / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    server = Hub(bare, "someone/pickled")
    output = locate_elsewhere(tmp_path / "home", server.url, server.name)
    server.shutdown()
    server.server_close()
    assert "unet has no weights" in output
    assert not [name for name in server.served if name.endswith(".bin")]


def test_a_folder_is_taken_as_it_is(model):
    assert locate(str(model), PARTS) == model.resolve()
    assert locate(str(model / "vae"), {""}) == (model / "vae").resolve()


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        ("unet", "there is no unet"),
        ("unet/config.json", "unet has no config.json"),
        ("scheduler/scheduler_config.json", "scheduler has no scheduler_config.json"),
        ("unet/diffusion_pytorch_model.safetensors", "only as diffusion_pytorch_model.bin; only safetensors are read"),
        ("vae/diffusion_pytorch_model.safetensors", "vae has no weights"),
    ],
)
def test_what_a_folder_lacks_is_named(model, tmp_path, remove, message):
    shutil.copytree(model, tmp_path / "m")
    place = tmp_path / "m" / remove
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    with pytest.raises(VLFMError) as error:
        locate(str(tmp_path / "m"), PARTS)
    assert message in str(error.value) and str(tmp_path / "m") in str(error.value)


def test_an_empty_tokenizer_a_single_file_and_no_name_at_all(model, tmp_path):
    (tmp_path / "tokenizer").mkdir()
    with pytest.raises(VLFMError, match="tokenizer has no tokenizer files"):
        locate(str(tmp_path), {"tokenizer"})
    with pytest.raises(VLFMError, match=r"a single file; .*from_single_file"):
        locate(str(model / "v1-5-pruned.ckpt"), PARTS)
    for name in (str(tmp_path / "nowhere"), "./models/x", "a/b/c"):
        with pytest.raises(VLFMError, match=r"text.encoder is .*: there is no such folder"):
            locate(name, PARTS, "text.encoder")


def test_weights_in_several_files(tmp_path):
    torch.manual_seed(0)
    network = AutoencoderKL(block_out_channels=(32,))
    network.save_pretrained(tmp_path, max_shard_size="500KB")
    pieces = sorted(tmp_path.glob("*-of-*.safetensors"))
    assert len(pieces) > 1
    before = fingerprint_folder(locate(str(tmp_path), {""}), {""})
    loaded = load_network(AutoencoderKL, tmp_path, "", torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), loaded.parameters(), strict=True))
    pieces[-1].unlink()
    with pytest.raises(VLFMError, match=f"lacks {pieces[-1].name}"):
        locate(str(tmp_path), {""})
    assert fingerprint_folder(tmp_path, {""}) != before


def test_fingerprints_are_of_content(model, tmp_path):
    before = fingerprint_folder(model, PARTS)
    shutil.copytree(model, tmp_path / "copy")
    assert fingerprint_folder(tmp_path / "copy", PARTS) == before
    # Loaded and saved elsewhere, a configuration tells where it came from: that is no change of the model.
    path = tmp_path / "copy" / "unet" / "config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({**settings, "_name_or_path": "/some/where", "_diffusers_version": "9"}))
    (tmp_path / "copy" / "safety_checker" / "model.safetensors").write_bytes(b"other")
    (tmp_path / "copy" / "unet" / "diffusion_pytorch_model.bin").unlink()
    assert fingerprint_folder(tmp_path / "copy", PARTS) == before

    path.write_text(json.dumps({**settings, "act_fn": "gelu"}))
    changed = fingerprint_folder(tmp_path / "copy", PARTS)
    assert changed != before
    weights = tmp_path / "copy" / "vae" / "diffusion_pytorch_model.safetensors"
    state = load_file(weights)
    state["encoder.conv_in.bias"][0] += 1e-3
    save_file(state, weights)
    assert fingerprint_folder(tmp_path / "copy", PARTS) not in (before, changed)


def test_a_network_that_is_not_whole_is_refused(model, tmp_path):
    shutil.copytree(model / "unet", tmp_path / "unet")
    weights = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    state = load_file(weights)
    del state["conv_out.bias"]
    save_file(state, weights)
    with pytest.raises(VLFMError, match=r"lack 1 parameter, conv_out.bias"):
        load_network(UNet2DConditionModel, tmp_path, "unet", torch.float32)
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(VLFMError, match="does not load as UNet2DConditionModel"):
        load_network(UNet2DConditionModel, tmp_path, "unet", torch.float32)


def test_an_autoencoder_with_the_old_names_of_its_attention(tmp_path):
    """As the published Stable Diffusion 1.5 has them."""
    tiny_models.autoencoder_kl(tmp_path)
    network = load_network(AutoencoderKL, tmp_path, "", torch.float32)
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = {}
    for name, value in load_file(weights).items():
        for new, former in old.items():
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{former}.")
        state[name] = value
    assert any("proj_attn" in name for name in state)
    save_file(state, weights)
    again = load_network(AutoencoderKL, tmp_path, "", torch.float32)
    frames = torch.rand(1, 3, 32, 32) * 2 - 1
    assert torch.equal(again.encode(frames).latent_dist.mode(), network.encode(frames).latent_dist.mode())


def test_a_text_tower_with_the_names_it_was_published_with(tmp_path):
    """Stable Diffusion 1.5's: all within `text_model`, and a buffer that is a parameter no more."""
    tiny_models.clip_tower(tmp_path)
    network = load_network(CLIPTextModel, tmp_path, "text_encoder", torch.float32)
    weights = tmp_path / "text_encoder" / "model.safetensors"
    state = {f"text_model.{name.removeprefix('text_model.')}": value for name, value in load_file(weights).items()}
    save_file({**state, "text_model.embeddings.position_ids": torch.arange(77)[None]}, weights)
    again = load_network(CLIPTextModel, tmp_path, "text_encoder", torch.float32)
    tokens = torch.arange(77)[None] % 20
    assert torch.equal(again(tokens).last_hidden_state, network(tokens).last_hidden_state)

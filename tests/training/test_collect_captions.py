"""What a model's folder keeps of the captions it was trained on."""

import dataclasses
import os

import numpy as np
import pytest
import torch

from tests.conftest import SMALL, make_config, merge
from tests.data.latents import write_decoder
from tests.data.model import write_shards
from vlfm.coefficients.shards import write_shard
from vlfm.errors import VLFMError
from vlfm.model.training_captions import TRAINING_CAPTIONS, TrainingCaptions
from vlfm.storage.files import read_json
from vlfm.training import collect_captions as reading
from vlfm.training.collect_captions import training_captions
from vlfm.training.data import read_moments
from vlfm.training.loop import train
from vlfm.training.trainer import Trainer


def read(tars, files, seed=0):
    return training_captions(tars, read_moments(files), seed)


@pytest.fixture
def limits(monkeypatch):
    """`limits(clips, shards)`: read no more."""

    def limit(clips, shards):
        monkeypatch.setattr(reading, "CLIPS", clips)
        monkeypatch.setattr(reading, "SHARDS", shards)

    return limit


def test_every_distinct_caption_once_with_the_mean_of_its_tokens(tmp_path, small_config):
    made, tars, files = write_shards(tmp_path, small_config, clips=7, shards=2)
    twice = [dataclasses.replace(clip, caption=f"caption {index % 3}") for index, clip in enumerate(made)]
    for shard, tar in enumerate(tars):
        write_shard(tar, iter(twice[shard::2]))
    known = read(tars, files)
    assert known.complete and sorted(known.captions) == ["caption 0", "caption 1", "caption 2"]
    first = {clip.caption: clip for clip in reversed([*twice[::2], *twice[1::2]])}
    for caption, embedding in zip(known.captions, known.embeddings, strict=True):
        clip = first[caption]
        assert np.allclose(embedding.float(), clip.tokens[clip.mask].mean(0), atol=2e-3)


def test_coefficients_are_not_read(tmp_path, small_config, monkeypatch):
    made, tars, files = write_shards(tmp_path, small_config)
    pread, taken = os.pread, []
    monkeypatch.setattr(os, "pread", lambda file, size, offset: taken.append(size) or pread(file, size, offset))
    read(tars, files)
    assert len(taken) == len(made) and max(taken) < made[0].coefficients.nbytes / 2


def test_of_many_clips_an_even_sample(tmp_path, small_config, limits, monkeypatch):
    _, tars, files = write_shards(tmp_path, small_config, clips=60, shards=12)
    opened = []
    start = reading.open_shard
    monkeypatch.setattr(reading, "open_shard", lambda path, clips: opened.append(path) or start(path, clips))
    limits(8, 4)
    known = read(tars, files)
    assert not known.complete and len(known.captions) == 8
    assert [tars.index(path) // 3 for path in opened] == [0, 1, 2, 3]
    assert read(tars, files).captions == known.captions != read(tars, files, seed=1).captions
    limits(60, 12)
    assert read(tars, files).complete
    limits(59, 12)
    assert not read(tars, files).complete


@pytest.mark.parametrize("clips", [[3], [1, 0, 4, 2], [5] * 9])
@pytest.mark.parametrize("most", [1, 2, 4, 100])
def test_places_lie_in_the_shards(clips, most, limits):
    limits(most, 100)
    places = list(reading._places(clips, 0))
    assert len(places) == min(most, sum(clips)) and places == sorted(set(places))
    assert all(0 <= clip < clips[shard] for shard, clip in places)


def test_an_embedding_that_is_not_finite_is_left_out(tmp_path, small_config):
    made, tars, files = write_shards(tmp_path, small_config, clips=4, shards=1)
    made[1].tokens[0, 0] = np.nan
    write_shard(tars[0], iter(made))
    assert read(tars, files).captions == ("caption 0", "caption 2", "caption 3")
    for clip in made:
        clip.tokens[0, 0] = np.inf
    write_shard(tars[0], iter(made))
    with pytest.raises(VLFMError, match="no clip has a caption with a finite embedding"):
        read(tars, files)


def test_a_shard_that_was_replaced_is_told(tmp_path, small_config):
    made, tars, files = write_shards(tmp_path, small_config)
    write_shard(tars[1], iter(made[:1]))
    with pytest.raises(VLFMError, match=r"00001\.tar holds 1 clips, its moments say 3"):
        read(tars, files)


@pytest.fixture
def run(tmp_path):
    """`run(name)` trains a pipeline on the same shards in a folder of its own."""
    config = make_config(**merge(SMALL, {"clips": {"size": 24}}))
    (tmp_path / "data").mkdir()
    data = write_shards(tmp_path / "data", config)
    decoder = write_decoder(tmp_path / "decoder")

    def trained(name):
        folder = tmp_path / name
        metrics = folder / "model" / "metrics.csv"
        cpu = torch.device("cpu")
        train(config, *data[1:], folder / "model", folder / "checkpoints", metrics, cpu, decoder=decoder)
        return folder / "model"

    return trained


def test_training_keeps_them_the_same_after_a_stop(run, monkeypatch):
    straight = run("straight")
    assert sorted(TrainingCaptions.read(straight, 6).captions) == [f"caption {index}" for index in range(7)]
    assert read_json(straight / "training.json")["captions"] == 7
    update = Trainer.update

    def power_cut(self):
        if self.step == 6:
            raise KeyboardInterrupt
        return update(self)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "update", power_cut)
        run("stopped")
    stopped = run("stopped")
    for file in (TRAINING_CAPTIONS, "transformer/diffusion_pytorch_model.safetensors"):
        assert (stopped / file).read_bytes() == (straight / file).read_bytes()


def test_of_a_sample_it_is_not_said_how_many_there_are(run, limits):
    limits(5, 2)
    folder = run("run")
    assert not TrainingCaptions.read(folder, 6).complete and "captions" not in read_json(folder / "training.json")


def test_that_they_cannot_be_read_does_not_lose_the_model(run, monkeypatch, capsys):
    def damaged(*_):
        raise VLFMError("00001.tar is damaged")

    monkeypatch.setattr("vlfm.training.loop.training_captions", damaged)
    folder = run("run")
    assert "captions" not in read_json(folder / "training.json") and not (folder / TRAINING_CAPTIONS).exists()
    assert "warning: the model will not know" in capsys.readouterr().out

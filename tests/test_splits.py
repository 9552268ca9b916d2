"""Training and test clips: who is given which shards of a plan."""

import pytest

from tests.conftest import SMALL, make_config, merge
from tests.data.latents import write_clips
from tests.data.model import write_shards
from vlfm import config as configs
from vlfm.cli import main
from vlfm.errors import VLFMError
from vlfm.splits import shards_of, splits_met, splits_of, training_shards
from vlfm.storage.files import read_json, write_json

PLAN = {"00002": {"split": "train"}, "00000": {"split": "train"}, "00001": {"split": "test"}}


def test_shards_by_split():
    assert splits_of(PLAN) == {"00000": "train", "00001": "test", "00002": "train"}
    assert shards_of(PLAN) == ["00000", "00001", "00002"]
    assert (shards_of(PLAN, "train"), shards_of(PLAN, "test")) == (["00000", "00002"], ["00001"])
    assert splits_met(["test", "train", "test"]) == ("train", "test") and splits_met(["test"]) == ("test",)


def test_a_plan_from_before_there_were_splits_is_trained_on():
    assert splits_of({"00000": {"clips": 3}}) == {"00000": "train"}


def test_a_plan_without_training_clips_is_told():
    with pytest.raises(VLFMError, match=r"p.json plans no training clip, only 1 shard of test clips; write train in"):
        training_shards({"00001": {"split": "test"}}, "p.json")


@pytest.fixture
def planned(tmp_path):
    """`planned(**change)` → the options of a command that reads a configuration and a plan of three shards, the second
    of test clips."""

    def planned(**change):
        configs.save(make_config(**merge(SMALL, change)), tmp_path / "c.yaml")
        write_json(tmp_path / "shards.json", PLAN)
        return ["--config", str(tmp_path / "c.yaml"), "--plan", str(tmp_path / "shards.json"), "--threads", "1"]

    return planned


def test_training_is_given_the_training_shards_alone(planned, tmp_path):
    """The same model as from a plan that has no test clips, although those here are not even finite."""
    config = make_config(**SMALL)
    _, tars, moments = write_shards(tmp_path / "data", config, clips=9, shards=3)
    about = read_json(moments[1])
    options = planned()

    def trained(name):
        folder = tmp_path / name
        places = {"output": "model", "checkpoints": "checkpoints", "metrics": "metrics.csv"}
        places = [part for key, place in places.items() for part in (f"--{key}", str(folder / place))]
        data = ["--coefficients", str(tars[0].parent), "--decoder", str(tmp_path / "none")]
        assert main(["train", *options, *data, *places, "--device", "cpu"]) == 0
        weights = folder / "model" / "transformer" / "diffusion_pytorch_model.safetensors"
        return weights.read_bytes(), read_json(folder / "model" / "training.json")

    spoilt = {**about, "mean_square": [1e9] * len(about["mean_square"]), "caption_mean_square": 1e9}
    write_json(moments[1], spoilt)
    tars[1].write_bytes(b"no tar")
    weights, training = trained("with")
    write_json(tmp_path / "shards.json", {name: about for name, about in PLAN.items() if about["split"] == "train"})
    for path in (tars[1], moments[1]):
        path.unlink()
    assert trained("without") == (weights, training)
    assert training["clips"] == sum(read_json(moments[place])["clips"] for place in (0, 2))


def test_the_decoder_is_fitted_on_training_clips_alone(planned, tmp_path):
    options = planned(clips={"size": 24}, decoder={"embedded": {"steps": 2}})
    clips = tmp_path / "clips"
    clips.mkdir()
    for name in PLAN:
        write_clips(clips / f"{name}.tar", 4)

    def fitted(name):
        places = ["--clips", str(clips), "--output", str(tmp_path / name), "--device", "cpu"]
        assert main(["prepare-decoder", *options, *places]) == 0
        return read_json(tmp_path / name / "decoder.json")

    about = fitted("with")
    assert about["training_frames"] + about["held_out_frames"] == 2 * 4 * 6
    write_clips(clips / "00001.tar", 7, frames=3)
    assert fitted("other") == about, "whatever the test clips are"
    write_clips(clips / "00002.tar", 4, frames=5)
    assert fitted("changed")["fingerprint"] != about["fingerprint"]


def test_a_plan_of_test_clips_trains_nothing(planned, tmp_path, capsys):
    options = planned()
    write_json(tmp_path / "shards.json", {"00001": PLAN["00001"]})
    for command in (["train"], ["prepare-decoder"]):
        assert main([*command, *options, "--output", str(tmp_path / "o")]) == 1
        assert "plans no training clip" in capsys.readouterr().err

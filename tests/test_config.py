import re

import pytest
import yaml

from tests.conftest import ROOT, make_config
from vlfm import config as configs
from vlfm.errors import VLFMError


def schema_keys(section=configs.Config, prefix=""):
    """Dotted names of all keys of the schema, sections included."""
    for name, field in section.model_fields.items():
        yield prefix + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, configs.Section):
            yield from schema_keys(field.annotation, f"{prefix}{name}.")


def file_keys(node, prefix=""):
    """Dotted name → the line of a YAML mapping's keys, and whether a value follows there."""
    for key, value in node.value:
        name = prefix + key.value
        yield name, key.start_mark.line, not isinstance(value, yaml.MappingNode)
        if isinstance(value, yaml.MappingNode):
            yield from file_keys(value, f"{name}.")


def test_default_file_has_exactly_the_keys_of_the_schema_each_with_a_comment():
    text = (ROOT / "config.yaml").read_text()
    found, lines = list(file_keys(yaml.compose(text))), text.splitlines()
    names = [name for name, _, _ in found]
    assert len(names) == len(set(names)), "YAML takes the last of a key given twice"
    assert sorted(names) == sorted(schema_keys()) and "decoder.embedded.patch" in names
    assert [name for name, line, valued in found if valued and not re.search(r"\s# \S", lines[line])] == []
    configs.load(ROOT / "config.yaml")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"flow": {"order": 13}}, "flow.order is 13, but a clip has only 12 frames"),
        ({"flow": {"order": 0}}, "flow.order: "),
        ({"flow": {"sigma_min": 0}}, "flow.sigma_min: "),
        ({"clips": {"duration": 0.51}}, "clips: fps × duration must be a whole number"),
        ({"clips": {"size": 100}}, "clips.size is 100×100"),
        ({"clips": {"duration": []}}, "clips.duration: "),
        ({"clips": {"duration": [0.5, -1]}}, "clips.duration.1: "),
        ({"clips": {"duration": [0.5, 0.51]}}, "fps × duration must be a whole number of frames"),
        ({"clips": {"duration": [0.5, 0.5]}}, "duration lists a value twice"),
        ({"clips": {"duration": [1.0, 0.25]}}, "flow.order is 12, but a clip has only 6 frames"),
        ({"clips": {"size": [96, 128]}}, "clips.size: it is [96, 128]; give the side of a square"),
        ({"clips": {"size": [[96, 96, 3]]}}, "clips.size: it is [[96, 96, 3]]; give the side of a square"),
        ({"clips": {"size": [[96, 96], [96, 96]]}}, "size lists a value twice"),
        ({"clips": {"size": [[96, 96], [72, 130]]}}, "clips.size is 72×130 (height × width)"),
        ({"clips": {"size": [[96, 96], [90, 96]]}}, "both sides must be multiples of 12"),
        ({"clips": {"image": "gif"}}, "clips.image: "),
        ({"clips": {"digits": {"count": 3}}}, "clips.digits.count: "),
        (
            {"clips": {"index": "moving-digits", "duration": [0.5, 1.0]}},
            "moving-digits are clips of one length and one",
        ),
        ({"clips": {"index": "moving-digits", "size": [[96, 120]]}}, "one square size: give one duration and one size"),
        ({"clips": {"index": "moving-digits", "duration": 1.5}}, "is across the picture in 1.25 s: lower it"),
        ({"model": {"heads": 4}}, "low-rank bottleneck"),
        ({"decoder": {"embedded": {"channels": 109}}}, "decoder.embedded.channels is 109"),
        ({"inversion": {"depth": 1.5}}, "inversion.depth: "),
        ({"inversion": {"depth": -0.1}}, "inversion.depth: "),
        ({"decoder": {"embedded": {"steps": 0}}, "inversion": {"depth": 0.01}}, "inversion.depth is 0.01, which walks"),
        (
            {"inversion": {"depth": 0, "null_text": 5, "guidance": 2.0, "prompt": "caption"}},
            "inversion.null_text guides the way back from inversion.depth, which is 0",
        ),
        ({"training": {"pure_noise": 0.9, "lead_in": 0.2}}, "training.pure_noise"),
        ({"training": {"processes": 3}}, "accumulate × nodes × processes = 1 × 1 × 3 does not divide"),
        ({"training": {"clip": float("inf")}}, "training.clip: "),
        ({"evaluation": {"fps": []}}, "evaluation.fps: "),
        ({"evaluation": {"fps": [1.5, 24]}}, "fps has 1.5, at which a clip of 0.5 s has no frame: ask for 2"),
        ({"evaluation": {"guidance": 2.0}}, "evaluation.guidance is 2, and training.caption_dropout is 0"),
        ({"seed": "x"}, "seed: "),
    ],
)
def test_a_wrong_value_is_named(change, message):
    with pytest.raises(VLFMError) as error:
        make_config(**change)
    assert message in str(error.value)


def test_without_a_noise_predictor_frames_need_not_suit_one():
    embedded = {"unet_channels": [32, 32, 32], "channels": 8}
    with pytest.raises(VLFMError, match="multiples of 24"):
        make_config(clips={"size": 36}, decoder={"embedded": embedded})
    make_config(clips={"size": 36}, decoder={"embedded": {**embedded, "steps": 0}}, inversion={"depth": 0})


def test_at_depth_0_nothing_depends_on_the_noise_predictors_steps():
    asked = [
        configs.settings(make_config(decoder={"embedded": {"steps": steps}}, inversion={"depth": depth}), "decoder")
        for depth in (0, 1)
        for steps in (5, 6)
    ]
    assert asked[0] == asked[1] and asked[2] != asked[3]


def test_an_autoencoder_has_no_depth_whatever_is_asked_for():
    shares = [
        configs.settings(make_config(decoder={"name": "autoencoder", "model": "m"}, inversion={"depth": depth}), *names)
        for names in (("inversion",), ("inversion.depth",))
        for depth in (0, 0.5, 1)
    ]
    assert shares[0] == shares[1] == shares[2] and shares[0]["inversion"]["depth"] == 0
    assert shares[3:] == [{"inversion.depth": 0}] * 3


def test_unknown_and_missing_keys_are_named():
    values = yaml.safe_load((ROOT / "config.yaml").read_text())
    del values["flow"]["order"]
    values["training"]["epochs"] = 3
    with pytest.raises(VLFMError) as error:
        configs.parse(values, "mine.yaml")
    assert "mine.yaml is not valid" in str(error.value)
    assert "flow.order: missing" in str(error.value)
    assert "training.epochs: no such key" in str(error.value)


@pytest.mark.parametrize(
    "change", [{"flow": {"order": 5}}, {"clips": {"duration": [1, 0.5], "size": [[96, 96], [72, 132]]}}]
)
def test_save_and_load(tmp_path, change):
    config = make_config(**change)
    configs.save(config, tmp_path / "c.yaml")
    assert configs.load(tmp_path / "c.yaml") == config


def test_one_length_and_size_or_several():
    clips = make_config().clips
    assert (clips.durations, clips.sizes, clips.num_frames_of(0.5)) == ((0.5,), ((96, 96),), 12)
    clips = make_config(clips={"duration": [2, 0.5], "size": [[96, 96], [72, 132]]}).clips
    assert (clips.durations, clips.sizes) == ((0.5, 2.0), ((96, 96), (72, 132)))
    assert (clips.shortest, clips.longest, clips.num_frames_of(clips.longest)) == (0.5, 2.0, 48)
    assert [clips.duration_near(seconds) for seconds in (0.4793, 0.52, 0.53, 2.0, 2.1)] == [0.5, 0.5, None, 2.0, None]
    assert configs.settings(make_config(), "clips.size") == {"clips.size": 96}, "one value stays one in fingerprints"


@pytest.mark.parametrize(("text", "message"), [(None, "no configuration at"), ("a: [", "YAML"), ("3", "no mapping")])
def test_files_that_are_no_configuration(tmp_path, text, message):
    if text is not None:
        (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(VLFMError, match=message):
        configs.load(tmp_path / "c.yaml")


@pytest.mark.parametrize("preset", sorted((ROOT / "workflow" / "presets").glob("*.yaml")), ids=lambda path: path.stem)
def test_presets_are_valid(preset):
    configs.load(ROOT / "config.yaml", preset)


def test_settings_are_the_named_parts_only():
    config = make_config()
    assert configs.settings(config, "flow.order", "seed") == {"flow.order": config.flow.order, "seed": 0}


def test_files_are_laid_over_each_other(tmp_path):
    (tmp_path / "mine.yaml").write_text("flow: {order: 5}\nclips: {duration: [0.5, 1.0]}\n")
    merged = configs.load(ROOT / "config.yaml", tmp_path / "mine.yaml")
    assert merged.flow.order == 5 and merged.clips.durations == (0.5, 1.0)
    assert merged.flow.sigma_min == configs.load(ROOT / "config.yaml").flow.sigma_min
    with pytest.raises(VLFMError, match="no such key"):
        (tmp_path / "mine.yaml").write_text("flow: {ordr: 5}")
        configs.load(ROOT / "config.yaml", tmp_path / "mine.yaml")

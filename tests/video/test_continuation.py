"""A film that goes on by a trained model."""

import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import SMALL, make_config, merge
from tests.data.latents import movie, write_decoder
from tests.data.pipeline import model_of
from tests.video.conftest import ffmpeg
from vlfm.cli import main
from vlfm.errors import VLFMError
from vlfm.frames import to_tensor, to_uint8
from vlfm.pipeline import VLFMPipeline, write_pipeline
from vlfm.video.continuation import FADING, Continuation, ModelSettings

pytestmark = pytest.mark.usefixtures("captions_read_once")

LEAD_IN, REACH = 0.5 / 12, 0.5 * 11 / 12  # seconds: of the model's clips, and how far one pass goes
SETTINGS = ModelSettings(Path("model"), "a dog jumps")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of clips of half a second at 24 frames a second, 24×24 pixels."""
    folder = tmp_path_factory.mktemp("run")
    config = make_config(**merge(SMALL, {"clips": {"size": 24}}))
    write_pipeline(folder / "model", model_of(config, 8, 4, 384), config, write_decoder(folder / "decoder"))
    return folder / "model"


@pytest.fixture(scope="module")
def pipeline(folder):
    return VLFMPipeline.from_pretrained(folder)


def grey(count, height, width):
    return np.full((count, height, width, 3), 128, np.uint8)


def begun(pipeline, frame, settings=SETTINGS):
    continuation = Continuation(pipeline, settings, frame.shape[:2])
    continuation.begin(frame)
    return continuation


def test_it_begins_with_the_last_frame(pipeline):
    """Whatever the network makes of it, there is no jump."""
    frame = movie(0)[0]
    made = begun(pipeline, frame)(np.array([1e-6, REACH / 2]), grey(2, 24, 24))
    assert np.abs(made[0].astype(int) - frame).max() <= 1
    assert np.abs(made[1].astype(int) - frame).mean() > 5


def test_it_follows_the_path_that_the_network_predicts(pipeline):
    """With a network that knows the clip, each frame is D(H g(t)), but for what D loses of the last frame."""
    path, order = pipeline.flow.path(), pipeline.flow.flow.order
    frames = movie(3, frames=2)
    latents = pipeline.decoder.invert(to_tensor(frames))
    times = torch.tensor([LEAD_IN, 0.5], dtype=torch.float64)
    basis = path.basis.evaluate(times).float()
    coefficients = (torch.linalg.pinv(basis) @ latents.flatten(1)).T.reshape(1, *latents.shape[1:], order)
    seen = []

    def oracle(psi, share, tokens, mask, duration):
        seen.append((psi, share))
        return coefficients / 3

    oracle.config, oracle.device = pipeline.flow.transformer.config, pipeline.flow.device
    oracle.latent_scale = torch.tensor(3.0)
    knowing = types.SimpleNamespace(**vars(pipeline))
    knowing.flow = replace(pipeline.flow, transformer=oracle)
    ahead = np.array([0.1, 0.25, REACH])
    made = begun(knowing, frames[0])(ahead, grey(3, 24, 24))
    psi, share = seen[0]
    assert len(seen) == 1 and share.tolist() == pytest.approx([1 / 12])
    noise = psi - latents[:1] / 3
    assert noise.std() == pytest.approx(0.01, rel=0.3)  # σ_min

    shown = path.mean(coefficients, torch.from_numpy(LEAD_IN + ahead)[None])[0][0]
    lost = frames[0].astype(float) - to_uint8(pipeline.decoder.generate(latents[:1]))[0]
    expected = to_uint8(pipeline.decoder.generate(shown.float())).astype(float)
    expected += np.exp(-ahead / (FADING * LEAD_IN))[:, None, None, None] * lost
    assert np.abs(made - expected.clip(0, 255)).max() <= 1


def test_pass_after_pass_without_a_jump(pipeline):
    frame = movie(1)[0]
    continuation = begun(pipeline, frame)
    around = grey(4, 24, 24)
    made = continuation(np.array([REACH - 1e-6, REACH + 1e-6, 2 * REACH - 1e-6, 2 * REACH + 1e-6]), around)
    assert continuation.passes == 3
    steps = np.abs(np.diff(made.astype(int), axis=0)).mean((1, 2, 3))
    assert steps[0] < 1 and steps[2] < 1 < steps[1]


def test_how_frames_are_grouped_changes_nothing(pipeline):
    frame, ahead = movie(2)[0], np.arange(1, 25) / 24
    whole = begun(pipeline, frame)(ahead, grey(24, 24, 24))
    parts = begun(pipeline, frame)
    pieces = [parts(part, grey(len(part), 24, 24)) for part in np.split(ahead, [1, 5, 13])]
    assert np.abs(whole.astype(int) - np.concatenate(pieces)).max() <= 1
    other = begun(pipeline, frame, replace(SETTINGS, caption="waves"))(ahead, grey(24, 24, 24))
    assert np.abs(whole.astype(int) - other).mean() > 1


def test_it_sees_the_middle_and_leaves_the_rest(pipeline):
    frame = np.asarray(Image.fromarray(movie(4)[0]).resize((96, 48)))
    continuation = begun(pipeline, frame)
    assert (continuation.seen, continuation.size) == ("48×48", (24, 24))
    made = continuation(np.array([0.2]), grey(1, 48, 96))[0].astype(int)
    assert (made[:, :24] == 128).all() and (made[:, -24:] == 128).all()
    changed = np.abs(made[:, 24:72] - 128).mean((0, 2))
    assert changed[[0, -1]].max() < 0.5 * changed[8:40].mean() and changed[8:40].min() > 1
    # Pixels that are twice as wide as high: 48 of them are what a square of 96 rows shows.
    assert Continuation(pipeline, SETTINGS, (96, 96), aspect=2.0).seen == "48×96"


@pytest.mark.parametrize("head", ["velocity", "direct"])
def test_other_heads_cannot_begin_with_a_frame(folder, tmp_path, head):
    config = make_config(**merge(SMALL, {"clips": {"size": 24}}))
    write_pipeline(tmp_path, model_of(config, 8, 4, 384, head=head), config, folder / "decoder")
    with pytest.raises(VLFMError, match=f"has the head {head}"):
        Continuation(VLFMPipeline.from_pretrained(tmp_path), SETTINGS, (24, 24))


def test_extrapolate_by_a_model(folder, short, facts, tmp_path, capsys):
    """The same bytes each time, the input as it was, no jump after it; pixels of 12:11, so 132 of them are a square."""
    for name in ("a.mp4", "b.mp4"):
        arguments = ["extrapolate", str(short), "--seconds", "0.7", "--model", str(folder), "--caption", "a dog jumps"]
        assert main([*arguments, "-o", str(tmp_path / name), "--crf", "4", "--threads", "1", "--device", "cpu"]) == 0
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    said = capsys.readouterr().out
    assert "0.7 s more by 2 passes of the model, which sees the middle 132×144 at 24×24" in said
    before, after = facts(short).frames.astype(int), facts(tmp_path / "a.mp4").frames.astype(int)
    assert len(after) == 24 + 21
    assert np.abs(after[:24] - before).mean() < 3
    inside = after[24:, :, 22:154]
    moved = np.abs(inside - before[-1, :, 22:154]).mean((1, 2, 3))
    assert moved[0] < 0.5 * moved[10] and moved[10] > 5


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--model", "MODEL"], "--model and --caption belong together"),
        (["--caption", "a"], "--model and --caption belong together"),
        (["--model", "nowhere", "--caption", "a"], "no trained model in nowhere"),
        (["--model", "MODEL", "--caption", "a", "--seed", "-1"], "--seed is a whole number"),
        (["--model", "MODEL", "--caption", "a", "--guidance", "2"], "training.caption_dropout"),
    ],
)
def test_what_a_model_cannot_do(folder, tmp_path, monkeypatch, capsys, short, arguments, said):
    monkeypatch.chdir(tmp_path)
    ffmpeg("-i", short, "-frames:v", "3", "film.mp4")
    given = [str(folder) if part == "MODEL" else part for part in arguments]
    assert main(["extrapolate", "film.mp4", "--seconds", "0.2", "-o", "o.mp4", "--threads", "1", *given]) == 1
    assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["film.mp4"]

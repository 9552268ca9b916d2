"""`vlfm generate`: captions → files, as a user calls it."""

import os
import re
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import SMALL, make_config, merge
from tests.data.latents import write_decoder
from tests.data.pipeline import captions_of, model_of
from vlfm.captions.encoders import CaptionEncoder, minilm_folder
from vlfm.cli import main
from vlfm.pipeline import write_pipeline
from vlfm.video.source import open_source

pytestmark = pytest.mark.usefixtures("captions_read_once")

CAPTION = "a dog jumps"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model of clips of 0.25 and 0.5 s at 24 frames a second, 24×24 pixels."""
    folder = tmp_path_factory.mktemp("run")
    config = make_config(**merge(SMALL, {"clips": {"size": 24, "duration": [0.25, 0.5]}}))
    known = captions_of(CaptionEncoder(minilm_folder(), 32), [CAPTION, "waves"])
    decoder = write_decoder(folder / "decoder")
    write_pipeline(folder / "model", model_of(config, 8, 4, 384), config, decoder, captions=known)
    return folder / "model"


@pytest.fixture
def generate(model, tmp_path, monkeypatch):
    """`generate(*arguments)` → the exit status; in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: main(
        ["generate", *map(str, arguments), "--model", str(model), "--threads", "1", "--device", "cpu"]
    )


def facts(path):
    """Frames, frames a second and seconds of a video file."""
    source = open_source(path)
    return np.stack([frame for _, frame in source.frames()]), source.rate, source.media.duration


def test_a_caption_becomes_a_video(model, tmp_path):
    command = [sys.executable, "-m", "vlfm.cli", "generate", CAPTION, "--fps", "16", "--seconds", "0.5"]
    command += ["-o", str(tmp_path / "out.mp4"), "--model", str(model), "--threads", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    frames, rate, seconds = facts(tmp_path / "out.mp4")
    assert frames.shape == (8, 24, 24, 3) and rate == 16 and seconds == pytest.approx(0.5, abs=0.01)
    assert frames.std() > 10 and np.abs(np.diff(frames.astype(int), axis=0)).mean() > 1
    assert "8 frames at 16 a second, 24×24, seed 0, network evaluations: 1" in done.stdout
    assert os.listdir(tmp_path) == ["out.mp4"]


def test_the_seed_decides(generate):
    for name, seed in (("a.mp4", 3), ("b.mp4", 3), ("c.mp4", 4)):
        assert generate(CAPTION, "--seed", seed, "--fps", 8, "-o", name) == 0
    a, b, c = (Path(f"{name}.mp4").read_bytes() for name in "abc")
    assert a == b != c


def test_many_captions_fill_a_folder_each_as_if_alone(generate, capsys):
    Path("captions.txt").write_text("waves\n\n  Ein Hund, spät am Tag!  \n", encoding="utf-8")
    assert generate(CAPTION, "--captions", "captions.txt", "--fps", 8, "-o", "videos") == 0
    names = ["0001-a-dog-jumps.mp4", "0002-waves.mp4", "0003-ein-hund-spät-am-tag.mp4"]
    assert sorted(os.listdir("videos")) == names
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == [f"videos/{name}" for name in names]
    assert generate("waves", "--fps", 8, "-o", "waves.mp4") == 0
    assert Path("waves.mp4").read_bytes() == Path("videos/0002-waves.mp4").read_bytes()
    assert generate("one", "two", "--format", "gif", "--fps", 8, "-o", "more/of/them") == 0
    assert sorted(os.listdir("more/of/them")) == ["0001-one.gif", "0002-two.gif"]


def test_a_caption_unlike_the_training_is_told_and_shown(generate, capsys):
    Path("captions.txt").write_text("a dog leaps\na man rides a bike\nwaves on the sea\na man rides a bike\n")
    assert generate("--captions", "captions.txt", "--fps", 8, "-o", "videos") == 0
    told = capsys.readouterr()
    assert len(os.listdir("videos")) == 4 == len(told.out.splitlines())
    sentences = told.err.splitlines()
    assert len(sentences) == 2 and sentences[0] == sentences[1]
    assert re.fullmatch(
        r'warning: no training caption is like "a man rides a bike" \(nearest, similarity 0\.\d\d: "a dog jumps"\); '
        "the model may show something else",
        sentences[0],
    )


@pytest.mark.parametrize(
    "asked, count, rate",
    [
        ([], 12, 24),
        (["--seconds", "0.25"], 6, 24),
        (["--seconds", "0.4", "--fps", "10"], 4, 10),
        (["--fps", "2x"], 24, 48),
        (["--fps", "29.97"], 14, Fraction(30000, 1001)),
    ],
)
def test_any_rate_and_length(generate, asked, count, rate):
    assert generate(CAPTION, *asked, "-o", "out.mkv") == 0
    frames, found, _ = facts("out.mkv")
    assert len(frames) == count and found == rate


def test_another_size_and_more_steps(generate, capsys):
    assert generate(CAPTION, "--height", 24, "--width", 48, "--steps", 3, "--fps", 8, "-o", "out.mp4") == 0
    assert facts("out.mp4")[0].shape == (4, 24, 48, 3)
    assert "48×24, seed 0, network evaluations: 3" in capsys.readouterr().out


def test_a_gif_lasts_as_long(generate):
    """16 a second are 6.25 hundredths each, which a GIF cannot say."""
    assert generate(CAPTION, "--fps", 16, "-o", "out.gif") == 0
    shown = []
    with Image.open("out.gif") as gif:
        for index in range(gif.n_frames):
            gif.seek(index)
            shown.append(gif.info["duration"])
        assert gif.n_frames == 8 and gif.size == (24, 24) and gif.info["loop"] == 0
    assert sum(shown) == 500 and set(shown) == {60, 70}


def test_a_sheet_of_all_frames(generate):
    assert generate(CAPTION, "--fps", 8, "-o", "out.png") == 0
    with Image.open("out.png") as sheet:
        assert sheet.width > 4 * 24 and sheet.height > 24


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["-o", "o.mp4"], "there is no caption"),
        (["--captions", "none.txt", "-o", "o"], "none.txt cannot be read"),
        (["--captions", "latin.txt", "-o", "o"], "latin.txt cannot be read"),
        (["--captions", "blank.txt", "-o", "o"], "there is no caption"),
        ([CAPTION, "-o", "o.avi"], "must end in one of .mp4"),
        ([CAPTION, "-o", "folder"], "folder is a folder; give the video's own name, folder/video.mp4"),
        ([CAPTION, "-o", "blank.txt/o.mp4"], "blank.txt is no folder that you may write to"),
        ([CAPTION, "waves", "-o", "o.mp4"], "several captions make several files"),
        ([CAPTION, "-o", "o.mp4", "--seconds", "3"], "up to 0.5 s and makes none of 3 s"),
        ([CAPTION, "-o", "o.mp4", "--fps", "fast"], "--fps fast: give frames a second"),
        ([CAPTION, "-o", "o.mp4", "--fps", "1"], "no frame at 1 frames a second"),
        ([CAPTION, "-o", "o.gif", "--fps", "60"], "up to 50 pictures a second"),
        ([CAPTION, "-o", "o.mp4", "--seed", "-1"], "--seed is a whole number"),
        ([CAPTION, "-o", "o.mp4", "--steps", "0"], "whole number from 1 up"),
        ([CAPTION, "-o", "o.mp4", "--guidance", "2"], "training.caption_dropout"),
        ([CAPTION, "-o", "o.mp4", "--height", "25"], "multiples"),
    ],
)
def test_errors_say_what_to_do_and_leave_nothing(generate, capsys, arguments, said):
    Path("latin.txt").write_bytes("spät\n".encode("latin-1"))
    Path("blank.txt").write_text("\n \n")
    Path("folder").mkdir()
    assert generate(*arguments) == 1
    message = capsys.readouterr().err
    assert message.startswith("vlfm generate: ") and said in message
    assert sorted(os.listdir()) == ["blank.txt", "folder", "latin.txt"] and not os.listdir("folder")


@pytest.mark.parametrize("output, said", [("o.avi", "must end in"), ("o.mp4", "no trained model in nowhere")])
def test_what_is_refused_is_refused_at_once(tmp_path, output, said):
    """Before seconds go by with imports."""
    code = (
        f"import sys; from vlfm.cli import main; status = main(['generate', 'a', '-o', {output!r}, '--model', "
        "'nowhere']); print(status, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout == "1 False\n" and said in done.stderr

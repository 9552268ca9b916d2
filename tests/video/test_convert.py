"""Whole videos through both tools: length, rate, picture, sound, oddities, and what goes wrong."""

import os
import re
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import ffmpeg
from tests.video.conftest import first_picture, sound
from vlfm.cli import main
from vlfm.errors import VLFMError
from vlfm.video.convert import Options, extrapolate, interpolate, parse_rate
from vlfm.video.resample import PathSettings
from vlfm.video.source import open_source
from vlfm.video.writer import video_writer

CPU = torch.device("cpu")


def double(source, output, fps="2x", path="hybrid", order=5, basis="cosine", **options):
    options["path"] = PathSettings(path, 8, order, basis)
    interpolate(source, output, fps, Options(**options), CPU)


def decibels(a, b):
    return 10 * np.log10(255**2 / np.square(a.astype(float) - b).mean())


# --------------------------------------------------------------------------------------- frame rates


@pytest.mark.parametrize(
    "text, expected",
    [
        ("48", 48),
        ("29.97", Fraction(30000, 1001)),
        ("23.976", Fraction(24000, 1001)),
        ("23.98", Fraction(24000, 1001)),
        ("59.94", Fraction(60000, 1001)),
        ("119.88", Fraction(120000, 1001)),
        ("12.5", Fraction(25, 2)),
        ("60000/1001", Fraction(60000, 1001)),
        ("2x", Fraction(48000, 1001)),
        ("2.5×", Fraction(60000, 1001)),
    ],
)
def test_rates_as_people_write_them(text, expected):
    assert parse_rate(text, Fraction(24000, 1001)) == expected


@pytest.mark.parametrize("text", ["0", "-3", "fast", "2000", "60/0", "1e3", ""])
def test_rates_that_are_none(text):
    with pytest.raises(VLFMError, match="--fps"):
        parse_rate(text, Fraction(24))


# ------------------------------------------------------------------------------------- interpolation


def test_twice_the_frames_in_the_same_time(short, facts, tmp_path, capsys):
    double(short, tmp_path / "out.mp4", crf=4)
    before, after = facts(short), facts(tmp_path / "out.mp4")
    assert len(after.times) == 48 and after.duration == pytest.approx(before.duration, abs=0.02)
    np.testing.assert_allclose(after.times, np.arange(48) * 1001 / 60000, atol=1e-4)
    assert decibels(after.frames[::2], before.frames) > 40
    between = (before.frames[:-1].astype(float) + before.frames[1:]) / 2
    assert decibels(after.frames[1:-1:2], between) > 35
    assert "48 frames at 59.9401 a second from 29.97 (one shot)" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


@pytest.mark.parametrize("source", ["bikes", "bigbuckbunny"])
def test_frames_that_are_given_are_not_changed(make, tmp_path, source):
    """Through RGB and back. ffmpeg's own way to convert leaves 47 dB of the one and 43 of the other."""
    film = make(f"short-{source}.mkv", "-frames:v", "6", "-c:v", "ffv1", source=source)
    double(film, tmp_path / "out.mkv", crf=0)
    graph = "[0]select='not(mod(n,2))',settb=1/25,setpts=N[a];[1]settb=1/25,setpts=N[b];[a][b]psnr"
    text = ffmpeg("-i", tmp_path / "out.mkv", "-i", film, "-lavfi", graph, "-f", "null", "-")
    assert float(re.search(r"PSNR .*average:([\d.]+|inf)", text)[1]) > 60


def test_the_same_input_gives_the_same_bytes(short, tmp_path):
    for name in ("a.mp4", "b.mp4"):
        double(short, tmp_path / name)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


@pytest.mark.parametrize("fps, count", [("10", 8), ("25", 20), ("60", 48), ("100", 81)])
def test_any_rate(short, facts, tmp_path, fps, count):
    double(short, tmp_path / "out.mkv", fps)
    after = facts(tmp_path / "out.mkv")
    assert len(after.times) == count  # the instants in 24 × 1001/30000 s, less one that is within 1 ms of the end
    np.testing.assert_allclose(after.times, np.arange(count) / float(fps), atol=0.001)


def test_pixels_keep_their_shape_and_tags(make, facts, tmp_path):
    tags = "setparams=colorspace=bt709:color_primaries=bt709:color_trc=bt709"
    tagged = make("tagged.mp4", "-frames:v", "6", "-vf", f"setsar=4/3,scale=out_color_matrix=bt709,{tags}")
    double(tagged, tmp_path / "out.mp4", crf=2)
    before, after = open_source(tagged), open_source(tmp_path / "out.mp4")
    assert after.colours == before.colours == dict.fromkeys(("colorspace", "color_primaries", "color_trc"), "bt709")
    assert after.media.aspect == pytest.approx(before.media.aspect, rel=1e-3)
    # Wrong matrix coefficients would shift saturated colours by several levels.
    assert decibels(facts(tmp_path / "out.mp4").frames[::2], facts(tagged).frames) > 40


@pytest.mark.parametrize("size", [(33, 46), (64, 51), (17, 35)])
def test_odd_sides_become_even(tmp_path, facts, size):
    height, width = size
    odd = tmp_path / "odd.mkv"
    before = np.random.default_rng(0).integers(0, 256, (6, height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    before = before.repeat(8, 1).repeat(8, 2)[:, :height, :width]
    command = [*f"-f rawvideo -pix_fmt rgb24 -s {width}x{height} -r 12 -i".split(), tmp_path / "raw"]
    (tmp_path / "raw").write_bytes(before.tobytes())
    ffmpeg(*command, "-c:v", "ffv1", "-pix_fmt", "bgr0", odd)
    double(odd, tmp_path / "out.mp4", crf=2)
    after = facts(tmp_path / "out.mp4").frames
    assert after.shape[1:3] == (height + height % 2, width + width % 2)
    assert decibels(after[::2, 8:height, 8:width], before[:, 8:, 8:]) > 22  # 4:2:0 halves the colours
    grey = after @ (0.299, 0.587, 0.114)  # colours, one for two by two pixels, are smooth between blocks
    assert np.abs(grey[:, -1] - grey[:, height - 1]).mean() < 4


def test_a_phone_held_upright(make, facts, tmp_path):
    """The file says that it is to be turned: the output is turned."""
    plain = make("plain.mp4", "-frames:v", "6", "-crf", "8")
    turned = make("turned.mp4", "-c", "copy", source=plain, before=("-display_rotation", "90"))
    double(turned, tmp_path / "out.mp4", crf=4)
    before, after = facts(turned), facts(tmp_path / "out.mp4")
    assert before.frames.shape[1:3] == after.frames.shape[1:3] == (176, 144)
    assert decibels(after.frames[::2], before.frames) > 35
    assert "rotation" not in ffmpeg("-i", tmp_path / "out.mp4", check=False)


def test_variable_frame_rate_by_true_times(make, facts, tmp_path):
    """Frames shown at 0, 1, 2, 3, 6, 7, 8, 9, 12 … thirtieths: the gaps are filled on the paths."""
    uneven = make(
        "uneven.mkv",
        *("-frames:v", "20", "-vf", "setpts='(N+2*floor(N/4))/30/TB'", "-fps_mode", "passthrough", "-crf", "4"),
    )
    before = facts(uneven)
    assert 0.06 < np.diff(before.times).max() < 0.11
    double(uneven, tmp_path / "out.mp4", "30", basis="legendre", crf=4)
    after = facts(tmp_path / "out.mp4")
    assert len(after.times) == 29
    index = np.round(before.times * 30).astype(int)
    assert decibels(after.frames[index[:-1]], before.frames[:-1]) > 38
    filled = np.setdiff1d(np.arange(index[-1]), index)
    line = np.stack([np.interp(filled / 30, before.times, values) for values in before.frames.reshape(20, -1).T], -1)
    assert decibels(after.frames[filled].reshape(len(filled), -1), line) > 30


def test_a_cut_stays_a_cut(make, short, facts, tmp_path):
    """Half of one clip, half of another: no frame between them is a mixture."""
    size = ("-vf", "scale=176:144,setsar=1,fps=30", "-frames:v", "10", "-crf", "6", "-an")
    parts = [make("one.mp4", *size), make("two.mp4", *size, source="bigbuckbunny")]
    both = tmp_path / "both.mp4"
    graph = "[0:v][1:v]concat=n=2:v=1[v]"
    ffmpeg("-i", parts[0], "-i", parts[1], "-filter_complex", graph, "-map", "[v]", "-crf", "6", both)
    double(both, tmp_path / "out.mp4", crf=4)
    frames, truth = facts(tmp_path / "out.mp4").frames, facts(both).frames
    assert decibels(frames[19], truth[9]) > 35  # the last frame before the cut stays
    double(both, tmp_path / "faded.mp4", crf=4, shot_threshold=0)
    assert decibels(facts(tmp_path / "faded.mp4").frames[19], truth[9]) < 25


@pytest.mark.parametrize("kind", ["projected", "linear", "motion"])
def test_other_paths(short, facts, tmp_path, kind):
    double(short, tmp_path / "out.mp4", path=kind, order=4, crf=4)
    after = facts(tmp_path / "out.mp4")
    assert len(after.times) == 48
    assert (decibels(after.frames[::2], facts(short).frames) > 40) == (kind != "projected")


def test_motion_is_what_one_gets_unless_asked_otherwise(make, facts, tmp_path, capsys):
    """Every second frame of a film, made 25 a second again: nearer to the film than by a path at fixed places."""
    film = make("film25.mp4", "-frames:v", "17", "-vf", "scale=320:-2", "-crf", "4", source="bikes")
    halved = make("film12.mp4", "-vf", "select=not(mod(n\\,2))", "-fps_mode", "passthrough", "-crf", "4", source=film)
    truth, scores = facts(film).frames[1:-1:2], {}
    for path in (None, "hybrid"):
        arguments = ["interpolate", str(halved), "--fps", "25", "-o", str(tmp_path / f"{path}.mp4"), "--crf", "4"]
        assert main([*arguments, "--threads", "1", *(["--path", path] if path else [])]) == 0
        scores[path] = decibels(facts(tmp_path / f"{path}.mp4").frames[1:-1:2][: len(truth)], truth)
    assert scores[None] > scores["hybrid"] + 3
    assert "path motion on pixels" in capsys.readouterr().out
    with pytest.raises(VLFMError, match="moves pixels, not latents"):
        Options(decoder="fitted")


# --------------------------------------------------------------------------------------------- sound


def test_sound_is_copied_packet_for_packet(sounding, facts, tmp_path):
    double(sounding, tmp_path / "out.mp4")
    assert sound(tmp_path / "out.mp4") == sound(sounding)
    assert len(facts(tmp_path / "out.mp4").times) == 50


@pytest.mark.parametrize("late", ["sound", "picture"])
def test_sound_stays_in_step(make, tmp_path, late):
    """Where one begins half a second after the other, it still does."""
    picture = make("picture.mp4", "-t", "1", "-vf", "scale=160:-2", "-an", source="bigbuckbunny")
    noise = make("noise.mp4", "-t", "1", "-vn", "-c:a", "aac", "-ac", "2", source="bigbuckbunny")
    order = [picture, noise] if late == "sound" else [noise, picture]
    source = make(f"late_{late}.mkv", "-c", "copy", source=order[0], before=("-itsoffset", "0.5", "-i", order[1]))
    double(source, tmp_path / "out.mkv")
    steps = [first_picture(path) - sound(path)[0][0] for path in (source, tmp_path / "out.mkv")]
    assert abs(steps[0]) == pytest.approx(0.5, abs=0.03) and steps[1] == pytest.approx(steps[0], abs=0.002)
    assert [packet for _, packet in sound(tmp_path / "out.mkv")] == [packet for _, packet in sound(source)]


def test_sound_that_a_container_does_not_take(make, tmp_path):
    strange = make("strange.mkv", "-t", "1", "-vf", "scale=64:-2", "-c:a", "wmav2", "-ac", "2", source="bigbuckbunny")
    with pytest.raises(VLFMError, match=r"could not write .*codec.*; sound .*\.mkv"):
        double(strange, tmp_path / "out.mp4")
    assert list(tmp_path.iterdir()) == []
    double(strange, tmp_path / "out.mkv")
    assert [packet for _, packet in sound(tmp_path / "out.mkv")] == [packet for _, packet in sound(strange)]


# ------------------------------------------------------------------------------------- extrapolation


@pytest.mark.parametrize("tail", ["motion", "linear"])
def test_extrapolation_is_the_input_and_a_tail(sounding, facts, tmp_path, tail):
    extrapolate(sounding, tmp_path / "out.mp4", 2.0, tail, Options(crf=4), CPU)
    before, after = facts(sounding), facts(tmp_path / "out.mp4")
    assert len(after.times) == 75 and after.duration == pytest.approx(3, abs=0.05)
    assert decibels(after.frames[:25], before.frames) > 40
    assert sound(tmp_path / "out.mp4") == sound(sounding)  # it ends where it ends
    assert decibels(after.frames[25], before.frames[-1]) > 20


def test_holding_the_last_frame_at_another_rate(short, facts, tmp_path):
    extrapolate(short, tmp_path / "out.mp4", 0.5, "hold", Options(crf=4), CPU, fps="2x")
    after = facts(tmp_path / "out.mp4")
    assert len(after.times) == 78
    assert decibels(after.frames[47:], facts(short).frames[-1]) > 35


# ------------------------------------------------------------------------------------------- latents


@pytest.mark.slow
def test_through_latents_fitted_on_the_video(short, facts, tmp_path):
    """With what the decoder drops carried along, frames are as given; without, all lose the same."""
    before = facts(short).frames
    double(short, tmp_path / "out.mp4", decoder="fitted", quality=34, crf=2)
    assert decibels(facts(tmp_path / "out.mp4").frames[::2], before) > 42
    double(short, tmp_path / "bare.mp4", decoder="fitted", quality=34, detail=False, crf=2)
    bare = facts(tmp_path / "bare.mp4").frames
    assert 32 < decibels(bare[::2], before) < 38
    between = (before[:-1].astype(float) + before[1:]) / 2
    assert decibels(bare[1:-1:2], between) < decibels(facts(tmp_path / "out.mp4").frames[1:-1:2], between)


def test_through_a_diffusers_autoencoder(short, facts, tmp_path):
    """Untrained and non-linear, at a size that it does not divide: carried detail still gives the frames back."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    network = AutoencoderKL(
        block_out_channels=(16, 32, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=8,
    )
    network.save_pretrained(tmp_path / "vae")
    small = tmp_path / "small.mp4"
    ffmpeg("-i", short, "-frames:v", "6", "-vf", "crop=60:44", "-crf", "6", small)
    double(small, tmp_path / "out.mp4", decoder=str(tmp_path / "vae"), crf=2)
    assert decibels(facts(tmp_path / "out.mp4").frames[::2], facts(small).frames) > 40
    double(small, tmp_path / "bare.mp4", decoder=str(tmp_path / "vae"), detail=False)
    assert decibels(facts(tmp_path / "bare.mp4").frames[::2], facts(small).frames) < 20


@pytest.mark.parametrize("lapped", [False, True])
def test_through_a_runs_decoder(short, facts, tmp_path, lapped):
    from vlfm.decoders.lapped_autoencoder import LappedAutoencoder
    from vlfm.decoders.patch_autoencoder import PatchAutoencoder

    autoencoder = PatchAutoencoder(6, 3)
    if lapped:
        autoencoder = LappedAutoencoder.of_patches(autoencoder, width=8, blocks=1)
    autoencoder.save_pretrained(tmp_path / "decoder" / "autoencoder")
    double(short, tmp_path / "out.mp4", decoder=str(tmp_path / "decoder"), crf=2)
    assert decibels(facts(tmp_path / "out.mp4").frames[::2], facts(short).frames) > 40
    with pytest.raises(VLFMError, match="autoencoder"):
        double(short, tmp_path / "no.mp4", decoder=str(tmp_path / "nowhere"))


# ------------------------------------------------------------------------------------ what goes wrong


def cut_short(path: Path, target: Path, share: float) -> Path:
    target.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return target


@pytest.mark.parametrize("container", ["mp4", "mkv", "ts"])
def test_a_file_that_was_cut_short(make, tmp_path, container):
    options = ("-movflags", "+faststart") if container == "mp4" else ()
    whole = make(f"whole.{container}", "-frames:v", "60", *options)
    broken = cut_short(whole, tmp_path / f"broken.{container}", 0.6)
    with pytest.raises(VLFMError, match=r"broken\.\w+ is damaged.*--keep-damaged"):
        double(broken, tmp_path / "out" / "out.mp4")
    assert not list(tmp_path.glob("out/*"))
    if container != "ts":
        double(broken, tmp_path / "out.mp4", keep_damaged=True)
        assert 20 < len(list(open_source(tmp_path / "out.mp4").frames())) < 120


def test_damage_in_the_middle_leaves_no_output(make, tmp_path):
    whole = bytearray(make("faststart.mp4", "-frames:v", "60", "-movflags", "+faststart").read_bytes())
    for place in range(len(whole) // 2, len(whole) - 100, len(whole) // 40):
        whole[place : place + 60] = bytes(60)
    (tmp_path / "damaged.mp4").write_bytes(whole)
    with pytest.raises(VLFMError, match="damaged"):
        double(tmp_path / "damaged.mp4", tmp_path / "out.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["damaged.mp4"]


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["interpolate", "none.mp4", "--fps", "48", "-o", "o.mp4"], "none.mp4: no such file"),
        (["interpolate", "text.mp4", "--fps", "48", "-o", "o.mp4"], "not a video that ffmpeg can open"),
        (["interpolate", "sound.m4a", "--fps", "48", "-o", "o.mp4"], "holds sound but no video"),
        (["interpolate", "good.mp4", "--fps", "48", "-o", "o.avi"], "must end in one of .mp4"),
        (["interpolate", "good.mp4", "--fps", "48", "-o", "good.mp4"], "is the input itself"),
        (["interpolate", "good.mp4", "--fps", "fast", "-o", "o.mp4"], "--fps fast: give frames a second"),
        (["interpolate", "good.mp4", "--fps", "48", "--path", "hybrid", "--order", "9", "-o", "o.mp4"], "order 9 does"),
        (["interpolate", "good.mp4", "--fps", "48", "--crf", "99", "-o", "o.mp4"], "--crf lies between"),
        (["interpolate", "http://host/a.mp4", "--fps", "48", "-o", "o.mp4"], "download it first"),
        (["extrapolate", "good.mp4", "--seconds", "0", "-o", "o.mp4"], "--seconds is how long"),
        (
            ["extrapolate", "good.mp4", "--seconds", "4", "--tail", "continued", "--basis", "legendre", "-o", "o.mp4"],
            "`continued` is refused",
        ),
    ],
)
def test_errors_say_what_to_do_and_leave_nothing(short, sounding, tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    Path("text.mp4").write_text("not a video")
    Path("good.mp4").write_bytes(short.read_bytes())
    ffmpeg("-i", sounding, "-vn", "-c", "copy", "sound.m4a")
    assert main([*arguments, "--threads", "1"]) == 1
    assert said in capsys.readouterr().err
    assert sorted(os.listdir()) == ["good.mp4", "sound.m4a", "text.mp4"]
    assert Path("good.mp4").read_bytes() == short.read_bytes()


@pytest.mark.parametrize("frames", [0, 50])
def test_the_encoder_failing_is_said(tmp_path, monkeypatch, frames):
    monkeypatch.setattr("imageio_ffmpeg.get_ffmpeg_exe", lambda: "/bin/false")
    with pytest.raises(VLFMError, match="ffmpeg could not write"):
        with video_writer(tmp_path / "o.mp4", (64, 64), Fraction(24)) as write:
            for _ in range(frames):
                write(np.zeros((64, 64, 3), np.uint8))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_ctrl_c_leaves_nothing(make, tmp_path):
    long = make("long.mp4", "-c", "copy", before=("-stream_loop", "60"))
    command = [sys.executable, "-m", "vlfm.cli", "interpolate", long, "--fps", "8x", "-o", tmp_path / "out.mp4"]
    process = subprocess.Popen(
        [str(part) for part in command],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # Started in the background by a shell, a process ignores Ctrl-C, and so do its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(0.5)
    assert process.poll() is None, process.communicate()
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == 2  # one ffmpeg reads, one writes
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode != 0 and list(tmp_path.iterdir()) == []
    assert not any(Path(f"/proc/{child}").exists() for child in children)


# ---------------------------------------------------------------------------------------- at full size

# A process starts with the ru_maxrss of the one it was forked from, here of all tests before this one.
MEASURED = """
import resource, sys, torch
from pathlib import Path
from vlfm.video.convert import Options, extrapolate, interpolate
torch.set_num_threads(1)
source, output, seconds = sys.argv[1:]
if float(seconds):
    extrapolate(source, Path(output), float(seconds), "linear", Options(), torch.device("cpu"))
else:
    interpolate(source, Path(output), "30", Options(), torch.device("cpu"))
own = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(int(own.split()[1]) // 1024 + resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)
"""


@pytest.mark.slow(minutes=1.5)
@pytest.mark.parametrize("seconds, count", [(0, 15 * 30), (4, 19 * 25)])
def test_fifteen_seconds_of_720p_in_bounded_memory(make, tmp_path, seconds, count):
    """Peak memory, of this program and of the larger of its ffmpegs, in MB; no more than for four seconds.

    To hold the frames in between would take 760 MB.
    """

    def measure(source: Path) -> int:
        command = [sys.executable, "-c", MEASURED, str(source), str(tmp_path / "out.mp4"), str(seconds)]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])

    film = make("film.mp4", "-c", "copy", "-t", "15", source="bigbuckbunny", before=("-stream_loop", "3"))
    brief = make("brief.mp4", "-c", "copy", "-t", "4", source="bigbuckbunny")
    small = measure(brief)
    began = time.monotonic()
    large = measure(film)
    print(f"{time.monotonic() - began:.0f} s, peak {large} MB, {small} MB for 4 s")
    assert large < 1200 and large < 1.15 * small
    out = open_source(tmp_path / "out.mp4")
    length = out.media.duration
    assert sum(1 for _ in out.frames()) == pytest.approx(count, abs=2)
    assert length == pytest.approx(15 + seconds, abs=0.15)
    assert [packet for _, packet in sound(tmp_path / "out.mp4")] == [packet for _, packet in sound(film)]

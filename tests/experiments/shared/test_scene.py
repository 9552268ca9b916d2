"""The generated scene: exact, smooth, the same at every size, and what it says it is."""

import imageio_ffmpeg
import numpy as np
import pytest

from vlfm.errors import VLFMError
from vlfm.experiments.shared.scene import MARGIN, Scene, Shape, scene

TIMES = np.arange(12) / 24


def plain(**change) -> Scene:
    """A white disc or rectangle before black."""
    shape = {
        "kind": "disc",
        "half": (0.2, 0.2),
        "centre": (0.5, 0.5),
        "radius": 0.0,
        "speed": 0.0,
        "velocity": (0.0, 0.0),
        "phase": 0.0,
        "spin": 0.0,
        "colours": np.ones((2, 3)),
        "stripes": 1.0,
    }
    waves = np.zeros((1, 2)), np.full(1, np.pi), np.full((1, 3), 0.5)
    return Scene((Shape(**shape | change),), *waves, (0.0, 0.0))


def centroid(frame):
    weight = frame[..., 0].astype(float)
    grid = (np.arange(len(frame)) + 0.5) / len(frame)
    return (weight.sum(0) * grid).sum() / weight.sum(), (weight.sum(1) * grid).sum() / weight.sum()


def test_same_seed_same_scene_and_time_is_time():
    frames = scene(3).frames(TIMES, 64)
    assert frames.shape == (12, 64, 64, 3) and frames.dtype == np.uint8
    assert (frames == scene(3).frames(TIMES, 64)).all()
    assert (scene(3).frames(TIMES[::-1], 64)[::-1] == frames).all()
    assert (scene(3).frames(TIMES[5:6], 64)[0] == frames[5]).all()
    assert (scene(4).frames(TIMES, 64) != frames).mean() > 0.5


def test_it_moves_smoothly():
    """Halving the interval halves the change: nothing jumps."""
    for seed in range(4):
        fine = scene(seed).frames(np.arange(49) / 192, 96).astype(float)
        change = [np.abs(fine[step::step] - fine[:-step:step]).mean() for step in (1, 2, 4)]
        assert 0.1 < change[0] and 1.5 < change[1] / change[0] < 2.1 and 1.5 < change[2] / change[1] < 2.1


@pytest.mark.parametrize("kind, area", [("disc", np.pi * 0.2**2), ("rectangle", 0.4 * 0.2)])
def test_area_and_place_are_exact(kind, area):
    """To a small part of a pixel, at any place and angle."""
    half = (0.2, 0.2) if kind == "disc" else (0.2, 0.1)
    moving = plain(kind=kind, half=half, centre=(0.3, 0.4), velocity=(0.5, 0.3), spin=2.0)
    for t, frame in zip((0, 0.13, 0.5), moving.frames(np.array([0, 0.13, 0.5]), 100), strict=True):
        assert frame[..., 0].mean() / 255 == pytest.approx(area, rel=0.01)
        assert centroid(frame) == pytest.approx((0.3 + 0.5 * t, 0.4 + 0.3 * t), abs=1e-3)


def test_circling():
    times = np.linspace(0, 2, 9)
    for t, frame in zip(times, plain(radius=0.2, speed=np.pi, phase=1.0).frames(times, 100), strict=True):
        turn = 1 + np.pi * t
        assert centroid(frame) == pytest.approx((0.5 + 0.2 * np.cos(turn), 0.5 + 0.2 * np.sin(turn)), abs=1e-3)


def test_a_crossing_shape_comes_back_unseen():
    times = np.arange(0, 4, 0.01)
    seen = plain(velocity=(1.0, 0.0)).frames(times, 32)[..., 0].mean((1, 2)) / 255
    assert seen.min() == 0 and np.abs(np.diff(seen)).max() < 0.01
    assert plain(half=(MARGIN, MARGIN), velocity=(1.0, 0.0)).frames(np.array([0.85]), 32).max() == 0


def test_the_front_shape_covers_the_back_one():
    back, front = plain().shapes[0], plain(half=(0.1, 0.1), colours=np.full((2, 3), 0.5)).shapes[0]
    both = Scene((back, front), *(getattr(plain(), name) for name in ("waves", "shifts", "amplitudes", "drift")))
    frame = both.frames(np.zeros(1), 100)[0]
    assert frame[50, 50].tolist() == [128] * 3 and frame[50, 35].tolist() == [255] * 3 and frame[5, 5].max() == 0


def test_sizes_show_the_same_scene():
    large = scene(1).frames(TIMES[:2], 192).astype(float).reshape(2, 48, 4, 48, 4, 3).mean((2, 4))
    small = scene(1).frames(TIMES[:2], 48)
    assert np.abs(large - small).mean() < 2
    assert scene(1).frames(TIMES[:1], (40, 90)).shape == (1, 40, 90, 3)


def test_the_background_is_textured():
    frame = scene(2, shapes=0).frames(np.zeros(1), 96)[0].astype(float)
    assert 20 < frame.std() < 70 and np.abs(np.diff(frame, axis=1)).mean() > 2


def test_it_becomes_a_video(tmp_path):
    scene(0).write(tmp_path / "scene.mp4", 24, 0.5, 64)
    reader = imageio_ffmpeg.read_frames(str(tmp_path / "scene.mp4"))
    assert next(reader)["fps"] == 24
    read = np.stack([np.frombuffer(item, np.uint8).reshape(64, 64, 3) for item in reader])
    assert len(read) == 12 and np.abs(read.astype(int) - scene(0).frames(TIMES, 64)).mean() < 8


@pytest.mark.parametrize(
    "times, size, said", [([np.nan], 8, "finite"), ([[0.0]], 8, "flat list"), ([0.0], 0, "at least 1 pixel")]
)
def test_nonsense_is_refused(times, size, said):
    with pytest.raises(VLFMError, match=said):
        scene(0).frames(np.array(times), size)
    with pytest.raises(VLFMError, match="0 shapes or more"):
        scene(0, shapes=-1)

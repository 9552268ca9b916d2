"""Which frames make a clip, and how takes are cut."""

import itertools

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from vlfm.clips.windows import choose_frames, cut_windows, nearest, slack
from vlfm.errors import BadClip


def test_25_fps_gives_consecutive_frames():
    shown = np.arange(250) * 0.04
    indices, times = choose_frames(shown, 1.2, 0.5, 12)
    assert indices.tolist() == list(range(30, 42))
    assert np.allclose(times, 1 / 24 + 0.04 * np.arange(12), atol=1e-12)


def test_29_97_fps_leaves_frames_out_evenly():
    shown = np.arange(120) * 1001 / 30000
    indices, times = choose_frames(shown, 1.5015, 0.5, 12)
    assert indices.tolist() == [45, 46, 47, 49, 50, 51, 52, 54, 55, 56, 57, 58]
    assert np.abs(times - np.arange(1, 13) / 24).max() <= 1001 / 60000 + 1e-9 or times[-1] < 0.5


@pytest.mark.parametrize("rate", [24, 24000 / 1001, 25, 30000 / 1001, 30, 48, 50, 60, 120, 240])
@pytest.mark.parametrize("duration", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("rounding", [None, 3])
def test_usual_rates_fill_every_window(rate, duration, rounding):
    """Also where the container rounds times to milliseconds."""
    shown = np.arange(int(rate * 12)) / rate
    shown = shown if rounding is None else np.round(shown, rounding)
    for start in np.linspace(0, 9, 37):
        count = round(24 * duration)
        indices, times = choose_frames(shown, start, duration, count)
        assert len(set(indices.tolist())) == count
        assert times[0] == pytest.approx(duration / count) and times[-1] <= duration


@given(
    rate=st.floats(24.0, 240.0),
    jitter=st.floats(0, 0.3),
    seed=st.integers(0, 2**16),
    start=st.floats(0, 2),
    count=st.integers(2, 24),
)
def test_chosen_frames_are_the_nearest(rate, jitter, seed, start, count):
    duration = count / 24
    rng = np.random.default_rng(seed)
    shown = (np.arange(int(rate * 6)) + rng.uniform(-jitter, jitter, int(rate * 6))) / rate
    shown -= shown[0]
    try:
        indices, times = choose_frames(shown, start, duration, count)
    except BadClip:
        assume(False)
    origin = np.abs(shown - start).argmin()
    truth = shown[indices] - shown[indices[0]] + duration / count
    assert indices[0] == origin or abs(shown[indices[0]] - start) <= abs(shown[origin] - start) + 2e-5
    assert np.all(np.diff(indices) > 0) and np.all(np.diff(times) > 0)
    assert times.min() >= duration / count - 1e-9 and times.max() <= duration
    assert np.abs(times - truth).max() <= slack(duration) + 1e-9
    every = shown[indices[0] :] - shown[indices[0]] + duration / count
    every = every[every <= duration + slack(duration)]
    for tau in range(count):
        best = np.abs(every - (tau + 1) * duration / count).min()
        mine = abs(every[indices[tau] - indices[0]] - (tau + 1) * duration / count)
        no_room = indices[tau] - indices[0] == len(every) - count + tau
        assert mine <= best + 1e-4 or no_room


def test_rates_of_24_and_more_without_jitter_are_never_bad():
    for rate in np.linspace(24, 61, 200):
        shown = np.arange(int(rate * 4)) / rate
        for start in (0, 0.313, 1.7):
            choose_frames(shown, start, 0.5, 12)


def test_a_tie_takes_the_earlier_frame():
    assert nearest([0.0, 0.04, 0.08], 0.06) == 1
    assert nearest([0.0, 0.04, 0.08], 0.06 + 4e-6) == 1, "float32 noise does not turn a tie"
    assert nearest([0.0, 0.04, 0.08], 0.0601) == 2


@pytest.mark.parametrize(
    ("shown", "start", "message"),
    [
        (np.arange(60) / 15, 1.0, "about 15 frames a second"),
        (np.arange(30) / 25, 0.9, "the last frame of the source is shown at 1.160 s"),
        (np.arange(30) / 25, 3.0, "starts at 3.000 s, the source ends at 1.160 s"),
        (np.array([]), 0.0, "no frames"),
        (np.array([0.0]), 0.0, "too early"),
        (np.r_[np.arange(6), np.arange(15, 60)] / 25, 0.0, "largest gap 0.400 s"),
    ],
)
def test_what_is_lacking_is_said_in_numbers(shown, start, message):
    with pytest.raises(BadClip, match=message):
        choose_frames(shown, start, 0.5, 12)


@given(
    start=st.floats(0, 50),
    length=st.floats(0.1, 30),
    cuts=st.lists(st.floats(0, 80), max_size=12),
    duration=st.sampled_from([0.5, 0.75, 2.0]),
)
def test_windows_fill_shots_and_cross_no_cut(start, length, cuts, duration):
    windows = cut_windows(start, start + length, cuts, duration)
    near = 2e-5
    assert windows == sorted(windows)
    for first, last in windows:
        assert last - first == pytest.approx(duration, abs=1e-6)
        assert start - near <= first and last <= start + length + near
        assert not [cut for cut in cuts if first + near < cut < last - near]
    for (_, last), (first, _) in itertools.pairwise(windows):
        assert first >= last - near
    edges = [start, *sorted(c for c in cuts if start < c < start + length), start + length]
    most = sum(int((b - a + near) / duration) for a, b in itertools.pairwise(edges))
    least = sum(int((b - a - near) / duration) for a, b in itertools.pairwise(edges))
    assert least <= len(windows) <= most

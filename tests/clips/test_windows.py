"""Which frames make a clip, and how takes are cut."""

import itertools

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from vlfm.clips.windows import choose_frames, choose_size, cut_windows, nearest, slack
from vlfm.errors import BadClip


def test_25_fps_gives_consecutive_frames():
    shown = np.arange(250) * 0.04
    indices, times = choose_frames(shown, 1.2, 0.5, 12, 4)
    assert indices.tolist() == list(range(30, 42))
    assert np.allclose(times, 1 / 24 + 0.04 * np.arange(12), atol=1e-12)


def test_29_97_fps_leaves_frames_out_evenly():
    shown = np.arange(120) * 1001 / 30000
    indices, times = choose_frames(shown, 1.5015, 0.5, 12, 4)
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
        indices, times = choose_frames(shown, start, duration, count, count)
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
        indices, times = choose_frames(shown, start, duration, count, count)
    except BadClip:
        assume(False)
    assert np.all(np.diff(indices) > 0) and np.all(np.diff(times) > 0)
    step = duration / count
    if times[0] == pytest.approx(step, abs=1e-12):
        zero, first = shown[indices[0]], indices[0]
        origin = np.abs(shown - start).argmin()
        assert indices[0] == origin or abs(shown[indices[0]] - start) <= abs(shown[origin] - start) + 2e-5
    else:  # where the jitter would leave an instant without a frame of its own
        zero, first = start, int(np.searchsorted(shown - start + step, 0.0, side="right"))
    every = shown[first:] - zero + step
    every = every[every <= duration + slack(duration)]
    assert times.min() > 0 and times.max() <= duration
    assert np.abs(times - (shown[indices] - zero + step)).max() <= slack(duration) + 1e-9
    for tau in range(count):
        best = np.abs(every - (tau + 1) * step).min()
        mine = abs(every[indices[tau] - first] - (tau + 1) * step)
        no_room = indices[tau] - first == len(every) - count + tau
        assert mine <= best + 1e-4 or no_room


def test_rates_of_24_and_more_without_jitter_are_never_bad():
    for rate in np.linspace(24, 61, 200):
        shown = np.arange(int(rate * 4)) / rate
        for start in (0, 0.313, 1.7):
            choose_frames(shown, start, 0.5, 12, 12)


def test_a_tie_takes_the_earlier_frame():
    assert nearest([0.0, 0.04, 0.08], 0.06) == 1
    assert nearest([0.0, 0.04, 0.08], 0.06 + 4e-6) == 1, "float32 noise does not turn a tie"
    assert nearest([0.0, 0.04, 0.08], 0.0601) == 2


@pytest.mark.parametrize(
    ("shown", "start", "message"),
    [
        (
            np.arange(60) / 6,
            1.0,
            r"3 frames for the window of 0.5 s from 1.000 s, .*a clip needs 4 \(clips.min_frames\)",
        ),
        (np.arange(30) / 25, 0.9, "the last frame of the source is shown at 1.160 s"),
        (np.arange(30) / 25, 3.0, "starts at 3.000 s, the source ends at 1.160 s"),
        (np.array([]), 0.0, "no frames"),
        (np.array([0.0]), 0.0, "too early"),
        (np.r_[np.arange(6), np.arange(15, 60)] / 25, 0.0, r"6 frames .*largest gap 0.400 s"),
    ],
)
def test_what_is_lacking_is_said_in_numbers(shown, start, message):
    with pytest.raises(BadClip, match=message):
        choose_frames(shown, start, 0.5, 12, 4)


@given(
    rate=st.floats(1.0, 23.9),
    jitter=st.floats(0, 0.4),
    seed=st.integers(0, 2**16),
    start=st.floats(0, 2),
    count=st.integers(6, 48),
    least=st.integers(2, 6),
)
def test_a_slow_source_gives_the_frames_it_has(rate, jitter, seed, start, count, least):
    """At their true times, each once; fewer than asked for are refused, and so is a gap that they would not leave."""
    duration = count / 24
    rng = np.random.default_rng(seed)
    length = int((3 + duration) * rate) + 3
    shown = np.sort(np.arange(length) + rng.uniform(-jitter, jitter, length)) / rate
    shown -= shown[0]
    assume(np.all(np.diff(shown) > 1e-3))
    times = shown - start + 1 / 24
    inside = np.flatnonzero((times > 0) & (times <= duration + slack(duration)))
    try:
        indices, found = choose_frames(shown, start, duration, count, least)
    except BadClip:
        gaps = np.diff(shown[max(0, inside[0] - 1) : inside[-1] + 2]) if len(inside) else np.array([np.inf])
        crowded = len(inside) > count
        assert len(inside) < least or gaps.max() > 0.99 * duration / (least - 1) or crowded
        return
    assert least <= len(indices) <= count and np.all(np.diff(indices) > 0) and np.all(np.diff(found) > 0)
    assert found[0] > 0 and found[-1] <= duration
    if len(indices) < count:
        assert np.allclose(found, np.minimum(times[indices], duration), atol=1e-9)
        assert set(indices) <= set(inside)
        assert len(inside) > count or indices.tolist() == inside.tolist(), "no frame is left out"


@given(
    start=st.floats(0, 50),
    length=st.floats(0.1, 30),
    cuts=st.lists(st.floats(0, 80), max_size=12),
    durations=st.sampled_from([[0.5], [0.75], [2.0], [0.5, 1.0], [2.0, 0.75, 0.5]]),
)
def test_windows_fill_shots_and_cross_no_cut(start, length, cuts, durations):
    windows = cut_windows(start, start + length, cuts, durations)
    near = 2e-5
    assert windows == sorted(windows)
    for first, last in windows:
        assert min(abs(last - first - duration) for duration in durations) < 1e-6
        assert start - near <= first and last <= start + length + near
        assert not [cut for cut in cuts if first + near < cut < last - near]
    for (_, last), (first, _) in itertools.pairwise(windows):
        assert first >= last - near
    edges = [start, *sorted(c for c in cuts if start < c < start + length), start + length]
    for left, right in itertools.pairwise(edges):
        inside = [window for window in windows if left - near <= window[0] and window[1] <= right + near]
        for index, (first, last) in enumerate(inside):
            fitting = [duration for duration in durations if duration <= right - first + near]
            assert last - first == pytest.approx(max(fitting), abs=1e-6) or right - first == pytest.approx(max(fitting))
            assert first == pytest.approx(inside[index - 1][1] if index else left, abs=1e-5), "no gap within a shot"
        rest = right - (inside[-1][1] if inside else left)
        assert rest < min(durations) + near, "what remains is too short for any"


def test_the_longest_that_fits_then_the_next_shorter():
    windows = cut_windows(0.0, 10.0, [4.6], [0.5, 2.0, 1.0])
    lengths = [last - first for first, last in windows]
    assert windows[:3] == [(0.0, 2.0), (2.0, 4.0), (4.0, 4.5)]
    assert lengths == pytest.approx([2, 2, 0.5, 2, 2, 1])


@pytest.mark.parametrize(
    ("shown", "sizes", "chosen"),
    [
        ((640, 480), [(96, 96), (72, 128)], (96, 96)),  # 4:3 lies midway, and both have as many pixels
        ((1280, 720), [(96, 96), (72, 128)], (72, 128)),
        ((720, 1280), [(96, 96), (72, 128)], (96, 96)),
        ((720, 1280), [(96, 96), (72, 128), (128, 72)], (128, 72)),
        ((640, 360), [(96, 96), (180, 320), (360, 640), (720, 1280)], (360, 640)),
        ((300, 169), [(96, 96), (180, 320), (360, 640)], (180, 320)),  # none is filled: the smallest
        ((100, 100), [(64, 128), (128, 64)], (64, 128)),  # equally far both ways, none is filled
    ],
)
def test_the_size_nearest_in_aspect_ratio(shown, sizes, chosen):
    assert choose_size(*shown, sizes) == chosen
    assert choose_size(*shown, sizes[::-1]) == chosen, "the order of the list decides nothing"


@given(
    width=st.integers(8, 4000),
    height=st.integers(8, 4000),
    sizes=st.lists(st.tuples(st.integers(8, 1000), st.integers(8, 1000)), min_size=1, max_size=6, unique=True),
)
def test_no_other_size_keeps_more_of_the_picture(width, height, sizes):
    """The share of the picture within the centre crop is largest for the size chosen."""

    def kept(size):
        shape = size[1] / size[0]
        return min(width, height * shape) * min(height, width / shape) / (width * height)

    assert kept(choose_size(width, height, sizes)) == pytest.approx(max(map(kept, sizes)), rel=1e-6)

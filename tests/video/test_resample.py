"""Frames at other instants: streaming against the whole shot at once, cuts, pauses, bounded memory."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlfm.errors import VLFMError
from vlfm.experiments.shared.scene import scene
from vlfm.video.motion import Motion
from vlfm.video.path_weights import tail_weights
from vlfm.video.resample import PATHS, PathSettings, Resampler, blended_weights
from vlfm.video.spaces import Pixels

SHAPE = (4, 6, 3)


def pictures(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *SHAPE), dtype=np.uint8)


def run(frames, times, fps, rate=24, cuts=(), until=None, tail=None, settings=None, watch=None):
    resampler = Resampler(Pixels(), Fraction(fps), Fraction(rate), settings or PathSettings())
    made = []
    for index, (shown, frame) in enumerate(zip(times, frames, strict=True)):
        made += resampler.push(float(shown), frame, index in cuts)
        if watch is not None:
            watch.append(len(resampler._items))
    until = times[-1] + 1 / rate if until is None else until
    made += resampler.finish(until) if tail is None else resampler.extrapolate(until, tail)
    assert resampler.made == len(made)
    return np.stack(made)


@st.composite
def settings_of(draw):
    window = draw(st.integers(3, 12))
    return PathSettings(
        draw(st.sampled_from([kind for kind in PATHS if kind != "motion"])),
        window,
        draw(st.integers(1, int(2 * window**0.5))),
    )


def window_starts(count: int, settings: PathSettings) -> list[int]:
    """Where the windows of a shot of `count` frames begin: every hop, and one that ends with the shot."""
    if count <= settings.window:
        return [0]
    starts = list(range(0, count - settings.window + 1, settings.hop))
    last = count - settings.window
    return starts if starts[-1] == last else [*starts, last]


@pytest.mark.slow
@settings(max_examples=80, deadline=None)
@given(st.integers(1, 60), st.integers(0, 99), settings_of(), st.sampled_from([10, 24, 25, 48, Fraction(60000, 1001)]))
def test_streaming_is_the_whole_shot_at_once(count, seed, path, fps):
    """The same bytes as one big matrix over all frames, at slightly irregular times."""
    random = np.random.default_rng(seed)
    times = np.arange(count) / 24 + random.uniform(0, 0.005, count)
    times -= times[0]
    frames = pictures(count, seed)
    made = run(frames, times, fps, settings=path)
    instants = np.arange(len(made)) / float(fps)
    windows = [(start, min(count, start + path.window)) for start in window_starts(count, path)]
    weights = blended_weights(times, windows, np.clip(instants, 0, times[-1]), path)
    expected = np.tensordot(weights, frames.astype(float), 1).round().clip(0, 255)
    if path.kind != "projected":
        nearest = np.abs(np.minimum(instants, times[-1])[:, None] - times).argmin(1)
        untouched = np.abs(np.minimum(instants, times[-1]) - times[nearest]) <= min(0.001, 0.05 / max(fps, 24))
        expected[untouched] = frames[nearest[untouched]]
    assert np.abs(made - expected).max() <= 1


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 80), settings_of(), st.sampled_from([6, 12, 24, 25, 30, 48, 60, 120]))
def test_as_many_frames_as_instants_before_the_end(count, path, fps):
    made = run(pictures(count), np.arange(count) / 24, fps, settings=path)
    assert len(made) == -(-count * fps // 24)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 200), settings_of())
def test_windows_cover_a_shot(count, path):
    starts = window_starts(count, path)
    ends = [min(count, start + path.window) for start in starts]
    assert starts[0] == 0 and ends[-1] == count and starts == sorted(set(starts))
    # Neighbours share a gap at least, so that no gap between frames is without a window.
    assert all(following < end for following, end in zip(starts[1:], ends, strict=False))


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 40), settings_of())
def test_blended_paths_are_smooth_where_windows_meet(count, path):
    """Weights sum to 1, and move little in a thousandth of an interval: nothing jumps when a window begins."""
    times = np.arange(count) / 24
    windows = [(start, min(count, start + path.window)) for start in window_starts(count, path)]
    at = np.linspace(0, times[-1], 40 * count + 1)[1:-1]
    weights = blended_weights(times, windows, at, path)
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-6)
    later = blended_weights(times, windows, at + 4e-5, path)
    assert np.abs(later - weights).max() < 0.02


def test_given_frames_pass_untouched_and_others_do_not():
    frames = pictures(20)
    made = run(frames, np.arange(20) / 24, 48)
    assert (made[::2] == frames).all()
    assert (made[1:-1:2] != frames[:-1]).any((1, 2, 3)).all()
    assert (run(frames, np.arange(20) / 24, 24) == frames).all()
    assert (run(frames, np.arange(20) / 24, 12) == frames[::2]).all()


def test_the_papers_path_is_smooth_everywhere_instead():
    frames = pictures(20)
    made = run(frames, np.arange(20) / 24, 48, settings=PathSettings("projected", 8, 3))
    assert (made[::2] != frames).any((1, 2, 3)).all()


@pytest.mark.parametrize("kind", ["hybrid", "projected"])
def test_smooth_motion_is_followed_exactly(kind):
    """Brightness that is a cubic in time is an order-4 path's, also across windows."""
    times, at = np.arange(30) / 24, np.arange(58) / 48
    level = lambda t: 20 + 200 * (3 * (t / 1.3) ** 2 - 2 * (t / 1.3) ** 3)  # noqa: E731
    frames = np.broadcast_to(level(times)[:, None, None, None].round(), (30, *SHAPE)).astype(np.uint8)
    made = run(frames, times, 48, settings=PathSettings(kind, 8, 4))[:58]
    assert np.abs(made[..., 0].mean((1, 2)) - level(at)).max() < 1.5


def test_nothing_crosses_a_cut():
    black, white = np.zeros((11, *SHAPE), np.uint8), np.full((7, *SHAPE), 255, np.uint8)
    made = run(np.concatenate([black, white]), np.arange(18) / 24, 240, cuts={11})
    assert set(np.unique(made)) == {0, 255}
    first = int(made[:, 0, 0, 0].argmax())
    assert first == 110  # the instant of the first white frame, 11/24 s


def test_a_cut_after_a_single_frame():
    frames = pictures(5)
    made = run(frames, np.arange(5) / 24, 24, cuts={1, 2, 4})
    assert (made == frames).all()


def test_a_pause_is_held_and_not_faded_through():
    """A screen recording that shows one picture for three seconds."""
    frames = np.concatenate([np.zeros((5, *SHAPE), np.uint8), np.full((5, *SHAPE), 200, np.uint8)])
    times = np.concatenate([np.arange(5) / 24, 3 + np.arange(5) / 24])
    made = run(frames, times, 24)
    assert set(np.unique(made)) == {0, 200} and int(made[:, 0, 0, 0].argmax()) == 72
    # Two frames a second from the start are no pauses.
    slow = run(frames, np.arange(10) / 2, 24, rate=2)
    assert len(np.unique(slow)) > 5


def test_a_film_that_goes_on_more_slowly_is_interpolated_again():
    """A screen recording of 60 frames a second that goes on with 10."""
    frames = np.arange(0, 250, 5, dtype=np.uint8)[:, None, None, None] * np.ones(SHAPE, np.uint8)
    times = np.concatenate([np.arange(20) / 60, 19 / 60 + np.arange(1, 31) / 10])
    made = run(frames, times, 60, rate=60)
    late = made[-60:, 0, 0, 0]
    assert len(np.unique(late)) > 40, "held, it would show eleven pictures in this second"


@pytest.mark.parametrize("window", [3, 5, 8, 16])
def test_memory_does_not_grow_with_length(window):
    held = []
    run(pictures(300), np.arange(300) / 24, 48, settings=PathSettings("hybrid", window, 2), watch=held)
    assert max(held) <= 2.5 * window + 1 and max(held[150:]) == max(held[50:150])


def test_container_rounding_does_not_blur_frames():
    """Matroska's milliseconds: the frames asked for are the frames there."""
    frames = pictures(48)
    assert (run(frames, (np.arange(48) / 24).round(3), 48)[::2] == frames).all()


@pytest.mark.parametrize("tail", ["hold", "linear", "refit"])
def test_extrapolation_goes_on_from_the_last_frame(tail):
    frames = pictures(20)
    made = run(frames, np.arange(20) / 24, 24, until=20 / 24 + 1, tail=tail)
    assert len(made) == 44 and (made[:20] == frames).all()
    after = np.arange(20, 44) / 24
    weights = tail_weights(tail, np.arange(12, 20) / 24, after)
    expected = np.tensordot(weights, frames[-8:].astype(float), 1).round().clip(0, 255)
    assert np.abs(made[20:] - expected).max() <= 1
    if tail == "hold":
        assert (made[20:] == frames[-1]).all()


def test_extrapolation_knows_only_the_last_shot():
    frames = np.concatenate([np.full((9, *SHAPE), 255, np.uint8), np.zeros((1, *SHAPE), np.uint8)])
    assert run(frames, np.arange(10) / 24, 24, cuts={9}, until=1.0, tail="linear")[9:].max() == 0


def test_moving_within_shots_only():
    """Along motion: given frames untouched, others between their neighbours alone, nothing across a cut."""
    moving = scene(1).frames(np.arange(6) / 24, 64)
    other = scene(2).frames(np.arange(3) / 24, 64)
    frames, times = np.concatenate([moving, other]), np.arange(9) / 24
    made = run(frames, times, 48, cuts={6}, settings=PathSettings("motion"))
    assert (made[::2] == frames).all() and (made[11] == moving[-1]).all()
    expected = Motion().between(moving[2], moving[3], np.array([0.5]))[0]
    assert np.abs(made[5].astype(int) - expected).max() <= 1
    on = run(frames, times, 24, until=1.0, tail="motion", settings=PathSettings("motion"), cuts={6})
    assert len(on) == 24 and (on[:9] == frames).all()
    assert np.abs(on[9].astype(int) - Motion().onward(other[1], other[2], np.array([1.0]))[0]).max() <= 1
    # A shot of one frame has no motion: it stays.
    assert (run(frames[:7], times[:7], 24, until=0.5, tail="motion", cuts={6})[6:] == other[0]).all()


def test_a_polynomial_tail_that_explodes_is_refused():
    with pytest.raises(VLFMError, match="`continued` is refused"):
        legendre = PathSettings(basis="legendre")
        run(pictures(20), np.arange(20) / 24, 24, until=5.0, tail="continued", settings=legendre)


@pytest.mark.parametrize(
    "change, said",
    [
        ({"kind": "spline"}, "unknown path"),
        ({"window": 2}, "3 to 64"),
        ({"window": 8, "order": 6, "basis": "legendre"}, "1 to 5 Legendre polynomials"),
        ({"window": 8, "order": 9}, "1 to 8 cosines"),
        ({"order": 0}, "1 to 8 cosines"),
        ({"basis": "wavelet"}, "unknown basis"),
    ],
)
def test_nonsense_is_refused(change, said):
    with pytest.raises(VLFMError, match=said):
        PathSettings(**change)


def test_paths_without_an_order_suit_any_window():
    for kind in ("motion", "linear"):
        assert PathSettings(kind, window=4).order == 5
    with pytest.raises(VLFMError, match="order 5 does not suit windows of 4 frames"):
        PathSettings("hybrid", window=4)

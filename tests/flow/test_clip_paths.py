"""Paths of given clips and their tails: exactness at the frames, derivatives, continuity, refusals."""

import math

import numpy as np
import pytest
import torch
from flow_support import few, property_test, smooth
from hypothesis import given
from hypothesis import strategies as st

from vlfm.errors import VLFMError
from vlfm.flow.bases import LegendreBasis
from vlfm.flow.interpolation import PATHS, ProjectedPath, clip_path, hybrid
from vlfm.flow.projection import frame_times, project, projection_matrix
from vlfm.flow.tails import TAILS, ExtendedPath, growth, reach


def random_clip(frames=10, duration=2.0, irregular=False, seed=0, clips=2):
    generator = torch.Generator().manual_seed(seed)
    times = frame_times(frames, duration)
    if irregular:
        times = times - torch.rand(frames, generator=generator, dtype=torch.float64) * 0.8 * duration / frames
    return torch.randn(clips, frames, 3, 2, generator=generator, dtype=torch.float64), times


clips = st.fixed_dictionaries(
    {
        "frames": st.integers(1, 30),
        "duration": st.floats(0.1, 20),
        "irregular": st.booleans(),
        "seed": st.integers(0, 2**31),
    }
)


@property_test
@given(clips, st.floats(0, 1))
def test_hybrid_is_exact_at_the_frames_at_any_order(chosen, share):
    latents, times = random_clip(**chosen)
    order = 1 + round(share * (math.isqrt(4 * len(times)) - 1)) if len(times) > 3 else 1
    path = clip_path(latents, LegendreBasis(order, chosen["duration"]), times=times, ridge=1e-9)
    torch.testing.assert_close(path.evaluate(times), latents, rtol=0, atol=1e-10)


@few
@given(clips)
def test_hybrid_between_frames_is_the_polynomial_plus_a_line(chosen):
    """Against numpy's own linear interpolation, which also holds its ends."""
    latents, times = random_clip(**chosen)
    path = clip_path(latents, LegendreBasis(1, chosen["duration"]), times=times)
    t = torch.linspace(0, chosen["duration"], 41, dtype=torch.float64)
    residual = (latents - path.projected.evaluate(times)).flatten(2).numpy()
    found = (path.evaluate(t) - path.projected.evaluate(t)).flatten(2).numpy()
    for clip in range(2):
        for entry in range(6):
            np.testing.assert_allclose(
                found[clip, :, entry], np.interp(t, times, residual[clip, :, entry]), rtol=0, atol=1e-11
            )


@pytest.mark.parametrize("kind", PATHS)
def test_derivatives_are_the_slopes_of_the_values(kind):
    latents, times = random_clip(irregular=True)
    path = clip_path(latents, LegendreBasis(5, 2.0), kind, times=times)
    t = torch.rand(40, generator=torch.Generator().manual_seed(5), dtype=torch.float64) * 1.98 + 0.01
    away = (t[:, None] - times).abs().amin(1) > 1e-5  # from the corners
    step = 1e-6
    slope = (path.evaluate(t[away] + step) - path.evaluate(t[away] - step)) / (2 * step)
    torch.testing.assert_close(path.derivative(t[away]), slope, rtol=1e-6, atol=1e-6)
    assert away.sum() > 30


def test_hybrid_slopes_at_its_corners():
    """After a frame; at the last frame before it; flat beyond the frames."""
    times = torch.tensor([0.2, 0.4, 0.8], dtype=torch.float64)
    latents = torch.tensor([[[0.0], [1.0], [5.0]]], dtype=torch.float64)
    zero = ProjectedPath(torch.zeros(1, 1, 1, dtype=torch.float64), LegendreBasis(1, 1.0))
    path = hybrid(zero, latents, times)
    t = torch.tensor([0.0, 0.2, 0.4, 0.5, 0.8, 0.9, 1.0], dtype=torch.float64)
    torch.testing.assert_close(path.evaluate(t)[0, :, 0], torch.tensor([0, 0, 1, 2, 5, 5, 5.0]).double())
    torch.testing.assert_close(path.derivative(t)[0, :, 0], torch.tensor([0, 5, 10, 10, 10, 0, 0.0]).double())


@pytest.mark.parametrize("kind", PATHS)
def test_times_may_be_one_shared_or_each_clips_own(kind):
    latents, _ = random_clip()
    path = clip_path(latents, LegendreBasis(4, 2.0), kind)
    t = torch.tensor([0.3, 1.7], dtype=torch.float64)
    for function in (path.evaluate, path.derivative):
        shared = function(t)
        assert shared.shape == (2, 2, 3, 2)
        torch.testing.assert_close(function(t[0]), shared[:, 0])
        own = function(torch.stack([t, t.flip(0)]))
        torch.testing.assert_close(own[0], shared[0])
        torch.testing.assert_close(own[1], shared[1].flip(0))


def test_polynomial_path_is_the_projection():
    latents, times = random_clip()
    path = clip_path(latents, LegendreBasis(4, 2.0), "projected", method="zoh")
    h = project(latents, projection_matrix(10, LegendreBasis(4, 2.0), "zoh"))
    torch.testing.assert_close(path.coefficients, h)
    torch.testing.assert_close(
        path.evaluate(times), torch.einsum("b...s,ks->bk...", h, LegendreBasis(4, 2.0).evaluate(times))
    )


def test_one_frame_stays_where_it_is():
    latents, _ = random_clip(frames=1)
    path = clip_path(latents, LegendreBasis(1, 2.0))
    t = torch.tensor([0.0, 0.7, 2.0])
    torch.testing.assert_close(path.evaluate(t), latents.expand(-1, 3, -1, -1))
    assert (path.derivative(t) == 0).all()


def test_empty_batch():
    latents, _ = random_clip(clips=0)
    for kind in PATHS:
        assert clip_path(latents, LegendreBasis(3, 2.0), kind).evaluate(torch.tensor([0.5, 1.0])).shape == (0, 2, 3, 2)


def test_clip_path_refusals():
    latents, times = random_clip()
    with pytest.raises(VLFMError, match="unknown path"):
        clip_path(latents, LegendreBasis(3, 2.0), "spline")
    with pytest.raises(VLFMError, match="must be"):
        clip_path(torch.zeros(3), LegendreBasis(3, 2.0))
    with pytest.raises(VLFMError, match="disagree about the frames"):
        clip_path(latents, LegendreBasis(3, 2.0), times=times[:-1])
    with pytest.raises(VLFMError, match="increase strictly"):
        clip_path(latents, LegendreBasis(3, 2.0), times=times.flip(0))
    with pytest.raises(VLFMError, match="as many times"):
        hybrid(clip_path(latents, LegendreBasis(3, 2.0), "projected"), latents, times[1:])
    broken = latents.clone()
    broken[1, 4, 0, 0] = math.nan
    with pytest.raises(VLFMError, match="not finite"):
        clip_path(broken, LegendreBasis(3, 2.0))
    for kind in PATHS:
        path = clip_path(latents, LegendreBasis(3, 2.0), kind)
        for t in (-0.1, 2.1, math.nan):
            for function in (path.evaluate, path.derivative):
                with pytest.raises(VLFMError, match="must lie in"):
                    function(torch.tensor(t))


# --- tails ------------------------------------------------------------------------------------------------------


def extended(tail, kind="hybrid", order=3, **settings):
    latents = smooth(frame_times(12, 2.0) / 2)[None].expand(2, -1, -1)
    return ExtendedPath(clip_path(latents, LegendreBasis(order, 2.0), kind), tail, **settings)


@pytest.mark.parametrize("kind", PATHS)
@pytest.mark.parametrize("tail", TAILS)
def test_tails_leave_the_clip_alone_and_start_where_it_ends(tail, kind):
    path = extended(tail, kind)
    inside = torch.linspace(0, 2, 21, dtype=torch.float64)
    assert torch.equal(path.evaluate(inside), path.path.evaluate(inside))
    assert torch.equal(path.derivative(inside), path.path.derivative(inside))
    end, after = path.evaluate(torch.tensor([2.0, 2.0 + 1e-9], dtype=torch.float64)).unbind(1)
    torch.testing.assert_close(after, end, rtol=0, atol=1e-7)


@pytest.mark.parametrize("kind", PATHS)
@pytest.mark.parametrize("tail", TAILS)
def test_tails_derivatives_are_the_slopes_of_their_values(tail, kind):
    path = extended(tail, kind)
    t = torch.tensor([2.05, 2.2, 2.31], dtype=torch.float64)
    slope = (path.evaluate(t + 1e-6) - path.evaluate(t - 1e-6)) / 2e-6
    torch.testing.assert_close(path.derivative(t), slope, rtol=1e-6, atol=1e-6)


def test_polynomial_tail_is_the_polynomial_and_refused_past_its_growth():
    path = extended("continued", "projected", max_growth=10.0)
    limit = reach(path.path.basis, 10.0)
    t = torch.tensor([2.2, limit - 1e-6], dtype=torch.float64)
    g = LegendreBasis(3, 2.0).evaluate(t)
    torch.testing.assert_close(path.evaluate(t), torch.einsum("b...s,ks->bk...", path.path.coefficients, g))
    with pytest.raises(VLFMError, match=r"grown 10 times .*hold, linear or refit"):
        path.evaluate(torch.tensor(limit + 1e-3, dtype=torch.float64))
    with pytest.raises(VLFMError, match="refused"):  # D7: 2 s → 8 s is always garbage
        extended("continued", order=6).evaluate(torch.tensor(8.0))


def test_growth_is_one_at_the_end_and_reach_inverts_it():
    for order in (2, 5, 12):
        basis = LegendreBasis(order, 3.0)
        assert float(growth(basis, torch.tensor(3.0, dtype=torch.float64))) == pytest.approx(1)
        for limit in (1.5, 10.0, 1e4):
            at = torch.tensor(reach(basis, limit), dtype=torch.float64)
            assert float(growth(basis, at)) == pytest.approx(limit, rel=1e-6)
    assert reach(LegendreBasis(1, 3.0), 2.0) == math.inf


def test_hold_holds():
    path = extended("hold")
    t = torch.tensor([2.5, 8.0, 1e6], dtype=torch.float64)
    torch.testing.assert_close(path.evaluate(t), path.evaluate(torch.tensor([2.0, 2.0, 2.0]).double()))
    assert (path.derivative(t) == 0).all()


def test_linear_starts_with_the_end_slope_and_stops():
    path = extended("linear", damping=0.3)
    end = path.path.evaluate(torch.tensor(2.0, dtype=torch.float64))
    slope = path.path.derivative(torch.tensor(2.0, dtype=torch.float64))
    assert slope.abs().max() > 0.1
    torch.testing.assert_close(path.derivative(torch.tensor(2.0 + 1e-12, dtype=torch.float64)), slope)
    torch.testing.assert_close(path.evaluate(torch.tensor(1e3, dtype=torch.float64)), end + 0.3 * slope)
    one = 0.3 * (1 - math.exp(-1))
    torch.testing.assert_close(path.evaluate(torch.tensor(2.3, dtype=torch.float64)), end + one * slope)


def test_refit_continues_a_straight_line():
    times = frame_times(12, 2.0)
    line = torch.stack([3 * times - 1, 0.5 - times], -1)[None]
    path = ExtendedPath(clip_path(line, LegendreBasis(4, 2.0)), "refit")
    t = torch.tensor([2.5, 8.0], dtype=torch.float64)
    torch.testing.assert_close(path.evaluate(t), torch.stack([3 * t - 1, 0.5 - t], -1)[None], rtol=0, atol=1e-9)
    quadratic = torch.stack([times**2], -1)[None]
    path = ExtendedPath(clip_path(quadratic, LegendreBasis(4, 2.0)), "refit", refit_order=3, window=0.7)
    torch.testing.assert_close(path.evaluate(t), torch.stack([t**2], -1)[None], rtol=0, atol=1e-8)


def test_refit_is_calmer_than_the_polynomial():
    noisy = torch.randn(4, 24, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    path = clip_path(noisy, LegendreBasis(8, 2.0), "projected")
    t = torch.tensor(3.0, dtype=torch.float64)
    wild = ExtendedPath(path, "continued", max_growth=1e9).evaluate(t).abs().max()
    assert ExtendedPath(path, "refit").evaluate(t).abs().max() < 0.01 * wild


@pytest.mark.parametrize("tail", TAILS)
def test_tails_take_each_clips_own_times(tail):
    path = extended(tail)
    t = torch.tensor([[0.5, 2.2], [2.1, 1.0]], dtype=torch.float64)
    for function in (path.evaluate, path.derivative):
        own = function(t)
        for clip in range(2):
            torch.testing.assert_close(own[clip], function(t[clip])[clip])


def test_tail_refusals():
    path = extended("hold").path
    for settings, reason in (
        ({"tail": "mirror"}, "unknown tail"),
        ({"tail": "linear", "damping": 0.0}, "damping"),
        ({"tail": "refit", "window": 3.0}, "longer than the clip"),
        ({"tail": "refit", "window": math.nan}, "window"),
        ({"tail": "refit", "refit_order": 0}, "refit_order"),
        ({"tail": "refit", "refit_order": 17}, "refit_order"),
        ({"tail": "continued", "max_growth": math.inf}, "max_growth"),
    ):
        with pytest.raises(VLFMError, match=reason):
            ExtendedPath(path, **settings)
    for tail in TAILS:
        for bad in (math.nan, math.inf, -0.1):
            with pytest.raises(VLFMError, match=r"finite|must lie in"):
                ExtendedPath(path, tail).evaluate(torch.tensor(bad))
    with pytest.raises(VLFMError, match="times must be"):
        ExtendedPath(path, "hold").evaluate(torch.zeros(1, 1, 1))

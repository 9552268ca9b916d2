"""σ(t) and m(t): the boundary conditions, the printed formula, derivatives."""

import math

import pytest
import torch
from flow_support import property_test
from hypothesis import given
from hypothesis import strategies as st

from vlfm.errors import VLFMError
from vlfm.flow.projection import frame_times
from vlfm.flow.schedules import SCHEDULES, ExactSchedule, PaperSchedule, SchedulePerClip

frames = st.integers(1, 120)
durations = st.floats(0.05, 60)
sigmas = st.floats(1e-4, 0.9)
shares = st.floats(0, 1)


@property_test
@given(frames, durations, sigmas, shares)
def test_exact_meets_its_four_conditions(n, duration, sigma_min, renoise):
    schedule = ExactSchedule(n, duration, sigma_min, renoise)
    zero = torch.zeros(1, dtype=torch.float64)
    nominal = frame_times(n, duration)
    later = torch.linspace(schedule.lead_in, duration, 500, dtype=torch.float64)
    assert abs(float(schedule.sigma(zero)[0]) - 1) <= 1e-12
    assert (schedule.sigma(nominal)[0] - sigma_min).abs().max() <= 1e-12
    assert float(schedule.mean_scale(zero)[0]) == 0
    assert (schedule.mean_scale(later)[0] - 1).abs().max() <= 1e-12


@property_test
@given(frames, durations, sigmas, shares)
def test_exact_stays_between_sigma_min_and_one(n, duration, sigma_min, renoise):
    t = torch.linspace(0, duration, 4001, dtype=torch.float64)
    sigma, _ = ExactSchedule(n, duration, sigma_min, renoise).sigma(t)
    assert sigma.max() <= 1 + 1e-12 and sigma.min() >= sigma_min - 1e-12


@property_test
@given(frames, durations, sigmas, st.floats(0.1, 50))
def test_paper_is_the_printed_formula(n, duration, sigma_min, alpha):
    t = torch.rand(50, generator=torch.Generator().manual_seed(n), dtype=torch.float64) * duration
    value, _ = PaperSchedule(n, duration, sigma_min, alpha).sigma(t)
    for index, time in enumerate(t.tolist()):
        printed = (1 - sigma_min) * (math.sin(math.pi * n / duration * time) ** 2 + math.exp(-alpha * time)) + sigma_min
        assert float(value[index]) == pytest.approx(printed, abs=1e-11)
    m, m_dot = PaperSchedule(n, duration, sigma_min, alpha).mean_scale(t)
    assert (m == 1).all() and (m_dot == 0).all()


@property_test
@given(frames, durations, sigmas, shares, st.floats(0.1, 50))
def test_derivatives_are_autograds(n, duration, sigma_min, renoise, alpha):
    t = torch.rand(60, generator=torch.Generator().manual_seed(n), dtype=torch.float64) * duration
    t.requires_grad_()
    for schedule in (ExactSchedule(n, duration, sigma_min, renoise), PaperSchedule(n, duration, sigma_min, alpha)):
        for value, slope in (schedule.sigma(t), schedule.mean_scale(t)):
            exact = torch.autograd.grad(value.sum(), t)[0] if value.requires_grad else torch.zeros_like(t)
            # Relative to the ripple's slope, πN/T, which sets the size of a rounding error in t.
            assert (slope - exact).abs().max() <= 1e-9 * max(1, math.pi * n / duration)


@pytest.mark.parametrize("renoise", [0.0, 1.0])
def test_exact_is_smooth_where_its_pieces_meet(renoise):
    schedule = ExactSchedule(24, 1.0, renoise=renoise)
    joint = schedule.lead_in
    around = torch.tensor([joint - 1e-9, joint, joint + 1e-9], dtype=torch.float64)
    for value, slope in (schedule.sigma(around), schedule.mean_scale(around)):
        assert (value - value[1]).abs().max() < 1e-12 and slope.abs().max() < 1e-4
    start, _ = schedule.mean_scale(torch.tensor([0.0, 1e-9], dtype=torch.float64))
    assert start.abs().max() < 1e-12


def test_renoise_is_the_level_midway():
    t = torch.tensor([1.5 / 12], dtype=torch.float64)
    assert float(ExactSchedule(12, 1.0, 0.01, 0.0).sigma(t)[0]) == pytest.approx(0.01, abs=1e-14)
    assert float(ExactSchedule(12, 1.0, 0.01, 0.3).sigma(t)[0]) == pytest.approx(0.01 + 0.99 * 0.3, abs=1e-14)


def test_papers_schedule_fails_as_d3_and_d5_state():
    schedule = PaperSchedule(24, 1.0, 0.01, 10.0)
    first = float(schedule.sigma(frame_times(24, 1.0)[:1])[0])
    assert first == pytest.approx(0.66, abs=0.01)
    t = torch.linspace(0, 1, 100001, dtype=torch.float64)
    sigma, sigma_dot = schedule.sigma(t)
    assert 1.8 < sigma.max() < 1.85
    assert float(schedule.sigma(torch.tensor([20.5 / 24], dtype=torch.float64))[0]) > 0.99
    assert float(sigma_dot[50000:].max()) == pytest.approx(75, rel=0.02)


def test_float32_keeps_the_zeros_of_the_ripple():
    t = frame_times(240, 10.0).float()
    sigma, _ = ExactSchedule(240, 10.0, 0.01, 1.0).sigma(t)
    assert (sigma - 0.01).abs().max() < 1e-6


def test_outside_the_clip_the_formula_goes_on():
    """The documented value: finite, σ in range, m = 0 before and 1 after."""
    t = torch.tensor([-3.0, -1e-3, 1.7, 50.0], dtype=torch.float64)
    schedule = ExactSchedule(12, 1.0, 0.02, 0.5)
    sigma, sigma_dot = schedule.sigma(t)
    m, m_dot = schedule.mean_scale(t)
    assert m.tolist() == [0, 0, 1, 1] and m_dot.tolist() == [0, 0, 0, 0]
    assert sigma[:2].tolist() == [1, 1] and ((sigma >= 0.02) & (sigma <= 1)).all()
    assert torch.isfinite(sigma_dot).all()


def test_where_the_flow_starts():
    assert ExactSchedule(4, 1.0).starts_at_noise and not PaperSchedule(4, 1.0).starts_at_noise


@pytest.mark.parametrize("shape", [(), (3,), (2, 4), (0,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SCHEDULES)
def test_shapes_and_dtypes_follow_the_times(name, dtype, shape):
    t = torch.rand(shape, dtype=dtype)
    for pair in (SCHEDULES[name](6, 1.0).sigma(t), SCHEDULES[name](6, 1.0).mean_scale(t)):
        for value in pair:
            assert value.shape == shape and value.dtype == dtype


@pytest.mark.parametrize(
    "make, reason",
    [
        (lambda: ExactSchedule(0, 1.0), "at least 1"),
        (lambda: ExactSchedule(4, 0.0), "duration"),
        (lambda: ExactSchedule(4, 1.0, 0.0), "sigma_min"),
        (lambda: ExactSchedule(4, 1.0, 1.0), "sigma_min"),
        (lambda: ExactSchedule(4, 1.0, 0.1, 1.5), "renoise"),
        (lambda: ExactSchedule(4, 1.0, 0.1, math.nan), "renoise"),
        (lambda: PaperSchedule(4, 1.0, math.nan), "sigma_min"),
        (lambda: PaperSchedule(4, 1.0, 0.1, 0.0), "alpha"),
        (lambda: PaperSchedule(4, 1.0, 0.1, math.inf), "alpha"),
    ],
)
def test_bad_settings(make, reason):
    with pytest.raises(VLFMError, match=reason):
        make()


@pytest.mark.parametrize("shape", [(4,), (4, 3)])
@pytest.mark.parametrize("kind", [ExactSchedule, PaperSchedule])
def test_clips_side_by_side_keep_their_own_schedules(kind, shape):
    own = [kind(frames, 1.0, 0.02) for frames in (6, 24, 12)]
    which = torch.tensor([2, 0, 1, 2])
    t = torch.rand(shape, dtype=torch.float64)
    together = SchedulePerClip(own, which)
    for index, each in enumerate(which):
        for name in ("sigma", "mean_scale"):
            for mixed, alone in zip(getattr(together, name)(t), getattr(own[each], name)(t[index]), strict=True):
                assert torch.equal(mixed[index], alone)
    assert torch.allclose(together.lead_in, torch.tensor([1 / 12, 1 / 6, 1 / 24, 1 / 12]))
    assert together.starts_at_noise == (kind is ExactSchedule)


def test_clips_side_by_side_measure_time_in_shares():
    with pytest.raises(ValueError, match="duration is 1"):
        SchedulePerClip([ExactSchedule(12, 0.5)], torch.zeros(2, dtype=torch.long))

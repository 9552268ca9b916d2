"""Every projection is a weight matrix: exactness, convergence, agreement with the recurrence, and its
refusals.
"""

import math
import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch
from flow_support import continuous_projection, few, numpy_basis, orders_of_convergence, property_test, smooth
from hypothesis import given
from hypothesis import strategies as st

from vlfm.errors import VLFMError
from vlfm.flow.bases import LegendreBasis
from vlfm.flow.hippo_legs import METHODS as LEGS
from vlfm.flow.hippo_legs import legs_step
from vlfm.flow.online import OnlineLeastSquares, OnlineLegS
from vlfm.flow.projection import (
    METHODS,
    ProjectionWarning,
    amplification,
    frame_times,
    observed_times,
    project,
    projection_matrix,
    reconstruct,
)


def quiet_matrix(times, order, duration, *args, **kwargs):
    """The weights, without the warning that a test is not about."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ProjectionWarning)
        return projection_matrix(times, LegendreBasis(order, duration), *args, **kwargs)


def test_frame_times_are_the_papers():
    np.testing.assert_allclose(frame_times(4, 2.0), [0.5, 1.0, 1.5, 2.0], rtol=0, atol=0)
    assert all(float(frame_times(n, 0.7)[-1]) == 0.7 for n in range(1, 200))


# --- exactness of least squares ---------------------------------------------------------------------------------


@property_test
@given(
    frames=st.integers(1, 60),
    share=st.floats(0, 1),
    duration=st.floats(0.1, 30),
    channels=st.integers(1, 5),
    irregular=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_lstsq_reproduces_polynomials_at_any_time(frames, share, duration, channels, irregular, seed):
    order = 1 + round(share * (min(frames, math.isqrt(4 * frames)) - 1))
    generator = torch.Generator().manual_seed(seed)
    times = frame_times(frames, duration)
    if irregular:  # each frame jittered within its own cell: variable frame rate
        times = times - torch.rand(frames, generator=generator, dtype=torch.float64) * 0.8 * duration / frames
    truth = torch.randn(2, channels, order, generator=generator, dtype=torch.float64)
    latents = torch.tensor(np.einsum("bcs,ns->bnc", truth.numpy(), numpy_basis(times, order, duration)))
    found = project(latents, quiet_matrix(times if irregular else frames, order, duration))
    query = torch.rand(20, generator=generator, dtype=torch.float64) * duration
    expected = np.einsum("bcs,ks->bkc", truth.numpy(), numpy_basis(query, order, duration))
    at_query = reconstruct(found, LegendreBasis(order, duration).evaluate(query)[None])
    np.testing.assert_allclose(at_query, expected, rtol=0, atol=1e-10)


@few
@given(frames=st.integers(6, 40), order=st.integers(1, 6), seed=st.integers(0, 2**31))
def test_lstsq_is_numpys(frames, order, seed):
    latents = np.random.default_rng(seed).normal(size=(frames, 3))
    expected, *_ = np.linalg.lstsq(numpy_basis(frame_times(frames, 2.0), order, 2.0), latents, rcond=None)
    ours = project(torch.tensor(latents)[None], quiet_matrix(frames, order, 2.0))[0]
    np.testing.assert_allclose(ours, expected.T, rtol=0, atol=1e-11)


def test_ridge_solves_its_normal_equations_and_shrinks_rough_orders():
    frames, order, ridge = 20, 7, 1e-3
    g = numpy_basis(frame_times(frames, 1.0), order, 1.0)
    n = np.arange(order)
    expected = np.linalg.solve(g.T @ g / frames + ridge * np.diag((n * (n + 1.0)) ** 2), g.T / frames).T
    np.testing.assert_allclose(projection_matrix(frames, LegendreBasis(order, 1.0), ridge=ridge), expected, atol=1e-12)
    plain = projection_matrix(frames, LegendreBasis(order, 1.0)).norm(dim=0)
    ridged = projection_matrix(frames, LegendreBasis(order, 1.0), ridge=ridge).norm(dim=0)
    assert (ridged[2:] < plain[2:]).all()


def test_missing_frames_are_the_observation_matrix():
    mask = torch.tensor([True, True, False, True, False, True, True, True, False, True])
    times = observed_times(mask, 1.5)
    assert torch.equal(times, frame_times(10, 1.5)[mask])
    latents = smooth(frame_times(10, 1.5))[None]
    phi = torch.eye(10, dtype=torch.float64)[mask]  # Φ, one row an observed frame
    g = LegendreBasis(4, 1.5).evaluate(frame_times(10, 1.5))
    expected = torch.linalg.pinv(phi @ g) @ (phi @ latents[0])
    torch.testing.assert_close(
        project(latents[:, mask], projection_matrix(times, LegendreBasis(4, 1.5)))[0], expected.T
    )


# --- the recurrences --------------------------------------------------------------------------------------------


def test_euler_is_definition_d3_step_by_step():
    """`H_τ = H_{τ−1} (I − A/τ)ᵀ + (1/τ) u_τ Bᵀ`, in numpy, H (d × s)."""
    frames, order, width = 12, 5, 3
    u = np.random.default_rng(0).normal(size=(frames, width))
    n = np.arange(order)
    b = np.sqrt(2 * n + 1.0)
    a = np.tril(np.outer(b, b), -1) + np.diag(n + 1.0)
    h = np.zeros((width, order))
    for tau in range(1, frames + 1):
        h = h @ (np.eye(order) - a / tau).T + np.outer(u[tau - 1], b) / tau
    ours = project(torch.tensor(u)[None], projection_matrix(frames, LegendreBasis(order, 3.0), "euler"))[0]
    np.testing.assert_allclose(ours, h, rtol=0, atol=1e-9)


@few
@given(order=st.integers(1, 20), frames=st.integers(1, 30), duration=st.floats(0.2, 9), seed=st.integers(0, 99))
def test_zoh_projects_the_held_frames_exactly(order, frames, duration, seed):
    """zoh's weights are the integrals of g over the cells, whatever their lengths: no recurrence needed."""
    cuts = torch.rand(frames, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 0.8 + 0.2
    times = cuts.cumsum(0) / cuts.sum() * duration
    times[-1] = duration
    nodes, weights = np.polynomial.legendre.leggauss(order)
    edges = np.concatenate([[0.0], times.numpy()])
    expected = np.stack(
        [
            weights @ numpy_basis(low + (nodes + 1) / 2 * (high - low), order, duration) * (high - low) / 2 / duration
            for low, high in pairwise(edges)
        ]
    )
    np.testing.assert_allclose(
        projection_matrix(times, LegendreBasis(order, duration), "zoh"), expected, rtol=0, atol=1e-10
    )


@pytest.mark.parametrize("order", [1, 4, 6])
@pytest.mark.parametrize("method", ["backward", "bilinear", "zoh"])
def test_recurrences_converge_to_the_continuous_projection_at_first_order(method, order):
    truth = continuous_projection(smooth, order, 1.0)
    errors = []
    for frames in (256, 512, 1024):
        found = project(
            smooth(frame_times(frames, 1.0))[None], projection_matrix(frames, LegendreBasis(order, 1.0), method)
        )[0]
        errors.append(float((found - truth).norm()))
    assert all(0.9 < rate < 1.1 for rate in orders_of_convergence(errors)), errors


@pytest.mark.parametrize("order", [1, 4, 6])
def test_zoh_is_of_second_order_for_frames_at_mid_cell(order):
    truth = continuous_projection(smooth, order, 1.0)
    errors = []
    for frames in (128, 256, 512):
        middle = smooth(frame_times(frames, 1.0) - 0.5 / frames)
        errors.append(
            float(
                (project(middle[None], projection_matrix(frames, LegendreBasis(order, 1.0), "zoh"))[0] - truth).norm()
            )
        )
    assert all(1.95 < rate < 2.05 for rate in orders_of_convergence(errors)), errors


@pytest.mark.parametrize("method", LEGS)
def test_a_clip_cut_short_holds_its_last_frame(method):
    times = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    short = projection_matrix(times, LegendreBasis(3, 1.0), method)
    full = projection_matrix(4, LegendreBasis(3, 1.0), method)
    torch.testing.assert_close(short, torch.cat([full[:2], full[2:].sum(0, keepdim=True)]))


@few
@given(beta=st.integers(2, 5), frames=st.integers(8, 40), method=st.sampled_from(METHODS))
def test_weights_do_not_depend_on_the_timescale(beta, frames, method):
    """Lemma 5.4 as far as it is exact: the same frames played β times faster have the same H."""
    torch.testing.assert_close(
        projection_matrix(frames, LegendreBasis(4, 3.0), method),
        projection_matrix(frames, LegendreBasis(4, 3.0 / beta), method),
    )


# RMS error at the frames on four smooth signals, as measured for D1 on these signals. Least squares with s > N, which
# `projection_matrix` refuses, is left out; euler with s > N is computed here step by step.
D1 = {
    (8, 16): {"euler": 1.3e9, "bilinear": 0.27, "zoh": 0.15},
    (24, 8): {"euler": 0.099, "bilinear": 0.050, "zoh": 0.056, "lstsq": 1.6e-4},
    (24, 32): {"euler": 1.6e21, "bilinear": 0.097, "zoh": 0.056},
    (48, 16): {"euler": 0.047, "bilinear": 0.023, "zoh": 0.028, "lstsq": 2.2e-7},
    (48, 64): {"euler": 1.5e45, "bilinear": 0.073, "zoh": 0.029},
}


@pytest.mark.parametrize("frames, order", D1)
def test_table_of_d1(frames, order):
    times = frame_times(frames, 1.0)
    u = smooth(times)
    g = LegendreBasis(order, 1.0).evaluate(times)
    for method, stated in D1[frames, order].items():
        if method == "euler":
            weights = torch.zeros(frames, order, dtype=torch.float64)
            for index in range(frames):
                transition, drive = legs_step(order, index / frames, (index + 1) / frames, "euler")
                weights = weights @ transition.T
                weights[index] += drive
        else:
            weights = quiet_matrix(frames, order, 1.0, method)
        error = float((g @ (weights.T @ u) - u).square().mean().sqrt())
        assert error == pytest.approx(stated, rel=0.06), method


def test_euler_above_n_overflows_float32():
    """Why `euler` with s > N is refused: D1's last row is infinite in the precision that training uses."""
    h = torch.zeros(64)
    for index in range(48):
        transition, drive = legs_step(64, index / 48, (index + 1) / 48, "euler")
        h = transition.float() @ h + drive.float() * math.cos(index / 16)
    assert not torch.isfinite(h).all()


# --- online -----------------------------------------------------------------------------------------------------


@few
@given(
    method=st.sampled_from((*LEGS, "lstsq", "ridge")),
    order=st.integers(1, 8),
    extra=st.integers(0, 20),
    seed=st.integers(0, 2**31),
)
def test_online_equals_the_matrix(method, order, extra, seed):
    generator = torch.Generator().manual_seed(seed)
    frames = order + extra
    times = (frame_times(frames, 2.0) - torch.rand(frames, generator=generator, dtype=torch.float64) / frames).clamp(
        min=1e-3
    )
    latents = torch.randn(2, frames, 3, 2, generator=generator, dtype=torch.float64)
    if method in LEGS:
        online, end = OnlineLegS(order, method), float(times[-1])
        weights = quiet_matrix(times, order, end, method)
    else:
        ridge = 1e-3 if method == "ridge" else 0.0
        online, end = OnlineLeastSquares(LegendreBasis(order, 2.0), ridge), 2.0
        weights = quiet_matrix(times, order, end, "lstsq", ridge)
    for index, t in enumerate(times.tolist()):
        online.append(latents[:, index], t)
    expected = project(latents, weights)
    scale = float(weights.abs().max()) * frames
    assert online.coefficients.shape == expected.shape == (2, 3, 2, order)
    torch.testing.assert_close(online.coefficients, expected, rtol=0, atol=1e-11 * max(1.0, scale) ** 1.5)


def test_online_with_a_ridge_needs_no_more_frames_than_the_matrix_does():
    online = OnlineLeastSquares(LegendreBasis(5, 2.0), 1e-3)
    times, latents = torch.tensor([0.5, 1.5], dtype=torch.float64), torch.randn(1, 2, 3, dtype=torch.float64)
    for index, t in enumerate(times.tolist()):
        online.append(latents[:, index], t)
    expected = project(latents, quiet_matrix(times, 5, 2.0, "lstsq", 1e-3))
    torch.testing.assert_close(online.coefficients, expected, rtol=0, atol=1e-9)


def test_online_refuses_what_it_cannot_use():
    online = OnlineLeastSquares(LegendreBasis(3, 1.0))
    with pytest.raises(VLFMError, match="no frame yet"):
        online.coefficients  # noqa: B018
    online.append(torch.ones(1, 2), 0.2)
    for latents, t, reason in (
        (torch.ones(1, 2), 0.2, "increase strictly"),
        (torch.ones(1, 2), math.nan, "increase strictly"),
        (torch.ones(1, 2), 1.5, "must lie in"),
        (torch.ones(1, 3), 0.4, "shape"),
        (torch.full((1, 2), math.nan), 0.4, "not finite"),
    ):
        with pytest.raises(VLFMError, match=reason):
            online.append(latents, t)
    with pytest.raises(VLFMError, match="at least 2 more"):
        online.coefficients  # noqa: B018
    online.append(torch.ones(1, 2), 0.4)
    online.append(torch.ones(1, 2), 0.9)
    torch.testing.assert_close(online.coefficients, torch.tensor([[[1.0, 0, 0], [1.0, 0, 0]]]), rtol=0, atol=1e-5)
    euler = OnlineLegS(4, "euler")
    euler.append(torch.ones(1, 2), 0.1)
    with pytest.raises(VLFMError, match="transient"):
        euler.coefficients  # noqa: B018
    with pytest.raises(VLFMError, match="divides by time"):
        OnlineLegS(2).append(torch.ones(1, 2), 0.0)


# --- refusals and warnings --------------------------------------------------------------------------------------


@pytest.mark.parametrize("method, reason", [("euler", "explodes"), ("lstsq", "no unique solution")])
def test_more_orders_than_frames_are_refused_with_the_reason(method, reason):
    with pytest.raises(VLFMError, match=reason):
        projection_matrix(8, LegendreBasis(9, 1.0), method)
    assert quiet_matrix(8, 8, 1.0, method).shape == (8, 8)


@pytest.mark.parametrize("order, stated", [(4, 0.65), (6, 0.73), (8, 1.1), (9, 1.5), (10, 2.4), (12, 16)])
def test_amplification_is_what_was_measured(order, stated):
    """The table of the working specification, N = 12; and the warning above 2√N = 6.9 carries the number."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        weights = projection_matrix(12, LegendreBasis(order, 1.0))
    measured = amplification(weights, frame_times(12, 1.0), LegendreBasis(weights.shape[1], 1.0))
    assert measured == pytest.approx(stated, rel=0.04)
    told = [str(w.message) for w in caught if w.category is ProjectionWarning]
    assert bool(told) == (order > 6)
    assert not told or f"{measured:.3g} times" in told[0]


def test_amplification_is_the_noise_between_frames():
    weights = quiet_matrix(12, 10, 1.0)
    noise = torch.randn(20000, 12, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    times = frame_times(12, 1.0)
    g = LegendreBasis(10, 1.0).evaluate((times[1:] + times[:-1]) / 2)
    measured = reconstruct(project(noise, weights), g[None]).std(0).max()
    assert float(measured) == pytest.approx(
        amplification(weights, times, LegendreBasis(weights.shape[1], 1.0)), rel=0.03
    )


def test_a_ridge_extends_the_safe_order():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ridged = projection_matrix(48, LegendreBasis(32, 1.0), ridge=1e-5)
    assert amplification(ridged, frame_times(48, 1.0), LegendreBasis(32, 1.0)) < 1
    assert amplification(quiet_matrix(48, 32, 1.0), frame_times(48, 1.0), LegendreBasis(32, 1.0)) > 100


def test_a_wide_gap_warns_at_any_order():
    times = torch.tensor([0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.9, 1.0])
    with pytest.warns(ProjectionWarning, match="amplified"):
        projection_matrix(times, LegendreBasis(6, 1.0))


@pytest.mark.parametrize(
    "times, reason",
    [
        ([0.1, 0.1], "increase strictly"),
        ([0.2, 0.1], "increase strictly"),
        ([0.1, math.nan], "finite"),
        ([0.1, math.inf], "finite"),
        ([-0.1, 0.5], "must lie in"),
        ([0.1, 1.1], "must lie in"),
        ([], "not empty"),
        ([[0.1, 0.2]], "flat list"),
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_bad_times(times, reason, method):
    with pytest.raises(VLFMError, match=reason):
        projection_matrix(torch.tensor(times), LegendreBasis(1, 1.0), method)


@pytest.mark.parametrize("method", LEGS)
def test_recurrences_need_time_to_have_passed(method):
    with pytest.raises(VLFMError, match="divides by time"):
        projection_matrix([0.0, 0.5], LegendreBasis(1, 1.0), method)
    assert projection_matrix([0.0, 0.5], LegendreBasis(1, 1.0)).shape == (2, 1)


@pytest.mark.parametrize(
    "arguments, reason",
    [
        ((0, 1, 1.0), "at least 1"),
        ((4, 0, 1.0), "from 1 up"),
        ((4, 2, -1.0), "duration"),
        ((4, 2, math.nan), "duration"),
        ((4, 2, 1.0, "fourier"), "unknown projection"),
        ((4, 2, 1.0, "lstsq", -1.0), "ridge"),
        ((4, 2, 1.0, "lstsq", math.nan), "ridge"),
        ((4, 2, 1.0, "zoh", 0.1), "lstsq alone"),
    ],
)
def test_bad_settings(arguments, reason):
    with pytest.raises(VLFMError, match=reason):
        quiet_matrix(*arguments)


def test_no_frame_observed():
    for mask in ([False, False], [], [[True]]):
        with pytest.raises(VLFMError, match="no frame is observed"):
            observed_times(mask, 1.0)


@pytest.mark.parametrize("method", METHODS)
def test_one_frame_or_one_order_is_a_constant(method):
    """N = 1: the clip is that frame. s = 1: lstsq, euler and zoh give the mean of the frames."""
    assert projection_matrix(1, LegendreBasis(1, 1.0), method).tolist() == [
        [pytest.approx(1 if method in ("lstsq", "euler", "zoh") else {"backward": 0.5, "bilinear": 2 / 3}[method])]
    ]
    weights = projection_matrix(6, LegendreBasis(1, 1.0), method)
    if method in ("lstsq", "euler", "zoh"):
        torch.testing.assert_close(weights, torch.full((6, 1), 1 / 6, dtype=torch.float64))


# --- the product ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_latent_that_is_not_finite_names_its_clip(bad, dtype):
    weights = projection_matrix(9, LegendreBasis(4, 1.0))
    latents = torch.zeros(5, 9, 2, 3, dtype=dtype)
    for frame in range(9):
        broken = latents.clone()
        broken[3, frame, 1, 2] = bad
        with pytest.raises(VLFMError, match=r"1 of 5 clips .*batch index 3\b"):
            project(broken, weights)


def test_overflow_in_the_product_is_seen():
    with pytest.raises(VLFMError, match="overflow"):
        project(torch.full((1, 4, 1), 3e38), torch.full((4, 2), 1.0))


def test_a_large_but_finite_batch_is_not_mistaken_for_a_broken_one():
    found = project(torch.full((4, 1, 1000), 1e37), torch.ones(1, 1))
    assert torch.isfinite(found).all() and not torch.isfinite(found.sum())


def test_empty_batch_and_no_positions():
    weights = projection_matrix(6, LegendreBasis(3, 1.0))
    assert project(torch.zeros(0, 6, 4, 2), weights).shape == (0, 4, 2, 3)
    assert project(torch.zeros(2, 6, 0), weights).shape == (2, 0, 3)
    assert project(torch.zeros(2, 6), weights).shape == (2, 3)


@pytest.mark.parametrize(
    "latents, weights",
    [
        (torch.zeros(2, 5, 3), (6, 3)),
        (torch.zeros(6), (6, 3)),
        (torch.zeros(2, 6, 3), (6,)),
        (torch.zeros(2, 6, 3, dtype=torch.int64), (6, 3)),
    ],
)
def test_what_does_not_fit_is_refused(latents, weights):
    with pytest.raises(VLFMError):
        project(latents, torch.ones(weights))


@pytest.mark.parametrize(
    "given, returned",
    [(torch.float16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)],
)
def test_precision(given, returned):
    latents = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(1)).to(given)
    weights = projection_matrix(6, LegendreBasis(3, 1.0))
    with torch.autocast("cpu", torch.bfloat16):  # a caller's autocast must not round H
        found = project(latents, weights)
    expected = torch.einsum("bnc,ns->bcs", latents.double(), weights)
    assert found.dtype == returned
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-6)


def test_out_is_used_again_and_checked():
    latents = torch.randn(2, 6, 3, 2)
    weights = projection_matrix(6, LegendreBasis(3, 1.0))
    first = project(latents, weights)
    again = project(2 * latents, weights, out=first)
    assert again.data_ptr() == first.data_ptr()
    torch.testing.assert_close(again, project(2 * latents, weights))
    with pytest.raises(ValueError, match="`out`"):
        project(latents, weights, out=torch.zeros(2, 3, 2, 3))


def test_reconstruct_shapes():
    h = torch.randn(3, 4, 5, 2, dtype=torch.float64)
    g = torch.randn(3, 7, 2, dtype=torch.float64)
    torch.testing.assert_close(reconstruct(h, g[0, 0]), h @ g[0, 0])
    torch.testing.assert_close(reconstruct(h, g[:, 0]), torch.einsum("bijs,bs->bij", h, g[:, 0]))
    torch.testing.assert_close(reconstruct(h, g), torch.einsum("bijs,bks->bkij", h, g))
    torch.testing.assert_close(reconstruct(h, g[:1]), torch.einsum("bijs,ks->bkij", h, g[0]))
    contiguous = h.movedim(-1, 1).contiguous().movedim(1, -1)
    torch.testing.assert_close(reconstruct(contiguous, g), reconstruct(h, g))
    assert reconstruct(h[:0], g[:1]).shape == (0, 7, 4, 5)
    for wrong in (torch.zeros(3), torch.zeros(2, 7, 2), torch.zeros(1, 1, 7, 2)):
        with pytest.raises(ValueError, match="do not fit"):
            reconstruct(h, wrong)

"""The flow, its field, losses, solvers and readouts against closed forms."""

import math
import warnings

import numpy as np
import pytest
import torch
from flow_support import few, orders_of_convergence, property_test
from hypothesis import given
from hypothesis import strategies as st

from vlfm.errors import VLFMError
from vlfm.flow import readout
from vlfm.flow.bases import LegendreBasis
from vlfm.flow.heads import CoefficientsHead, DirectHead, VelocityHead, closed_form_field
from vlfm.flow.losses import parseval, velocity_mse
from vlfm.flow.path import VideoLatentFlow, VideoLatentPath
from vlfm.flow.projection import frame_times
from vlfm.flow.schedules import ExactSchedule, PaperSchedule
from vlfm.flow.solvers import MOST_STEPS, exponential, exponential_step, ode, render


def setting(kind="exact", n=8, order=5, duration=1.5, clips=3, shape=(2, 3), renoise=0.4, seed=0, sigma_min=0.01):
    """A path, random coefficients and noise in float64."""
    generator = torch.Generator().manual_seed(seed)
    schedule = (
        ExactSchedule(n, duration, sigma_min, renoise)
        if kind == "exact"
        else PaperSchedule(n, duration, sigma_min, 10.0)
    )
    path = VideoLatentPath(LegendreBasis(order, duration), schedule)
    h = torch.randn(clips, *shape, order, generator=generator, dtype=torch.float64)
    z = torch.randn(clips, *shape, generator=generator, dtype=torch.float64)
    return path, h, z


paths = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(["exact", "paper"]),
        "n": st.integers(1, 48),
        "order": st.integers(1, 16),
        "duration": st.floats(0.1, 20),
        "clips": st.integers(1, 3),
        "shape": st.sampled_from([(1,), (4,), (2, 3), (2, 2, 2)]),
        "renoise": st.floats(0, 1),
        "seed": st.integers(0, 2**31),
        "sigma_min": st.floats(0.005, 0.5),
    }
)


def random_times(path, clips, count, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(clips, count, generator=generator, dtype=torch.float64) * path.duration


# --- path -------------------------------------------------------------------------------------------------------


@property_test
@given(paths)
def test_psi_is_eq_3_with_the_mean_scaled(chosen):
    path, h, z = setting(**chosen)
    t = random_times(path, len(h), 5)
    found = path.sample(h, z, t)
    for b in range(len(h)):
        for k in range(5):
            sigma, m = path.schedule.sigma(t[b, k])[0], path.schedule.mean_scale(t[b, k])[0]
            expected = sigma * z[b] + m * (h[b] @ path.basis.evaluate(t[b, k]))
            torch.testing.assert_close(found.psi[b, k], expected, rtol=1e-12, atol=1e-11)


def check_derivative(function, claimed, t):
    """Each entry of `function(t)` depends on its own clip's own time alone, so one gradient an entry is
    enough.
    """
    t = t.clone().requires_grad_()
    values = function(t).flatten(2) + 0 * t.sum()  # an order 1 mean does not depend on t at all
    exact = torch.stack(
        [torch.autograd.grad(values[..., entry].sum(), t, retain_graph=True)[0] for entry in range(values.shape[2])],
        2,
    )
    assert (claimed.flatten(2) - exact).abs().max() <= 1e-9 * max(1, float(exact.abs().max()))


@property_test
@given(paths)
def test_velocity_is_autograds(chosen):
    path, h, z = setting(**chosen)
    flow = VideoLatentFlow(path, h, z)
    t = random_times(path, len(h), 4)
    assert flow.evaluate(t).shape == flow.derivative(t).shape == (len(h), 4, *h.shape[1:-1])
    check_derivative(flow.evaluate, flow.derivative(t), t)
    mean, mean_dot = path.mean(h, t)
    check_derivative(lambda x: path.mean(h, x)[0], mean_dot, t)
    torch.testing.assert_close(mean, torch.einsum("b...s,bks->bk...", h, path.basis.evaluate(t)))


def test_one_time_a_clip_equals_a_column_of_many():
    path, h, z = setting()
    t = random_times(path, 3, 4)
    many, one = path.sample(h, z, t), path.sample(h, z, t[:, 2])
    for name in ("psi", "velocity", "mean", "sigma", "sigma_dot"):
        torch.testing.assert_close(getattr(one, name), getattr(many, name)[:, 2])


def test_exact_starts_at_the_noise_and_meets_the_frames():
    path, h, z = setting(sigma_min=0.01)
    start = path.sample(h, z, torch.zeros(3, dtype=torch.float64))
    assert (start.psi - z).abs().max() <= 1e-12 and (start.mean == 0).all()
    t = frame_times(8, path.duration).expand(3, -1)
    at_frames = path.sample(h, z, t)
    torch.testing.assert_close(at_frames.psi, path.mean(h, t)[0] + 0.01 * z[:, None], rtol=0, atol=1e-12)


def test_paper_does_not_start_at_the_noise():
    path, h, z = setting("paper")
    start = path.sample(h, z, torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(start.psi, z + h @ path.basis.evaluate(torch.zeros((), dtype=torch.float64)))


def test_dtype_follows_h_and_autocast_does_not_round_the_target():
    path, h, z = setting(renoise=0.0)
    h, z = h.float(), z.float()
    t = random_times(path, 3, 4)
    with torch.autocast("cpu", torch.bfloat16):
        found = path.sample(h, z, t)
    assert found.psi.dtype == found.velocity.dtype == torch.float32
    expected = path.sample(h.double(), z.double(), t)
    torch.testing.assert_close(found.psi.double(), expected.psi, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.velocity.double(), expected.velocity, rtol=1e-5, atol=1e-4)


def test_empty_batch_flows_through():
    path, h, z = setting()
    found = path.sample(h[:0], z[:0], torch.zeros(0, 4))
    assert found.psi.shape == found.velocity.shape == (0, 4, 2, 3)
    assert render(h[:0], z[:0], path, [0.5, 1.0]).shape == (0, 2, 2, 3)


def test_durations_must_agree():
    with pytest.raises(ValueError, match="one duration"):
        VideoLatentPath(LegendreBasis(3, 1.0), ExactSchedule(8, 2.0))


# --- field and losses -------------------------------------------------------------------------------------------


@property_test
@given(paths)
def test_closed_form_is_the_velocity_on_the_path(chosen):
    """Theorem 4.1: the objective of the exact field is 0."""
    path, h, z = setting(**chosen)
    t = random_times(path, len(h), 5)
    truth = path.sample(h, z, t)
    field = closed_form_field(h, truth.psi, t, path)
    assert (field - truth.velocity).abs().max() <= 1e-9 * max(1, float(truth.velocity.abs().max()))


@few
@given(paths, st.floats(1e-3, 1))
def test_any_other_field_is_worse(chosen, size):
    path, h, z = setting(**chosen)
    t = random_times(path, len(h), 5)
    # After the lead-in, without re-noising, a constant shift of H does not move the velocity: sample the lead-in too.
    t = torch.cat([t, t * path.schedule.lead_in / path.duration], 1)
    truth = path.sample(h, z, t)
    exact = velocity_mse(closed_form_field(h, truth.psi, t, path), truth.velocity)
    worse = velocity_mse(closed_form_field(h + size, truth.psi, t, path), truth.velocity)
    assert worse > 1e3 * exact


def test_coefficients_head_reads_its_channels():
    path, h, z = setting(clips=2, shape=(3, 4, 4), order=5)
    head = CoefficientsHead(5)
    output = h.movedim(-1, 2).reshape(2, head.out_channels(3), 4, 4)
    torch.testing.assert_close(head.coefficients(output), h)
    t = random_times(path, 2, 1)[:, 0]
    truth = path.sample(h, z, t)
    torch.testing.assert_close(head.field(output, truth.psi, t, path), truth.velocity)
    with pytest.raises(ValueError, match="multiple of the order"):
        head.coefficients(output[:, :-1])


def test_the_other_heads():
    path, _, z = setting()
    t = torch.zeros(3)
    assert VelocityHead().field(z, z, t, path) is z and VelocityHead().out_channels(4) == 4
    assert DirectHead().out_channels(4) == 4
    with pytest.raises(ValueError, match="not a flow"):
        DirectHead().field(z, z, t, path)


@property_test
@given(order=st.integers(1, 20), duration=st.floats(0.1, 9), seed=st.integers(0, 2**31))
def test_parseval_is_the_time_average(order, duration, seed):
    generator = torch.Generator().manual_seed(seed)
    h = torch.randn(2, 3, 2, order, generator=generator, dtype=torch.float64)
    guess = h + torch.randn(h.shape, generator=generator, dtype=torch.float64)
    nodes, weights = np.polynomial.legendre.leggauss(order)
    g = LegendreBasis(order, duration).evaluate(torch.tensor((nodes + 1) / 2 * duration))
    squared = torch.einsum("bijs,ks->bkij", guess - h, g).square().mean((2, 3))
    average = (squared * torch.tensor(weights / 2)).sum(1)
    torch.testing.assert_close(parseval(guess, h, "none"), average, rtol=1e-10, atol=0)
    torch.testing.assert_close(parseval(guess, h), average.mean(), rtol=1e-10, atol=0)


def test_velocity_mse_plain_and_normalised():
    prediction = torch.tensor([[[3.0, 1.0]], [[0.0, 2.0]]])
    target = torch.zeros(2, 1, 2)
    assert float(velocity_mse(prediction, target)) == pytest.approx((9 + 1 + 0 + 4) / 4)
    weighted = velocity_mse(prediction, target, torch.tensor([[0.0], [3.0]]), floor=2.0)
    assert float(weighted) == pytest.approx((5 / 4 + 2 / 13) / 2)
    assert velocity_mse(prediction, target, reduction="none").tolist() == pytest.approx([5, 2])
    each = velocity_mse(prediction, target, torch.tensor([[0.0], [3.0]]), 2.0, "none")
    assert each.tolist() == pytest.approx([5 / 4, 2 / 13])


def test_normalising_takes_out_the_schedules_energy():
    """Under `paper` a mean that is off matters 3 orders less in the plain loss than the noise term's share
    (D5).
    """
    path, h, z = setting("paper", n=24, duration=1.0)
    t = random_times(path, 3, 400)
    truth = path.sample(h, z, t)
    noise_energy = (truth.sigma_dot.square().mean() * z.square().mean()) / truth.velocity.square().mean()
    assert noise_energy > 0.5
    zero = torch.zeros_like(truth.velocity)
    plain = velocity_mse(zero, truth.velocity)
    normalised = velocity_mse(zero, truth.velocity, truth.sigma_dot, floor=10.0)
    assert plain > 500 and normalised < 10


def test_losses_refuse_to_broadcast():
    for loss in (parseval, velocity_mse):
        with pytest.raises(ValueError, match="shapes differ"):
            loss(torch.zeros(2, 3, 4), torch.zeros(3, 4))
        with pytest.raises(ValueError, match="floating"):
            loss(torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 3, dtype=torch.int64))
        with pytest.raises(ValueError, match="empty"):
            loss(torch.zeros(0, 3, 4), torch.zeros(0, 3, 4))
    with pytest.raises(ValueError, match="floor"):
        velocity_mse(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2), floor=0.0)
    with pytest.raises(ValueError, match="reduction"):
        parseval(torch.zeros(2, 3), torch.zeros(2, 3), "sum")


# --- solvers ----------------------------------------------------------------------------------------------------


@property_test
@given(paths, st.integers(1, 6))
def test_exponential_with_the_true_h_is_the_flow_in_one_step(chosen, steps):
    path, h, z = setting(**chosen)
    start = path.sample(h, z, torch.zeros(len(h), dtype=torch.float64)).psi  # z itself, under `exact`
    t = random_times(path, len(h), 7)
    truth = path.sample(h, z, t).psi
    assert (exponential(h, start, path, t) - truth).abs().max() <= 1e-10
    assert (exponential(lambda psi, when: h, start, path, t, steps=steps) - truth).abs().max() <= 1e-10


@pytest.mark.parametrize("kind", ["exact", "paper"])
@pytest.mark.parametrize("method, order", [("euler", 1), ("midpoint", 2)])
def test_fixed_steps_converge_at_their_order(kind, method, order):
    """On the closed-form field. `exact` is C¹ at T/N, a node of every grid here, so its pieces keep the full
    order.
    """
    path, h, z = setting(kind, n=4, order=4, duration=1.0, renoise=0.5, sigma_min=0.3)
    start = path.sample(h, z, torch.zeros(3, dtype=torch.float64)).psi
    times = frame_times(4, 1.0)
    truth = path.sample(h, z, times.expand(3, -1)).psi
    errors = []
    for steps in (32, 64, 128):
        found = ode(
            lambda psi, t: closed_form_field(h, psi, t, path), start, times, 1.0, method, step_size=0.25 / steps
        )
        errors.append(float((found - truth).norm()))
    assert all(order - 0.15 < rate < order + 0.15 for rate in orders_of_convergence(errors)), errors


def test_dopri5_follows_the_flow():
    path, h, z = setting(n=4, order=4, duration=1.0, sigma_min=0.1)
    times = torch.tensor([0.0, 0.1, 0.45, 1.0], dtype=torch.float64)
    found = ode(lambda psi, t: closed_form_field(h, psi, t, path), z, times, 1.0, "dopri5", rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(found, path.sample(h, z, times.expand(3, -1)).psi, rtol=0, atol=1e-5)
    assert torch.equal(found[:, 0], z)
    assert torch.equal(ode(lambda psi, t: psi, z, [0.0], 1.0)[:, 0], z)


def test_a_wrong_h_is_rendered_as_it_is():
    """One evaluation at t = 0: the readout `mean` is Ĥ g(t), whatever the truth was."""
    path, h, z = setting()
    guess = h + 1
    seen = []

    def predict(psi, t):
        seen.append((psi, t))
        return guess

    times = torch.linspace(0.01, path.duration, 9, dtype=torch.float64)
    expected = path.mean(guess, times.expand(3, -1))[0]
    torch.testing.assert_close(render(predict, z, path, times), expected, rtol=0, atol=1e-12)
    assert len(seen) == 1 and torch.equal(seen[0][0], z) and torch.equal(seen[0][1], torch.zeros(3).double())
    psi = exponential(guess, z, path, times)
    torch.testing.assert_close(readout.mean(psi, z, times.expand(3, -1), path.schedule), expected)
    torch.testing.assert_close(render(guess, z, path, times, readout="sample"), psi)
    assert readout.sample(psi, z, times, path.schedule) is psi


def test_steps_spread_over_the_lead_in_and_choose_among_clips():
    """Two clips share a caption. The exact posterior mean of H, given ψ, is known: one step renders their
    average, several end on one of the two."""
    path, h, z = setting(clips=2, order=3, renoise=0.0)
    pair = torch.stack([h[0], -h[0]])
    noise = torch.randn(64, *z.shape[1:], generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    seen = []

    def posterior(psi, t):
        seen.append(float(t[0]))
        means = path.scaled_mean(pair, t[:1].expand(2))[0]
        sigma = path.schedule.sigma(t[:1])[0]
        distance = (psi[:, None] - means[None]).flatten(2).square().sum(-1)
        weights = torch.softmax(-distance / (2 * sigma**2), 1)
        return torch.einsum("bc,c...->b...", weights, pair)

    times = frame_times(8, path.duration)
    truth = path.mean(pair, times.expand(2, -1))[0]

    def nearest(latents):
        return (latents[:, None] - truth[None]).flatten(2).square().mean(-1).amin(1).mean()

    one = render(posterior, noise, path, times, steps=1)
    torch.testing.assert_close(one, torch.zeros_like(one), rtol=0, atol=1e-12)
    seen.clear()
    many = render(posterior, noise, path, times, steps=8)
    assert seen == pytest.approx([path.schedule.lead_in * k / 8 for k in range(8)])
    assert nearest(many) < 0.05 * nearest(one)


def test_times_within_the_lead_in_are_reached_from_the_node_before():
    path, h, z = setting(renoise=0.0)
    guesses = iter([h, 2 * h, 3 * h, 4 * h])
    lead = path.schedule.lead_in
    times = torch.tensor([0.1, 0.4, 0.6, 0.9, 1.0, 3.0], dtype=torch.float64) * lead
    found = exponential(lambda psi, t: next(guesses), z, path, times, steps=4)
    # By hand, in ascending order, one evaluation a quarter of the lead-in.
    psi, start, guess = z, torch.zeros(3, dtype=torch.float64), 0
    for index, t in enumerate(times.tolist()):
        while guess < 3 and t >= lead * (guess + 1) / 4:
            end = torch.full((3, 1), lead * (guess + 1) / 4, dtype=torch.float64)
            psi, start, guess = exponential_step((guess + 1) * h, psi, start, end, path)[:, 0], end[:, 0], guess + 1
        at = torch.full((3, 1), t, dtype=torch.float64)
        torch.testing.assert_close(found[:, index], exponential_step((guess + 1) * h, psi, start, at, path)[:, 0])


def test_nodes_of_ones_own():
    path, h, z = setting()
    seen = []
    exponential(lambda psi, t: seen.append(float(t[0])) or h, z, path, [0.5], nodes=[0.0, 0.2, 1.0])
    assert seen == [0.0, 0.2, 1.0]  # exactly: a list of times is float64
    for nodes in ([], [0.1], [0.0, 0.0], [0.0, 9.0]):
        with pytest.raises(VLFMError, match="nodes"):
            exponential(h, z, path, [0.5], nodes=nodes)


@pytest.mark.parametrize("kind", ["exact", "paper"])
def test_float32_renders_to_its_precision(kind):
    path, h, z = setting(kind)
    times = frame_times(8, path.duration)
    for steps in (1, 4):
        exact = render(h, z, path, times, steps)
        torch.testing.assert_close(
            render(h.float(), z.float(), path, times.float(), steps).double(), exact, rtol=0, atol=2e-5
        )


def test_papers_readout_keeps_the_noise():
    path, h, z = setting("paper")
    t = random_times(path, 3, 6)
    psi = path.sample(h, z, t).psi
    torch.testing.assert_close(readout.mean(psi, z, t, path.schedule), path.mean(h, t)[0])
    noise = readout.sample(psi, z, t, path.schedule) - path.mean(h, t)[0]
    torch.testing.assert_close(noise, path.schedule.sigma(t)[0][..., None, None] * z[:, None])


# --- refusals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "times, reason",
    [
        ([0.5, 1.6], r"must lie in .* tail"),
        ([-0.1], "must lie in"),
        ([math.nan], "must lie in"),
        ([[0.1], [0.2]], "for 3 clips"),
        (0.5, "for 3 clips"),
    ],
)
def test_times_outside_the_clip(times, reason):
    path, h, z = setting()
    for call in (lambda: render(h, z, path, times), lambda: exponential(h, z, path, times)):
        with pytest.raises(VLFMError, match=reason):
            call()
    with pytest.raises(VLFMError, match=reason):
        ode(lambda psi, t: psi, z, times, path.duration)


def test_the_mean_cannot_be_read_where_it_is_not():
    path, h, z = setting()
    with pytest.raises(VLFMError, match="pure noise"):
        render(h, z, path, [0.0, 0.5])
    with pytest.raises(VLFMError, match="pure noise"):
        readout.mean(z, z, torch.zeros(3), path.schedule)
    torch.testing.assert_close(render(h, z, path, [0.0], readout="sample")[:, 0], z)


def test_other_refusals():
    path, h, z = setting()
    with pytest.raises(VLFMError, match="unknown readout"):
        render(h, z, path, [0.5], readout="best")
    for steps in (0, 1.5, True):
        with pytest.raises(VLFMError, match="steps"):
            exponential(h, z, path, [0.5], steps=steps)
    for call in (exponential, render):
        with pytest.raises(ValueError, match="must be coefficients"):
            call(h[..., :-1], z, path, [0.5])
    with pytest.raises(VLFMError, match="unknown solver"):
        ode(lambda psi, t: psi, z, [0.5], 1.0, "heun3")
    with pytest.raises(VLFMError, match="step size"):
        ode(lambda psi, t: psi, z, [0.5], 1.0, step_size=-1.0)
    with pytest.raises(VLFMError, match="increase strictly"):
        ode(lambda psi, t: psi, z, [0.5, 0.5], 1.0)
    with pytest.raises(VLFMError, match="one list of times"):
        ode(lambda psi, t: psi, z, torch.full((3, 1), 0.5), 1.0)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("kind", ["exact", "paper"])
def test_a_prediction_that_is_not_finite_is_an_error(kind, steps):
    path, h, z = setting(kind)
    h[1, 0, 0, 2] = math.nan
    with pytest.raises(VLFMError, match=r"batch index 1\b.*network"):
        render(lambda psi, t: h, z, path, [0.5, 1.0], steps)


def test_a_stiff_field_does_not_keep_the_adaptive_solver_for_ever():
    asked = []

    def field(psi, t):
        asked.append(t)
        return torch.sin(1e6 * t)[:, None] * 1e4 - 1e5 * psi

    with pytest.raises(VLFMError, match=r"dopri5 gave up: max_num_steps exceeded .*exponential solver"):
        ode(field, torch.ones(2, 3), [0.5, 1.0], 1.0, "dopri5")
    assert len(asked) < 10 * MOST_STEPS


@pytest.mark.parametrize("method", ["euler", "midpoint", "dopri5"])
def test_a_field_that_diverges_is_an_error(method):
    z = torch.ones(2, 3)
    with warnings.catch_warnings(), pytest.raises(VLFMError, match=r"diverged|gave up"):
        warnings.simplefilter("ignore")
        ode(lambda psi, t: psi * math.nan, z, [0.5, 1.0], 1.0, method)

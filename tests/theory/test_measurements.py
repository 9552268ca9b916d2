"""The theory page's measurements against answers known beforehand."""

import numpy as np
import pytest
import torch

from tests.data.theory import COUNT, DURATION, SHAPE, Linear, cubic, group, noise, rotation, uneven_times
from vlfm.coefficients.basis import clip_basis
from vlfm.flow.projection import project, projection_matrix, reconstruct
from vlfm.model.noise import clip_noise
from vlfm.theory import budget, closed_form, lipschitz, orders, write

pytestmark = pytest.mark.filterwarnings("ignore::vlfm.flow.projection.ProjectionWarning")


def test_projection_error_of_a_cubic_ends_at_order_four():
    latents = cubic()
    rows = orders.measure_projection([group(latents[:1]), group(latents[1:], autoencoder=noise(2))], DURATION)
    assert len(rows) == 2 * 6 * COUNT and not any(row["note"] for row in rows)
    lstsq = {row["order"]: row for row in rows if row["method"] == "lstsq" and row["latents"] == "inverted"}
    assert lstsq[3]["relative"] > 1e-3 and all(lstsq[order]["relative"] < 1e-10 for order in range(4, COUNT + 1))
    deviation = (latents - latents.mean(1, keepdim=True)).square().mean().sqrt()
    assert lstsq[1]["error"] == pytest.approx(float(deviation))
    assert lstsq[1]["relative"] == pytest.approx(float(deviation / latents.square().mean().sqrt()))
    other = {row["order"]: row for row in rows if row["method"] == "lstsq" and row["latents"] == "autoencoder"}
    assert other[4]["relative"] > 0.1
    euler = {row["order"]: row["error"] for row in rows if row["method"] == "euler" and row["latents"] == "inverted"}
    assert euler[COUNT] > 10 * euler[2]


def test_what_overflows_is_told_and_left_empty():
    rows = orders.measure_projection([group(torch.full((1, COUNT, *SHAPE), 1e308, dtype=torch.float64))], DURATION)
    worst = next(row for row in rows if row["method"] == "euler" and row["order"] == COUNT)
    assert np.isnan(worst["relative"]) and "not finite" in worst["note"]
    line = write._csv([worst]).decode().splitlines()[1]
    assert line.startswith("inverted,euler,12,,")


def test_held_out_orders_lines_and_refusals():
    latents = cubic() + 0.02 * noise(seed=1)
    rows = orders.measure_held_out([group(latents)], DURATION)
    assert orders.best_order(rows, "inverted", "legendre") == 4
    drawn = [row for row in rows if row["path"] == "projected" and row["latents"] == "inverted"]
    cosine, polynomial = (
        {row["order"]: row for row in drawn if row["basis"] == basis} for basis in ("cosine", "legendre")
    )
    # A cubic takes more cosines; as many as there are given frames do not swing between them.
    assert cosine[4]["error"] > polynomial[4]["error"] and cosine[6]["error"] == min(
        row["error"] for row in cosine.values() if np.isfinite(row["error"])
    )
    assert polynomial[6]["error"] > 1.2 * polynomial[4]["error"] and polynomial[1]["error"] > 5 * polynomial[4]["error"]
    assert np.isnan(polynomial[7]["error"]) and "6 frames" in polynomial[7]["note"]
    assert polynomial[6]["at_frames"] < 1e-10 < polynomial[5]["at_frames"]
    # The straight line, computed apart: frames 3, 5, … between frames 2, 4, ….
    times, flat = uneven_times().double().numpy(), latents.flatten(2).numpy()
    between = [2, 4, 6, 8, 10]
    errors = [
        np.interp(times[between], times[1::2], flat[b, 1::2, e]) - flat[b, between, e]
        for b in range(len(flat))
        for e in range(flat.shape[2])
    ]
    line = next(row for row in rows if row["path"] == "linear" and row["latents"] == "inverted")
    assert line["error"] == pytest.approx(np.sqrt(np.mean(np.square(errors))))


def test_timescale_is_exact_for_speed_and_not_for_sampling():
    rows = orders.measure_timescale([group(cubic(), autoencoder=noise())], DURATION)
    faster = [row["change"] for row in rows if row["experiment"] == "faster"]
    assert max(faster) < 1e-10 and len(faster) == 2 * 4 * COUNT
    change = {
        (row["latents"], row["method"], row["factor"], row["order"]): row["change"]
        for row in rows
        if row["experiment"] == "sampled"
    }
    assert change["inverted", "lstsq", 3, 4] < 1e-10 and change["autoencoder", "lstsq", 3, 4] > 0.1
    assert 0.01 < change["inverted", "zoh", 2, 5] < change["inverted", "zoh", 3, 5]
    assert np.isnan(change["inverted", "lstsq", 2, 7])


def test_closed_form_costs_nothing_and_anything_else_its_square(config):
    latents = noise(3)
    weights = projection_matrix(uneven_times().double(), clip_basis(config, DURATION))
    truth = project(latents, weights)
    groups = [group(latents[:2]), group(latents[2:])]
    rows = closed_form.measure_closed_form(config, groups, [truth[:2], 1.5 * truth[2:]], scale=2.0)
    for schedule in ("exact", "paper"):
        by_field = {}
        for row in rows:
            if row["schedule"] == schedule:
                by_field.setdefault(row["field"], []).append(row)
        assert by_field["closed form"][0]["relative_loss"] < 1e-25
        losses = [row["loss"] for row in by_field["perturbed"]]
        assert np.allclose(np.divide(losses[1:], losses[:-1]), 100, rtol=1e-6)
        sizes = [row["perturbation"] for row in by_field["perturbed"]]
        assert np.allclose(sizes, closed_form.PERTURBATIONS)
        expected = 0.5 * float(truth[2:].norm() / truth.norm())
        assert by_field["network"][0]["perturbation"] == pytest.approx(expected)
        assert by_field["network"][0]["loss"] > 1e-3


def test_lipschitz_constant_of_a_rotation_is_its_scale(config):
    guess = torch.zeros(3, *SHAPE, config.flow.order, dtype=torch.float64)
    rows = lipschitz.measure_lipschitz(config, [group(noise())], [guess], Linear(2.5 * rotation()))
    decoder = [row["quotient"] for row in rows if row["map"] == "decoder"]
    assert np.allclose(decoder, 2.5, rtol=1e-3) and lipschitz.largest_quotient(rows) == pytest.approx(2.5, rel=1e-3)
    assert np.allclose([row["quotient"] for row in rows if row["map"] == "autoencoder"], 3, rtol=1e-3)
    assert {row["direction"] for row in rows} == {"random", "next frame", "projection error", "network error"}


def test_lipschitz_finds_the_largest_singular_value(config, monkeypatch):
    stretch = torch.ones(18)
    stretch[0] = 7.0
    decoder = Linear(rotation() @ torch.diag(stretch) @ rotation().T)
    monkeypatch.setattr(lipschitz, "with_gradients", lambda decoder: decoder.generate)
    guess = torch.zeros(3, *SHAPE, config.flow.order, dtype=torch.float64)
    rows = lipschitz.measure_lipschitz(config, [group(noise())], [guess], decoder)
    worst = [row["quotient"] for row in rows if row["direction"] == "worst found"]
    others = [row["quotient"] for row in rows if row["map"] == "decoder" and row["direction"] != "worst found"]
    assert np.allclose(worst, 7, rtol=1e-3) and max(others) < 6.9


def test_a_direction_without_error_is_told(config):
    basis, times = clip_basis(config, DURATION), uneven_times().double()
    projected = project(cubic(), projection_matrix(times, basis))
    latents = reconstruct(projected, basis.evaluate(times)[None])
    truth = project(latents, projection_matrix(times, basis))
    rows = lipschitz.measure_lipschitz(config, [group(latents)], [truth], Linear(rotation()))
    for row in rows:
        empty = row["direction"] in ("projection error", "network error")
        assert bool(np.isnan(row["quotient"])) == bool(row["note"]) == empty


def test_budget_of_a_decoder_that_does_nothing(config):
    latents = noise(4)
    guess = torch.randn(4, *SHAPE, config.flow.order, dtype=torch.float64)
    groups, parts = [group(latents[:1]), group(latents[1:])], [guess[:1], guess[1:]]
    rows = budget.measure_budget(config, groups, parts, 2.0, 3, Linear(torch.eye(18)), 1.0, pictures=2)
    assert len(rows) == 2 * 4 * COUNT
    drawn = [row for row in rows if np.isfinite(row["picture"])]
    assert len(drawn) == 2 * 2 * COUNT
    for row in rows:
        assert row["total"] <= row["bound"] * (1 + 1e-12)
        assert row["bound"] == pytest.approx(sum(row[t] for t in ("network", "projection", "noise", "interpolation")))
        assert (row["order"], row["interpolation"] > 1e-3) == (
            (config.flow.order, False) if row["observed"] == "every frame" else (3, True)
        )
    for row in drawn:
        assert row["picture"] == pytest.approx(row["total"], rel=1e-4)
        assert row["picture_bound"] == pytest.approx(row["bound"])
    for name in groups[1].clip_ids[1:]:
        z = clip_noise(name, config.seed, SHAPE)
        noises = [row["noise"] for row in rows if row["clip_id"] == name]
        assert np.allclose(noises, 2.0 * config.flow.sigma_min * float(z.norm()), rtol=1e-5)


def test_budget_blames_the_network_for_its_own_error_alone(config):
    """With every frame given and Ĥ = H the network's term is 0; shifted by a constant mode it is that shift."""
    latents = noise(1)
    truth = project(latents, projection_matrix(uneven_times().double(), clip_basis(config, DURATION)))
    shifted = truth.clone()
    shifted[..., 0] += 0.5
    for guess, expected in ((truth, 0.0), (shifted, 0.5 * np.sqrt(18))):
        rows = budget.measure_budget(config, [group(latents)], [guess], 1.0, 3, Linear(torch.eye(18)), 1.0)
        assert np.allclose([row["network"] for row in rows], expected, atol=1e-10)

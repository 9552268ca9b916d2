"""The theory page's measurements against answers known beforehand, and the page on a small run."""

import copy
import csv
import io
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import SMALL, make_config
from tests.model_data import write_shards
from vlfm.artifacts import write_tar
from vlfm.errors import VLFMError
from vlfm.evaluation import theory
from vlfm.evaluation.theory_page import plain
from vlfm.flow.projection import project, projection_matrix
from vlfm.latents.embedded import EmbeddedDecoder, new_scheduler, new_unet
from vlfm.latents.patch import PatchAutoencoder
from vlfm.latents.store import ClipLatents, write_store
from vlfm.model.flow_model import FlowModel
from vlfm.training.trainer import train

pytestmark = pytest.mark.filterwarnings("ignore::vlfm.flow.projection.ProjectionWarning")

DURATION = 0.5
COUNT = 12
SHAPE = (2, 3, 3)


def uneven_times():
    """Frames as a 25 fps source gives them for 24: not quite evenly spaced, the last before T."""
    return torch.tensor([0.0417, 0.075, 0.1084, 0.1751, 0.2085, 0.2419, 0.2752, 0.342, 0.3753, 0.4087, 0.4421, 0.4754])


def group(latents, times=None, autoencoder=None):
    clips = len(latents)
    return theory.ClipGroup(
        clip_ids=[f"{index:016x}" for index in range(clips)],
        times=uneven_times().double() if times is None else times,
        latents=latents,
        autoencoder=latents if autoencoder is None else autoencoder,
        tokens=torch.zeros(clips, 3, 6),
        mask=torch.ones(clips, 3).bool(),
        captions=[f"caption {index}" for index in range(clips)],
    )


def cubic(clips=3, seed=0):
    """Latents that are cubic in time: order 4 knows them."""
    factors = torch.randn(clips, *SHAPE, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    powers = torch.stack([(4 * uneven_times().double() - 1) ** k for k in range(4)])
    return torch.einsum("bchwk,kn->bnchw", factors, powers)


def noise(clips=3, seed=0):
    return torch.randn(clips, COUNT, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Linear:
    """A decoder `u ↦ M u`, pictures flat; the autoencoder is the identity times 3."""

    def __init__(self, matrix):
        self.matrix = matrix

    def generate(self, latents, captions=None):
        return latents.flatten(1) @ self.matrix.T

    def decode(self, latents):
        return 3 * latents


def rotation(size=18):
    return torch.linalg.qr(torch.randn(size, size, generator=torch.Generator().manual_seed(4)))[0]


@pytest.fixture(scope="module")
def config():
    return make_config(**{**SMALL, "training": {**SMALL["training"], "steps": 2}})


def test_projection_error_of_a_cubic_ends_at_order_four():
    latents = cubic()
    rows = theory.measure_projection([group(latents[:1]), group(latents[1:], autoencoder=noise(2))], DURATION)
    assert len(rows) == 2 * 5 * COUNT and not any(row["note"] for row in rows)
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
    rows = theory.measure_projection([group(torch.full((1, COUNT, *SHAPE), 1e308, dtype=torch.float64))], DURATION)
    worst = next(row for row in rows if row["method"] == "euler" and row["order"] == COUNT)
    assert np.isnan(worst["relative"]) and "not finite" in worst["note"]
    line = theory._csv([worst]).decode().splitlines()[1]
    assert line.startswith("inverted,euler,12,,")


def test_held_out_orders_lines_and_refusals():
    latents = cubic() + 0.02 * noise(seed=1)
    rows = theory.measure_held_out([group(latents)], DURATION)
    assert theory.best_order(rows, "inverted") == 4
    polynomial = {row["order"]: row for row in rows if row["path"] == "polynomial" and row["latents"] == "inverted"}
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
    rows = theory.measure_timescale([group(cubic(), autoencoder=noise())], DURATION)
    faster = [row["change"] for row in rows if row["experiment"] == "faster"]
    assert max(faster) < 1e-10 and len(faster) == 2 * 3 * COUNT
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
    weights = projection_matrix(uneven_times().double(), config.flow.order, DURATION)
    truth = project(latents, weights)
    groups = [group(latents[:2]), group(latents[2:])]
    rows = theory.measure_closed_form(config, groups, [truth[:2], 1.5 * truth[2:]], scale=2.0)
    for schedule in ("exact", "paper"):
        by_field = {}
        for row in rows:
            if row["schedule"] == schedule:
                by_field.setdefault(row["field"], []).append(row)
        assert by_field["closed form"][0]["relative_loss"] < 1e-25
        losses = [row["loss"] for row in by_field["perturbed"]]
        assert np.allclose(np.divide(losses[1:], losses[:-1]), 100, rtol=1e-6)
        sizes = [row["perturbation"] for row in by_field["perturbed"]]
        assert np.allclose(sizes, theory.PERTURBATIONS)
        expected = 0.5 * float(truth[2:].norm() / truth.norm())
        assert by_field["network"][0]["perturbation"] == pytest.approx(expected)
        assert by_field["network"][0]["loss"] > 1e-3


def test_lipschitz_constant_of_a_rotation_is_its_scale(config):
    guess = torch.zeros(3, *SHAPE, config.flow.order, dtype=torch.float64)
    rows = theory.measure_lipschitz(config, [group(noise())], [guess], Linear(2.5 * rotation()))
    decoder = [row["quotient"] for row in rows if row["map"] == "decoder"]
    assert np.allclose(decoder, 2.5, rtol=1e-3) and theory.largest_quotient(rows) == pytest.approx(2.5, rel=1e-3)
    assert np.allclose([row["quotient"] for row in rows if row["map"] == "autoencoder"], 3, rtol=1e-3)
    assert {row["direction"] for row in rows} == {"random", "next frame", "projection error", "network error"}


def test_lipschitz_finds_the_largest_singular_value(config, monkeypatch):
    stretch = torch.ones(18)
    stretch[0] = 7.0
    decoder = Linear(rotation() @ torch.diag(stretch) @ rotation().T)
    monkeypatch.setattr(theory, "with_gradients", lambda decoder: decoder.generate)
    guess = torch.zeros(3, *SHAPE, config.flow.order, dtype=torch.float64)
    rows = theory.measure_lipschitz(config, [group(noise())], [guess], decoder)
    worst = [row["quotient"] for row in rows if row["direction"] == "worst found"]
    others = [row["quotient"] for row in rows if row["map"] == "decoder" and row["direction"] != "worst found"]
    assert np.allclose(worst, 7, rtol=1e-3) and max(others) < 6.9


def test_a_direction_without_error_is_told(config):
    latents = cubic()
    truth = project(latents, projection_matrix(uneven_times().double(), config.flow.order, DURATION))
    rows = theory.measure_lipschitz(config, [group(latents)], [truth], Linear(rotation()))
    for row in rows:
        empty = row["direction"] in ("projection error", "network error")
        assert bool(np.isnan(row["quotient"])) == bool(row["note"]) == empty


def test_budget_of_a_decoder_that_does_nothing(config):
    latents = noise(4)
    guess = torch.randn(4, *SHAPE, config.flow.order, dtype=torch.float64)
    groups, parts = [group(latents[:1]), group(latents[1:])], [guess[:1], guess[1:]]
    rows = theory.measure_budget(config, groups, parts, 2.0, 3, Linear(torch.eye(18)), 1.0, pictures=2)
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
        z = theory.clip_noise(name, config.seed, SHAPE)
        noises = [row["noise"] for row in rows if row["clip_id"] == name]
        assert np.allclose(noises, 2.0 * config.flow.sigma_min * float(z.norm()), rtol=1e-5)


def test_budget_blames_the_network_for_its_own_error_alone(config):
    """With every frame given and Ĥ = H the network's term is 0; shifted by a constant mode it is that shift."""
    latents = noise(1)
    truth = project(latents, projection_matrix(uneven_times().double(), config.flow.order, DURATION))
    shifted = truth.clone()
    shifted[..., 0] += 0.5
    for guess, expected in ((truth, 0.0), (shifted, 0.5 * np.sqrt(18))):
        rows = theory.measure_budget(config, [group(latents)], [guess], 1.0, 3, Linear(torch.eye(18)), 1.0)
        assert np.allclose([row["network"] for row in rows], expected, atol=1e-10)


# --------------------------------------------------------------------------------------- a small run


def frames(clip):
    """A bright square that moves, 48×48."""
    pictures = np.full((COUNT, 48, 48, 3), 40 + 10 * clip, dtype=np.uint8)
    for index in range(COUNT):
        left = (3 * clip + 2 * index) % 30
        pictures[index, 10 + clip : 26 + clip, left : left + 16] = (200, 60 + 20 * clip, 90)
    return pictures


def png(picture):
    data = io.BytesIO()
    Image.fromarray(picture).save(data, "PNG")
    return data.getvalue()


def write_run(folder, config, clips=4):
    """Decoder, clips, latents and a model in `folder`, two time grids, the last clip's latents not finite."""
    from vlfm.latents.frames import to_tensor

    movies = {f"{index:016x}": frames(index) for index in range(clips)}
    pictures = torch.cat([to_tensor(movie) for movie in movies.values()])
    decoder = EmbeddedDecoder(
        PatchAutoencoder.fit(pictures, 6, 8), new_unet(8, 8, [32]), new_scheduler(), config.inversion.steps
    )
    decoder.save_pretrained(folder / "decoder")
    samples, stored = [], []
    for index, (name, movie) in enumerate(movies.items()):
        times = np.arange(1, COUNT + 1) / 24 if index % 2 else uneven_times().double().numpy()
        about = {"times": times.tolist(), "clip_id": name}
        samples.append(
            {"__key__": name, "json": json.dumps(about).encode(), "txt": b"a square"}
            | {f"{n:04d}.png": png(picture) for n, picture in enumerate(movie)}
        )
        latents = decoder.invert(to_tensor(movie)).numpy()
        if index == clips - 1:
            latents[3, 0, 0, 0] = np.nan
        random = np.random.default_rng(index)
        stored.append(
            ClipLatents(
                name, latents, times, random.standard_normal((5, 6)), np.arange(5) < 4, "a square", 30.0, COUNT / 24
            )
        )
    write_tar(folder / "clips" / "00000.tar", samples)
    write_store(folder / "latents" / "00000.zarr", stored, "float32", "f00d", {}, fps=24, height=24, width=24)
    (folder / "made").mkdir()
    _, tars, moments = write_shards(folder / "made", config)
    train(config, tars, moments, folder / "model", folder / "made", folder / "m.csv", torch.device("cpu"))
    return decoder


@pytest.fixture(scope="module")
def run(tmp_path_factory, config):
    """A run's folder with the page written twice, its decoder, and the rows of the first page."""
    folder = tmp_path_factory.mktemp("run")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    decoder = write_run(folder, config)
    kept = []
    with pytest.MonkeyPatch.context() as patch:
        measure = theory.measure
        patch.setattr(theory, "measure", lambda *arguments: kept.append(measure(*arguments)) or kept[-1])
        for name in ("one", "two"):
            theory.write_theory(config, ["00000"], folder, folder / name, torch.device("cpu"))
    yield folder, decoder, kept[0]
    torch.set_num_threads(threads)


def test_groups_hold_the_finite_clips_by_their_times(run, capsys):
    folder, decoder, _ = run
    groups = theory.load_groups(folder, ["00000"], decoder)
    assert [group.clip_ids for group in groups] == [["0" * 16, "0" * 15 + "2"], ["0" * 15 + "1"]]
    assert "0" * 15 + "3" in capsys.readouterr().out
    assert torch.equal(groups[0].times, uneven_times().double())
    encoded = decoder.encode(torch.from_numpy(frames(1)).movedim(-1, 1).float() / 127.5 - 1)
    assert torch.allclose(groups[1].autoencoder[0].float(), encoded)
    assert theory.count_clips(theory.load_groups(folder, ["00000"], decoder, limit=2)) == 2


def test_no_clip_is_told(run, tmp_path, config):
    with pytest.raises(VLFMError, match="no clip with finite latents"):
        theory.load_groups(tmp_path, [], None)


def test_gradients_go_through_the_generator(run):
    """The differentiable walk is `generate` itself, and its gradient that of finite differences."""
    _, decoder, _ = run
    walk = theory.with_gradients(decoder)
    latents = torch.randn(2, 8, 8, 8)
    assert torch.equal(walk(latents), decoder.generate(latents))
    step, start = torch.randn(2, 8, 8, 8), latents.clone().requires_grad_()
    walk(start).sum().backward()
    slope = (start.grad * step).sum()
    numeric = (walk(latents + 1e-2 * step) - walk(latents - 1e-2 * step)).double().sum() / 2e-2
    assert float(slope) == pytest.approx(float(numeric), rel=0.05, abs=0.05 * float(step.norm()))


def test_predicted_coefficients_are_what_the_model_renders(run, config):
    folder, decoder, _ = run
    groups = theory.load_groups(folder, ["00000"], decoder)
    model = FlowModel.from_pretrained(folder / "model")
    predicted = theory.predict_coefficients(config, groups, model)
    z = theory.clip_noise(groups[1].clip_ids[0], config.seed, (8, 8, 8))[None]
    instants = torch.tensor([0.11, 0.29], dtype=torch.float64)
    rendered = model.latents(groups[1].tokens, groups[1].mask, z, instants)
    g = model.path().basis.evaluate(instants)
    assert torch.allclose((predicted[1] @ g.T).movedim(-1, 1).float(), rendered, atol=1e-4)


def test_the_page_is_whole_and_stands_alone(run):
    folder, _, _ = run
    page = (folder / "one" / "index.html").read_text()
    for name in ("Lemma F.1", "Lemma 5.2", "Lemma 5.4", "Theorem 4.1", "Assumption C.8", "Theorem 5.3"):
        assert f"<h2>{name}" in page
    assert page.count("<svg") == 7 and "<script" not in page and 'name="viewport"' in page
    outside = re.findall(r'(?:src|href)="(?!#)([^"]*)"', page)
    assert not [link for link in outside if not link.startswith("data:")]
    assert "nan" not in re.sub(r"<svg.*?</svg>", "", page, flags=re.S).lower()
    with (folder / "one" / "lipschitz.csv").open() as file:
        rows = list(csv.DictReader(file))
    largest = max(float(row["quotient"]) for row in rows if row["map"] == "decoder" and row["quotient"])
    assert f"L₀ ≥ {largest:.2f}" in page
    assert any(row["direction"] == "worst found" for row in rows)


def test_the_same_run_gives_the_same_files(run):
    folder, _, _ = run
    one, two = ({path.name: path.read_bytes() for path in (folder / name).iterdir()} for name in ("one", "two"))
    assert one == two and len(one) == 6 + 7 + 2


def test_words_follow_the_numbers(run):
    """A closed form that is not 0, a bound that is broken: the page says so."""
    from vlfm.evaluation.theory_page import describe

    tables = copy.deepcopy(run[2])
    good = [plain(finding) for finding in describe(tables, 4, "exact", theory.largest_quotient(tables["lipschitz"]))]
    assert "which is rounding" in good[3] and "36 of 36 frames" in good[5]
    tables["closed_form"][0]["relative_loss"] = 0.25
    tables["budget"][0]["total"] = 1e9
    bad = [plain(finding) for finding in describe(tables, 4, "exact", 1.0)]
    assert "which is more than rounding" in bad[3] and "35 of 36 frames" in bad[5]
    assert not re.search("<[a-z/]", "".join(good))

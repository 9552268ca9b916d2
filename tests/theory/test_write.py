"""The theory page on a small run."""

import copy
import csv
import io
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.model import write_shards
from tests.data.theory import COUNT, uneven_times
from vlfm.decoders.embedded import EmbeddedDecoder, new_scheduler, new_unet
from vlfm.decoders.patch_autoencoder import PatchAutoencoder
from vlfm.errors import VLFMError
from vlfm.frames import to_tensor
from vlfm.latents.store import ClipLatents, write_store
from vlfm.model.flow_model import FlowModel
from vlfm.model.noise import clip_noise
from vlfm.storage.files import write_json
from vlfm.storage.tar import write_tar
from vlfm.theory import lipschitz, predictions, write
from vlfm.theory.groups import count_clips, load_groups
from vlfm.theory.page import describe, plain
from vlfm.training.loop import train

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::vlfm.flow.projection.ProjectionWarning")]


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
    movies = {f"{index:016x}": frames(index) for index in range(clips)}
    pictures = torch.cat([to_tensor(movie) for movie in movies.values()])
    decoder = EmbeddedDecoder(
        PatchAutoencoder.fit(pictures, 6, 8), new_unet(8, 8, [32]), new_scheduler(), config.inversion.steps
    )
    decoder.save_pretrained(folder / "decoder")
    write_json(folder / "decoder" / "decoder.json", {"name": "embedded"})
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
        measure = write.measure
        patch.setattr(write, "measure", lambda *arguments: kept.append(measure(*arguments)) or kept[-1])
        for name in ("one", "two"):
            write.write_theory(config, ["00000"], folder, folder / name, torch.device("cpu"))
    yield folder, decoder, kept[0]
    torch.set_num_threads(threads)


def test_groups_hold_the_finite_clips_by_their_times(run, capsys):
    folder, decoder, _ = run
    groups = load_groups(folder, ["00000"], decoder)
    assert [group.clip_ids for group in groups] == [["0" * 16, "0" * 15 + "2"], ["0" * 15 + "1"]]
    assert "0" * 15 + "3" in capsys.readouterr().out
    assert torch.equal(groups[0].times, uneven_times().double())
    encoded = decoder.encode(torch.from_numpy(frames(1)).movedim(-1, 1).float() / 127.5 - 1)
    assert torch.allclose(groups[1].autoencoder[0].float(), encoded)
    assert count_clips(load_groups(folder, ["00000"], decoder, limit=2)) == 2


def test_no_clip_is_told(run, tmp_path, config):
    with pytest.raises(VLFMError, match="no clip with finite latents"):
        load_groups(tmp_path, [], None)


def test_gradients_go_through_the_generator(run):
    """The differentiable walk is `generate` itself, and its gradient that of finite differences."""
    _, decoder, _ = run
    walk = lipschitz.with_gradients(decoder)
    latents = torch.randn(2, 8, 8, 8)
    assert torch.equal(walk(latents), decoder.generate(latents))
    step, start = torch.randn(2, 8, 8, 8), latents.clone().requires_grad_()
    walk(start).sum().backward()
    slope = (start.grad * step).sum()
    numeric = (walk(latents + 1e-2 * step) - walk(latents - 1e-2 * step)).double().sum() / 2e-2
    assert float(slope) == pytest.approx(float(numeric), rel=0.05, abs=0.05 * float(step.norm()))


@pytest.mark.parametrize(("depth", "predictor"), [(0.5, True), (0.0, True), (0.0, False)])
def test_gradients_go_through_a_walk_of_any_depth(run, depth, predictor):
    whole = run[1]
    unet = whole.unet if predictor else None
    decoder = EmbeddedDecoder(whole.autoencoder, unet, whole.scheduler, whole.steps, depth=depth)
    latents = torch.randn(2, 8, 8, 8).requires_grad_()
    frames = lipschitz.with_gradients(decoder)(latents)
    assert torch.equal(frames, decoder.generate(latents.detach()))
    frames.sum().backward()
    assert latents.grad.abs().max() > 0


def test_predicted_coefficients_are_what_the_model_renders(run, config):
    folder, decoder, _ = run
    groups = load_groups(folder, ["00000"], decoder)
    model = FlowModel.from_pretrained(folder / "model")
    predicted = predictions.predict_coefficients(config, groups, model)
    z = clip_noise(groups[1].clip_ids[0], config.seed, (8, 8, 8))[None]
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
    tables = copy.deepcopy(run[2])
    good = [plain(finding) for finding in describe(tables, 4, "exact", lipschitz.largest_quotient(tables["lipschitz"]))]
    assert "which is rounding" in good[3] and "36 of 36 frames" in good[5]
    tables["closed_form"][0]["relative_loss"] = 0.25
    tables["budget"][0]["total"] = 1e9
    bad = [plain(finding) for finding in describe(tables, 4, "exact", 1.0)]
    assert "which is more than rounding" in bad[3] and "35 of 36 frames" in bad[5]
    assert not re.search("<[a-z/]", "".join(good))

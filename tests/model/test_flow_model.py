import types

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import make_config
from vlfm.errors import VLFMError
from vlfm.flow.heads import closed_form_field
from vlfm.model.flow_model import EMPTY_CAPTION, FlowModel
from vlfm.model.transformer import VLFMTransformer
from vlfm.storage.files import read_json, write_json

SHAPE, ORDER = (2, 8, 8), 4
HEADS = ("coefficients", "velocity", "direct")
EMPTY = torch.randn(5, 6, generator=torch.Generator().manual_seed(7)), torch.tensor([1, 1, 0, 0, 0]).bool()


def made(head="coefficients", durations=(0.5,), empty=EMPTY):
    """A model whose network says something: weights of training's size, drawn at random."""
    torch.manual_seed(3)
    network = VLFMTransformer(
        head=head, channels=2, positions=8, order=ORDER, durations=durations, layers=1, heads=2, head_dim=16,
        caption_channels=6, gate=1.0,
    )  # fmt: skip
    torch.nn.init.normal_(network.backbone.proj_out.weight, std=0.2)
    network.set_scales(torch.tensor([4.0, 2.0, 1.0, 0.5]), 1.0, 20.0)
    config = make_config(clips={"duration": list(durations)}, flow={"order": ORDER})
    return FlowModel.of(config, network.eval().requires_grad_(False), empty)


@pytest.fixture
def caption():
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(2, 5, 6, generator=generator),
        torch.ones(2, 5).bool(),
        torch.randn(2, *SHAPE, generator=generator),
    )


@pytest.mark.parametrize("head", HEADS)
def test_any_rate_shows_the_same_path(head, caption):
    model = made(head)
    sparse = model.latents(*caption, torch.tensor([0.125, 0.25, 0.5]), solver_steps=16)
    dense = model.latents(*caption, torch.arange(1, 25) / 48, solver_steps=16)
    assert sparse.shape == (2, 3, *SHAPE) and dense.shape == (2, 24, *SHAPE)
    assert torch.allclose(sparse, dense[:, [5, 11, 23]], atol=1e-4)


@pytest.mark.parametrize(
    "head, settings, count",
    [
        ("coefficients", {"steps": 1}, 1),
        ("coefficients", {"steps": 4}, 4),
        ("coefficients", {"steps": 4, "guidance": 2.0}, 8),
        ("direct", {}, 5),
        ("velocity", {"solver": "euler", "solver_steps": 3}, 36),
        ("velocity", {"solver": "midpoint", "solver_steps": 3}, 72),
    ],
)
def test_evaluations_are_counted(head, settings, count, caption):
    model = made(head)
    clips = []
    hook = model.transformer.register_forward_hook(lambda _, arguments, __: clips.append(len(arguments[0])))
    model.latents(*caption, torch.tensor([1, 3, 6, 9, 12]) / 24, **settings)
    hook.remove()
    assert sum(clips) == 2 * count and model.evaluations == count


@pytest.mark.parametrize("head", HEADS)
def test_one_clip_does_not_depend_on_its_neighbour(head, caption):
    model, times = made(head), torch.tensor([0.2, 0.3])
    both = model.latents(*caption, times, guidance=1.5)
    alone = model.latents(*(value[1:] for value in caption), times, guidance=1.5)
    assert torch.allclose(both[1:], alone, atol=1e-4)


@pytest.mark.parametrize("head", HEADS)
def test_latents_are_in_the_decoders_units(head, caption):
    model = made(head)
    one = model.latents(*caption, torch.tensor([0.2]))
    model.transformer.latent_scale.mul_(2)
    assert torch.allclose(model.latents(*caption, torch.tensor([0.2])), 2 * one)


class Exact(torch.nn.Module):
    """In place of the network: the closed-form field of clips whose coefficients it knows."""

    def __init__(self, model, coefficients):
        super().__init__()
        self.path, self.coefficients = model.path(), coefficients
        self.config = types.SimpleNamespace(head="velocity")
        self.device, self.latent_scale = torch.device("cpu"), torch.ones(())

    def forward(self, psi, t, tokens, mask, duration):
        return closed_form_field(self.coefficients, psi, t * duration, self.path)


def test_a_velocity_is_integrated_to_the_path_it_belongs_to(caption):
    model = made("velocity")
    h = torch.randn(2, *SHAPE, ORDER, dtype=torch.float64)
    model.transformer = Exact(model, h)
    tokens, mask, noise = caption
    times = torch.tensor([0.5, 0.1, 0.101, 1 / 24, 0.3, 0.3], dtype=torch.float64)  # in no order, and twice
    truth = model.path().mean(h, times[None].expand(2, -1))[0].float()
    errors = {
        (solver, steps): float(
            (model.latents(tokens, mask, noise.double(), times, solver=solver, solver_steps=steps) - truth).abs().max()
        )
        for solver, steps in (("euler", 64), ("midpoint", 8), ("midpoint", 32), ("dopri5", 1))
    }
    # ψ_{T/N} rests on σ falling a hundredfold within the lead-in, so a coarse solver pays there.
    assert errors["midpoint", 32] < errors["midpoint", 8] / 8 and errors["midpoint", 32] < 0.02
    assert errors["euler", 64] < 1.0 and errors["dopri5", 1] < 0.02


@pytest.mark.parametrize("head", ["coefficients", "direct"])
def test_guidance_goes_on_from_the_empty_caption_through_the_captions(head, caption):
    model, times = made(head), torch.tensor([0.1, 0.5])
    tokens, mask, noise = caption
    with_caption = model.latents(tokens, mask, noise, times)
    empty = model.latents(EMPTY[0].expand(2, -1, -1), EMPTY[1].expand(2, -1), noise, times)
    for weight in (0.0, 1.0, 2.5):
        guided = model.latents(tokens, mask, noise, times, guidance=weight)
        assert torch.allclose(guided, empty + weight * (with_caption - empty), atol=1e-4)
    assert (with_caption - empty).abs().max() > 0.1


def test_guidance_needs_a_model_that_saw_empty_captions(caption):
    with pytest.raises(VLFMError, match=r"guidance 3.*caption_dropout"):
        made(empty=None).latents(*caption, torch.tensor([0.2]), guidance=3.0)


def test_lengths_have_their_own_paths(caption):
    model = made(durations=(0.5, 2.0))
    assert model.path().duration == 2.0 and model.path(0.5).schedule.num_frames == 12
    short, long = (model.latents(*caption, torch.tensor([0.25]), duration=seconds) for seconds in (0.5, 2.0))
    assert not torch.allclose(short, long, atol=1e-2)
    with pytest.raises(VLFMError, match=r"0\.5, 2 s, not of 1 s"):
        model.latents(*caption, torch.tensor([0.25]), duration=1.0)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("times", [[0.6], [0.0, 0.7], [-0.1]])
def test_times_outside_the_clip_are_refused(head, times, caption):
    with pytest.raises(VLFMError):
        made(head).latents(*caption, torch.tensor(times))


@pytest.mark.parametrize("head", HEADS)
def test_a_saved_model_is_the_same_model(head, caption, tmp_path):
    model = made(head, durations=(0.5, 1.0))
    model.save_pretrained(tmp_path)
    again = FlowModel.from_pretrained(tmp_path)
    settings = {"times": torch.tensor([0.3]), "duration": 0.5, "guidance": 2.0}
    assert torch.equal(model.latents(*caption, **settings), again.latents(*caption, **settings))
    made(empty=None).save_pretrained(tmp_path)
    assert FlowModel.from_pretrained(tmp_path).empty_caption is None


def test_what_is_no_model_is_told(tmp_path):
    with pytest.raises(VLFMError, match="no trained model"):
        FlowModel.from_pretrained(tmp_path)
    write_json(tmp_path / "flow.json", {"order": 8, "duration": 0.5})
    with pytest.raises(VLFMError, match="another version"):
        FlowModel.from_pretrained(tmp_path)
    made().save_pretrained(tmp_path)
    assert read_json(tmp_path / "flow.json")["fps"] == 24
    (weights,) = (tmp_path / "transformer").glob("*.safetensors")
    whole = weights.read_bytes()
    for damaged in (whole[: len(whole) // 2], b""):
        weights.write_bytes(damaged)
        with pytest.raises(VLFMError, match=r"transformer does not load .*; copy it again, or train again"):
            FlowModel.from_pretrained(tmp_path)
    weights.write_bytes(whole)
    save_file(dict(list(load_file(weights).items())[1:]), weights, metadata={"format": "pt"})
    with pytest.raises(VLFMError, match=r"lack 1 parameter.*train again"):
        FlowModel.from_pretrained(tmp_path)
    weights.write_bytes(whole)
    (tmp_path / EMPTY_CAPTION).write_bytes(b"{}")
    with pytest.raises(VLFMError, match="holds no empty caption"):
        FlowModel.from_pretrained(tmp_path)

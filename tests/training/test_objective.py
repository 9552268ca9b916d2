import math

import pytest
import torch

from tests.conftest import SMALL, make_config, merge
from vlfm.coefficients.basis import clip_basis
from vlfm.errors import VLFMError
from vlfm.flow.path import VideoLatentPath
from vlfm.flow.schedules import make_schedule
from vlfm.model.transformer import VLFMTransformer
from vlfm.training.data import Batch
from vlfm.training.objective import Objective, velocity_rms
from vlfm.training.time_sampling import place

SHAPE, ORDER = (3, 4, 4), 4
HEADS = ("coefficients", "velocity", "direct")
EMPTY = torch.full((5, 6), 9.0), torch.tensor([True, False, False, False, False])


def configured(head="coefficients", durations=0.5, flow=None, **training):
    change = {
        "clips": {"duration": durations},
        "model": {"head": head},
        "flow": {"order": ORDER, **(flow or {})},
        "training": {"batch_size": 8, "pure_noise": 0.25, "lead_in": 0.25, **training},
    }
    return make_config(**merge({**SMALL, "flow": {}}, change))


def batch(durations, seed=0):
    generator = torch.Generator().manual_seed(seed)
    count = len(durations)
    seconds = torch.tensor(durations, dtype=torch.float64)
    return Batch(
        torch.randn(count, *SHAPE, ORDER, generator=generator),
        torch.randn(count, 5, 6, generator=generator),
        torch.ones(count, 5).bool(),
        seconds,
        (seconds * 24).round().long(),
        tuple(f"{index:016x}" for index in range(count)),
    )


def in_seconds(config, duration):
    """The path of one clip length as the paper writes it, time in seconds."""
    flow, frames = config.flow, config.clips.num_frames_of(duration)
    return VideoLatentPath(
        clip_basis(config, duration),
        make_schedule(flow.schedule, frames, duration, flow.sigma_min, flow.renoise, flow.alpha),
    )


class Oracle:
    """Knows H; answers in the units of its head, from the paper's formulas in seconds, clip by clip."""

    def __init__(self, config, data, draw, scale, off=0.0):
        self.config, self.data, self.draw, self.scale, self.off = config, data, draw, scale, off
        self.seen = None

    def __call__(self, psi, t, tokens, mask, duration):
        self.seen = psi, t, tokens, mask, duration
        answers = []
        for index, seconds in enumerate(self.data.duration.tolist()):
            path = in_seconds(self.config, seconds)
            h, at = self.data.coefficients[index][None] / self.scale, t[index, None] * seconds
            sample = path.sample(h, self.draw.noise[index][None], at)
            assert torch.allclose(sample.psi[0], psi[index], atol=1e-4)
            answers.append(
                {"coefficients": h, "velocity": sample.velocity, "direct": path.mean(h, at)[0]}[self.config.model.head][
                    0
                ]
            )
        return torch.stack(answers) + self.off


def test_a_draw_is_divided_among_processes_and_parts_at_will():
    objective = Objective(configured(caption_dropout=0.5), EMPTY)
    whole = objective.draw(3, range(8), SHAPE)
    parts = [objective.draw(3, range(start, start + 2), SHAPE) for start in range(0, 8, 2)]
    for name in ("noise", "kinds", "uniform", "uncaptioned"):
        assert torch.equal(getattr(whole, name), torch.cat([getattr(part, name) for part in parts]))
    assert not torch.equal(whole.noise, objective.draw(4, range(8), SHAPE).noise)
    assert not torch.equal(whole.noise[0], whole.noise[1])


@pytest.mark.parametrize("schedule", [{"schedule": "exact", "renoise": 0.3}, {"schedule": "paper", "alpha": 7.0}])
@pytest.mark.parametrize("durations", [[0.5] * 8, [0.5, 1.0, 2.0, 1.0, 0.5, 2.0, 2.0, 1.0]])
@pytest.mark.parametrize("head", HEADS)
def test_the_truth_has_no_loss_and_its_neighbourhood_a_known_one(head, durations, schedule):
    config = configured(head, durations=[0.5, 1.0, 2.0] if len(set(durations)) > 1 else 0.5, flow=schedule)
    objective, data, scale = Objective(config), batch(durations), torch.tensor(1.7)
    draw = objective.draw(0, range(8), SHAPE)
    right = objective(Oracle(config, data, draw, scale), data, draw, scale)
    assert right.shape == (8,)
    assert (right < 1e-5).all()
    off = objective(Oracle(config, data, draw, scale, off=2.0), data, draw, scale)
    # 2 in every coefficient; 2 in every latent; 2 a second, of which a frame interval is the 24th part.
    expected = {"coefficients": 4.0 * ORDER, "direct": 4.0, "velocity": 4.0 / 24**2}[head]
    assert torch.allclose(off, torch.full((8,), expected), rtol=2e-2)


def test_lengths_side_by_side_train_as_they_would_alone():
    torch.manual_seed(0)
    network = VLFMTransformer(
        channels=3, positions=4, order=ORDER, durations=(0.5, 1.0), layers=1, heads=2, head_dim=32, caption_channels=6
    )
    torch.nn.init.normal_(network.backbone.proj_out.weight, std=0.1)
    network.eval()
    data = batch([0.5, 1.0, 1.0, 0.5, 0.5, 0.5, 1.0, 1.0])
    objective = Objective(configured(durations=[0.5, 1.0]))
    draw = objective.draw(0, range(8), SHAPE)
    together = objective(network, data, draw, network.latent_scale)
    for index in range(8):
        one = Batch(*(value[index : index + 1] for value in vars(data).values()))
        own = type(draw)(*(value[index : index + 1] for value in vars(draw).values()))
        assert torch.allclose(objective(network, one, own, network.latent_scale), together[index], rtol=1e-4)


def test_weighting_divides_by_the_schedules_energy_a_frame_interval():
    plain, weighted = (configured("velocity", weighting=name) for name in ("none", "inverse_energy"))
    data, scale = batch([0.5] * 8), torch.ones(())
    objective = Objective(plain)
    draw = objective.draw(0, range(8), SHAPE)
    oracle = Oracle(plain, data, draw, scale, off=5.0)
    losses = objective(oracle, data, draw, scale), Objective(weighted)(oracle, data, draw, scale)
    t = place(draw.kinds, draw.uniform, 1 / 12, plain.training.emphasis) * 0.5
    sigma_dot = in_seconds(plain, 0.5).schedule.sigma(t)[1] / 24
    assert sigma_dot.abs().max() > 0.5
    assert torch.allclose(losses[0] / losses[1], sigma_dot.square() + 1, rtol=1e-4)


def test_the_share_of_captions_asked_for_is_replaced_and_no_other():
    config = configured(caption_dropout=0.3)
    objective, data, scale = Objective(config, EMPTY), batch([0.5] * 8), torch.ones(())
    replaced = 0
    for step in range(60):
        draw = objective.draw(step, range(8), SHAPE)
        oracle = Oracle(config, data, draw, scale)
        objective(oracle, data, draw, scale)
        tokens, mask = oracle.seen[2:4]
        for index, dropped in enumerate(draw.uncaptioned):
            assert torch.equal(tokens[index], EMPTY[0] if dropped else data.tokens[index])
            assert torch.equal(mask[index], EMPTY[1] if dropped else data.mask[index])
        replaced += int(draw.uncaptioned.sum())
    assert abs(replaced / 480 - 0.3) < 3.5 * math.sqrt(0.3 * 0.7 / 480)


def test_dropping_captions_needs_an_empty_one():
    with pytest.raises(VLFMError, match=r"caption_dropout is 0\.1.*empty-caption"):
        Objective(configured(caption_dropout=0.1))


@pytest.mark.parametrize("durations", [0.5, [0.5, 2.0]])
@pytest.mark.parametrize("schedule", [{"schedule": "exact"}, {"schedule": "paper", "basis": "legendre"}])
def test_the_velocity_scale_is_that_of_the_data(schedule, durations):
    config = configured("velocity", durations=durations, flow=schedule)
    sizes = torch.tensor([1.0, 0.7, 0.5, 0.2])
    generator = torch.Generator().manual_seed(0)
    energies = []
    for duration in config.clips.durations:
        path = in_seconds(config, duration)
        h = torch.randn(4000, 50, ORDER, generator=generator) * sizes / sizes.square().sum().sqrt()
        z, t = torch.randn(4000, 50, generator=generator), torch.rand(4000, generator=generator) * duration
        energies.append(path.sample(h, z, t).velocity.square().mean())
    measured = torch.stack(energies).mean().sqrt().item()
    assert velocity_rms(config, sizes.square().double()) == pytest.approx(measured, rel=0.03)


@pytest.mark.parametrize("head", HEADS)
def test_every_head_learns(head):
    config = configured(head, pure_noise=0.25 if head == "coefficients" else 0.0)
    two = batch([0.5] * 2)
    data = Batch(*(torch.cat([value] * 4) for value in list(vars(two).values())[:5]))
    torch.manual_seed(0)
    network = VLFMTransformer(
        head=head, channels=3, positions=4, order=ORDER, layers=1, heads=2, head_dim=32, caption_channels=6, gate=1.0
    )
    mean_square = data.coefficients.square().mean((0, 1, 2, 3)).double()
    network.set_scales(mean_square, 1.0, velocity_rms(config, mean_square))
    objective = Objective(config)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)

    def step_loss(step):
        return objective(network, data, objective.draw(step, range(8), SHAPE), network.latent_scale).mean()

    def unseen():
        with torch.no_grad():
            return sum(step_loss(1000 + step) for step in range(20)).item()

    before = unseen()
    for step in range(150):
        optimizer.zero_grad()
        step_loss(step).backward()
        optimizer.step()
    assert unseen() < 0.75 * before

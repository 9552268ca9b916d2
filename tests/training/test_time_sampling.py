import torch
from hypothesis import given
from hypothesis import strategies as st

from vlfm.training.time_sampling import place, sample_kinds


def sample(count, noise, lead, seed, lead_in=1 / 12, emphasis=1.0):
    kinds, uniform = sample_kinds(count, noise, lead, torch.Generator().manual_seed(seed))
    return place(kinds, uniform, lead_in, emphasis)


@given(
    count=st.integers(1, 200),
    noise=st.floats(0, 1),
    share=st.floats(0, 1),
    emphasis=st.floats(0.2, 5),
    seed=st.integers(0, 1000),
)
def test_shares_are_met_and_times_stay_inside(count, noise, share, emphasis, seed):
    in_lead = share * (1 - noise)
    kinds, uniform = sample_kinds(count, noise, in_lead, torch.Generator().manual_seed(seed))
    times = place(kinds, uniform, 1 / 12, emphasis)
    assert times.shape == (count,)
    assert (times >= 0).all() and (times <= 1).all()
    assert abs(int((kinds == 0).sum()) - noise * count) <= 0.5 + 1e-9
    assert abs(int((kinds == 1).sum()) - in_lead * count) <= 1 + 1e-9
    assert (times[kinds == 0] == 0).all() and (times[kinds == 1] <= 1 / 12).all()


def test_without_shares_times_are_uniform_over_the_whole_clip():
    times = sample(20_000, 0, 0, seed=1).sort().values
    uniform = (torch.arange(20_000) + 0.5) / 20_000
    assert (times - uniform).abs().max() < 0.015  # Kolmogorov–Smirnov: 1.6 / √n is 0.011 at 99 %


def test_emphasis_moves_the_lead_in_towards_noise():
    plain, early = (sample(4000, 0, 1, seed=2, emphasis=emphasis) for emphasis in (1.0, 2.0))
    assert torch.allclose(early, (plain * 12).square() / 12)
    assert abs(plain.mean().item() * 12 - 1 / 2) < 0.03 and abs(early.mean().item() * 12 - 1 / 3) < 0.03


def test_every_sample_has_its_own_lead_in():
    kinds, uniform = sample_kinds(400, 0, 1, torch.Generator().manual_seed(3))
    lead_in = torch.tensor([1 / 12, 1 / 48]).repeat(200)
    times = place(kinds, uniform, lead_in)
    assert torch.allclose(times, uniform * lead_in)


def test_kinds_are_spread_over_the_batch():
    firsts = [sample(4, 0.5, 0.25, seed)[0].item() == 0 for seed in range(200)]
    assert 60 < sum(firsts) < 140

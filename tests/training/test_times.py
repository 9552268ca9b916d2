import torch
from hypothesis import given
from hypothesis import strategies as st

from vlfm.training.times import sample_times


@given(
    count=st.integers(1, 200),
    noise=st.floats(0, 1),
    share=st.floats(0, 1),
    duration=st.floats(0.1, 10),
    seed=st.integers(0, 1000),
)
def test_shares_are_met_and_times_stay_inside(count, noise, share, duration, seed):
    lead_in = duration / 12
    in_lead = share * (1 - noise)
    times = sample_times(count, duration, lead_in, noise, in_lead, torch.Generator().manual_seed(seed))
    assert times.shape == (count,)
    assert (times >= 0).all() and (times <= duration * (1 + 1e-6)).all()
    zeros = int((times == 0).sum())
    assert abs(zeros - noise * count) <= 1  # a uniform draw can be 0 as well, once in 2²⁴
    early = int(((times > 0) & (times < lead_in)).sum())
    assert abs(early - in_lead * count) <= 2


def test_kinds_are_spread_over_the_batch():
    firsts = [
        sample_times(4, 1.0, 0.1, 0.5, 0.25, torch.Generator().manual_seed(seed))[0].item() == 0 for seed in range(200)
    ]
    assert 60 < sum(firsts) < 140

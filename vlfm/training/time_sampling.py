"""When, along the path, the network is trained."""

import torch

PURE_NOISE, LEAD_IN, ANYWHERE = range(3)


def sample_kinds(
    count: int, pure_noise: float, lead_in: float, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """The random numbers behind `count` times: kinds (count,), and uniform (count,) in [0, 1); see `place`.

    Pure noise teaches the caption: elsewhere the network could copy its input. The lead-in is where one of several
    clips with one caption is chosen, step by step; after it nothing is left to decide. Shares are met exactly up to
    rounding in every batch, which is less noisy than drawing the kind of each sample.

    Args:
        pure_noise, lead_in: shares in [0, 1] of times at 0 and in (0, T/N). The rest is uniform on [0, T]; with
            both 0 that is the paper's distribution (Definition D.9).
    """
    zeros = round(pure_noise * count)
    leads = min(round(lead_in * count), count - zeros)
    uniform = torch.rand(count, generator=generator)
    ranks = torch.randperm(count, generator=generator)
    kinds = torch.full((count,), ANYWHERE)
    kinds[ranks < zeros + leads] = LEAD_IN
    kinds[ranks < zeros] = PURE_NOISE
    return kinds, uniform


def place(
    kinds: torch.Tensor, uniform: torch.Tensor, lead_in: torch.Tensor | float, emphasis: float = 1.0
) -> torch.Tensor:
    """Times, (B,), as shares of a clip's length T, in [0, 1].

    Args:
        lead_in: where the first frame lies, 1/N, one number or one a sample.
        emphasis: times in the lead-in are `lead_in · u^emphasis`: above 1 favours early times, where σ is high.
    """
    times = torch.where(kinds == LEAD_IN, uniform**emphasis * lead_in, uniform)
    return torch.where(kinds == PURE_NOISE, torch.zeros_like(times), times)

"""When, along the path, the network is trained."""

import torch


def sample_times(
    count: int, duration: float, lead_in: float, pure_noise: float, in_lead: float, generator: torch.Generator
) -> torch.Tensor:
    """Times (count,) in [0, T]: a share at exactly 0, a share in (0, T/N), the rest uniform on [T/N, T].

    Pure noise teaches the caption: elsewhere the network could copy its input. The lead-in is where one of
    several clips with one caption is chosen, step by step; after it nothing is left to decide. Shares are met
    exactly up to rounding in every batch, which is less noisy than drawing the kind of each sample.

    Args:
        lead_in: T/N, seconds. pure_noise, in_lead: shares in [0, 1].
    """
    zeros = round(pure_noise * count)
    leads = min(round(in_lead * count), count - zeros)
    uniform = torch.rand(count, generator=generator)
    kinds = torch.randperm(count, generator=generator)
    times = lead_in + uniform * (duration - lead_in)
    times = torch.where(kinds < zeros + leads, uniform * lead_in, times)
    return torch.where(kinds < zeros, torch.zeros_like(times), times)

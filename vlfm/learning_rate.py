"""The learning rate's course, the same for everything that is trained here."""

import math
from collections.abc import Callable


def warmup_cosine(steps: int, warmup: int) -> Callable[[int], float]:
    """Factor of the learning rate at a step: linear up over `warmup`, cosine down to 0 at `steps`."""
    return lambda step: min(1.0, (step + 1) / max(1, warmup)) * 0.5 * (1 + math.cos(math.pi * step / steps))

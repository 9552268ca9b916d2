"""The learning rate's course, the same for everything that is trained here."""

import math
from collections.abc import Callable


def warmup_cosine(steps: int, warmup: int) -> Callable[[int], float]:
    """Factor of the learning rate at a step: a cosine from 1 at step 0 to 0 at `steps`, times a line from 0 to 1 over
    the first `warmup` steps."""
    return lambda step: min(1.0, (step + 1) / max(1, warmup)) * 0.5 * (1 + math.cos(math.pi * step / steps))

"""A few of many, evenly spaced."""

from collections.abc import Sequence

import numpy as np


def spread(items: Sequence, limit: int) -> list:
    """At most `limit` of the items, evenly spaced, in order."""
    if len(items) <= limit:
        return list(items)
    return [items[index] for index in np.linspace(0, len(items) - 1, limit).round().astype(int)]

"""The instants that a video shows of a clip."""

import numpy as np


def rate_times(fps: float, duration: float) -> np.ndarray:
    """The instants `j / fps`, j = 1, 2, … up to T: what a video at that rate shows."""
    return np.arange(1, int(duration * fps + 1e-6) + 1) / fps


def shown_times(fps: float, duration: float, times: np.ndarray) -> np.ndarray:
    """The instants of a rate, in seconds; those before the first or after the last of a clip's `times` are moved to it.

    The frame on display at T was captured up to a frame before it; a path beyond its data means nothing (D7).
    """
    return np.clip(rate_times(fps, duration), times[0], times[-1])


def nearest_frames(instants: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Indices of the frames whose true times lie nearest to the instants, each frame once, in order."""
    nearest = np.abs(times[None, :] - instants[:, None]).argmin(1)
    return np.unique(nearest)

"""The basis of a run's clips."""

from vlfm import config as configs
from vlfm.flow.bases import Basis, make_basis


def clip_basis(config: configs.Config, duration: float, order: int | None = None) -> Basis:
    """The configured basis, `flow.basis`, for clips of `duration` seconds.

    Args:
        order: in place of `flow.order`.

    Raises:
        VLFMError: for numbers out of range.
    """
    flow = config.flow
    return make_basis(flow.basis, order or flow.order, duration, config.clips.num_frames_of(duration))

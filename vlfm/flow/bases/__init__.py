"""Bases of time, `g(t)` of the paper's Eq. (3): what a clip's path is a sum of.

A new basis is a module here and a line in `BASES`; CONTRIBUTING.md says where else it is named.
"""

from vlfm.errors import VLFMError
from vlfm.flow.bases.base import Basis
from vlfm.flow.bases.cosine import CosineBasis
from vlfm.flow.bases.legendre import LegendreBasis

BASES: dict[str, type[Basis]] = {"cosine": CosineBasis, "legendre": LegendreBasis}


def make_basis(name: str, order: int, duration: float, num_frames: int) -> Basis:
    """The basis of that name.

    order: s, number of functions. duration: T, seconds. num_frames: N of the nominal frames `τT/N`.

    Raises `VLFMError` for an unknown name and for numbers out of range.
    """
    if name not in BASES:
        raise VLFMError(f"unknown basis {name!r}; there are {', '.join(BASES)}")
    return BASES[name].of_frames(order, duration, num_frames)


__all__ = ["BASES", "Basis", "CosineBasis", "LegendreBasis", "make_basis"]

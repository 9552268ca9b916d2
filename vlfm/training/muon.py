"""Muon, whose orthogonalisation is in the precision that the device is fast in."""

import torch

from vlfm.precision import fast_bfloat16

# Of a matrix this many times as wide as high, or more, the iterations are cheaper in its Gram matrix than in itself.
WIDE = 2


def muon_class(device: torch.device) -> type[torch.optim.Optimizer]:
    """Muon of pytorch-optimizer; where bfloat16 is emulated, with Newton-Schulz iterations in float32.

    The package has them in bfloat16 always. A CPU without instructions for it takes thirty times as long then: nine
    tenths of a training step (AMD EPYC with AVX2, 768 × 768). In float32 they are still more work than the network of
    the demo, so those of wide matrices are taken in the Gram matrix: 25 products of d × d in place of 45 for d × 4d.
    """
    from pytorch_optimizer import Muon
    from pytorch_optimizer.optimizer.utils.matrix import (
        zero_power_via_gram_newton_schulz,
        zero_power_via_newton_schulz_5,
    )

    class MuonInFloat32(Muon):
        @staticmethod
        def _orthogonalize(group: dict, updates: list[torch.Tensor]) -> list[torch.Tensor]:
            how = {"num_steps": group["ns_steps"], "weights": group["ns_coeffs"], "dtype": torch.float32}

            def orthogonalized(matrix: torch.Tensor) -> torch.Tensor:
                if max(matrix.shape) >= WIDE * min(matrix.shape):
                    # It is begun anew on the way in half precision, which float32 does not need.
                    return zero_power_via_gram_newton_schulz(matrix, **how, reset_steps=())
                return zero_power_via_newton_schulz_5(matrix, **how)

            return [orthogonalized(update.flatten(1)) for update in updates]

    return Muon if fast_bfloat16(device) else MuonInFloat32

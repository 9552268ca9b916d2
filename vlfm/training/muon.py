"""Muon, whose orthogonalisation is in the precision that the device is fast in."""

import torch

from vlfm.precision import fast_bfloat16


def muon_class(device: torch.device) -> type[torch.optim.Optimizer]:
    """Muon of pytorch-optimizer; where bfloat16 is emulated, with Newton-Schulz iterations in float32.

    The package has them in bfloat16 always. A CPU without instructions for it takes thirty times as long then: nine
    tenths of a training step (AMD EPYC with AVX2, 768 × 768).
    """
    from pytorch_optimizer import Muon
    from pytorch_optimizer.optimizer.utils.matrix import zero_power_via_newton_schulz_5

    class MuonInFloat32(Muon):
        @staticmethod
        def _orthogonalize(group: dict, updates: list[torch.Tensor]) -> list[torch.Tensor]:
            how = {"num_steps": group["ns_steps"], "weights": group["ns_coeffs"], "dtype": torch.float32}
            return [zero_power_via_newton_schulz_5(update.flatten(1), **how) for update in updates]

    return Muon if fast_bfloat16(device) else MuonInFloat32

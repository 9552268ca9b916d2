"""Muon that knows of attention heads, in the precision that the device is fast in."""

import torch

from vlfm.precision import fast_bfloat16

# Of a matrix this many times as wide as high, or more, the iterations are cheaper in its Gram matrix than in itself.
WIDE = 2


def muon_class(device: torch.device) -> type[torch.optim.Optimizer]:
    """Muon of pytorch-optimizer with two changes to how it orthogonalises momentum.

    - **A head at a time.** Queries, keys and values of one attention head are a linear layer of their own, and so is
      what its output adds. Each is orthogonalised by itself: for 12 heads of 64, with a seventeenth of the products. A
      step of the demo takes 3.0 s in place of 5.4 s, and 300 steps teach it a little less (docs/experiments.md). A
      group of parameters says how: `split` is `by_rows`, `by_columns` or `whole` (see `VLFMTransformer.matrices`),
      `heads` their number.
    - **In float32 where bfloat16 is emulated.** The package has Newton-Schulz iterations in bfloat16 always, thirty
      times as slow on a CPU without instructions for it (two cores of an AMD EPYC with AVX2, 768 × 768). There wide
      matrices are taken in their Gram matrix: 25 products of d × d in place of 45 for d × 4d.
    """
    from pytorch_optimizer import Muon
    from pytorch_optimizer.optimizer.utils.matrix import (
        zero_power_via_gram_newton_schulz,
        zero_power_via_newton_schulz_5,
    )

    emulated = not fast_bfloat16(device)

    def orthogonalized(group: dict, matrices: torch.Tensor) -> torch.Tensor:
        """Of matrices (…, rows, columns), wider than they are high."""
        how = {"num_steps": group["ns_steps"], "weights": group["ns_coeffs"]}
        if emulated and matrices.shape[-1] >= WIDE * matrices.shape[-2]:
            # It is begun anew on the way in half precision, which float32 does not need.
            return zero_power_via_gram_newton_schulz(matrices, **how, dtype=torch.float32, reset_steps=())
        return zero_power_via_newton_schulz_5(matrices, **how, dtype=torch.float32 if emulated else torch.bfloat16)

    class MuonByHeads(Muon):
        @staticmethod
        def _orthogonalize(group: dict, updates: list[torch.Tensor]) -> list[torch.Tensor]:
            split, heads = group["split"], group["heads"]
            turned = [split == "by_columns" or (split == "whole" and each.shape[0] > each.shape[1]) for each in updates]
            wide = torch.stack([each.mT if turn else each for each, turn in zip(updates, turned, strict=True)])
            if split == "whole":
                made = orthogonalized(group, wide)
            else:
                made = orthogonalized(group, wide.unflatten(1, (heads, -1))).flatten(1, 2)
            return [each.mT if turn else each for each, turn in zip(made.unbind(), turned, strict=True)]

    return MuonByHeads

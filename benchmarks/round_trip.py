"""What inversion and regeneration lose: DDIM steps × fixed-point refinements × network precision × stored type.

    python benchmarks/round_trip.py [--results results] [--frames 48] [--depth 1] [--device cpu|cuda] [--out FILE.json]

Frames of a finished run, spread evenly over its clips, go through its embedded decoder: to noise or part of the way
(`inversion.depth`), rounded as the latent store rounds them, and back. The loss is the mean PSNR of the autoencoder
alone minus that of the round trip, both against the frames.
"""

import argparse
import itertools
import json
import sys
import time
import warnings
from pathlib import Path

import torch
from machine import machine

from vlfm.clips.shards import read_clips
from vlfm.decoders.embedded import EmbeddedDecoder
from vlfm.frames import psnr, to_tensor

STEPS = (10, 20, 50)
REFINE = (0, 1, 2, 3, 5)
NETWORK = ("float32", "bfloat16")
STORED = ("float16", "float32")


def main() -> None:
    """Run, print the table, and write the JSON record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=Path("results"), help="a finished run")
    parser.add_argument("--frames", type=int, default=48)
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS)
    parser.add_argument("--refine", type=int, nargs="+", default=REFINE)
    parser.add_argument("--depth", type=float, default=1.0, help="how far from picture to noise")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "round_trip.json")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    frames = some_frames(arguments.results / "clips", arguments.frames).to(device)
    record = run(arguments.results / "decoder", frames, arguments.steps, arguments.refine, arguments.depth)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    print(table(record))
    print(f"written to {arguments.out}", file=sys.stderr)


def some_frames(folder: Path, count: int) -> torch.Tensor:
    """That many frames (B, 3, H, W) in [−1, 1], evenly spread over the clips of all shards of one size."""
    clips = [to_tensor(clip.frames) for path in sorted(folder.glob("*.tar")) for clip in read_clips(path)]
    if not clips:
        raise SystemExit(f"no clips in {folder}; give the folder of a finished run with --results")
    frames = torch.cat([clip for clip in clips if clip.shape[1:] == clips[0].shape[1:]])
    return frames[torch.linspace(0, len(frames) - 1, min(count, len(frames))).round().long()]


@torch.inference_mode()
def run(folder: Path, frames: torch.Tensor, steps: list[int], refine: list[int], depth: float) -> dict:
    """Every combination, once each; the inversion of a row serves both stored types."""
    decoders = {
        name: EmbeddedDecoder.from_pretrained(folder, dtype=getattr(torch, name), depth=depth).to(frames.device)
        for name in NETWORK
    }
    alone = psnr(decoders["float32"].decode(decoders["float32"].encode(frames)), frames).mean().item()
    described, rows = machine(frames.device), []
    for decoder in decoders.values():
        decoder.steps, decoder.refine = 2, 0
        decoder.generate(decoder.invert(frames))  # the first call pays for choosing kernels
    for (name, decoder), count, again in itertools.product(decoders.items(), steps, refine):
        decoder.steps, decoder.refine = count, again
        inverting, latents = timed(lambda decoder=decoder: decoder.invert(frames), frames.device)
        for stored in STORED:
            kept = latents.to(getattr(torch, stored)).float()
            generating, back = timed(lambda decoder=decoder, kept=kept: decoder.generate(kept), frames.device)
            score = psnr(back, frames).mean().item()
            rows.append(
                {
                    "steps": count,
                    "refine": again,
                    "network": name,
                    "stored": stored,
                    "psnr": score,
                    "loss": alone - score,
                    "invert_seconds_per_frame": inverting / len(frames),
                    "generate_seconds_per_frame": generating / len(frames),
                }
            )
            print(json.dumps(rows[-1]), file=sys.stderr)
    return {
        "what": f"inversion and regeneration of {len(frames)} frames of {frames.shape[-1]}×{frames.shape[-2]} pixels",
        "machine": described,
        "depth": depth,
        "decoder_psnr": alone,
        "rows": rows,
    }


def timed(work, device: torch.device) -> tuple[float, torch.Tensor]:
    """Seconds of one call, with the device's queue drained on both sides, and what it returned."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start, result


def table(record: dict) -> str:
    """The record as Markdown: the loss in dB, and milliseconds to invert a frame."""
    cells = {(row["steps"], row["refine"], row["network"], row["stored"]): row for row in record["rows"]}
    columns = list(itertools.product(NETWORK, STORED))
    heads = ["steps", "refine", *(f"{network}, stored {stored}" for network, stored in columns)]
    heads += [f"ms/frame {network}" for network in NETWORK]
    lines = [
        f"PSNR lost to inversion, dB, of {record['decoder_psnr']:.2f} dB that the decoder alone reaches:",
        "",
        "| " + " | ".join(heads) + " |",
        "| --- " * len(heads) + "|",
    ]
    for steps, refine in dict.fromkeys((row["steps"], row["refine"]) for row in record["rows"]):
        losses = [f"{cells[steps, refine, *column]['loss']:.2f}" for column in columns]
        times = [1e3 * cells[steps, refine, network, STORED[0]]["invert_seconds_per_frame"] for network in NETWORK]
        lines.append("| " + " | ".join([str(steps), str(refine), *losses, *(f"{time:.0f}" for time in times)]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()

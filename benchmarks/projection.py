"""How fast a shard is projected: one matrix product against the step-by-step recurrence of the public HiPPO code.

    python benchmarks/projection.py [--clips 512] [--repeats 5] [--device cpu|cuda] [--out FILE.json]

The same latents, (clips, 48, 4, 64, 64) float32, order 16, bilinear LegS on both sides, so that the results can be
compared as well as the times; repeats are interleaved and medians reported. Two recurrences are timed:

- `public`: as the HiPPO repository's LegS module runs: inputs times B for all steps at once, then
  `c = A_k c + u_k` step by step by a batched product on (1, s, signals) views, every state kept and stacked.
- `lean`: the kindest reading of it: `c = F.linear(c, A_k) + B_k f_k`, only the last state kept.

Both run in groups of clips sized for memory, which is charged to neither. Machine rates (GEMM, copy) are the best
seen in the same process, so that the shares are of what the machine can do. The default method of the project is
`lstsq`: other weights, the same product, the same time.
"""

import argparse
import json
import math
import statistics
import sys
import time
import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from machine import machine

from vlfm.flow import hippo_legs
from vlfm.flow.bases import LegendreBasis
from vlfm.flow.projection import frame_times, project, projection_matrix

FRAMES, SHAPE, ORDER, METHOD = 48, (4, 64, 64), 16, "bilinear"


def main() -> None:
    """Run, print, and write the JSON record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--group", type=int, default=8, help="clips a group in the public recurrence")
    parser.add_argument("--lean-group", type=int, default=64, help="clips a group in the lean recurrence")
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    out = arguments.out or Path(__file__).parent / "results" / (
        "projection.json" if arguments.device == "cpu" else f"projection-{arguments.device}.json"
    )
    record = run(arguments.clips, arguments.repeats, torch.device(arguments.device), arguments)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    print(json.dumps(record, indent=2, ensure_ascii=False))
    print(f"written to {out}", file=sys.stderr)


@torch.inference_mode()
def run(clips: int, repeats: int, device: torch.device, arguments: argparse.Namespace) -> dict:
    """Time everything, interleaved; returns the record."""
    generator = torch.Generator(device).manual_seed(0)
    latents = torch.randn(clips, FRAMES, *SHAPE, generator=generator, device=device)
    weights = projection_matrix(FRAMES, LegendreBasis(ORDER, 1.0), METHOD)
    steps = [hippo_legs.legs_step(ORDER, k / FRAMES, (k + 1) / FRAMES, METHOD) for k in range(FRAMES)]
    stack_a = torch.stack([a for a, _ in steps]).to(device, torch.float32)
    stack_b = torch.stack([b for _, b in steps]).to(device, torch.float32)
    reused = project(latents, weights)
    small = weights.to(device, torch.float32).T.expand(clips, -1, -1)
    flat = latents.flatten(2)
    raw_out = reused.movedim(-1, 1).flatten(2)
    square = torch.randn(2048, 2048, generator=generator, device=device)
    block = latents[: max(1, clips // 4)]
    copied = torch.empty_like(block)

    works = {
        "project": lambda: project(latents, weights, out=reused),
        "project_fresh_memory": lambda: project(latents, weights),
        "product_alone": lambda: torch.bmm(small, flat, out=raw_out),
        "gemm": lambda: square @ square,
        "copy": lambda: copied.copy_(block),
        "lean": lambda: lean(latents, stack_a, stack_b, arguments.lean_group),
        "public": lambda: public(latents, stack_a, stack_b, arguments.group),
    }
    slow = {"lean", "public"}
    projected = works["project_fresh_memory"]().movedim(-1, 1).flatten(2).movedim(1, -1)
    seconds: dict[str, list[float]] = {name: [] for name in works}
    differences = {}
    for _ in range(repeats):
        for name, work in works.items():
            # Milliseconds are at the mercy of a shared machine's other work; minutes average it out by themselves.
            for _ in range(1 if name in slow else 9):
                taken, result = timed(work, device)
                seconds[name].append(taken)
                if name in slow and name not in differences:
                    differences[name] = float((result - projected).abs().max())
                del result
    median = {name: statistics.median(values) for name, values in seconds.items()}
    best = {name: min(values) for name, values in seconds.items()}

    positions = clips * math.prod(SHAPE)
    flops = 2 * positions * FRAMES * ORDER
    moved = 4 * positions * (FRAMES + ORDER)
    gemm = 2 * 2048**3 / best["gemm"]
    bandwidth = 2 * 4 * copied.numel() / best["copy"]

    def rates(name: str) -> dict:
        return {
            "seconds": median[name],
            "best_seconds": best[name],
            "all_seconds": seconds[name],
            "gflops": flops / median[name] / 1e9,
            "share_of_gemm_rate": flops / median[name] / gemm,
            "share_of_gemm_rate_at_best": flops / best[name] / gemm,
            "gbytes_per_second": moved / median[name] / 1e9,
            "share_of_copy_bandwidth": moved / median[name] / bandwidth,
            "share_of_copy_bandwidth_at_best": moved / best[name] / bandwidth,
        }

    return {
        "what": f"project {clips} clips of {(FRAMES, *SHAPE)} float32 at order {ORDER}, {METHOD}",
        "machine": machine(device),
        "repeats": repeats,
        "bytes_moved": moved,
        "flop": flops,
        "machine_gemm_gflops": gemm / 1e9,
        "machine_copy_gbytes_per_second": bandwidth / 1e9,
        # Below this many operations a byte the memory, not the arithmetic, sets the pace.
        "flop_per_byte": flops / moved,
        "flop_per_byte_needed_to_be_bound_by_arithmetic": gemm / bandwidth,
        "project": rates("project"),
        "project_fresh_memory": rates("project_fresh_memory"),
        "product_alone": rates("product_alone"),
        "recurrence_public": {
            "seconds": median["public"],
            "all_seconds": seconds["public"],
            "clips_a_group": arguments.group,
            "largest_difference": differences["public"],
        },
        "recurrence_lean": {
            "seconds": median["lean"],
            "all_seconds": seconds["lean"],
            "clips_a_group": arguments.lean_group,
            "largest_difference": differences["lean"],
        },
        "times_faster_than_public": median["public"] / median["project"],
        "times_faster_than_lean": median["lean"] / median["project"],
        "times_faster_than_public_in_fresh_memory": median["public"] / median["project_fresh_memory"],
        "times_faster_than_lean_in_fresh_memory": median["lean"] / median["project_fresh_memory"],
        "rms_error_at_the_frames": accuracy(),
    }


def public(latents: torch.Tensor, stack_a: torch.Tensor, stack_b: torch.Tensor, group: int) -> torch.Tensor:
    """The public code's order of operations, all states kept: (clips, positions, s)."""
    finals = []
    for part in latents.flatten(2).split(group):
        inputs = part.transpose(0, 1).reshape(FRAMES, -1)  # (length, signals), the layout that code expects
        driven = inputs.unsqueeze(-1) * stack_b[:, None]
        state = torch.zeros_like(driven[0])
        states = []
        for transition, drive in zip(stack_a.unbind(0), driven.unbind(0), strict=True):
            columns = state.unsqueeze(0).permute(0, 2, 1)
            state = (transition.unsqueeze(0) @ columns).permute(0, 2, 1)[0] + drive
            states.append(state)
        history = torch.stack(states)
        finals.append(history[-1].view(len(part), -1, ORDER).clone())
    return torch.cat(finals)


def lean(latents: torch.Tensor, stack_a: torch.Tensor, stack_b: torch.Tensor, group: int) -> torch.Tensor:
    """The recurrence with nothing kept but the state: (clips, positions, s)."""
    finals = []
    for part in latents.flatten(2).split(group):
        state = part.new_zeros(len(part), part.shape[2], ORDER)
        for k in range(FRAMES):
            state = F.linear(state, stack_a[k]) + stack_b[k] * part[:, k, :, None]
        finals.append(state)
    return torch.cat(finals)


def timed(work, device: torch.device) -> tuple[float, torch.Tensor]:
    """Seconds of one call, with the device's queue drained on both sides, and what it returned."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def accuracy() -> dict:
    """D1's table: RMS error at the frames of each method on four smooth signals, float64.

    `zoh_public` takes the public code's `log((τ+1)/τ)`. Combinations that `projection_matrix` refuses (s > N) are
    computed by the bare recurrence and by the pseudo-inverse.
    """
    table = {}
    for frames, order in ((8, 16), (24, 8), (24, 32), (48, 16), (48, 64)):
        t = frame_times(frames, 1.0)
        u = torch.stack(
            [
                torch.sin(2 * math.pi * t),
                torch.cos(3 * t),
                torch.exp(-t) * torch.sin(5 * t),
                1 / (1 + 4 * (t - 0.4) ** 2),
            ]
        ).T
        g = LegendreBasis(order, 1.0).evaluate(t)
        row = {}
        for method in ("euler", "backward", "bilinear", "zoh", "zoh_public", "lstsq"):
            if method == "lstsq":
                h = torch.linalg.pinv(g) @ u
            else:
                h = torch.zeros(order, 4, dtype=torch.float64)
                for k in range(frames):
                    shift = method == "zoh_public"
                    a, b = hippo_legs.legs_step(
                        order, (k + shift) / frames, (k + 1 + shift) / frames, method.split("_")[0]
                    )
                    h = a @ h + b[:, None] * u[k]
            row[method] = float(f"{float((g @ h - u).square().mean().sqrt()):.3g}")
        table[f"N={frames}, s={order}"] = row
    return table


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()

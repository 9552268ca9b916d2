"""Which functions of time carry a clip best: each basis at equal numbers of coefficients, and for clips of each length.

    python benchmarks/basis.py [--seconds 1 2 4 8] [--clips 6] [--out FILE.json]

Shots of the demo's sources (96×96, 24 frames a second), moving digits (48×48) and generated scenes (96×96), the only
ones of any length, go through patches in closed form, fitted on them; a path is drawn through their latents by least
squares and decoded. Scored is the PSNR at the frames, all given, and at the frames between, every second one given.
Beside the two bases of the pipeline stand cubic B-splines (short polynomials joined smoothly), the Fourier series, the
functions learnt from the other clips' latents (their principal components over the frames), and each basis of the
pipeline on short pieces of the clip, not joined: is one long path better than several short ones?

An order is a share of the frames, so that a row of one length and a row of another spend as many coefficients a second.
Lengths without two shots are left out. A markdown table of it is written beside the record.
"""

import argparse
import csv
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from machine import machine
from scipy.interpolate import BSpline
from training import ROOT

from vlfm import config as configs
from vlfm.clips.decode import decode_shard
from vlfm.clips.index.build import build_index
from vlfm.clips.moving_digits.videos import make_digits
from vlfm.clips.shards import DecodedClip, read_clips
from vlfm.decoders.patch_autoencoder import PatchAutoencoder
from vlfm.errors import VLFMError
from vlfm.experiments.shared.scene import scene
from vlfm.flow.bases import BASES, make_basis
from vlfm.frames import psnr, to_tensor
from vlfm.spread import spread
from vlfm.storage.files import read_json

PIECE = 0.5  # seconds of one of several short paths
SHARES = {"at": (1 / 6, 1 / 3, 1 / 2, 2 / 3, 1), "between": (1 / 6, 1 / 4, 1 / 3, 1 / 2)}
DIGITS = {"fps": 24, "size": 48, "patch": 8}
Design = Callable[[np.ndarray, int], np.ndarray]  # times (K,), order → values (K, order)


def main() -> None:
    """Run, print, and write the JSON record and the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--clips", type=int, default=6, help="of each length and source, at most")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "basis.json")
    arguments = parser.parse_args()
    rows = []
    for seconds in arguments.seconds:
        for data in ("demo", "digits", "scenes"):
            with tempfile.TemporaryDirectory() as folder:
                clips, patch = decoded(data, seconds, Path(folder), arguments.clips)
            if len(clips) < 2:
                print(f"{data}: no two shots of {seconds:g} s")
                continue
            rows += measure(data, seconds, clips, patch)
    record = {"machine": machine(torch.device("cpu")), "arguments": {"clips": arguments.clips}, "rows": rows}
    arguments.out.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    text = markdown(rows)
    arguments.out.with_suffix(".md").write_text(text)
    print(text)


def decoded(data: str, seconds: float, folder: Path, count: int) -> tuple[list, int]:
    """Clips of a length, through the ordinary index and decoding, and the side of a patch."""
    config = configs.load(ROOT / "config.yaml")
    if data == "scenes":
        times = np.arange(1, round(seconds * config.clips.fps) + 1) / config.clips.fps
        pictures = [scene(seed).frames(times, config.clips.size) for seed in range(count)]
        shots = [DecodedClip(f"scene {seed}", frames, times, "", {}) for seed, frames in enumerate(pictures)]
        return shots, config.decoder.embedded.patch
    change: dict = {"duration": seconds, "shard_size": 1000, "max_bad": 1.0}
    if data == "demo":
        sources = dict.fromkeys(row["source"] for row in csv.DictReader((ROOT / "vlfm/clips/demo.csv").open()))
        index = folder / "shots.csv"
        index.write_text("source,start,end,caption\n" + "".join(f"{source},,,a shot\n" for source in sources))
        patch = config.decoder.embedded.patch
    else:
        index, patch = folder / "digits" / "digits.csv", DIGITS["patch"]
        change |= {"fps": DIGITS["fps"], "size": DIGITS["size"], "decoder": "ffmpeg"}
    clips = config.clips.model_copy(update=change | {"index": str(index)})
    try:
        if data == "digits":
            few = clips.digits.model_copy(update={"clips": 1, "test_clips": 1})
            clips = clips.model_copy(update={"digits": few})
            configs.Clips.model_validate(clips.model_dump() | {"index": "moving-digits"})  # they leave the picture
            make_digits(clips, config.seed, index)
        build_index(clips, folder / "manifest.parquet", folder / "index.parquet", folder / "shards.json")
    except (VLFMError, ValueError) as error:
        print(f"{data}: {error}")
        return [], patch
    found = []
    for name in read_json(folder / "shards.json"):
        decode_shard(
            clips,
            folder / "manifest.parquet",
            int(name),
            folder / f"{name}.tar",
            folder / f"{name}.parquet",
            folder / "sources",
        )
        found += list(read_clips(folder / f"{name}.tar"))
    return spread(found, count), patch


def measure(data: str, seconds: float, clips: list, patch: int) -> list[dict]:
    """A row for each basis, order and place: mean PSNR over the clips."""
    frames = [to_tensor(clip.frames) for clip in clips]
    autoencoder = PatchAutoencoder.fit(torch.cat(frames), patch, 16)
    latents = [autoencoder.encode(each) for each in frames]
    count = len(frames[0])
    ceiling = mean(autoencoder, latents, frames, slice(None))
    pieces = max(1, round(seconds / PIECE))
    designs: dict[str, Design] = {name: basis(name, seconds, count) for name in BASES}
    designs["cubic B-spline"] = splines(seconds)
    designs["Fourier"] = fourier(seconds)
    if pieces > 1:
        designs |= {
            f"{name}, pieces of {PIECE:g} s": on_pieces(basis(name, PIECE, count // pieces), pieces) for name in BASES
        }
    # A clip's own latents must not have been learnt from.
    learnt = [principal(latents[:index] + latents[index + 1 :]) for index in range(len(latents))]
    each = {name: [design] * len(clips) for name, design in designs.items()} | {"learnt": learnt}
    rows = []
    for place, shares in SHARES.items():
        for name, of_clips in each.items():
            for share in shares:
                order = round(share * count)
                if "pieces" in name and order % pieces:
                    continue
                made = []
                for clip, u, design in zip(clips, latents, of_clips, strict=True):
                    times = clip.times
                    given = np.arange(count) if place == "at" else np.arange(0, count, 2)
                    made.append(fitted(design, times, given, order, u))
                chosen = slice(None) if place == "at" else slice(1, count - 1, 2)
                rows.append(
                    {
                        "data": data,
                        "seconds": seconds,
                        "frames": count,
                        "clips": len(clips),
                        "place": place,
                        "basis": name,
                        "order": order,
                        "psnr": mean(autoencoder, made, frames, chosen),
                        "decoder": ceiling,
                    }
                )
    lines = [line(clip.times, u) for clip, u in zip(clips, latents, strict=True)]
    rows.append(
        rows[-1]
        | {
            "place": "between",
            "basis": "straight line",
            "order": 0,
            "psnr": mean(autoencoder, lines, frames, slice(1, count - 1, 2)),
        }
    )
    return rows


def basis(name: str, seconds: float, count: int) -> Design:
    """A basis of the pipeline."""
    return lambda times, order: make_basis(name, order, seconds, count).evaluate(torch.from_numpy(times)).numpy()


def splines(seconds: float) -> Design:
    """Cubic B-splines on even knots over [0, T]; of lower degree where there are fewer than four."""

    def design(times: np.ndarray, order: int) -> np.ndarray:
        degree = min(3, order - 1)
        inner = np.linspace(0, seconds, order - degree + 1)
        knots = np.concatenate([[0] * degree, inner, [seconds] * degree])
        return BSpline.design_matrix(np.clip(times, 0, seconds), knots, degree).toarray()

    return design


def fourier(seconds: float) -> Design:
    """1, and cosines and sines of whole waves in [0, T]: HiPPO's Fourier form."""

    def design(times: np.ndarray, order: int) -> np.ndarray:
        waves = (np.arange(order) + 1) // 2
        phase = 2 * np.pi * waves * times[:, None] / seconds
        odd = np.arange(order) % 2 == 1
        return np.where(odd, np.cos(phase), np.where(waves > 0, np.sin(phase), 1.0))

    return design


def principal(latents: list[torch.Tensor]) -> Design:
    """Principal components over the frames of the latents given; known at the frames alone, here told by their rank."""
    rows = torch.cat([u.flatten(1).T for u in latents]).double()  # a row: one latent number over time
    components = torch.linalg.eigh(rows.T @ rows).eigenvectors.flip(1).numpy()
    count = len(components)

    def design(times: np.ndarray, order: int) -> np.ndarray:
        chosen = np.arange(count) if len(times) == count else np.arange(0, count, 2)
        return components[chosen, :order]

    return design


def on_pieces(piece: Design, pieces: int) -> Design:
    """The same basis on each of several equal pieces, not joined."""

    def design(times: np.ndarray, order: int) -> np.ndarray:
        each = order // pieces
        which = np.clip(np.ceil(times / PIECE - 1e-6).astype(int) - 1, 0, pieces - 1)
        values = piece(times - which * PIECE, each)
        whole = np.zeros((len(times), order))
        for row, index in enumerate(which):
            whole[row, index * each : (index + 1) * each] = values[row]
        return whole

    return design


def fitted(design: Design, times: np.ndarray, given: np.ndarray, order: int, latents: torch.Tensor) -> torch.Tensor:
    """Latents at all frames of the path through the given ones, by least squares (the shortest where it is open)."""
    weights = design(times, order) @ np.linalg.pinv(design(times[given], order))
    return torch.einsum("kn,nchw->kchw", torch.from_numpy(weights).float(), latents[given])


def line(times: np.ndarray, latents: torch.Tensor) -> torch.Tensor:
    """Straight lines between every second frame."""
    given = np.arange(0, len(times), 2)
    weights = np.stack([np.interp(times, times[given], row) for row in np.eye(len(given))], -1)
    return torch.einsum("kn,nchw->kchw", torch.from_numpy(weights).float(), latents[given])


def mean(autoencoder: PatchAutoencoder, latents: list, frames: list, chosen: slice) -> float:
    """Mean PSNR over the clips, dB."""
    return round(
        float(
            np.mean(
                [
                    psnr(autoencoder.decode(u[chosen]).clamp(-1, 1), x[chosen]).mean()
                    for u, x in zip(latents, frames, strict=True)
                ]
            )
        ),
        2,
    )


def markdown(rows: list[dict]) -> str:
    """One table for each data set, length and place: a line a basis, a column an order."""
    texts = []
    for key in dict.fromkeys((row["data"], row["seconds"], row["place"]) for row in rows):
        here = [row for row in rows if (row["data"], row["seconds"], row["place"]) == key]
        data, seconds, place = key
        orders = sorted({row["order"] for row in here if row["order"]})
        where = "at the frames" if place == "at" else "between them, every second one given"
        about = here[0]
        title = (
            f"{data}, {seconds:g} s, {about['frames']} frames, {about['clips']} clips, {where}; "
            f"decoder {about['decoder']:.2f} dB"
        )
        lines = []
        for name in dict.fromkeys(row["basis"] for row in here):
            found = {row["order"]: row["psnr"] for row in here if row["basis"] == name}
            if 0 in found:
                title += f"; straight line {found[0]:.2f} dB"
                continue
            lines.append([name, *(f"{found[order]:.2f}" if order in found else "" for order in orders)])
        texts.append(f"{title}\n\n" + table(["s", *map(str, orders)], lines))
    return "\n\n".join(texts) + "\n"


def table(columns: list[str], lines: list[list[str]]) -> str:
    """A markdown table."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (columns, ["---"] * len(columns), *lines))


if __name__ == "__main__":
    main()

"""The theory page: the paper's lemmas and theorems measured on a run's own latents, decoder and model.

Each measurement is a function that returns rows, which are written as CSV, drawn (`vlfm.evaluation.plots`) and put
into words (`vlfm.evaluation.theory_page`). The mathematics is in `vlfm.flow.theory`.
"""

import csv
import inspect
import io
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vlfm import config as configs
from vlfm.artifacts import progress, write_bytes, write_json
from vlfm.clips.shards import read_clips
from vlfm.errors import VLFMError
from vlfm.evaluation import plots
from vlfm.evaluation.buckets import read_buckets
from vlfm.evaluation.render import clip_noise
from vlfm.evaluation.theory_page import describe, page, plain
from vlfm.flow import theory
from vlfm.flow.legendre import LegendreBasis
from vlfm.flow.path import VideoLatentPath
from vlfm.flow.projection import METHODS, ProjectionWarning, project, projection_matrix, reconstruct
from vlfm.flow.schedules import SCHEDULES, make_schedule
from vlfm.latents import inversion
from vlfm.latents.decoder import VisualDecoder
from vlfm.latents.embedded import EmbeddedDecoder
from vlfm.latents.frames import to_tensor
from vlfm.latents.load import load_decoder
from vlfm.latents.store import LatentStore
from vlfm.model.flow_model import FlowModel

# Bounds on the work, whatever the size of the run.
MAX_CLIPS = 64
CLOSED_FORM_CLIPS = 8
PICTURE_CLIPS = 3
LIPSCHITZ_FRAMES = 8
# Frames at a time through the generator with gradients, whose every DDIM step stays in memory.
GRADIENT_FRAMES = 4
CLIMB = 6
SIZES = (0.01, 0.1, 0.5)
PERTURBATIONS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
FACTORS = (2, 3)


@dataclass(frozen=True)
class ClipGroup:
    """Clips whose frames lie at the same times (to a nanosecond), B of them, float64.

    Attributes:
        clip_ids: B names.
        times: (N,), seconds.
        latents: u, (B, N, C, h, w), inverted.
        autoencoder: the same frames through the autoencoder alone, of the same shape.
        tokens: (B, L, D) float32. mask: (B, L).
        captions: B texts.
    """

    clip_ids: list[str]
    times: Tensor
    latents: Tensor
    autoencoder: Tensor
    tokens: Tensor
    mask: Tensor
    captions: list[str]

    def of(self, kind: str) -> Tensor:
        """The latents called `inverted` or `autoencoder`."""
        return self.latents if kind == "inverted" else self.autoencoder


KINDS = ("inverted", "autoencoder")


def load_groups(results: Path, shards: list[str], decoder: VisualDecoder, limit: int = MAX_CLIPS) -> list[ClipGroup]:
    """At most `limit` clips of the run, the first of the stores, grouped by the times of their frames.

    Raises:
        VLFMError: if there is no clip with finite latents.
    """
    found: dict[bytes, list[tuple]] = {}
    left = limit
    for shard in shards:
        if not left:
            break
        store = LatentStore(results / "latents" / f"{shard}.zarr")
        wanted = set(store.clip_ids[:left])
        left -= len(wanted)
        for clip in read_clips(results / "clips" / f"{shard}.tar"):
            if clip.clip_id not in wanted:
                continue
            entry = store[clip.clip_id]
            if not np.isfinite(entry.latents).all():
                print(f"clip {clip.clip_id} is left out: its latents are not finite; invert it again")
                continue
            encoded = decoder.encode(to_tensor(clip.frames)).cpu()
            found.setdefault(entry.times.round(9).tobytes(), []).append((entry, encoded))
    if not found:
        raise VLFMError(f"no clip with finite latents in {results / 'latents'}; run `snakemake --cores all` again")
    return [
        ClipGroup(
            clip_ids=[entry.clip_id for entry, _ in members],
            times=torch.from_numpy(members[0][0].times.copy()),
            latents=torch.from_numpy(np.stack([entry.latents for entry, _ in members])).double(),
            autoencoder=torch.stack([encoded for _, encoded in members]).double(),
            tokens=torch.from_numpy(np.stack([entry.tokens for entry, _ in members])),
            mask=torch.from_numpy(np.stack([entry.mask for entry, _ in members])),
            captions=[entry.caption for entry, _ in members],
        )
        for members in found.values()
    ]


# ------------------------------------------------------------------------------------- measurements


def measure_projection(groups: list[ClipGroup], duration: float) -> list[dict]:
    """Lemma F.1: error at the frames for every kind of latents, method and order 1 … N.

    `error`: RMS over everything, in latent units; `relative`: to the RMS of the latents. What a method refuses,
    or what is not finite, is NaN with the reason in `note`.
    """
    rows = []
    for kind in KINDS:
        size = _size(groups, kind)
        for method in reversed(METHODS):
            for order in range(1, len(groups[0].times) + 1):
                error, note = _pooled(
                    groups,
                    lambda group, kind=kind, order=order, method=method: theory.frame_error(
                        group.of(kind), order, duration, method, times=group.times
                    ),
                )
                rows.append(
                    {
                        "latents": kind,
                        "method": method,
                        "order": order,
                        "error": error,
                        "relative": error / size,
                        "clips": count_clips(groups),
                        "note": note,
                    }
                )
    return rows


def measure_held_out(groups: list[ClipGroup], duration: float, every: int = 2) -> list[dict]:
    """Lemma 5.2: every `every`-th frame is given, the error is at the others, least squares of order 1 … N.

    path: `polynomial`, `hybrid`, or `linear`, the straight line between the given frames (which has no order).
    `error`, `relative` as in `measure_projection`; `at_frames`: the polynomial's relative error at the given
    frames.
    """
    rows = []
    for kind in KINDS:
        size = _size(groups, kind)

        def row(path: str, order: int, kind: str = kind, size: float = size) -> dict:
            hybrid = "polynomial" if path == "polynomial" else "hybrid"
            error, note = _pooled(
                groups,
                lambda group: theory.held_out_error(
                    group.of(kind), order, duration, every, times=group.times, kind=hybrid
                ),
            )
            given, _ = _pooled(
                groups,
                lambda group: theory.frame_error(
                    group.of(kind)[:, theory.every_nth(len(group.times), every)],
                    order,
                    duration,
                    times=group.times[theory.every_nth(len(group.times), every)],
                ),
            )
            return {
                "latents": kind,
                "path": path,
                "order": order,
                "error": error,
                "relative": error / size,
                "at_frames": given / size if path == "polynomial" else 0.0,
                "clips": count_clips(groups),
                "note": note,
            }

        orders = range(1, len(groups[0].times) + 1)
        rows += [row(path, order) for path in ("polynomial", "hybrid") for order in orders]
        # One constant and the straight line through what it leaves: a straight line.
        rows.append(row("linear", 1))
    return rows


def best_order(rows: list[dict], kind: str, path: str = "polynomial") -> int:
    """The order with the smallest error between the given frames."""
    chosen = [row for row in rows if row["latents"] == kind and row["path"] == path and np.isfinite(row["error"])]
    if not chosen:
        raise VLFMError("no order could be measured between the frames; give clips of at least four frames")
    return min(chosen, key=lambda row: row["error"])["order"]


def measure_timescale(groups: list[ClipGroup], duration: float) -> list[dict]:
    """Lemma 5.4: relative change of H, `||H' − H|| / ||H||`, RMS over clips.

    experiment: `faster`, the same frames played `factor` times faster; `sampled`, the same motion from every
    `factor`-th frame.
    """
    rows = []
    for experiment, kind, measure in (
        ("faster", "inverted", theory.dilation_error),
        ("sampled", "inverted", theory.timescale_error),
        ("sampled", "autoencoder", theory.timescale_error),
    ):
        for method in ("lstsq", "zoh", "bilinear"):
            for factor in FACTORS:
                for order in range(1, len(groups[0].times) + 1):
                    change, note = _pooled(
                        groups,
                        lambda group, measure=measure, kind=kind, order=order, factor=factor, method=method: measure(
                            group.of(kind), order, duration, factor, method, times=group.times
                        ),
                    )
                    rows.append(
                        {
                            "experiment": experiment,
                            "latents": kind,
                            "method": method,
                            "factor": factor,
                            "order": order,
                            "change": change,
                            "clips": count_clips(groups),
                            "note": note,
                        }
                    )
    return rows


def measure_closed_form(
    config: configs.Config, groups: list[ClipGroup], predicted: list[Tensor], scale: float
) -> list[dict]:
    """Theorem 4.1: the objective (Definition D.9) at the closed-form field, at that of `H + ΔH`, at the network's.

    predicted: Ĥ of each group's clips, in latent units. scale: the RMS of latents the flow runs in units of.
    `perturbation`: `||ΔH|| / ||H||`. `loss`: per second squared, in those units. `relative_loss`: divided by the
    mean square of the target.
    """
    rows = []
    generator = torch.Generator().manual_seed(config.seed)
    draws = []
    left = CLOSED_FORM_CLIPS
    for group, guess in zip(groups, predicted, strict=True):
        latents = group.latents[:left] / scale
        left -= len(latents)
        if len(latents):
            coefficients = project(latents, projection_matrix(group.times, config.flow.order, config.clips.longest))
            draws.append(
                (
                    coefficients,
                    _randn(coefficients[..., 0].shape, generator),
                    torch.rand(len(latents), 32, generator=generator, dtype=torch.float64) * config.clips.longest,
                    _randn(coefficients.shape, generator),
                    guess[: len(latents)] / scale - coefficients,
                )
            )
    for name in SCHEDULES:
        path = _path(config, config.flow.order, name)

        def row(field: str, change: Callable[[tuple], Tensor | float], path=path, name=name) -> dict:
            loss = energy = moved = size = clips = 0.0
            for draw in draws:
                coefficients, z, t = draw[:3]
                step = change(draw)
                count = len(coefficients)
                loss += count * float(theory.closed_form_loss(path, coefficients, z, t, step))
                energy += count * float(path.sample(coefficients, z, t).velocity.square().mean())
                moved += float(torch.as_tensor(step).square().sum())
                size += float(coefficients.square().sum())
                clips += count
            return {
                "schedule": name,
                "field": field,
                "perturbation": (moved / size) ** 0.5,
                "loss": loss / clips,
                "relative_loss": loss / energy,
                "clips": int(clips),
            }

        rows.append(row("closed form", lambda draw: 0.0))
        for size in PERTURBATIONS:
            rows.append(row("perturbed", lambda draw, size=size: size * draw[3] * draw[0].norm() / draw[3].norm()))
        rows.append(row("network", lambda draw: draw[4]))
    return rows


def measure_lipschitz(
    config: configs.Config,
    groups: list[ClipGroup],
    predicted: list[Tensor],
    decoder: VisualDecoder,
) -> list[dict]:
    """Assumption C.8: quotients `||D(u+δ) − D(u)|| / ||δ||` at real frames; each is a lower bound of L0.

    map: `decoder`, latents u → frames, or `autoencoder`, its latents → frames. direction: `worst found` (climbed
    with gradients, where the decoder has them), `random`, `next frame`, `projection error` and `network error`.
    size: ‖δ‖/‖u‖. `grid` tells the fixed sizes from the error's own size.
    """
    frames = _spread(groups, LIPSCHITZ_FRAMES)
    points = torch.stack([groups[g].latents[c, n] for g, c, n in frames]).float()
    lengths = points.flatten(1).norm(dim=1)
    generator = torch.Generator().manual_seed(config.seed)
    random = torch.randn(points.shape, generator=generator)
    errors = _path_errors(config, groups, predicted)
    directions = {
        "random": random,
        "next frame": torch.stack([groups[g].latents[c, n + 1] - groups[g].latents[c, n] for g, c, n in frames]),
        "projection error": torch.stack([errors[g][0][c, n] for g, c, n in frames]),
        "network error": torch.stack([errors[g][1][c, n] for g, c, n in frames]),
    }
    captions = [groups[g].captions[c] for g, c, _ in frames]

    def generate(latents: Tensor) -> Tensor:
        return decoder.generate(latents, captions).cpu()

    differentiable = with_gradients(decoder)
    if differentiable is not None:
        climbed = [
            theory.steepest_step(
                differentiable,
                part.to(_device(decoder)),
                SIZES[0] * (_unit(start) * _shaped(length, start)).to(_device(decoder)),
                CLIMB,
            )[0].cpu()
            for part, start, length in zip(
                points.split(GRADIENT_FRAMES),
                random.split(GRADIENT_FRAMES),
                lengths.split(GRADIENT_FRAMES),
                strict=True,
            )
        ]
        directions = {"worst found": torch.cat(climbed), **directions}
    base = generate(points)
    rows = []

    def add(map_: str, direction: str, sizes: Tensor, quotients: Tensor, grid: bool) -> None:
        for (g, c, n), size, quotient in zip(frames, sizes.tolist(), quotients.tolist(), strict=True):
            rows.append(
                {
                    "map": map_,
                    "direction": direction,
                    "size": size,
                    "grid": grid,
                    "quotient": quotient,
                    "clip_id": groups[g].clip_ids[c],
                    "frame": n + 1,
                    "note": "" if np.isfinite(quotient) else "there is no error in this direction",
                }
            )

    for direction, steps in directions.items():
        own = steps.float().flatten(1).norm(dim=1) / lengths
        scales = [(torch.full_like(own, size), True) for size in SIZES]
        if direction in ("next frame", "projection error", "network error"):
            scales.append((own, False))
        for sizes, grid in scales:
            # An error that is nothing but rounding has no direction.
            sizes = torch.where(own > 1e-6, sizes, torch.full_like(sizes, torch.nan))
            delta = (_unit(steps.float()) * _shaped(sizes * lengths, steps)).nan_to_num()
            quotients = theory.lipschitz_quotient(generate, points, delta, base)
            add("decoder", direction, sizes, quotients, grid)
    encoded = torch.stack([groups[g].autoencoder[c, n] for g, c, n in frames]).float()

    def decode(latents: Tensor) -> Tensor:
        return decoder.decode(latents).cpu()

    base = decode(encoded)
    for size in SIZES:
        delta = size * _unit(random) * _shaped(encoded.flatten(1).norm(dim=1), random)
        quotients = theory.lipschitz_quotient(decode, encoded, delta, base)
        add("autoencoder", "random", torch.full_like(lengths, size), quotients, True)
    return rows


def with_gradients(decoder: VisualDecoder) -> Callable[[Tensor], Tensor] | None:
    """`decoder.generate` such that autograd goes through it, or None for a decoder where it cannot."""
    if not isinstance(decoder, EmbeddedDecoder):
        return None
    # `generate` of a decoder runs without gradients: this is the same walk, unwrapped.
    walk = inspect.unwrap(inversion.generate)

    def generate(latents: Tensor) -> Tensor:
        start = walk(decoder.predict_noise, latents, decoder.scheduler, decoder.steps)
        return decoder.autoencoder.decode(start).clamp(-1, 1)

    return generate


def measure_budget(
    config: configs.Config,
    groups: list[ClipGroup],
    predicted: list[Tensor],
    scale: float,
    sparse_order: int,
    decoder: VisualDecoder,
    largest_quotient: float,
    pictures: int = PICTURE_CLIPS,
) -> list[dict]:
    """Theorem 5.3 frame by frame: ε0 … ε3, their sum and the error they bound, as norms over a latent.

    observed: `every frame`, the run as it is, where ε3 is 0, since no truth is known between the frames; and
    `every 2nd frame`, a path of order `sparse_order` from half the frames, scored at all of them. The network saw
    every frame; its own error, cut to that order, is carried over to the sparse path.
    noise_paper: ε2 under the paper's schedule. picture: `||D(ψ) − D(u)||` on `pictures` clips, NaN on the
    others; picture_bound: `largest_quotient` times the sum. ψ is the readout `sample`, noise included.
    """
    rows = []
    duration = config.clips.longest
    shown = {(g, c) for g, c, _ in _spread(groups, pictures)}

    def generate(group: ClipGroup, chosen: list[int], latents: Tensor) -> Tensor:
        """Latents (clips, K, C, h, w) of the chosen clips → frames (clips, K, 3, H, W)."""
        captions = [group.captions[c] for c in chosen for _ in range(latents.shape[1])]
        return decoder.generate(latents.flatten(0, 1).float(), captions).cpu().unflatten(0, latents.shape[:2])

    for g, (group, guess) in enumerate(zip(groups, predicted, strict=True)):
        count = len(group.times)
        shape = group.latents.shape[2:]
        z = scale * torch.stack([clip_noise(name, config.seed, shape) for name in group.clip_ids]).double()
        full = project(group.latents, projection_matrix(group.times, config.flow.order, duration))
        chosen = [c for c in range(len(group.clip_ids)) if (g, c) in shown]
        if chosen:
            truth = generate(group, chosen, group.latents[chosen])
        half = theory.every_nth(count, 2)
        for observed, mask, order in (
            ("every frame", torch.ones(count, dtype=torch.bool), config.flow.order),
            ("every 2nd frame", half, min(sparse_order, config.flow.order)),
        ):
            if observed == "every frame":
                prediction = guess
            else:
                weights = projection_matrix(group.times[mask], order, duration)
                prediction = project(group.latents[:, mask], weights) + (guess - full)[..., :order]
            path = _path(config, order, config.flow.schedule)
            budget = theory.error_budget(group.latents, mask, path, z, prediction, group.times)
            paper = _path(config, order, "paper").schedule.sigma(budget.times)[0]
            noise_paper = paper * z.flatten(1).norm(dim=1)[:, None]
            first = count - len(budget.times)
            picture = torch.full(budget.total.shape, torch.nan, dtype=torch.float64)
            if chosen:
                sigma = path.schedule.sigma(budget.times)[0]
                psi = reconstruct(prediction[chosen], path.basis.evaluate(budget.times)[None])
                psi = psi + sigma.reshape(1, -1, *(1,) * len(shape)) * z[chosen, None]
                made = generate(group, chosen, psi)
                picture[chosen] = (made - truth[:, first:]).double().flatten(2).norm(dim=2)
            for c, name in enumerate(group.clip_ids):
                for k, time in enumerate(budget.times.tolist()):
                    bound = float(budget.bound[c, k])
                    rows.append(
                        {
                            "observed": observed,
                            "order": order,
                            "clip_id": name,
                            "frame": first + k + 1,
                            "seconds": time,
                            "network": float(budget.network[c, k]),
                            "projection": float(budget.projection[c, k]),
                            "noise": float(budget.noise[c, k]),
                            "interpolation": float(budget.interpolation[c, k]),
                            "bound": bound,
                            "total": float(budget.total[c, k]),
                            "latent": float(group.latents[c, first + k].norm()),
                            "noise_paper": float(noise_paper[c, k]),
                            "picture": float(picture[c, k]),
                            "picture_bound": bound * largest_quotient if c in chosen else torch.nan,
                        }
                    )
    # The panels are drawn in the order of the rows.
    return sorted(rows, key=lambda row: row["observed"] != "every frame")


def predict_coefficients(config: configs.Config, groups: list[ClipGroup], model: FlowModel) -> list[Tensor]:
    """Ĥ of every clip from its caption, (B, C, h, w, s) a group: the polynomial through what the model renders."""
    predicted = []
    for group in groups:
        noise = torch.stack([clip_noise(name, config.seed, group.latents.shape[2:]) for name in group.clip_ids])
        rendered = [
            model.latents(tokens, mask, z, group.times, config.evaluation.steps, duration=config.clips.longest).cpu()
            for tokens, mask, z in zip(group.tokens.split(16), group.mask.split(16), noise.split(16), strict=True)
        ]
        weights = projection_matrix(group.times, config.flow.order, config.clips.longest)
        predicted.append(project(torch.cat(rendered).double(), weights))
    return predicted


def largest_quotient(rows: list[dict]) -> float:
    """The largest quotient of the decoder, over all frames, directions and sizes: a lower bound of L0."""
    return max(row["quotient"] for row in rows if row["map"] == "decoder" and np.isfinite(row["quotient"]))


def write_theory(config: configs.Config, shards: list[str], results: Path, output: Path, device: torch.device) -> None:
    """Measure everything on a run; write CSVs, figures (SVG), what they say (`findings.json`) and, last, `index.html`.

    A number is about clips of one length and size: where there are several, those that occur most often are measured.

    Raises:
        VLFMError: if a file of the run is missing or damaged.
    """
    decoder = load_decoder(config, results / "decoder", device)
    model = FlowModel.from_pretrained(results / "model", device)
    buckets = read_buckets(results, shards)
    counts = {bucket: sum(map(len, clips.values())) for bucket, clips in buckets.items()}
    most = max(counts, key=counts.get)
    config = config.model_copy(update={"clips": config.clips.only(**vars(most))})
    groups = load_groups(results, list(buckets[most]), decoder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ProjectionWarning)  # what it warns of is what is measured
        tables = measure(config, groups, decoder, model)
    figures = {
        "projection": plots.projection_figure(tables["projection"]),
        "held_out": plots.held_out_figure(tables["held_out"]),
        "timescale": plots.timescale_figure(tables["timescale"]),
        "closed_form": plots.closed_form_figure(tables["closed_form"]),
        "lipschitz": plots.lipschitz_figure(tables["lipschitz"]),
        "budget": plots.budget_figure(tables["budget"]),
        "picture": plots.picture_figure(tables["budget"]),
    }
    for name, rows in tables.items():
        write_bytes(output / f"{name}.csv", _csv(rows))
    for name, figure in figures.items():
        write_bytes(output / f"{name}.svg", figure.encode())
    about = (
        f"{count_clips(groups)} clips of {config.clips.longest:g} s, {len(groups[0].times)} frames each at their true "
        f"times; latents of {' × '.join(map(str, groups[0].latents.shape[2:]))} numbers; the run's order is "
        f"s = {config.flow.order}."
    )
    if len(counts) > 1:
        about += (
            f" The run's clips are of {len(counts)} lengths and sizes; measured are the most frequent, {most}, which "
            f"{counts[most]} of {sum(counts.values())} clips have."
        )
    findings = describe(tables, config.flow.order, config.flow.schedule, largest_quotient(tables["lipschitz"]))
    write_json(output / "findings.json", [asdict(finding) for finding in findings])
    write_bytes(output / "index.html", page(about, findings, figures).encode())
    for finding in findings:
        print(plain(finding))


def measure(
    config: configs.Config, groups: list[ClipGroup], decoder: VisualDecoder, model: FlowModel
) -> dict[str, list[dict]]:
    """Every measurement: file name → rows."""
    bar = progress(total=6, what="theory", unit="part")
    duration = config.clips.longest
    predicted = predict_coefficients(config, groups, model)
    scale = float(model.transformer.latent_scale)
    tables: dict[str, list[dict]] = {}

    def keep(name: str, rows: list[dict]) -> None:
        tables[name] = rows
        bar.update(1)

    keep("projection", measure_projection(groups, duration))
    keep("held_out", measure_held_out(groups, duration))
    keep("timescale", measure_timescale(groups, duration))
    keep("closed_form", measure_closed_form(config, groups, predicted, scale))
    keep("lipschitz", measure_lipschitz(config, groups, predicted, decoder))
    best, largest = best_order(tables["held_out"], "inverted"), largest_quotient(tables["lipschitz"])
    keep("budget", measure_budget(config, groups, predicted, scale, best, decoder, largest))
    bar.close()
    return tables


def _pooled(groups: list[ClipGroup], measure: Callable[[ClipGroup], Tensor]) -> tuple[float, str]:
    """Root mean square of one value a clip over all groups, and why it is NaN if it is."""
    try:
        values = torch.cat([measure(group) for group in groups])
    except VLFMError as error:
        return float("nan"), str(error)
    value = float(values.square().mean().sqrt())
    if not np.isfinite(value):
        return float("nan"), "the result is not finite: the method overflows at this order"
    return value, ""


def _size(groups: list[ClipGroup], kind: str) -> float:
    """RMS of all latents of a kind."""
    return float(torch.cat([group.of(kind).square().flatten(1).mean(1) for group in groups]).mean().sqrt())


def count_clips(groups: list[ClipGroup]) -> int:
    return sum(len(group.clip_ids) for group in groups)


def _path(config: configs.Config, order: int, schedule: str) -> VideoLatentPath:
    clips, flow = config.clips, config.flow
    return VideoLatentPath(
        LegendreBasis(order, clips.longest),
        make_schedule(
            schedule, clips.num_frames_of(clips.longest), clips.longest, flow.sigma_min, flow.renoise, flow.alpha
        ),
    )


def _path_errors(
    config: configs.Config, groups: list[ClipGroup], predicted: list[Tensor]
) -> list[tuple[Tensor, Tensor]]:
    """Per group `H g − u` and `(Ĥ − H) g` at the frames, (B, N, C, h, w) each."""
    errors = []
    for group, guess in zip(groups, predicted, strict=True):
        g = LegendreBasis(config.flow.order, config.clips.longest).evaluate(group.times)[None]
        weights = projection_matrix(group.times, config.flow.order, config.clips.longest)
        mean = reconstruct(project(group.latents, weights), g)
        errors.append((mean - group.latents, reconstruct(guess, g) - mean))
    return errors


def _spread(groups: list[ClipGroup], count: int) -> list[tuple[int, int, int]]:
    """At most `count` frames, spread evenly over clips and times: (group, clip, frame), never a last frame."""
    frames = [
        (g, c, n)
        for g, group in enumerate(groups)
        for c in range(len(group.clip_ids))
        for n in range(len(group.times) - 1)
    ]
    picked = np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int)
    return [frames[index] for index in picked]


def _unit(steps: Tensor) -> Tensor:
    return steps / _shaped(steps.flatten(1).norm(dim=1).clamp_min(1e-30), steps)


def _shaped(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *(1,) * (like.ndim - 1))


def _device(decoder: VisualDecoder) -> torch.device:
    return getattr(decoder, "device", torch.device("cpu"))


def _randn(shape: torch.Size, generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _csv(rows: list[dict]) -> bytes:
    """Rows as CSV; NaN, which is what was not measured, becomes an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {
                key: ("" if np.isnan(value) else f"{value:.6g}") if isinstance(value, float) else value
                for key, value in row.items()
            }
        )
    return text.getvalue().encode()

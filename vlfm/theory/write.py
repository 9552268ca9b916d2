"""Every measurement on a run, and what is written of it: tables, figures, findings and the page.

Each measurement returns rows, which are written as CSV, drawn (`figures`) and put into words (`page`). The mathematics
is in `vlfm.flow.theory`.
"""

import csv
import io
import warnings
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from vlfm import config as configs
from vlfm.decoders.base import VisualDecoder
from vlfm.decoders.load import load_decoder
from vlfm.evaluation.buckets import read_buckets
from vlfm.flow.bases import BASES
from vlfm.flow.projection import ProjectionWarning
from vlfm.model.flow_model import FlowModel
from vlfm.progress import progress
from vlfm.storage.files import write_bytes, write_json
from vlfm.theory import figures
from vlfm.theory.budget import measure_budget
from vlfm.theory.closed_form import measure_closed_form
from vlfm.theory.groups import ClipGroup, count_clips, load_groups
from vlfm.theory.lipschitz import largest_quotient, measure_lipschitz
from vlfm.theory.orders import best_order, measure_held_out, measure_projection, measure_timescale
from vlfm.theory.page import describe, page, plain
from vlfm.theory.predictions import predict_coefficients


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
    drawn = {
        "projection": figures.projection_figure(tables["projection"]),
        "held_out": figures.held_out_figure(tables["held_out"]),
        "timescale": figures.timescale_figure(tables["timescale"]),
        "closed_form": figures.closed_form_figure(tables["closed_form"]),
        "lipschitz": figures.lipschitz_figure(tables["lipschitz"]),
        "budget": figures.budget_figure(tables["budget"]),
        "picture": figures.picture_figure(tables["budget"]),
    }
    for name, rows in tables.items():
        write_bytes(output / f"{name}.csv", _csv(rows))
    for name, figure in drawn.items():
        write_bytes(output / f"{name}.svg", figure.encode())
    about = (
        f"{count_clips(groups)} clips of {config.clips.longest:g} s, {len(groups[0].times)} frames each at their true "
        f"times; latents of {' × '.join(map(str, groups[0].latents.shape[2:]))} numbers; the run's paths are of "
        f"s = {config.flow.order} {BASES[config.flow.basis].plural}."
    )
    if len(counts) > 1:
        about += (
            f" The run's clips are of {len(counts)} lengths and sizes; measured are the most frequent, {most}, which "
            f"{counts[most]} of {sum(counts.values())} clips have."
        )
    findings = describe(tables, config.flow.order, config.flow.schedule, largest_quotient(tables["lipschitz"]))
    write_json(output / "findings.json", [asdict(finding) for finding in findings])
    write_bytes(output / "index.html", page(about, findings, drawn).encode())
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
    best, largest = best_order(tables["held_out"], "inverted", config.flow.basis), largest_quotient(tables["lipschitz"])
    keep("budget", measure_budget(config, groups, predicted, scale, best, decoder, largest))
    bar.close()
    return tables


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

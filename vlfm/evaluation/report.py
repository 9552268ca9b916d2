"""The report: one HTML page with everything in it, readable offline and on a phone."""

import base64
import csv
import html
from collections import defaultdict
from io import BytesIO
from pathlib import Path
from string import Template

import numpy as np
from PIL import Image

from vlfm import __version__
from vlfm import config as configs
from vlfm.artifacts import read_json, write_bytes
from vlfm.evaluation.ledger import read_rows, summarise

TEMPLATE = Path(__file__).with_name("report.html")


def write_report(config: configs.Config, results: Path, output: Path) -> None:
    """Write the page from a finished run's files; pictures and videos are embedded.

    Raises:
        VLFMError: if a file of the run is missing or damaged.
    """
    with (results / "eval" / "psnr.csv").open(newline="") as file:
        scores = list(csv.DictReader(file))
    index = read_json(results / "eval" / "videos" / "index.json")["clips"]
    decoder = read_json(results / "decoder" / "decoder.json")
    training = read_json(results / "model" / "training.json")
    page = Template(TEMPLATE.read_text()).substitute(
        version=__version__,
        summary=html.escape(_summary(config, decoder, training, len(index))),
        scores=_score_table(scores),
        ledger=_ledger_table(results),
        throughput=_throughput_table(results),
        loss=_loss_curve(results / "model" / "metrics.csv"),
        clips="\n".join(_clip(entry, scores, results / "eval" / "videos", config) for entry in index),
        rates="\n".join(
            f'<label><input type="radio" name="rate" value="{rate:g}"{" checked" if rate == config.clips.fps else ""}>'
            f" {rate:g} frames/s</label>"
            for rate in config.evaluation.fps
        ),
        config=html.escape((results / "config.yaml").read_text()),
    )
    write_bytes(output, page.encode())


def _summary(config: configs.Config, decoder: dict, training: dict, shown: int) -> str:
    lengths = " and ".join(f"{duration:g}" for duration in config.clips.durations)
    sizes = " and ".join(f"{width}×{height}" for height, width in config.clips.sizes)
    if "held_out_psnr" in decoder:
        pictures = f"Autoencoder on held-out frames: {decoder['held_out_psnr']:.2f} dB."
    else:
        pictures = f"Visual decoder: {decoder['name']}, {config.decoder.model}."
    return (
        f"{training['clips']} clips of {lengths} s at {config.clips.fps:g} frames a second, "
        f"{sizes} pixels; order {config.flow.order}; "
        f"{training['steps']} training steps of {config.training.batch_size} clips; "
        f"{config.evaluation.steps} network evaluation(s) a clip. {pictures} {shown} clips shown below."
    )


def _table(head: list[str], rows: list[list[str]]) -> str:
    cells = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table></div>'


def _score_table(scores: list[dict[str, str]]) -> str:
    groups: dict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)
    for row in scores:
        groups[row["fps"], row["stage"]].append(row)

    def interval(rows: list[dict[str, str]], name: str, digits: int) -> str:
        values = np.array([float(row[name]) for row in rows])
        half = 1.96 * values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
        return f"{values.mean():.{digits}f} ± {half:.{digits}f}"

    return _table(
        ["frames/s", "stage", "PSNR (dB)", "paper's PSNR", "SSIM", "clips"],
        [
            [
                fps,
                stage,
                interval(rows, "psnr", 2),
                interval(rows, "psnr_paper", 2),
                interval(rows, "ssim", 4),
                str(len(rows)),
            ]
            for (fps, stage), rows in groups.items()
        ],
    )


def _ledger_table(results: Path) -> str:
    rows = read_rows(results)
    table = _table(
        ["stage", "ok", "bad", "seconds", "MB written"],
        [
            [line.stage, str(line.ok), str(line.bad), f"{line.seconds:.1f}", f"{line.bytes / 1e6:.1f}"]
            for line in summarise(rows)
        ],
    )
    bad = [row for row in rows if row.status != "ok"]
    if not bad:
        return table
    shown = [[row.stage, str(row.row), row.source, row.reason] for row in bad[:200]]
    return table + _table(["stage", "row", "source", "reason"], shown)


def _throughput_table(results: Path) -> str:
    """Seconds of every job, from Snakemake's benchmark files."""
    rows = []
    for path in sorted((results / "benchmarks").rglob("*.tsv")):
        with path.open(newline="") as file:
            for job in csv.DictReader(file, delimiter="\t"):
                name = path.relative_to(results / "benchmarks").with_suffix("")
                rows.append([str(name), job["h:m:s"], job["max_rss"], job["mean_load"]])
    return _table(["job", "time", "memory (MB)", "CPU load (%)"], rows)


def _loss_curve(metrics: Path) -> str:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    with metrics.open(newline="") as file:
        rows = list(csv.DictReader(file))
    figure, axes = pyplot.subplots(figsize=(7, 2.6), layout="constrained")
    axes.plot([int(row["samples"]) for row in rows], [float(row["loss"]) for row in rows], linewidth=1)
    axes.set(xlabel="samples seen", ylabel="Parseval loss", yscale="log")
    axes.grid(alpha=0.3)
    picture = BytesIO()
    figure.savefig(picture, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    text = picture.getvalue().decode()
    return text[text.index("<svg") :]


def _data(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _video(path: Path) -> str:
    return _data(path.read_bytes(), "video/mp4")


def _picture(path: Path) -> str:
    """A contact sheet a tenth the size of its PNG: dozens of them have to fit in one page."""
    content = BytesIO()
    with Image.open(path) as image:
        image.save(content, "JPEG", quality=85)
    return _data(content.getvalue(), "image/jpeg")


def _clip(entry: dict, scores: list[dict[str, str]], folder: Path, config: configs.Config) -> str:
    native = f"{config.clips.fps:g}"
    psnr = {
        row["stage"]: row["psnr"]
        for row in scores
        if row["clip_id"] == entry["clip_id"] and float(row["fps"]) == config.clips.fps
    }
    caption = html.escape(entry["caption"])
    videos = entry["videos"]
    generated = "".join(
        f'<video data-rate="{rate}" src="{_video(folder / name)}" muted loop playsinline autoplay'
        f'{"" if rate == native else " hidden"} aria-label="generated at {rate} frames a second"></video>'
        for rate, name in videos.items()
        if rate != "true"
    )
    line = ", ".join(f"{stage} {float(value):.1f}" for stage, value in psnr.items())
    return f"""<article>
<h3>{caption}</h3>
<div class="pair">
<figure><video src="{_video(folder / videos["true"])}" muted loop playsinline autoplay
aria-label="true clip"></video><figcaption>true</figcaption></figure>
<figure>{generated}<figcaption>from the caption</figcaption></figure>
</div>
<p class="small">PSNR in dB: {html.escape(line)}</p>
<details><summary>every frame, every stage</summary><div class="scroll">
<img alt="contact sheet" src="{_picture(folder / entry["sheet"])}"></div></details>
</article>"""

"""The report: one HTML page with everything in it, readable offline, on a phone and with a keyboard.

A run is shown as far as it has come: scores and videos there must be, the experiments and the theory are shown where
they have run and named where they have not. Nothing is fetched: the page forbids it to itself (its Content-Security-
Policy), and its videos are base64 blocks at its end, which become videos when they come into view.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import jinja2
from markupsafe import Markup

from vlfm import __version__
from vlfm import config as configs
from vlfm.errors import VLFMError
from vlfm.report import embedded_videos
from vlfm.report.clip_ledger import read_rows, read_splits, summarise
from vlfm.report.embedded_videos import Group, Library
from vlfm.report.settings import evaluations_in_words, settings_in_words
from vlfm.report.tables import Table, from_rows, make_table, split_in_words
from vlfm.splits import LABELS, TEST, TRAIN, splits_met
from vlfm.storage.benchmarks import benchmark_seconds, read_benchmark, resumed_step
from vlfm.storage.files import read_json, write_bytes
from vlfm.storage.ledger import LedgerRow
from vlfm.storage.tables import read_table
from vlfm.words import plural

SIZE = 11_400_000  # bytes of videos and pictures: with the tables a page below 12 MB
GENERATION_SHARE = 0.25  # of them, at most, for videos of captions
EXPERIMENTS_SHARE = 0.4  # of what is left, at most, for the experiments' videos
LONG = 14  # rows from which a table is folded away
STAGES = {
    "decoder": "the autoencoder alone",
    "inversion": "and through inversion and back",
    "projection": "and the path",
    "network": "generated from the caption",
}
LOSSES = {
    "decoder": "PSNR of the autoencoder alone",
    "inversion": "lost to inversion and back",
    "projection": "lost to the path",
    "network": "lost by generating from the caption",
    "interpolation": "lost where every second frame is drawn between generated ones",
    "total": "lost in all after the decoder",
    "left": "PSNR of the last video: what is left",
}
EXPERIMENTS = ("ledger", "interpolation", "extrapolation", "order", "ablation", "speed")
JOBS = (
    "make_digits",
    "index",
    "decode",
    "caption",
    "prepare_decoder",
    "encode_empty_caption",
    "invert",
    "project",
    "train",
    "evaluate",
    "fit_judges",
    "generation",
    "theory",
)


@dataclass(frozen=True)
class Generation:
    """Videos made of captions, as they are shown.

    Attributes:
        tables: what captions they are of → the table, held-out ones first.
        groups: of videos, one a caption.
        held_out: whether some captions were never seen.
        read: whether a judge reads words in the videos.
    """

    tables: dict[str, Table]
    groups: list[Group]
    shown: str
    held_out: bool
    read: bool


@dataclass(frozen=True)
class Experiment:
    """One of the paper's experiments, as it is shown."""

    name: str
    title: str
    caption: str
    figure: str
    table: Table
    groups: list[Group]
    shown: str


def write_report(config: configs.Config, results: Path, output: Path) -> None:
    """Write the page from a finished run's files; figures and videos are embedded.

    At most about 12 MB: experiments' videos are taken group by group, clips spread evenly over the run, as many as
    there is room for; the page says how many of how many it shows.

    Raises:
        VLFMError: if a file of the run is missing or damaged.
    """
    library = Library(SIZE)
    scores = read_table(results / "eval" / "psnr.csv")
    training = read_json(results / "model" / "training.json")
    theory = _theory(results / "theory", library)
    generation = _generation(results / "eval", library)
    loss = library.picture(_loss_curve(results / "model" / "metrics.csv").encode(), "image/svg+xml")
    experiments = _experiments(results / "eval", library)
    entries = read_json(results / "eval" / "videos" / "index.json")["clips"]
    clips = _clips(entries, scores, results / "eval" / "videos", config, library)
    rows, splits = read_rows(results), read_splits(results)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("vlfm.report", "page"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    page = environment.get_template("page.html").render(
        version=__version__,
        style=Markup(_part("page.css")),
        script=Markup(_part("page.js")),
        long=LONG,
        facts=_unseen(results / "eval") + _facts(config, scores, training),
        settings=settings_in_words(config, read_json(results / "decoder" / "decoder.json"), training, splits),
        ledger=next((experiment for experiment in experiments if experiment.name == "ledger"), None),
        generation=generation,
        losses=_losses(results / "eval" / "ledger" / "means.csv"),
        scores=_score_tables(config, scores),
        stages=STAGES,
        share=_share_captions(training),
        rates=_rates(entries, config),
        clips=clips,
        count=len(entries),
        experiments=[experiment for experiment in experiments if experiment.name != "ledger"],
        missing=_missing(config, experiments),
        theory=theory,
        loss=loss,
        speed=_training_speed(config, training, results),
        jobs=_jobs(results, rows, _timed_samples(config, training, results), len(entries)),
        clip_ledger=_clip_ledger(rows, splits),
        bad=_bad(rows),
        config=configs.as_yaml(config),
        videos=library.videos,
    )
    write_bytes(output, page.encode())
    print(f"{output}: {len(clips)} of {len(entries)} clips, {len(page.encode()) / 1e6:.1f} MB")


def _part(name: str) -> str:
    return (Path(__file__).parent / "page" / name).read_text()


# ------------------------------------------------------------------------------------------- the run in words


def _facts(config: configs.Config, scores: list[dict[str, str]], training: dict) -> list[tuple[str, str]]:
    """The few numbers a reader wants first: (value, what it is)."""
    facts = []
    native = [row for row in scores if float(row["fps"]) == config.clips.fps]
    named = {"network": "generated from captions", "projection": "the path", "decoder": "the decoder alone"}
    parts = _by_split(native)
    if _share_captions(training):
        del named["network"]
    for stage, words in named.items():
        for split, lines in parts.items():
            values = [float(row["psnr"]) for row in lines if row["stage"] == stage]
            which = f", {LABELS[split]} clips" if len(parts) > 1 else ""
            if values:
                facts.append((f"{sum(values) / len(values):.1f} dB", f"PSNR, {words}{which}"))
    told = f" of {plural(training['captions'], 'caption')}" if _share_captions(training) else ""
    facts.append((str(training["clips"]), f"{'clip' if training['clips'] == 1 else 'clips'} learnt{told}"))
    number, noun = evaluations_in_words(config).split(" ", 1)
    facts.append((number, f"{noun} a clip"))
    return facts


def _share_captions(training: dict) -> bool:
    """Whether clips share their captions: the network draws one of them, which need not be the one it is compared with.

    False where that is not known: in runs of older versions, and in those too large to read all captions.
    """
    return training.get("captions", training["clips"]) < training["clips"]


def _unseen(folder: Path) -> list[tuple[str, str]]:
    """How often videos of held-out captions show what these say, beside the true clips; nothing where none were made
    or nobody reads them."""
    if not (folder / "generation" / "index.json").exists():
        return []
    facts = {}
    for row in read_table(folder / "generation.csv"):
        if row["split"] == TEST and row["all"]:
            facts.setdefault(row["method"], f"{float(row['all']):.0%}")
    words = {
        "generated": "of its videos show every word of a caption it never saw",
        "true clips": "of the true clips do, to the same judge",
    }
    return [(facts[method], text) for method, text in words.items() if method in facts]


def _by_split(rows: list[dict[str, str]]) -> dict[str, list[dict[str, str]]]:
    """The rows of each split that occurs, training first; rows from before there were splits are training clips'."""
    met = splits_met(row.get("split", TRAIN) for row in rows)
    return {split: [row for row in rows if row.get("split", TRAIN) == split] for split in met}


def _score_tables(config: configs.Config, scores: list[dict[str, str]]) -> dict[str, Table]:
    """Metric → a row per stage, a column per frame rate: means over clips with 95 % intervals; of each split a table,
    test clips first, where there are such."""
    titles = {"psnr": "PSNR (dB)", "psnr_paper": "The paper's PSNR", "ssim": "SSIM"}
    parts = _by_split(scores)
    return {
        f"{title}, {LABELS[split]} clips" if len(parts) > 1 else title: _score_table(lines, metric, config.seed)
        for metric, title in titles.items()
        for split, lines in reversed(parts.items())
    }


def _score_table(scores: list[dict[str, str]], metric: str, seed: int) -> Table:
    from vlfm.evaluation.intervals import mean_interval

    groups: dict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)
    for row in scores:
        groups[row["stage"], row["fps"]].append(row)
    rates = sorted({row["fps"] for row in scores}, key=float)
    rows = []
    for stage in dict.fromkeys(stage for stage, _ in groups):
        row = {"stage": stage}
        for rate in rates:
            values = [float(line[metric]) for line in groups[stage, rate] if line[metric]]
            interval = mean_interval(values, seed) if values else ("", "", "")
            name = f"{rate} frames/s"
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), map(str, interval), strict=True))
        rows.append(row)
    return from_rows(rows)


def _losses(path: Path) -> Table | None:
    """The ledger's means, each with what it is; None where it has not run."""
    if not path.exists():
        return None
    rows = read_table(path)
    table = from_rows(
        [
            {
                **({"clips": row["split"]} if "split" in row else {}),
                "": row["stage"],
                "dB": row["mean"],
                "dB_low": row["low"],
                "dB_high": row["high"],
            }
            for row in split_in_words(rows)
        ]
    )
    words = make_table(["what it is"], [[LOSSES.get(row["stage"], "")] for row in rows])
    return Table(
        [*table.head, *words.head], [[*cells, *more] for cells, more in zip(table.rows, words.rows, strict=True)]
    )


# ------------------------------------------------------------------------------------------- clips and experiments


def _rates(entries: list[dict], config: configs.Config) -> list[tuple[str, bool]]:
    """The frame rates that there are videos of, slowest first, and which one is shown first."""
    rates = sorted({rate for entry in entries for rate in entry["videos"] if rate != "true"}, key=float)
    native = f"{config.clips.fps:g}"
    first = native if native in rates else rates[-1] if rates else ""
    return [(rate, rate == first) for rate in rates]


def _clips(
    entries: list[dict], scores: list[dict[str, str]], folder: Path, config: configs.Config, library: Library
) -> list[Group]:
    """As many clips as there is room for, spread over the run; the first of them with every frame as a picture."""
    paths = [[folder / name for name in entry["videos"].values()] for entry in entries]
    chosen = embedded_videos.spread_that_fits(entries, [embedded_videos.cost(group) for group in paths], library.left)
    stages: dict[str, dict[str, float]] = defaultdict(dict)
    for row in scores:
        if float(row["fps"]) == config.clips.fps:
            stages[row["clip_id"]][row["stage"]] = float(row["psnr"])
    groups = []
    told_apart = len({entry.get("split", TRAIN) for entry in entries}) > 1
    for entry in chosen:
        videos = {rate: folder / name for rate, name in entry["videos"].items()}
        true = library.film("true", {"": videos.pop("true")})
        generated = library.film("from the caption", dict(sorted(videos.items(), key=lambda item: float(item[0]))))
        psnr = stages[entry["clip_id"]]
        note = "PSNR " + " · ".join(f"{stage} {value:.1f}" for stage, value in psnr.items()) + " dB" if psnr else ""
        label = LABELS[entry.get("split", TRAIN)] if told_apart else ""
        groups.append(Group(entry["caption"], [true, generated], note, label=label))
    pictured = []
    for entry, group in zip(chosen, groups, strict=True):
        content = (
            embedded_videos.sheet(folder / entry["sheet"])
            if len(pictured) < embedded_videos.SHEETS and entry.get("sheet")
            else b""
        )
        fits = content and len(content) * 4 / 3 + 100 < library.left
        pictured.append(replace(group, sheet=library.picture(content, "image/webp") if fits else ""))
    return pictured


def _generation(folder: Path, library: Library) -> Generation | None:
    """The videos of captions, held-out ones first, and what they are worth; None where none were made."""
    if not (folder / "generation" / "index.json").exists():
        return None
    rows = read_table(folder / "generation.csv")
    splits = dict.fromkeys(row["split"] for row in rows)
    tables = {}
    for split in splits:
        mine = [row for row in rows if row["split"] == split]
        told = [name for name in mine[0] if name not in ("split", "captions") and any(row[name] for row in mine)]
        which = f"{plural(int(mine[0]['captions']), 'caption')}, {LABELS[split]}"
        tables[which] = from_rows([{name: row[name] for name in told} for row in mine])
    index = read_json(folder / "generation" / "index.json")["groups"]
    reserved = library.left - GENERATION_SHARE * library.left
    groups = []
    for group in index:
        paths = {video["label"]: folder / "generation" / video["file"] for video in group["videos"]}
        if embedded_videos.cost(list(paths.values())) <= library.left - reserved:
            shown = [library.film(label, {"": path}) for label, path in paths.items()]
            groups.append(Group(group["title"], shown, group["note"], label=LABELS[group["split"]]))
    read = any(row["all"] for row in rows)
    return Generation(tables, groups, _shown(len(groups), len(index)), TEST in splits, read)


def _experiments(folder: Path, library: Library) -> list[Experiment]:
    """Every experiment that has run, the known ones first; their videos share what the page gives them."""
    others = ("videos", "generation")
    names = [path.parent.name for path in sorted(folder.glob("*/index.json")) if path.parent.name not in others]
    names.sort(key=lambda name: EXPERIMENTS.index(name) if name in EXPERIMENTS else len(EXPERIMENTS))
    indexes = {name: read_json(folder / name / "index.json") for name in names}
    figures = {name: _figure(folder / f"{name}.svg", library) for name in names}
    room = EXPERIMENTS_SHARE * library.left
    reserved = library.left - room
    taken: dict[str, list[Group]] = {name: [] for name in names}
    # One group of each in turn, so that none takes all there is.
    for turn in range(max((len(index["groups"]) for index in indexes.values()), default=0)):
        for name, index in indexes.items():
            for group in index["groups"][turn : turn + 1]:
                paths = {video["label"]: folder / name / video["file"] for video in group["videos"]}
                if embedded_videos.cost(list(paths.values())) <= library.left - reserved:
                    taken[name].append(Group(group["title"], [library.film(k, {"": v}) for k, v in paths.items()]))
    return [
        Experiment(
            name,
            index["title"],
            index["caption"],
            figures[name],
            from_rows(split_in_words(read_table(folder / f"{name}.csv"))),
            taken[name],
            _shown(len(taken[name]), len(index["groups"])),
        )
        for name, index in indexes.items()
    ]


def _shown(shown: int, count: int) -> str:
    return "" if shown == count else f"{shown} of {count} groups of videos; all of them lie beside the table."


def _figure(path: Path, library: Library) -> str:
    try:
        return library.picture(path.read_bytes(), "image/svg+xml")
    except FileNotFoundError:
        raise VLFMError(f"{path} is missing: the stage that writes it has not run to its end") from None


def _theory(folder: Path, library: Library) -> list[dict]:
    """The theory page's findings with their figures; none where theory has not run."""
    if not (folder / "findings.json").exists():
        return []
    return [
        {
            **finding,
            "statement": Markup(finding["statement"]),
            "measured": [Markup(sentence) for sentence in finding["measured"]],
            "figures": [_figure(folder / f"{name}.svg", library) for name in finding["figures"]],
        }
        for finding in read_json(folder / "findings.json")
    ]


# ------------------------------------------------------------------------------------------- training and time


def _loss_curve(metrics: Path) -> str:
    from matplotlib import pyplot

    from vlfm.plots import WIDTH, svg

    rows = read_table(metrics)
    figure, axes = pyplot.subplots(figsize=(WIDTH, 2.8), layout="constrained")
    axes.plot(
        [int(row["samples"]) for row in rows], [float(row["loss"]) for row in rows], linewidth=1.2, color="#0072B2"
    )
    axes.set(xlabel="samples seen", ylabel="loss", yscale="log")
    axes.grid(alpha=0.3)
    return svg(figure, "loss")


def _missing(config: configs.Config, experiments: list[Experiment]) -> list[str]:
    """The experiments that the workflow would run and that are not there."""
    there = {experiment.name for experiment in experiments}
    if config.clips.fps not in config.evaluation.fps:
        there.add("ledger")  # which needs the clips' own rate
    return [name for name in EXPERIMENTS if name not in there]


def _timed_samples(config: configs.Config, training: dict, results: Path) -> int:
    """Samples seen in the seconds of training's benchmark, which are those since it last went on."""
    return (training["steps"] - (resumed_step(results) or 0)) * config.training.batch_size


def _training_speed(config: configs.Config, training: dict, results: Path) -> str:
    samples, timed = training["steps"] * config.training.batch_size, _timed_samples(config, training, results)
    seconds = benchmark_seconds(results / "benchmarks" / "train.tsv")
    if seconds is None or not timed:
        return f"{samples} samples."
    these = "" if timed == samples else f", the last {timed} of them"
    rate = timed / max(seconds, 1e-9)
    return f"{samples} samples{these} in {_time(seconds)}: {rate:.1f} samples a second, start included."


def _jobs(results: Path, ledger: list[LedgerRow], samples: int, evaluated: int) -> Table | None:
    """Seconds, clips a second and memory of every stage, from Snakemake's benchmark files; None without any."""
    folder = results / "benchmarks"
    stages: dict[str, list[dict[str, str]]] = defaultdict(list)
    for path in sorted(folder.rglob("*.tsv")):
        stages[path.relative_to(folder).with_suffix("").parts[0]] += read_benchmark(path)
    stages.pop("report", None)
    if not stages:
        return None
    items = {line.stage: line.ok for line in summarise(ledger)} | {"train": samples, "evaluate": evaluated}
    order = [*JOBS, *EXPERIMENTS]
    rows = []
    for stage in sorted(stages, key=lambda name: (order.index(name) if name in order else len(order), name)):
        jobs = stages[stage]
        seconds = sum(float(job["s"]) for job in jobs)
        count = items.get(stage)
        peak = max((float(job["max_rss"]) for job in jobs if _is_number(job["max_rss"])), default=None)
        cpu = sum(float(job["cpu_time"]) for job in jobs if _is_number(job["cpu_time"]))
        rate = count / seconds if count and seconds else None
        name = stage.replace("_", " ")
        rows.append(
            [name, len(jobs), round(seconds, 1), count, rate, peak, round(cpu / seconds, 1) if seconds > 1 else None]
        )
    head = ["stage", "jobs", "seconds", "clips", "clips/s", "memory (MB)", "cores busy"]
    return make_table(head, rows)


def _is_number(text: str | None) -> bool:
    try:
        float(text or "")
    except ValueError:
        return False
    return True


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def _clip_ledger(rows: list[LedgerRow], splits: dict[str, str]) -> Table:
    parts = [LABELS[split] for split in splits_met(splits.values())]
    return make_table(
        ["stage", "clips", *parts, "bad", "seconds", "MB written"],
        [
            [line.stage, line.ok, *line.splits.values(), line.bad, line.seconds, line.bytes / 1e6]
            for line in summarise(rows, splits)
        ],
    )


def _bad(rows: Iterable[LedgerRow]) -> Table | None:
    """The bad clips, the first 200; None if there are none."""
    bad = [[row.stage, row.row, row.source, row.reason] for row in rows if row.status != "ok"]
    return make_table(["stage", "row", "source", "reason"], bad[:200]) if bad else None

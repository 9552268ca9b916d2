"""The report: one HTML page with everything in it, readable offline, on a phone and with a keyboard.

A run is shown as far as it has come. Scores and videos must be there; the experiments and the theory are shown if they
have run, and named if not. Nothing is fetched: the page forbids it to itself (its Content-Security-
Policy), and its videos are base64 blocks at its end, which become videos when they come into view.
"""

from collections.abc import Iterable
from pathlib import Path

import jinja2
from markupsafe import Markup

from vlfm import __version__
from vlfm import config as configs
from vlfm.experiments.names import EXPERIMENTS
from vlfm.report import scores, sections, timing
from vlfm.report.clip_ledger import read_rows, read_splits, summarise
from vlfm.report.embedded_videos import Library
from vlfm.report.settings import settings_in_words
from vlfm.report.tables import Table, make_table
from vlfm.splits import LABELS, splits_met
from vlfm.storage.files import read_json, write_bytes
from vlfm.storage.ledger import LedgerRow
from vlfm.storage.tables import read_table

SIZE = 11_400_000  # bytes of videos and pictures: with the tables a page below 12 MB
LONG = 14  # rows from which a table is folded away
STAGES = {
    "decoder": "the autoencoder alone",
    "inversion": "and through inversion and back",
    "projection": "and the path",
    "network": "generated from the caption",
}


def write_report(config: configs.Config, results: Path, output: Path) -> None:
    """Write the page from a finished run's files; figures and videos are embedded.

    At most about 12 MB: experiments' videos are taken group by group, clips spread evenly over the run, as many as
    there is room for; the page says how many of how many it shows.

    Raises:
        VLFMError: if a file of the run is missing or damaged.
    """
    library = Library(SIZE)
    table = read_table(results / "eval" / "psnr.csv")
    training = read_json(results / "model" / "training.json")
    theory = sections.theory(results / "theory", library)
    generation = sections.generation(results / "eval", library)
    loss = library.picture(timing.loss_curve(results / "model" / "metrics.csv").encode(), "image/svg+xml")
    experiments = sections.experiments(results / "eval", library)
    entries = read_json(results / "eval" / "videos" / "index.json")["clips"]
    clips = sections.clips(entries, table, results / "eval" / "videos", config, library)
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
        facts=scores.unseen(results / "eval") + scores.facts(config, table, training),
        settings=settings_in_words(config, read_json(results / "decoder" / "decoder.json"), training, splits),
        ledger=next((experiment for experiment in experiments if experiment.name == "ledger"), None),
        generation=generation,
        losses=scores.losses(results / "eval" / "ledger" / "means.csv"),
        scores=scores.score_tables(config, table),
        stages=STAGES,
        share=scores.share_captions(training),
        rates=sections.rates(entries, config),
        clips=clips,
        count=len(entries),
        experiments=[experiment for experiment in experiments if experiment.name != "ledger"],
        missing=_missing(config, experiments),
        theory=theory,
        loss=loss,
        speed=timing.training_speed(config, training, results),
        jobs=timing.jobs(results, rows, timing.timed_samples(config, training, results), len(entries)),
        clip_ledger=_clip_ledger(rows, splits),
        bad=_bad(rows),
        config=configs.as_yaml(config),
        videos=library.videos,
    )
    write_bytes(output, page.encode())
    print(f"{output}: {len(clips)} of {len(entries)} clips, {len(page.encode()) / 1e6:.1f} MB")


def _part(name: str) -> str:
    return (Path(__file__).parent / "page" / name).read_text()


def _missing(config: configs.Config, experiments: list[sections.Experiment]) -> list[str]:
    """The experiments that the workflow would run and that are not there."""
    there = {experiment.name for experiment in experiments}
    if config.clips.fps not in config.evaluation.fps:
        there.add("ledger")  # which needs the clips' own rate
    return [name for name in EXPERIMENTS if name not in there]


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

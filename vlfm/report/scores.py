"""A run's scores as the page shows them: the few numbers a reader wants first, and tables."""

from collections import defaultdict
from pathlib import Path

from vlfm import config as configs
from vlfm.report.settings import evaluations_in_words
from vlfm.report.tables import Table, from_rows, make_table, split_in_words
from vlfm.splits import LABELS, TEST, TRAIN, splits_met
from vlfm.storage.tables import read_table
from vlfm.words import plural

LOSSES = {
    "decoder": "PSNR of the autoencoder alone",
    "inversion": "lost to inversion and back",
    "projection": "lost to the path",
    "network": "lost by generating from the caption",
    "interpolation": "lost where every second frame is drawn between generated ones",
    "total": "lost in all after the decoder",
    "left": "PSNR of the last video: what is left",
}


def facts(config: configs.Config, scores: list[dict[str, str]], training: dict) -> list[tuple[str, str]]:
    """The few numbers a reader wants first: (value, what it is)."""
    facts = []
    native = [row for row in scores if float(row["fps"]) == config.clips.fps]
    named = {"network": "generated from captions", "projection": "the path", "decoder": "the decoder alone"}
    parts = _by_split(native)
    if share_captions(training):
        del named["network"]
    for stage, words in named.items():
        for split, lines in parts.items():
            values = [float(row["psnr"]) for row in lines if row["stage"] == stage]
            which = f", {LABELS[split]} clips" if len(parts) > 1 else ""
            if values:
                facts.append((f"{sum(values) / len(values):.1f} dB", f"PSNR, {words}{which}"))
    told = f" of {plural(training['captions'], 'caption')}" if share_captions(training) else ""
    facts.append((str(training["clips"]), f"{'clip' if training['clips'] == 1 else 'clips'} learnt{told}"))
    number, noun = evaluations_in_words(config).split(" ", 1)
    facts.append((number, f"{noun} a clip"))
    return facts


def share_captions(training: dict) -> bool:
    """Whether clips share their captions: the network draws one of them, which need not be the one it is compared with.

    False where that is not known: in runs of older versions, and in those too large to read all captions.
    """
    return training.get("captions", training["clips"]) < training["clips"]


def unseen(folder: Path) -> list[tuple[str, str]]:
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


def score_tables(config: configs.Config, scores: list[dict[str, str]]) -> dict[str, Table]:
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


def losses(path: Path) -> Table | None:
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

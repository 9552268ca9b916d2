"""The page's sections with videos and figures: what each shows, as much of it as the page has room for."""

from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

from markupsafe import Markup

from vlfm import config as configs
from vlfm.errors import VLFMError
from vlfm.experiments.names import EXPERIMENTS
from vlfm.report import embedded_videos
from vlfm.report.embedded_videos import Group, Library
from vlfm.report.tables import Table, from_rows, split_in_words
from vlfm.splits import LABELS, TEST, TRAIN
from vlfm.storage.files import read_json
from vlfm.storage.tables import read_table
from vlfm.words import plural

GENERATION_SHARE = 0.25  # of them, at most, for videos of captions
EXPERIMENTS_SHARE = 0.4  # of what is left, at most, for the experiments' videos


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


def rates(entries: list[dict], config: configs.Config) -> list[tuple[str, bool]]:
    """The frame rates that there are videos of, slowest first, and which one is shown first."""
    rates = sorted({rate for entry in entries for rate in entry["videos"] if rate != "true"}, key=float)
    native = f"{config.clips.fps:g}"
    first = native if native in rates else rates[-1] if rates else ""
    return [(rate, rate == first) for rate in rates]


def clips(
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


def generation(folder: Path, library: Library) -> Generation | None:
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


def experiments(folder: Path, library: Library) -> list[Experiment]:
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


def theory(folder: Path, library: Library) -> list[dict]:
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


def _figure(path: Path, library: Library) -> str:
    try:
        return library.picture(path.read_bytes(), "image/svg+xml")
    except FileNotFoundError:
        raise VLFMError(f"{path} is missing: its stage has not run to its end; run `snakemake` again") from None

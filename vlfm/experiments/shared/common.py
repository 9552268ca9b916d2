"""What the experiments share: tables, figures, videos, and going on where one stopped."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vlfm.frames import to_uint8
from vlfm.storage.files import read_json, remove_partial, write_bytes, write_json
from vlfm.storage.locks import sole_writer
from vlfm.storage.pictures import write_mp4
from vlfm.storage.tables import Row, write_table

# The paper's methods, and what stands beside them, in colours that colour-blind readers tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")


@contextlib.contextmanager
def cached(folder: Path, identity: str) -> Iterator[Callable[..., Any]]:
    """Yield `measured(key, make, …)`: what `make(…)` returned for a key, now or before the job was killed.

    Results (JSON) lie beside the experiment's other files until the block ends well; those of another identity are
    not read.
    """
    partial = folder / f".partial-{identity}"
    with sole_writer(folder):
        partial.mkdir(parents=True, exist_ok=True)

        def measured(key: str, make: Callable[..., Any], *arguments: Any) -> Any:
            path = partial / f"{key}.json"
            if not path.exists():
                write_json(path, make(*arguments))
            return read_json(path)

        yield measured
        remove_partial(partial)


def concatenate(records: Iterable[dict]) -> tuple[list[Row], list[dict]]:
    """The rows, and the groups of videos, of what was measured clip by clip: records `{"rows", "groups"}`."""
    records = list(records)
    rows = [row for record in records for row in record["rows"]]
    return rows, [group for record in records for group in record["groups"]]


def write_videos(
    folder: Path, name: str, title: str, videos: dict[str, torch.Tensor | np.ndarray], fps: float | dict[str, float]
) -> dict:
    """Write what is to be seen side by side as MP4s; returns their entry in `index.json`.

    Args:
        name: what the files' names begin with.
        videos: label → frames, (K, 3, H, W) in [−1, 1] or uint8 (K, H, W, 3).
        fps: frames a second, one for all or one per label.
    """
    entry: dict[str, Any] = {"title": title, "videos": []}
    for label, frames in videos.items():
        rate = fps[label] if isinstance(fps, dict) else fps
        slug = "".join(letter if letter.isalnum() else "-" for letter in label)
        file = f"{name}_{slug}.mp4"
        write_mp4(folder / file, to_uint8(frames) if isinstance(frames, torch.Tensor) else frames, rate)
        entry["videos"].append({"label": label, "file": file, "fps": rate})
    return entry


def write_experiment(
    output: Path,
    name: str,
    title: str,
    caption: str,
    table: Sequence[Row],
    details: dict[str, Sequence[Row]],
    figure: str,
    groups: Sequence[dict],
) -> None:
    """Write an experiment: `NAME.csv`, `NAME.svg`, the tables `NAME/DETAIL.csv` and, last, `NAME/index.json`.

    `index.json` is `{"title", "caption", "groups": [{"title", "videos": [{"label", "file", "fps"}]}]}`: what a page
    shows side by side, group by group; files lie beside it.
    """
    write_table(output / f"{name}.csv", table)
    for detail, rows in details.items():
        write_table(output / name / f"{detail}.csv", rows)
    write_bytes(output / f"{name}.svg", figure.encode())
    write_json(output / name / "index.json", {"title": title, "caption": caption, "groups": list(groups)})

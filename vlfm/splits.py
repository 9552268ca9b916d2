"""Training clips and test clips: the words for the two, and which shards of a plan hold which.

Test clips are decoded, inverted and projected like the others, and nothing is trained on them: neither the model and
its scales nor the embedded decoder. Which clip is which, the index says: a column `split`, or the data set's own lists
(`vlfm/clips/datasets/`). A shard holds clips of one split, so that who trains takes whole shards.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vlfm.errors import VLFMError
from vlfm.words import plural

TRAIN, TEST = "train", "test"
SPLITS = (TRAIN, TEST)
LABELS = {TRAIN: "training", TEST: "held out"}  # what a reader sees


def checked_plan(plan: Any, path: Path) -> dict[str, dict[str, Any]]:
    """A plan as read from the file `path`: shard → what it says of it, `clips` a number.

    Raises:
        VLFMError: it is none.
    """
    try:
        return {shard: {**about, "clips": int(about["clips"])} for shard, about in plan.items()}
    except (AttributeError, KeyError, TypeError, ValueError):
        raise VLFMError(f"{path} is no plan of shards; remove it and run `snakemake` again") from None


def splits_of(plan: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Shard → its split, in the order of the names; a plan from before there were splits has training clips alone."""
    return {shard: plan[shard].get("split", TRAIN) for shard in sorted(plan)}


def shards_of(plan: Mapping[str, Mapping[str, Any]], split: str | None = None) -> list[str]:
    """The names of a plan's shards, in order: those of one split, or all."""
    return [shard for shard, its in splits_of(plan).items() if split in (None, its)]


def training_shards(plan: Mapping[str, Mapping[str, Any]], path: Path | str) -> list[str]:
    """The names of the shards to train on, in order.

    Args:
        path: the plan's file, for the message.

    Raises:
        VLFMError: if there is none.
    """
    shards = shards_of(plan, TRAIN)
    if not shards:
        raise VLFMError(f"{path} plans no training clip, only {plural(len(plan), 'shard')} of test clips; {REMEDY}")
    return shards


REMEDY = f"write {TRAIN} in the column split of the rows to train on, or leave the cell empty"


def splits_met(splits: Iterable[str]) -> tuple[str, ...]:
    """Those of the splits that occur, training first."""
    found = set(splits)
    return tuple(split for split in SPLITS if split in found)

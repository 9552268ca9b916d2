"""Which clip lies in which shard: an earlier plan gone on with, and the file that keeps it.

Numbers only, a few bytes a clip. A clip is known by its id as a whole number.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vlfm.errors import VLFMError
from vlfm.splits import SPLITS, TRAIN
from vlfm.storage.files import read_json, write_bytes


@dataclass(frozen=True)
class Plan:
    """Where clips lie.

    Attributes:
        ids: uint64 (clips,), in the order of the shards and of the clips in them.
        shards: int64 (clips,), increasing.
        splits: int8 (clips,), indices into `SPLITS`.
        following: the first shard number never given.
    """

    ids: np.ndarray
    shards: np.ndarray
    splits: np.ndarray
    following: int


def deal(ids: np.ndarray, buckets: np.ndarray, splits: np.ndarray, earlier: Plan, size: int) -> tuple[Plan, np.ndarray]:
    """Give each clip a shard; all clips of a shard are of one bucket.

    A clip of the earlier plan keeps its shard, unless its split is another now, or its bucket another than that of the
    first clip of its shard that is left. All others fill new shards, each bucket its own, in the order of their first
    clips.

    Args:
        ids: uint64 (clips,), each once, at least one, in the order of the index.
        buckets: int64 (clips,), which clips may share a shard.
        splits: int8 (clips,), indices into `SPLITS`.
        size: clips of a full shard.

    Returns:
        the plan, and where each of its clips stands in `ids`, int64 (clips,).
    """
    by_id = np.argsort(ids, kind="stable")
    found = by_id[np.minimum(np.searchsorted(ids[by_id], earlier.ids), len(ids) - 1)]
    kept = (ids[found] == earlier.ids) & (splits[found] == earlier.splits)
    place, shard = found[kept], earlier.shards[kept]
    _, firsts, which = np.unique(shard, return_index=True, return_inverse=True)
    stays = buckets[place] == buckets[place[firsts]][which]
    place, shard = place[stays], shard[stays]

    shards = np.full(len(ids), -1, np.int64)
    order = np.empty(len(ids), np.int64)  # within a shard
    shards[place], order[place] = shard, np.arange(len(place))
    new = np.flatnonzero(shards < 0)
    kinds, firsts = np.unique(buckets[new], return_index=True)
    following = max(earlier.following, int(shard.max(initial=-1)) + 1)
    for kind in kinds[np.argsort(firsts)]:
        some = new[buckets[new] == kind]
        shards[some] = following + np.arange(len(some)) // size
        following += -(-len(some) // size)
    order[new] = len(place) + new
    places = np.lexsort((order, shards))
    return Plan(ids[places], shards[places], splits[places], following), places


def write_plan(path: Path, plan: Plan) -> None:
    """Keep a plan, atomically: {"next": …, "shards": [[number, split, ids of 16 hex digits in a row], …]}."""
    edges = np.flatnonzero(np.diff(plan.shards, prepend=-1))
    hexadecimal = plan.ids.astype(">u8").tobytes().hex()
    shards = [
        [int(plan.shards[first]), SPLITS[plan.splits[first]], hexadecimal[16 * first : 16 * last]]
        for first, last in zip(edges.tolist(), [*edges[1:].tolist(), len(plan.ids)], strict=True)
    ]
    text = json.dumps({"next": plan.following, "shards": shards}, separators=(",", ":"))
    write_bytes(path, text.replace("],[", "],\n[").encode() + b"\n")


def read_plan(record: Path, manifest: Path) -> Plan:
    """The earlier plan: what `write_plan` kept or, without that, what the manifest tells; else an empty one.

    Plans were kept as {"clips": [[id, shard, split], …]} before, and without splits, when all clips were training
    clips.

    Raises:
        VLFMError: the file holds no plan.
    """
    if record.is_file():
        try:
            return _parsed(read_json(record))
        except (KeyError, TypeError, ValueError) as error:
            raise VLFMError(f"{record} is no shard plan ({error}); restore it, or remove it and all shards") from error
    if manifest.is_file():
        return _of_manifest(manifest)
    return _plan([], [], [], 0)


def _parsed(kept: dict[str, Any]) -> Plan:
    if "shards" not in kept:
        rows = [(int(name, 16), int(shard), SPLITS.index(*(split or [TRAIN]))) for name, shard, *split in kept["clips"]]
        return _plan(*(zip(*rows, strict=True) if rows else ([], [], [])), int(kept["next"]))
    ids = np.frombuffer(bytes.fromhex("".join(some for _, _, some in kept["shards"])), ">u8").astype(np.uint64)
    counts = [len(some) // 16 for _, _, some in kept["shards"]]
    shards = np.repeat(np.array([int(shard) for shard, _, _ in kept["shards"]], np.int64), counts)
    splits = np.repeat(np.array([SPLITS.index(split) for _, split, _ in kept["shards"]], np.int8), counts)
    return Plan(ids, shards, splits, int(kept["next"]))


def _of_manifest(manifest: Path) -> Plan:
    import pyarrow.parquet as pq

    columns = [name for name in ("clip_id", "shard", "split") if name in pq.read_schema(manifest).names]
    table = pq.read_table(manifest, columns=columns)
    shards = table["shard"].to_numpy()
    ids = [int(name, 16) for name in table["clip_id"].to_pylist()]
    splits = map(SPLITS.index, table["split"].to_pylist()) if "split" in columns else [SPLITS.index(TRAIN)] * len(ids)
    return _plan(ids, shards, list(splits), int(shards.max(initial=-1)) + 1)


def _plan(ids: Any, shards: Any, splits: Any, following: int) -> Plan:
    return Plan(np.array(ids, np.uint64), np.array(shards, np.int64), np.array(splits, np.int8), following)

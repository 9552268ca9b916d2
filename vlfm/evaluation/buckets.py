"""The lengths and sizes of clips in a run, and how a few clips stand for all of them."""

from dataclasses import dataclass
from pathlib import Path

from vlfm.latents.store import LatentStore


@dataclass(frozen=True)
class Bucket:
    """Clips of one length and size: T in seconds, and pixels."""

    duration: float
    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.duration:g} s at {self.height}×{self.width} pixels"


def read_buckets(results: Path, shards: list[str]) -> dict[Bucket, dict[str, list[str]]]:
    """Bucket → shard → ids of the clips that have latents, each in the order of the plan.

    Raises:
        VLFMError: if a latent store is missing or damaged.
    """
    found: dict[Bucket, dict[str, list[str]]] = {}
    for shard in shards:
        store = LatentStore(results / "latents" / f"{shard}.zarr")
        found.setdefault(Bucket(store.duration, store.height, store.width), {})[shard] = store.clip_ids
    return found


def choose_clips(results: Path, shards: list[str], limit: int) -> dict[str, list[str]]:
    """At most `limit` clips, by shard: of every bucket its share, at least one while there is room.

    Within a bucket they are the first of the stores, which are in no order of content.
    """
    buckets = list(read_buckets(results, shards).values())
    totals = [sum(map(len, bucket.values())) for bucket in buckets]
    quotas = [0] * len(buckets)
    for _ in range(min(limit, sum(totals))):
        # The one furthest behind its share.
        quotas[min(range(len(buckets)), key=lambda index: quotas[index] / totals[index])] += 1
    chosen: dict[str, list[str]] = {}
    for bucket, quota in zip(buckets, quotas, strict=True):
        for shard, ids in bucket.items():
            if taken := ids[:quota]:
                chosen[shard] = taken
            quota -= len(taken)
    return {shard: chosen[shard] for shard in shards if shard in chosen}

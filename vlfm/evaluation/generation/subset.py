"""A few clips that stand for a run, however many it has."""

from collections.abc import Mapping, Sequence

from vlfm.spread import spread

TRAINING = 4096  # training clips that are looked at, at most


def enough_shards(counts: Mapping[str, int], limit: int = TRAINING) -> list[str]:
    """The fewest shards, spread over the run, that hold `limit` clips; all where they hold fewer.

    To read a shard costs the same whatever is taken from it.

    Args:
        counts: shard → how many clips it has, in order.
    """
    names = [name for name, count in counts.items() if count]
    for number in range(1, len(names)):
        some = spread(names, number)
        if sum(counts[name] for name in some) >= limit:
            return some
    return names


def sampled_clips(shards: Mapping[str, Sequence[str]], limit: int = TRAINING) -> dict[str, list[str]]:
    """Shard → ids of at most `limit` clips, spread over those given, in order."""
    sample: dict[str, list[str]] = {}
    for name, clip_id in spread([(name, clip_id) for name, ids in shards.items() for clip_id in ids], limit):
        sample.setdefault(name, []).append(clip_id)
    return sample

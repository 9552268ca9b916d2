"""Which clips stand for a run with several lengths and sizes."""

import numpy as np
import pytest

from vlfm.evaluation.buckets import Bucket, choose_clips, read_buckets
from vlfm.latents.store import ClipLatents, write_store

SHORT, LONG, WIDE = Bucket(0.5, 96, 96), Bucket(1.0, 96, 96), Bucket(0.5, 72, 128)


@pytest.fixture
def results(tmp_path):
    """`results([(bucket, clips), …])` → a folder with a shard of latents for each, and their names."""

    def results(shards):
        for number, (bucket, count) in enumerate(shards):
            frames = round(24 * bucket.duration)
            clips = [
                ClipLatents(
                    f"{number}-{index}",
                    np.zeros((frames, 1, 2, 2), np.float32),
                    np.arange(1, frames + 1) / 24,
                    np.zeros((2, 3), np.float32),
                    np.ones(2, bool),
                    "",
                    30.0,
                    bucket.duration,
                )
                for index in range(count)
            ]
            path = tmp_path / "latents" / f"{number:05d}.zarr"
            write_store(path, clips, "float32", "f00d", {}, fps=24, height=bucket.height, width=bucket.width)
        return tmp_path, [f"{number:05d}" for number in range(len(shards))]

    return results


def counts(chosen):
    return {shard: len(ids) for shard, ids in chosen.items()}


def test_buckets_are_read_from_the_stores(results):
    found = read_buckets(*results([(SHORT, 2), (WIDE, 1), (SHORT, 1)]))
    assert found == {SHORT: {"00000": ["0-0", "0-1"], "00002": ["2-0"]}, WIDE: {"00001": ["1-0"]}}
    assert str(WIDE) == "0.5 s at 72×128 pixels"


def test_of_one_bucket_the_first_clips(results):
    folder, shards = results([(SHORT, 3), (SHORT, 3), (SHORT, 3)])
    assert choose_clips(folder, shards, 4) == {"00000": ["0-0", "0-1", "0-2"], "00001": ["1-0"]}
    assert counts(choose_clips(folder, shards, 100)) == {"00000": 3, "00001": 3, "00002": 3}


@pytest.mark.parametrize(
    ("limit", "chosen"),
    [
        (1, {"00000": 1}),
        (3, {"00000": 1, "00002": 1, "00003": 1}),
        (8, {"00000": 5, "00001": 1, "00002": 1, "00003": 1}),
        (100, {"00000": 5, "00001": 5, "00002": 2, "00003": 1}),
    ],
)
def test_every_bucket_has_its_share(results, limit, chosen):
    assert counts(choose_clips(*results([(SHORT, 5), (SHORT, 5), (LONG, 2), (WIDE, 1)]), limit)) == chosen

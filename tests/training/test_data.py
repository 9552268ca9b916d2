import dataclasses
import io
import itertools
import json
import os
import tarfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.model import write_shards
from vlfm.coefficients.shards import decode, encode
from vlfm.errors import VLFMError
from vlfm.storage.files import read_json, write_json
from vlfm.storage.npy import npy_bytes
from vlfm.training.data import ShardMoments, read_moments
from vlfm.training.loader import Clips, batches
from vlfm.training.sampler import GROUP, EndlessOrder, StepOrder
from vlfm.training.trainer import split_batch


@pytest.fixture
def two_sizes(tmp_path, small_config):
    """Seven clips of 8×8 and 0.5 s, five of 4×8 and 1 s."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = write_shards(tmp_path / "a", small_config)
    second = write_shards(
        tmp_path / "b", small_config, clips=5, shape=(8, 4, 8), duration=1.0, num_frames=24, first_id=100
    )
    return [one + two for one, two in zip(first, second, strict=True)]


def taken(tars, files, batch_size=4, seed=0, count=12, **options):
    with_moments = batches(tars, read_moments(files), batch_size, seed, **options)
    return list(itertools.islice(with_moments, count))


def names(batches):
    return [batch.clip_ids for batch in batches]


def test_a_batch_holds_what_the_shards_hold(tmp_path, small_config):
    made, tars, files = write_shards(tmp_path, small_config)
    (batch,) = taken(tars, files, 7, count=1)
    known = {clip.clip_id: clip for clip in made}
    for index, name in enumerate(batch.clip_ids):
        assert np.array_equal(batch.coefficients[index].numpy(), known[name].coefficients)
        assert np.array_equal(batch.tokens[index].numpy(), known[name].tokens)
        assert np.array_equal(batch.mask[index].numpy(), known[name].mask)
    assert batch.duration.tolist() == [0.5] * 7 and batch.num_frames.tolist() == [12] * 7


def test_embeddings_keep_the_precision_of_their_store(tmp_path, small_config):
    made, _, _ = write_shards(tmp_path, small_config, clips=1, shards=1)
    for tokens, dtype in (
        (made[0].tokens.astype("f2").astype("f4"), "f2"),
        (made[0].tokens, "f4"),
        (made[0].tokens * 1e5, "f4"),  # above what float16 can hold
    ):
        sample = encode(dataclasses.replace(made[0], tokens=tokens))
        assert np.load(io.BytesIO(sample["tokens.npy"])).dtype == dtype
        assert np.array_equal(decode(sample, "x").tokens, tokens)


def test_what_was_observed_is_known_for_each_length(two_sizes):
    _, _, files = two_sizes
    for path, observed in zip(files, ((1 / 12, 1.0), (0.1, 0.9), (1 / 24, 1.0), (1 / 24, 1.0)), strict=True):
        write_json(path, {**read_json(path), "observed": observed})
    assert read_moments(files).observed == {0.5: (0.1, 0.9), 1.0: (1 / 24, 1.0)}


@pytest.mark.parametrize("workers", [0, 1])
def test_no_shard_stays_open(tmp_path, small_config, workers):
    _, tars, files = write_shards(tmp_path, small_config)

    def open_shards():
        targets = [
            os.readlink(f"/proc/self/fd/{number}")
            for number in os.listdir("/proc/self/fd")
            if os.path.islink(f"/proc/self/fd/{number}")
        ]
        return [target for target in targets if target.startswith(str(tmp_path))]

    source = batches(tars, read_moments(files), 4, 0, workers=workers)
    next(source)
    assert bool(open_shards()) == (workers == 0)
    source.close()
    assert open_shards() == []


def test_every_clip_once_an_epoch_in_changing_order(tmp_path, small_config):
    made, tars, files = write_shards(tmp_path, small_config, clips=6)
    flat = list(itertools.chain.from_iterable(names(taken(tars, files, 3, count=20))))
    epochs = [tuple(flat[i : i + 6]) for i in range(0, 60, 6)]
    assert all(sorted(epoch) == sorted(clip.clip_id for clip in made) for epoch in epochs)
    assert len(set(epochs)) > 5


def test_order_depends_on_seed_alone(tmp_path, small_config):
    _, tars, files = write_shards(tmp_path, small_config)
    first, again, other = (names(taken(tars, files, seed=seed)) for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("start", [1, 2, 7, 30])
def test_a_run_begun_later_continues_exactly(two_sizes, start):
    _, tars, files = two_sizes
    straight = names(taken(tars, files, count=start + 8))
    assert names(taken(tars, files, count=8, start=start)) == straight[start:]


def test_a_step_is_of_one_shape_and_all_shapes_get_their_share(two_sizes):
    made, tars, files = two_sizes
    shapes = {clip.clip_id: clip.coefficients.shape[:3] for clip in made}
    seen = taken(tars, files, 4, count=300)
    for batch in seen:
        assert {shapes[name] for name in batch.clip_ids} == {batch.shape}
        assert set(batch.duration.tolist()) == {0.5 if batch.shape == (8, 8, 8) else 1.0}
        assert set(batch.num_frames.tolist()) == {12 if batch.shape == (8, 8, 8) else 24}
    wide = sum(batch.shape == (8, 8, 8) for batch in seen)
    assert abs(wide / 300 - 7 / 12) < 0.1


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("processes, accumulate", [(1, 1), (1, 4), (2, 1), (2, 2)])
def test_processes_parts_and_workers_change_nothing(two_sizes, workers, processes, accumulate):
    _, tars, files = two_sizes
    whole = taken(tars, files, 4, count=6)
    ranks = []
    for rank in range(processes):
        parts = split_batch(4, processes, accumulate, rank)
        ranks.append(taken(tars, files, 4, count=6 * accumulate, stop=6, parts=parts, workers=workers))
    for step, batch in enumerate(whole):
        shares = [rank[step * accumulate : (step + 1) * accumulate] for rank in ranks]
        # Position (part × processes + rank) × size, as split_batch says.
        pieces = [shares[rank][part] for part in range(accumulate) for rank in range(processes)]
        assert sum((piece.clip_ids for piece in pieces), ()) == batch.clip_ids
        assert torch.equal(torch.cat([piece.coefficients for piece in pieces]), batch.coefficients)


def test_the_loader_ends_with_the_last_step(tmp_path, small_config):
    _, tars, files = write_shards(tmp_path, small_config)
    assert len(taken(tars, files, start=3, stop=8, count=None)) == 5


@settings(max_examples=50, deadline=None)
@given(counts=st.lists(st.integers(1, 9), min_size=1, max_size=40), seed=st.integers(0, 2**32), epoch=st.integers(0, 9))
def test_an_epoch_is_a_permutation_read_from_few_shards_at_a_time(counts, seed, epoch):
    order = EndlessOrder(range(len(counts)), counts, seed, 0)
    total = sum(counts)
    places = [order[epoch * total + offset] for offset in range(total)]
    assert sorted(places) == [(shard, clip) for shard, count in enumerate(counts) for clip in range(count)]
    first_seen = {shard: index for index, shard in enumerate(dict.fromkeys(shard for shard, _ in places))}
    groups = [first_seen[shard] // GROUP for shard, _ in places]
    assert groups == sorted(groups)  # no shard is come back to once its group is done


def test_late_steps_are_reached_without_the_ones_before():
    shards = [ShardMoments(5, (1, size, size), 0.5, 12) for size in (1, 2, 1, 3)]
    order = StepOrder(shards, 2, 0)
    straight = list(order.steps(0, 9000))
    for start, stop in ((0, 1), (4095, 4097), (4096, 4100), (8190, 8195), (8999, 9000)):
        assert list(order.steps(start, stop)) == straight[start:stop]


def test_moments_are_weighted_by_clips(tmp_path, small_config):
    made, _, files = write_shards(tmp_path, small_config, clips=7, shards=2)
    moments = read_moments(files)
    expected = np.mean([np.square(clip.coefficients).mean((0, 1, 2)) for clip in made], axis=0)
    assert moments.clips == 7 and moments.shape == (8, 8, 8) and moments.order == small_config.flow.order
    assert torch.allclose(moments.mean_square, torch.from_numpy(expected).double(), rtol=1e-5)


def test_sizes_and_lengths_of_a_run(two_sizes):
    moments = read_moments(two_sizes[2])
    assert moments.shapes == ((8, 8, 8), (8, 4, 8)) and moments.durations == (0.5, 1.0)


@pytest.mark.parametrize(
    "change, told",
    [
        ({"fingerprint": "beef"}, "fingerprint differ"),
        ({"mean_square": [1.0] * 9}, r"order differ \(9 and 4\)"),
        ({"shape": [16, 8, 8]}, r"latent channels differ \(16 and 8\)"),
        ({"caption_channels": 7}, "caption_channels differ"),
    ],
)
def test_shards_of_another_projection_order_or_decoder_are_refused(tmp_path, small_config, change, told):
    _, _, files = write_shards(tmp_path, small_config)
    files[1].write_text(json.dumps({**json.loads(files[1].read_text()), **change}))
    with pytest.raises(VLFMError, match=rf"00001\.json and .*00000\.json.*{told}"):
        read_moments(files)


def test_moments_of_another_version_are_refused(tmp_path, small_config):
    _, _, files = write_shards(tmp_path, small_config)
    about = json.loads(files[1].read_text())
    del about["caption_mean_square"]
    files[1].write_text(json.dumps(about))
    with pytest.raises(VLFMError, match=r"00001\.json lacks caption_mean_square"):
        read_moments(files)


def test_moments_that_are_not_finite_are_refused(tmp_path, small_config):
    _, _, files = write_shards(tmp_path, small_config)
    files[1].write_text(json.dumps({**json.loads(files[1].read_text()), "mean_square": [1.0, float("nan"), 1.0, 1.0]}))
    with pytest.raises(VLFMError, match=r"00001\.json.*not finite"):
        read_moments(files)


def test_a_missing_clip_is_noticed(tmp_path, small_config):
    _, tars, files = write_shards(tmp_path, small_config)
    files[0].write_text(json.dumps({**json.loads(files[0].read_text()), "clips": 5}))
    with pytest.raises(VLFMError, match=r"00000\.tar holds 4 clips, its moments say 5"):
        taken(tars, files)


def rewritten(tar, change):
    """The shard with the bytes of some members changed."""
    with tarfile.open(tar) as old:
        members = [(member, old.extractfile(member).read()) for member in old]
    with tarfile.open(tar, "w") as new:
        for member, data in members:
            data = change(member.name, data)
            member.size = len(data)
            new.addfile(member, io.BytesIO(data))


def test_a_shard_of_another_order_with_these_moments_is_refused(tmp_path, small_config):
    _, tars, files = write_shards(tmp_path, small_config)
    other = npy_bytes(np.zeros((8, 8, 8, 6), "f4"))
    rewritten(tars[1], lambda name, data: other if name.endswith("coefficients.npy") else data)
    with pytest.raises(VLFMError, match=r"00001\.tar: clip .*\(8, 8, 8, 6\).*say \(8, 8, 8, 4\)"):
        taken(tars, files)


def test_a_member_missing_is_told_with_its_clip(tmp_path, small_config):
    made, tars, files = write_shards(tmp_path, small_config)
    with tarfile.open(tars[0]) as old:
        members = [(member, old.extractfile(member)) for member in old]
        with tarfile.open(tmp_path / "new.tar", "w") as new:
            for member, data in members:
                if member.name != f"{made[2].clip_id}.mask.npy":
                    new.addfile(member, data)
    (tmp_path / "new.tar").replace(tars[0])
    with pytest.raises(VLFMError, match=rf"00000\.tar: clip {made[2].clip_id} is incomplete"):
        taken(tars, files)


def test_few_files_are_open_at_a_time(tmp_path, small_config):
    _, tars, files = write_shards(tmp_path, small_config, clips=60, shards=60)
    opened = Clips(tars, read_moments(files))
    for shard in range(60):
        assert opened.__getitems__([(shard, 0)]).shape == (8, 8, 8)
        assert len(opened._open) <= 2 * GROUP

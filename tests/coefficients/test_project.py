import json
import tarfile

import numpy as np
import pytest
import torch

from vlfm.coefficients.basis import clip_basis
from vlfm.coefficients.project import project_shard
from vlfm.coefficients.shards import read_shard
from vlfm.errors import VLFMError
from vlfm.flow.bases import BASES
from vlfm.latents.store import ClipLatents, write_store
from vlfm.storage.ledger import read_ledger
from vlfm.storage.tar import read_tar, write_tar


def clip_on_basis(name, config, order, seed, duration=0.5, sides=(4, 4)):
    """Latents that are a sum of `order` functions of the basis, seen at uneven times."""
    random = np.random.default_rng(seed)
    count = config.clips.num_frames_of(duration)
    times = np.sort(random.uniform(0.04, duration, count))
    coefficients = random.standard_normal((3, *sides, order)).astype(np.float32)
    g = clip_basis(config, duration, order).evaluate(torch.from_numpy(times)).numpy()
    latents = np.einsum("chwn,tn->tchw", coefficients, g).astype(np.float32)
    return (
        ClipLatents(name, latents, times, np.ones((4, 6), np.float32), np.ones(4, bool), name, float("nan"), duration),
        coefficients,
    )


@pytest.fixture(params=BASES)
def config(request, small_config):
    return small_config.model_copy(update={"flow": small_config.flow.model_copy(update={"basis": request.param})})


@pytest.fixture
def projected(tmp_path, config):
    clips = [clip_on_basis(name, config, 4, seed) for seed, name in enumerate(["aa", "bb"])]
    stored = [clip for clip, _ in clips]
    write_store(tmp_path / "s.zarr", stored, "float32", "f00d", {}, fps=24, height=48, width=48)
    outputs = [tmp_path / name for name in ("s.tar", "s.json", "s.parquet")]
    project_shard(config, tmp_path / "s.zarr", *outputs)
    return clips, *outputs


def test_recovers_sums_of_the_basis_at_each_clips_own_times(projected):
    clips, shard, *_ = projected
    for (clip, coefficients), read in zip(clips, read_shard(shard), strict=True):
        assert read.clip_id == clip.clip_id and np.array_equal(read.times, clip.times)
        assert np.allclose(read.coefficients, coefficients, atol=1e-3)


def test_moments_are_the_mean_squares(projected):
    clips, _, moments, ledger = projected
    about = json.loads(moments.read_text())
    expected = np.mean([np.square(coefficients).mean((0, 1, 2)) for _, coefficients in clips], axis=0)
    assert np.allclose(about["mean_square"], expected, rtol=1e-3)
    assert about["caption_mean_square"] == 1.0
    assert about["mean_token"] == about["mean_token_square"] == [1.0] * 6
    assert about["clips"] == 2 and about["shape"] == [3, 4, 4]
    firsts, lasts = zip(*[(clip.times[0] / 0.5, clip.times[-1] / 0.5) for clip, _ in clips], strict=True)
    assert about["observed"] == [max(firsts), min(lasts)]
    assert [row.status for row in read_ledger(ledger)] == ["ok", "ok"]


def test_shards_of_any_length_and_size_belong_together(tmp_path, config):
    """Each shard's own T and N: H is the same function's, and only what may differ differs in the moments."""
    told = []
    for index, (duration, sides) in enumerate([(0.5, (4, 4)), (2.0, (4, 4)), (0.5, (3, 6))]):
        clip, coefficients = clip_on_basis("aa", config, 4, index, duration, sides)
        write_store(tmp_path / f"{index}.zarr", [clip], "float32", "f00d", {}, fps=24, height=48, width=48)
        outputs = [tmp_path / f"{index}{ending}" for ending in (".tar", ".json", ".parquet")]
        project_shard(config, tmp_path / f"{index}.zarr", *outputs)
        (read,) = read_shard(outputs[0])
        assert np.allclose(read.coefficients, coefficients, atol=1e-3)
        assert (read.duration, read.num_frames) == (duration, round(24 * duration)) == (clip.duration, len(read.times))
        told.append(json.loads(outputs[1].read_text()))
    assert [(about["duration"], about["num_frames"], about["shape"]) for about in told] == [
        (0.5, 12, [3, 4, 4]),
        (2.0, 48, [3, 4, 4]),
        (0.5, 12, [3, 3, 6]),
    ]
    assert len({about["fingerprint"] for about in told}) == 1


def test_a_shard_that_does_not_say_its_length_is_refused(projected, tmp_path):
    _, shard, *_ = projected
    sample = next(read_tar(shard))
    about = json.loads(sample["json"])
    del about["duration"]
    write_tar(tmp_path / "old.tar", [sample | {"json": json.dumps(about).encode()}])
    with pytest.raises(VLFMError, match=r"old\.tar: clip aa is incomplete \('duration'\)"):
        list(read_shard(tmp_path / "old.tar"))


def test_same_latents_same_bytes(projected, tmp_path, config):
    _, shard, *_ = projected
    again = [tmp_path / name for name in ("t.tar", "t.json", "t.parquet")]
    project_shard(config, tmp_path / "s.zarr", *again)
    assert again[0].read_bytes() == shard.read_bytes()


def test_a_pickle_in_a_shard_is_refused(projected, tmp_path):
    _, shard, *_ = projected
    with tarfile.open(shard, "a") as tar:
        (tmp_path / "evil").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
        tar.add(tmp_path / "evil", "cc.pickle")
    with pytest.raises(VLFMError, match=r"cc\.pickle"):
        list(read_shard(shard))


def test_an_array_of_objects_is_refused(tmp_path):
    import io

    buffer = io.BytesIO()
    np.save(buffer, np.array([{}], dtype=object), allow_pickle=True)
    members = {"coefficients.npy": buffer.getvalue(), "json": b'{"clip_id": "aa", "caption": "", "times": []}'}
    write_tar(tmp_path / "s.tar", [{"__key__": "aa", **members}])
    with pytest.raises(VLFMError, match=r"aa\.coefficients\.npy is not a plain npy"):
        list(read_shard(tmp_path / "s.tar"))


def test_a_cut_off_shard_is_told(projected):
    _, shard, *_ = projected
    shard.write_bytes(shard.read_bytes()[:3000])
    with pytest.raises(VLFMError, match=r"damaged|incomplete"):
        list(read_shard(shard))

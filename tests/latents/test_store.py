import dataclasses
import errno
import json

import numpy as np
import pytest
from zarr.storage import LocalStore

from vlfm.errors import VLFMError
from vlfm.latents.store import ClipLatents, LatentStore, write_store


def clip(name, seed):
    random = np.random.default_rng(seed)
    return ClipLatents(
        clip_id=name,
        latents=random.standard_normal((5, 3, 4, 4)).astype(np.float32),
        times=np.arange(1, 6) / 10,
        tokens=random.standard_normal((7, 6)).astype(np.float32),
        mask=np.arange(7) < 4,
        caption=f"caption {name}",
        round_trip=30.5,
        duration=0.5,
        rounding=2e-4,
    )


def write(path, clips, dtype="float16", about=None):
    write_store(path, clips, dtype, "f00d", about or {}, fps=10.0, height=32, width=48)


@pytest.fixture
def clips():
    return [clip("aa", 1), clip("bb", 2), clip("cc", 3)]


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 0), ("float16", 2e-3)])
def test_round_trip(tmp_path, clips, dtype, tolerance):
    write(tmp_path / "s.zarr", clips, dtype, {"steps": 3})
    store = LatentStore(tmp_path / "s.zarr")
    assert store.clip_ids == ["aa", "bb", "cc"] and store.fingerprint == "f00d" and store.about == {"steps": 3}
    assert (store.duration, store.fps, store.height, store.width, store.shape) == (0.5, 10.0, 32, 48, (3, 4, 4))
    assert store.num_frames == 5 and store.lengths == {"aa": 5, "bb": 5, "cc": 5}
    for written, read in zip(clips, store, strict=True):
        assert np.allclose(read.latents, written.latents, atol=tolerance, rtol=0)
        assert np.array_equal(read.times, written.times) and np.array_equal(read.mask, written.mask)
        assert read.caption == written.caption and read.round_trip == pytest.approx(30.5)
        assert read.duration == 0.5 and read.rounding == pytest.approx(2e-4)
    assert np.array_equal(store["bb"].latents, list(store)[1].latents)


def test_same_clips_same_bytes_and_few_files(tmp_path, clips):
    for name in ("a", "b"):
        write(tmp_path / f"{name}.zarr", clips)
    one, two = ({p.relative_to(d): p.read_bytes() for p in d.rglob("*") if p.is_file()} for d in tmp_path.iterdir())
    assert one == two
    assert len(one) < 15


def test_one_clip_is_one_chunk(tmp_path, clips):
    write(tmp_path / "s.zarr", clips)
    about = json.loads((tmp_path / "s.zarr" / "latents" / "zarr.json").read_text())
    inner = about["codecs"][0]["configuration"]["chunk_shape"]
    assert inner == [1, 5, 3, 4, 4]


def test_damage_and_absence_are_told(tmp_path, clips):
    with pytest.raises(VLFMError, match="no latent store"):
        LatentStore(tmp_path / "none.zarr")
    write(tmp_path / "s.zarr", clips)
    with pytest.raises(VLFMError, match="dd is not in"):
        LatentStore(tmp_path / "s.zarr")["dd"]
    (tmp_path / "s.zarr" / "zarr.json").write_text("{")
    with pytest.raises(VLFMError, match="damaged"):
        LatentStore(tmp_path / "s.zarr")


def test_one_clip_is_read_without_the_shard(tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    many = [
        dataclasses.replace(clip(f"{seed:02d}", seed), latents=random.standard_normal((5, 3, 32, 32)))
        for seed in range(40)
    ]
    write(tmp_path / "s.zarr", many)
    store, read = LatentStore(tmp_path / "s.zarr"), []
    original = LocalStore.get

    async def plural(self, key, *rest, **options):
        found = await original(self, key, *rest, **options)
        read.append(len(found) if found is not None else 0)
        return found

    monkeypatch.setattr(LocalStore, "get", plural)
    latents = store["17"].latents
    monkeypatch.undo()
    assert np.array_equal(latents, many[17].latents.astype(np.float16).astype(np.float32))
    own, whole = 2 * latents.size, (tmp_path / "s.zarr/latents/c/0/0/0/0/0").stat().st_size
    assert whole > 39 * own and own <= sum(read) < 1.2 * own


def test_a_store_of_another_version_is_refused(tmp_path, clips):
    write(tmp_path / "s.zarr", clips)
    about = tmp_path / "s.zarr" / "zarr.json"
    text = json.loads(about.read_text())
    text["attributes"] = {"version": 1, "fingerprint": "f00d"}
    about.write_text(json.dumps(text))
    with pytest.raises(VLFMError, match=r"s\.zarr has store version 1, this code reads 2; remove it"):
        LatentStore(tmp_path / "s.zarr")


def test_what_cannot_be_written_leaves_the_old_store_and_no_crumbs(tmp_path, clips, monkeypatch):
    write(tmp_path / "s.zarr", clips)
    original = LocalStore.set

    async def full(self, key, value):
        if key.startswith("tokens/c"):
            raise OSError(errno.ENOSPC, "No space left on device")
        await original(self, key, value)

    monkeypatch.setattr(LocalStore, "set", full)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "s.zarr", clips[:2])
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["s.zarr"]
    assert LatentStore(tmp_path / "s.zarr").clip_ids == ["aa", "bb", "cc"]


def test_clips_of_two_lengths_are_no_shard(tmp_path, clips):
    with pytest.raises(ValueError, match="one duration"):
        write(tmp_path / "s.zarr", [clips[0], dataclasses.replace(clips[1], duration=1.0)])

import json

import numpy as np
import pytest

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
    )


@pytest.fixture
def clips():
    return [clip("aa", 1), clip("bb", 2), clip("cc", 3)]


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 0), ("float16", 2e-3)])
def test_round_trip(tmp_path, clips, dtype, tolerance):
    write_store(tmp_path / "s.zarr", clips, dtype, "f00d", {"steps": 3})
    store = LatentStore(tmp_path / "s.zarr")
    assert store.clip_ids == ["aa", "bb", "cc"] and store.fingerprint == "f00d" and store.about == {"steps": 3}
    for written, read in zip(clips, store, strict=True):
        assert np.allclose(read.latents, written.latents, atol=tolerance, rtol=0)
        assert np.array_equal(read.times, written.times) and np.array_equal(read.mask, written.mask)
        assert read.caption == written.caption and read.round_trip == pytest.approx(30.5)
    assert np.array_equal(store["bb"].latents, list(store)[1].latents)


def test_same_clips_same_bytes_and_few_files(tmp_path, clips):
    for name in ("a", "b"):
        write_store(tmp_path / f"{name}.zarr", clips, "float16", "f", {})
    one, two = ({p.relative_to(d): p.read_bytes() for p in d.rglob("*") if p.is_file()} for d in tmp_path.iterdir())
    assert one == two
    assert len(one) < 15


def test_one_clip_is_one_chunk(tmp_path, clips):
    write_store(tmp_path / "s.zarr", clips, "float16", "f", {})
    about = json.loads((tmp_path / "s.zarr" / "latents" / "zarr.json").read_text())
    inner = about["codecs"][0]["configuration"]["chunk_shape"]
    assert inner == [1, 5, 3, 4, 4]


def test_damage_and_absence_are_told(tmp_path, clips):
    with pytest.raises(VLFMError, match="no latent store"):
        LatentStore(tmp_path / "none.zarr")
    write_store(tmp_path / "s.zarr", clips, "float16", "f", {})
    with pytest.raises(VLFMError, match="dd is not in"):
        LatentStore(tmp_path / "s.zarr")["dd"]
    (tmp_path / "s.zarr" / "zarr.json").write_text("{")
    with pytest.raises(VLFMError, match="damaged"):
        LatentStore(tmp_path / "s.zarr")

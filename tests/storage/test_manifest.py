"""The manifest."""

import pytest

from vlfm.errors import VLFMError
from vlfm.storage import manifest
from vlfm.storage.manifest import Clip, clip_id, read_manifest, read_splits, shard_digest, write_manifest


def test_manifest_by_shard(tmp_path):
    clips = [Clip(f"{i:016x}", "a.mp4", i / 2, i / 2 + 0.5, "c", i, i // 2, 96, 128) for i in range(4)]
    write_manifest(tmp_path / "m.parquet", clips)
    assert read_manifest(tmp_path / "m.parquet") == clips
    assert read_manifest(tmp_path / "m.parquet", 1) == clips[2:]
    with pytest.raises(VLFMError, match="shard 7 is not in the plan"):
        read_manifest(tmp_path / "m.parquet", 7)


def test_clip_ids_name_content():
    assert clip_id("a.mp4", 0.5, 1.0) == clip_id("a.mp4", 0.5000000001, 1.0)
    assert clip_id("a.mp4", 0.5, 1.0) != clip_id("b.mp4", 0.5, 1.0)
    assert clip_id("a.mp4", 0.5, 1.0) != clip_id("a.mp4", 0.5, 1.5)


def test_a_manifest_from_before_there_were_data_sets_is_read(tmp_path):
    import pyarrow.parquet as pq

    clips = [Clip(f"{i:016x}", "a.mp4", 0.0, 0.5, "c", i, 0, 96, 128, "test") for i in range(3)]
    write_manifest(tmp_path / "m.parquet", clips)
    table = pq.read_table(tmp_path / "m.parquet").drop_columns(["dataset", "licence", "extra"])
    pq.write_table(table, tmp_path / "m.parquet")
    assert read_manifest(tmp_path / "m.parquet", 0) == clips
    pq.write_table(table.append_column("new", table["caption"]), tmp_path / "m.parquet")
    with pytest.raises(VLFMError, match="another version"):
        read_manifest(tmp_path / "m.parquet")


def test_what_is_known_of_a_clip_is_kept(tmp_path):
    clips = [Clip("0" * 16, "a.mp4", 0.0, 0.5, "c", 2, 0, 96, 128, "train", "openvid", "CC BY", '{"fps":"24"}')]
    write_manifest(tmp_path / "m.parquet", clips)
    assert read_manifest(tmp_path / "m.parquet") == clips
    bare = Clip("0" * 16, "a.mp4", 0.0, 0.5, "c", 2, 0, 96, 128)
    assert shard_digest(clips) == shard_digest([bare]) == "981de81235db0d10"  # as before there were data sets


def test_row_groups_hold_whole_shards(tmp_path, monkeypatch):
    import pyarrow.parquet as pq

    monkeypatch.setattr(manifest, "GROUP", 5)
    clips = [Clip(f"{i:016x}", "a.mp4", i / 2, i / 2 + 0.5, "c", i, i // 3, 96, 128) for i in range(10)]
    write_manifest(tmp_path / "m.parquet", iter(clips))
    file = pq.ParquetFile(tmp_path / "m.parquet")
    groups = [file.read_row_group(number)["shard"].to_pylist() for number in range(file.num_row_groups)]
    assert groups == [[0, 0, 0, 1, 1, 1], [2, 2, 2, 3]]
    assert read_manifest(tmp_path / "m.parquet") == clips and read_manifest(tmp_path / "m.parquet", 2) == clips[6:9]


def test_splits_alone(tmp_path):
    import pyarrow.parquet as pq

    clips = [
        Clip(f"{i:016x}", "a.mp4", 0.0, 0.5, "c", i, i, 96, 128, split) for i, split in enumerate(("train", "test"))
    ]
    write_manifest(tmp_path / "m.parquet", clips)
    assert read_splits(tmp_path / "m.parquet") == {"0" * 16: "train", f"{1:016x}": "test"}
    pq.write_table(pq.read_table(tmp_path / "m.parquet").drop_columns(["split"]), tmp_path / "m.parquet")
    assert read_splits(tmp_path / "m.parquet") == {"0" * 16: "train", f"{1:016x}": "train"}
    write_manifest(tmp_path / "m.parquet", [])
    assert read_splits(tmp_path / "m.parquet") == {} and read_manifest(tmp_path / "m.parquet") == []

"""The manifest."""

import pytest

from vlfm.errors import VLFMError
from vlfm.storage.manifest import Clip, clip_id, read_manifest, write_manifest


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

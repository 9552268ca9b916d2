"""The stage on one file, with the settings of config.yaml."""

import pytest

from tests.clips.http_server import serving
from tests.conftest import ROOT
from vlfm import config
from vlfm.clips import locate
from vlfm.clips.decode import decode_shard
from vlfm.clips.download import retries
from vlfm.clips.shards import read_clips
from vlfm.storage.ledger import read_ledger
from vlfm.storage.manifest import Clip, clip_id, write_manifest


@pytest.fixture(scope="session")
def settings():
    """The settings of config.yaml with another value here and there."""
    clips = config.load(ROOT / "config.yaml").clips
    return lambda **changes: clips.model_copy(update={"timeout": 30.0, "max_bad": 1.0} | changes)


@pytest.fixture
def server():
    with serving() as server:
        yield server


@pytest.fixture
def waits(monkeypatch):
    """What would be waited between tries, seconds; nothing is."""
    waits = []
    monkeypatch.setattr(retries, "sleep", waits.append)
    return waits


@pytest.fixture
def find(settings, tmp_path):
    """`find(source, folder, timeout, **settings of clips.download)`, the folder `tmp_path / "in"` unless given."""

    def find(source, folder=tmp_path / "in", timeout=60, **changes):
        return locate.find(source, folder, timeout, settings().download.model_copy(update=changes))

    return find


@pytest.fixture
def decode(settings, tmp_path):
    """`decode(file, starts, **settings)` → clips by start, ledger rows."""

    def decode(file, starts, **changes):
        clips = settings(**changes)
        ends = [round(start + clips.duration, 6) for start in starts]
        plan = [
            Clip(clip_id(str(file), start, end), str(file), start, end, f"at {start}", line, 0, *clips.sizes[0])
            for line, (start, end) in enumerate(zip(starts, ends, strict=True), 2)
        ]
        write_manifest(tmp_path / "manifest.parquet", plan)
        output, ledger = tmp_path / "00000.tar", tmp_path / "ledger.parquet"
        decode_shard(clips, tmp_path / "manifest.parquet", 0, output, ledger, tmp_path / "sources")
        return {clip.info["start"]: clip for clip in read_clips(output)}, read_ledger(ledger)

    return decode

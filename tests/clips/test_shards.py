"""Shards are checked when they are read."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from vlfm.clips.shards import read_clips, read_ids
from vlfm.errors import VLFMError
from vlfm.storage.tar import write_tar


def picture(size=8, kind="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(np.full((size, size, 3), 7, np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def sample(**changes):
    info = json.dumps({"times": [0.1, 0.2]}).encode()
    whole = {"__key__": "abc", "000.png": picture(), "001.png": picture(), "json": info, "txt": "ü".encode()}
    return {key: value for key, value in (whole | changes).items() if value is not None}


def test_reading(tmp_path):
    path = tmp_path / "s.tar"
    write_tar(path, [sample(), sample(__key__="def")])
    first, second = read_clips(path)
    assert first.frames.shape == (2, 8, 8, 3) and first.frames.dtype == np.uint8 and (first.frames == 7).all()
    assert first.times.tolist() == [0.1, 0.2] and first.caption == "ü" and second.clip_id == "def"
    assert read_ids(path) == ["abc", "def"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"txt": None}, "abc has no member txt"),
        ({"json": b"{"}, "abc.json"),
        ({"json": b"[]"}, "abc.json"),
        ({"json": b'{"times": ["a", "b"]}'}, "abc.json"),
        ({"txt": b"\xff"}, "abc.txt"),
        ({"001.png": None}, "1 frames for 2 times"),
        ({"json": b'{"times": []}', "000.png": None, "001.png": None}, "0 frames"),
        ({"json": b'{"times": [0.2, 0.1]}'}, "do not increase"),
        ({"json": b'{"times": [0.2, NaN]}'}, "do not increase"),
        ({"001.png": picture(9)}, "abc.001.png is 9×9 pixels"),
        ({"001.png": b"not a picture"}, "abc.001.png is not a picture"),
        ({"001.png": picture()[:50]}, "abc.001.png is not a picture"),
        ({"001.png": picture(kind="GIF")}, "abc.001.png is not a picture"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, changes, message):
    path = tmp_path / "s.tar"
    write_tar(path, [sample(**changes)])
    with pytest.raises(VLFMError, match=message) as caught:
        list(read_clips(path))
    assert str(path) in str(caught.value)


def test_a_cut_tar(tmp_path):
    path = tmp_path / "s.tar"
    write_tar(path, [sample(), sample(__key__="def")])
    whole = path.read_bytes()
    used = len(whole.rstrip(b"\0"))
    for length in [*range(0, used, 177), 512, 1024, 2048]:
        path.write_bytes(whole[:length])
        with pytest.raises(VLFMError, match="damaged"):
            list(read_clips(path))


def test_a_thousand_frames_keep_their_order(tmp_path):
    count = 1002
    frames = {}
    for number in range(count):
        buffer = io.BytesIO()
        Image.fromarray(np.full((2, 2, 3), (number % 256, number // 256, 0), np.uint8)).save(buffer, "PNG")
        frames[f"{number:03d}.png"] = buffer.getvalue()
    info = json.dumps({"times": np.arange(1, count + 1).tolist()}).encode()
    write_tar(tmp_path / "s.tar", [{"__key__": "abc", **frames, "json": info, "txt": b"x"}])
    (clip,) = read_clips(tmp_path / "s.tar")
    assert (clip.frames[:, 0, 0, 0] + 256 * clip.frames[:, 0, 0, 1].astype(int)).tolist() == list(range(count))

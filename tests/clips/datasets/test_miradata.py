"""MiraData, both versions of its index."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data import published
from vlfm.clips.index_files.rows import Row, clock
from vlfm.errors import BadClip, VLFMError


def test_miradata_of_either_version(read, write, tmp_path):
    first = write("miradata_v0.csv", published.MIRADATA_0)
    second = write("miradata_v1_9k.csv", published.MIRADATA_1)
    rows = read("miradata", [first, second])
    assert published.stretches(rows) == [
        ("youtube:AJp_ANXoGoM?start=5442.4&end=5562.4", 0.0, 120.0, True),
        ("youtube:wwqUCcOZBT0?start=1&end=3", 0.0, 2.0, True),
        ("youtube:bFPlCi36RSQ?start=60&end=122.5", 0.0, 62.5, True),
        ("https://cdn.pixabay.com/vimeo/1/a.mp4", 1.0, 3.0, True),
    ]
    assert rows[0].caption == "A group of people looking at cars on display."
    assert rows[2].shown == (1280.0, 720.0) and "" not in rows[0].extra
    assert "short_caption" not in rows[0].extra and "dense_caption" in rows[0].extra
    dense = read("miradata", first, caption="dense_caption")
    assert dense[1].caption == "A sequence, of scenes"
    with pytest.raises(
        VLFMError, match="miradata has no captions in 'tall_caption'; they may come from short_caption, d"
    ):
        read("miradata", first, caption="tall_caption")
    with pytest.raises(VLFMError, match="openvid has no captions in 'caption'; leave `caption` out"):
        read("openvid", first, caption="caption")
    # As the sets' own scripts name them.
    taken = write("v/clips/000000008/000000008783_AJp_ANXoGoM-000114.mp4")
    raw = write("v/raw/000000008563_wwqUCcOZBT0.mp4")
    cut = write("v/video/000000000/000000000007.000000000.mp4")
    other = write("v/raw_video/000000000300.mp4")
    assert published.stretches(read("miradata", [first, second], tmp_path / "v")) == [
        (str(taken), None, None, False),
        (str(raw), 1.0, 3.0, False),
        (str(cut), None, None, False),
        (str(other), 1.0, 3.0, False),
    ]


def test_miradata_rows_that_are_none(read, write):
    header, row = published.MIRADATA_1.splitlines()[0], published.MIRADATA_1.splitlines()[-1]
    bad = [row.replace("['00:00:01.000', '00:00:03.000']", "soon"), row.replace("00:00:03.000", "00:00:00.500")]
    bad += [row.replace("https://cdn.pixabay.com/vimeo/1/a.mp4", "gone"), row.replace("Waves.", "")]
    rows = read("miradata", write("m.csv", "\n".join([header, *bad, row])))
    reasons = ("no pair of times", "not before its end", "no http(s) address", "caption is empty")
    for found, reason in zip(rows[:-1], reasons, strict=True):
        assert reason in found.reason
    assert isinstance(rows[-1], Row)


@settings(max_examples=40)
@given(st.integers(0, 99), st.integers(0, 59), st.integers(0, 59), st.integers(0, 999))
def test_times_of_day(hours, minutes, seconds, thousandths):
    expected = round(hours * 3600 + minutes * 60 + seconds + thousandths / 1000, 6)
    assert clock("x", "start", f"{hours}:{minutes:02d}:{seconds:02d}.{thousandths:03d}") == pytest.approx(expected)
    with pytest.raises(BadClip, match="no time hours:minutes:seconds"):
        clock("x", "start", f"{hours}:{minutes + 60}:{seconds}")


def test_published_sizes_need_no_look(index, write):
    path = str(write("m.csv", published.MIRADATA_1))
    plan, _, _ = index({"dataset": "miradata", "index": path, "windows": 1}, size=[[96, 96], [72, 128]], duration=2.0)
    assert {(clip.height, clip.width) for clip in plan} == {(72, 128)} and len(plan) == 2

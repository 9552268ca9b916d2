"""Zip archives that clips lie in, whole and in parts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data import published
from vlfm.clips.index_files.archives import Archives, list_members
from vlfm.errors import VLFMError


@pytest.mark.parametrize("damage", ["cut", "text", "one part"])
def test_an_archive_that_is_not_whole(tmp_path, damage):
    path = tmp_path / "a.zip"
    published.write_zip(path, {f"{name}.mp4": b"x" * 100 for name in range(9)}, parts=2 if damage == "one part" else 1)
    parts = [str(path)]
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-30])
    elif damage == "text":
        path.write_text("no archive")
    else:
        parts = [str(tmp_path / "a_partaa")]
    with pytest.raises(VLFMError, match=r"is no zip archive, or not all of it"):
        list_members(parts)


@given(places=st.lists(st.integers(1, 600), min_size=1, max_size=4), values=st.binary(min_size=4, max_size=4))
def test_a_damaged_directory_is_read_or_refused(tmp_path_factory, places, values):
    path = tmp_path_factory.mktemp("zip") / "a.zip"
    published.write_zip(path, {f"{name}.mp4": b"x" for name in range(9)})
    data = bytearray(path.read_bytes())
    for place, value in zip(places, values, strict=False):
        data[-place] = value
    path.write_bytes(data)
    try:
        assert all(isinstance(name, str) for name in list_members([str(path)]))
    except VLFMError as error:
        assert "is no zip archive, or not all of it" in str(error)


def test_a_member_without_a_name_is_none(tmp_path):
    path = tmp_path / "a.zip"
    published.write_zip(path, {"a": b"x", "b.mp4": b"y"})
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\x01\x02")
    data[entry + 28] = 0  # the length of its name, which is then read as extra data
    data[entry + 30] = 1
    path.write_bytes(data)
    assert list_members([str(path)]) == ["b.mp4"]


def test_the_first_archive_that_has_a_member(tmp_path):
    published.write_zip(tmp_path / "a.zip", {"x/one.mp4": b"1", "x/y/two.mp4": b"2", "x/": b""})
    published.write_zip(tmp_path / "b.zip", {"one.mp4": b"3"})
    archives = Archives([[str(tmp_path / "a.zip")], [str(tmp_path / "b.zip")]])
    assert archives.find("one.mp4") == f"zip:{tmp_path}/a.zip!x/one.mp4"
    assert archives.find("two.mp4") == f"zip:{tmp_path}/a.zip!x/y/two.mp4" and archives.find("three.mp4") is None

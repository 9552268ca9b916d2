"""Tar shards, and what is refused."""

import tarfile

import pytest
import webdataset

from vlfm.errors import VLFMError
from vlfm.storage.tar import read_tar, write_tar
from vlfm.training.reader import ShardReader


def test_tar_round_trip_and_same_bytes(tmp_path):
    samples = [{"__key__": "aa", "txt": b"1", "000.png": b"2"}, {"__key__": "bb", "json": b"{}"}]
    for name in "xy":
        assert write_tar(tmp_path / name, samples) == 2
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()
    assert list(read_tar(tmp_path / "x")) == samples


def test_webdataset_writes_the_same_and_reads_it(tmp_path):
    key = "0123456789abcdef" * 8  # a long name makes a header of its own
    samples = [{"__key__": "aa", "txt": b"1", "000.png": b"2" * 700}, {"__key__": key, "json": b"{}", "txt": b""}]
    write_tar(tmp_path / "ours.tar", samples)
    theirs = webdataset.TarWriter(
        str(tmp_path / "theirs.tar"), encoder=False, mtime=0, user="vlfm", group="vlfm", mode=0o644
    )
    for sample in samples:
        theirs.write(sample)
    theirs.close()
    assert (tmp_path / "ours.tar").read_bytes() == (tmp_path / "theirs.tar").read_bytes()
    read = webdataset.WebDataset(str(tmp_path / "ours.tar"), shardshuffle=False)
    assert [
        {name: value for name, value in each.items() if name in samples[0] | samples[1]} for each in read
    ] == samples


@pytest.mark.parametrize("name", ["aa.pkl", "aa.pickle", "aa.pyd", "aa.pth", "aa"])
def test_foreign_members_are_refused(tmp_path, name):
    (tmp_path / "f").write_bytes(b"x")
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        tar.add(tmp_path / "f", name)
    with pytest.raises(VLFMError, match="is not one of"):
        list(read_tar(tmp_path / "t.tar"))


def test_links_in_a_tar_are_refused(tmp_path):
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        link = tarfile.TarInfo("aa.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(VLFMError, match=r"aa\.txt"):
        list(read_tar(tmp_path / "t.tar"))


def test_sparse_files_in_a_tar_are_refused(tmp_path):
    """Their size is what their header promises, whatever the archive holds."""
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        sparse = tarfile.TarInfo("aa.txt")
        sparse.type = tarfile.GNUTYPE_SPARSE
        tar.addfile(sparse)
    for read in (lambda path: list(read_tar(path)), ShardReader):
        with pytest.raises(VLFMError, match=r"aa\.txt"):
            read(tmp_path / "t.tar")


def test_a_truncated_tar_is_told(tmp_path):
    write_tar(tmp_path / "t.tar", [{"__key__": "aa", "txt": b"1" * 5000}])
    (tmp_path / "t.tar").write_bytes((tmp_path / "t.tar").read_bytes()[:2000])
    with pytest.raises(VLFMError, match="damaged"):
        list(read_tar(tmp_path / "t.tar"))


def test_some_samples_are_read_from_where_they_lie(tmp_path):
    path = tmp_path / "t.tar"
    samples = [{"__key__": key, "json": key.encode() * 400, "txt": b""} for key in ("aa", "bb", "cc")]
    write_tar(path, samples)
    assert list(read_tar(path, {"cc", "aa"})) == [samples[0], samples[2]]
    assert list(read_tar(path, {"bb", "no such"})) == [samples[1]]
    # Other samples under the same name: what was known of the old ones is not used.
    write_tar(path, [{"__key__": "first", "txt": b"1"}, *samples])
    assert list(read_tar(path, {"bb"})) == [samples[1]]


@pytest.mark.parametrize("left", [700, 2000, 4000])
def test_a_truncated_tar_is_told_when_some_samples_are_read(tmp_path, left):
    path = tmp_path / "t.tar"
    write_tar(path, [{"__key__": "aa", "txt": b"1"}, {"__key__": "bb", "txt": b"1" * 3000}])
    assert len(list(read_tar(path, {"aa"}))) == 1
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(VLFMError, match=r"t\.tar is damaged"):
        list(read_tar(path, {"aa"}))

import io
import tarfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlfm import artifacts
from vlfm.errors import FingerprintMismatch, VLFMError
from vlfm.training.reader import ShardReader


def test_atomic_path_leaves_the_old_file_on_failure(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), artifacts.atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    with artifacts.atomic_path(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.booleans(), min_size=2))
def test_fingerprint_ignores_order_and_sees_values(settings):
    backwards = dict(reversed(settings.items()))
    assert artifacts.fingerprint(settings) == artifacts.fingerprint(backwards)
    key = next(iter(settings))
    assert artifacts.fingerprint(settings) != artifacts.fingerprint({**settings, key: [settings[key]]})


def test_a_fingerprint_that_does_not_fit_is_refused(tmp_path):
    artifacts.check_fingerprint("a", "a", tmp_path, "")
    with pytest.raises(FingerprintMismatch, match=r"other settings.*Remove it"):
        artifacts.check_fingerprint("a", "b", tmp_path, "Remove it.")


def row(name, status="ok"):
    return artifacts.LedgerRow(name, "decode", status, "" if status == "ok" else "too dark", "a.mp4", 3, 0.5, 10)


def test_ledger_round_trip(tmp_path):
    rows = [row("aa"), row("bb", "bad")]
    artifacts.write_ledger(tmp_path / "l.parquet", rows)
    assert artifacts.read_ledger(tmp_path / "l.parquet") == rows
    artifacts.write_ledger(tmp_path / "l.parquet", [])
    assert artifacts.read_ledger(tmp_path / "l.parquet") == []


def test_share_of_bad():
    rows = [row("aa"), row("bb"), row("cc", "bad"), row("dd", "bad")]
    artifacts.check_share_of_bad(rows, 0.5, "shard 3")
    with pytest.raises(VLFMError, match=r"shard 3: 2 of 4.*\n.*cc: too dark"):
        artifacts.check_share_of_bad(rows, 0.4, "shard 3")
    with pytest.raises(VLFMError, match="none is left"):
        artifacts.check_share_of_bad(rows[2:], 1.0, "shard 3")


def test_manifest_by_shard(tmp_path):
    clips = [artifacts.Clip(f"{i:016x}", "a.mp4", i / 2, i / 2 + 0.5, "c", i, i // 2, 96, 128) for i in range(4)]
    artifacts.write_manifest(tmp_path / "m.parquet", clips)
    assert artifacts.read_manifest(tmp_path / "m.parquet") == clips
    assert artifacts.read_manifest(tmp_path / "m.parquet", 1) == clips[2:]
    with pytest.raises(VLFMError, match="shard 7 is not in the plan"):
        artifacts.read_manifest(tmp_path / "m.parquet", 7)


def test_clip_ids_name_content():
    assert artifacts.clip_id("a.mp4", 0.5, 1.0) == artifacts.clip_id("a.mp4", 0.5000000001, 1.0)
    assert artifacts.clip_id("a.mp4", 0.5, 1.0) != artifacts.clip_id("b.mp4", 0.5, 1.0)
    assert artifacts.clip_id("a.mp4", 0.5, 1.0) != artifacts.clip_id("a.mp4", 0.5, 1.5)


def test_tar_round_trip_and_same_bytes(tmp_path):
    samples = [{"__key__": "aa", "txt": b"1", "000.png": b"2"}, {"__key__": "bb", "json": b"{}"}]
    for name in "xy":
        assert artifacts.write_tar(tmp_path / name, samples) == 2
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()
    assert list(artifacts.read_tar(tmp_path / "x")) == samples


@pytest.mark.parametrize("name", ["aa.pkl", "aa.pickle", "aa.pyd", "aa.pth", "aa"])
def test_foreign_members_are_refused(tmp_path, name):
    (tmp_path / "f").write_bytes(b"x")
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        tar.add(tmp_path / "f", name)
    with pytest.raises(VLFMError, match="is not one of"):
        list(artifacts.read_tar(tmp_path / "t.tar"))


def test_links_in_a_tar_are_refused(tmp_path):
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        link = tarfile.TarInfo("aa.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(VLFMError, match=r"aa\.txt"):
        list(artifacts.read_tar(tmp_path / "t.tar"))


def test_sparse_files_in_a_tar_are_refused(tmp_path):
    """Their size is what their header promises, whatever the archive holds."""
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        sparse = tarfile.TarInfo("aa.txt")
        sparse.type = tarfile.GNUTYPE_SPARSE
        tar.addfile(sparse)
    for read in (lambda path: list(artifacts.read_tar(path)), ShardReader):
        with pytest.raises(VLFMError, match=r"aa\.txt"):
            read(tmp_path / "t.tar")


def test_a_truncated_tar_is_told(tmp_path):
    artifacts.write_tar(tmp_path / "t.tar", [{"__key__": "aa", "txt": b"1" * 5000}])
    (tmp_path / "t.tar").write_bytes((tmp_path / "t.tar").read_bytes()[:2000])
    with pytest.raises(VLFMError, match="damaged"):
        list(artifacts.read_tar(tmp_path / "t.tar"))


@pytest.mark.parametrize(
    "array", [np.arange(6.0).reshape(2, 3), np.asfortranarray(np.eye(3, 2)), np.float32(2), np.zeros((0, 3))]
)
def test_npy_round_trip(array):
    again = artifacts.load_npy(artifacts.npy_bytes(array), "x")
    assert again.dtype == np.asarray(array).dtype and np.array_equal(again, array) and again.flags.writeable


def hostile():
    pickled, archive = io.BytesIO(), io.BytesIO()
    np.save(pickled, np.array([{}], dtype=object), allow_pickle=True)
    np.savez(archive, a=np.arange(3))
    good = artifacts.npy_bytes(np.arange(3.0))
    huge = good.replace(b"(3,), ", b"(3" + b"0" * 13 + b",), ", 1)
    negative = good.replace(b"(3,), ", b"(-1,-3), ", 1)
    return [
        pickled.getvalue(),
        archive.getvalue(),
        huge,
        negative,
        good[:-1],
        good + b"x",
        good[:20],
        b"",
        b"\x80\x04N.",
    ]


@pytest.mark.parametrize("data", hostile())
def test_npy_that_is_none_is_refused_without_taking_its_memory(data):
    with pytest.raises(VLFMError, match="x is not a plain npy array"):
        artifacts.load_npy(data, "x")

"""Atomic writes."""

import os
import subprocess
import sys
import time

import pytest

from vlfm.storage.files import ABANDONED, MACHINE, atomic_path

WRITE = "import sys; from vlfm.storage.files import write_bytes; write_bytes(sys.argv[1], b'new')"
DIE = """
import os, signal, sys
from vlfm.storage.files import atomic_path
with atomic_path(sys.argv[1]) as temporary:
    temporary.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_atomic_path_leaves_the_old_file_on_failure(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    with atomic_path(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path):
    subprocess.run([sys.executable, "-c", DIE, str(tmp_path / "a.parquet")], check=False)
    (left,) = tmp_path.iterdir()
    assert left.name.endswith(".tmp.parquet")
    subprocess.run([sys.executable, "-c", WRITE, str(tmp_path / "b.json")], check=True)
    assert [path.name for path in tmp_path.iterdir()] == ["b.json"]


def test_a_temporary_file_that_may_have_a_writer_stays(tmp_path):
    day = time.time() - ABANDONED - 60
    other = "00000000" if MACHINE != "00000000" else "00000001"
    stay = {
        f".a.{MACHINE}-{os.getpid()}.tmp.json": day,  # this process lives, however slowly it writes
        f".a.{other}-1.tmp.json": time.time(),  # nobody knows of another machine's processes
        ".a.tmp.json": day,  # not of this form
        f".a.{MACHINE}-99999999999999999999.tmp.json": day,  # no number of a process
    }
    for name, moment in (stay | {f".a.{other}-2.tmp": day}).items():
        (tmp_path / name).write_bytes(b"half")
        os.utime(tmp_path / name, (moment, moment))
    with atomic_path(tmp_path / "b.json") as temporary:
        temporary.write_text("{}")
    assert {path.name for path in tmp_path.iterdir()} == {*stay, "b.json"}

"""Locks: who holds them, who waits, and what is left of a process that was killed."""

import fcntl
import subprocess
import sys
import threading
import time

import pytest

from vlfm.errors import VLFMError
from vlfm.storage.locks import lock, sole_writer

JOB = """
import sys, time
from pathlib import Path
from vlfm.storage.locks import sole_writer
with sole_writer(Path(sys.argv[1])):
    print("at work", flush=True)
    time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def job():
    """Starts another process that writes a path for some seconds; it is at work when this returns."""
    started = []

    def start(output, seconds):
        process = subprocess.Popen([sys.executable, "-c", JOB, str(output), str(seconds)], stdout=subprocess.PIPE)
        started.append(process)
        assert process.stdout.readline() == b"at work\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_lock_on_a_file_that_is_gone_is_no_lock(tmp_path):
    """Who waits while the file is removed ends up at the one that the next will find."""
    first = lock(tmp_path / "lock", fcntl.LOCK_EX)
    got = []
    waiting = threading.Thread(target=lambda: got.append(lock(tmp_path / "lock", fcntl.LOCK_EX)))
    waiting.start()
    time.sleep(0.2)
    (tmp_path / "lock").unlink()
    first.close()
    waiting.join(10)
    with pytest.raises(BlockingIOError):
        lock(tmp_path / "lock", fcntl.LOCK_SH | fcntl.LOCK_NB)


def test_nothing_is_left_of_a_lock(tmp_path):
    with sole_writer(tmp_path / "new" / "out.tar"):
        assert [path.name for path in (tmp_path / "new").iterdir()] == [".out.tar.lock"]
    with pytest.raises(KeyError), sole_writer(tmp_path / "new" / "out.tar"):
        raise KeyError
    assert not list((tmp_path / "new").iterdir())


def test_a_second_writer_is_refused_and_told_of_the_first(tmp_path, job, capfd):
    first = job(tmp_path / "out", 60)
    with (
        pytest.raises(VLFMError, match=rf"out is being written by process {first.pid} on .*: wait for its end or stop"),
        sole_writer(tmp_path / "out", patience=0.3),
    ):
        pass
    assert capfd.readouterr().err.count(f"waiting for process {first.pid}") == 1
    with sole_writer(tmp_path / "another", patience=0):
        pass


def test_a_second_writer_waits_for_a_first_that_ends_soon(tmp_path, job):
    first = job(tmp_path / "out", 1)
    with sole_writer(tmp_path / "out", patience=30):
        assert first.wait(1) == 0
        with pytest.raises(BlockingIOError):
            lock(tmp_path / ".out.lock", fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert not list(tmp_path.iterdir())


def test_a_killed_writer_holds_nothing(tmp_path, job):
    first = job(tmp_path / "out", 60)
    first.kill()
    first.wait()
    assert (tmp_path / ".out.lock").exists()
    with sole_writer(tmp_path / "out", patience=0):
        pass
    assert not list(tmp_path.iterdir())

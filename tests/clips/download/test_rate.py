"""The limit on bytes a second, by the clock."""

import multiprocessing
import struct
import time

from vlfm.clips.download.rate import Rate

LIMIT = 400_000  # bytes a second


def take(folder, count, pause=0.0):
    rate, taken = Rate(folder, LIMIT), 0
    while taken < count:
        piece = min(rate.piece, count - taken)
        rate.wait(piece)
        time.sleep(pause)
        taken += piece


def test_jobs_share_it(tmp_path):
    context = multiprocessing.get_context("fork")
    jobs = [context.Process(target=take, args=(tmp_path, 100_000)) for _ in range(3)]
    began = time.monotonic()
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    seconds = time.monotonic() - began
    assert 300_000 / LIMIT * 0.99 < seconds, "three at a time are not three times as fast"
    assert all(job.exitcode == 0 for job in jobs)


def book(folder):
    for _ in range(300):
        Rate(folder, LIMIT).wait(4)


def test_nobodys_turn_is_lost(tmp_path, monkeypatch):
    """Without the waiting, all at once: the queue is as long as what was asked for."""
    monkeypatch.setattr("vlfm.clips.download.rate.time.sleep", lambda seconds: None)
    Rate(tmp_path, LIMIT).wait(4)
    (file,) = tmp_path.iterdir()
    began = time.time() + 30
    file.write_bytes(struct.pack("<d", began))
    jobs = [multiprocessing.get_context("fork").Process(target=book, args=(tmp_path,)) for _ in range(4)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    (end,) = struct.unpack("<d", file.read_bytes())
    assert abs(end - began - 4 * 300 * 4 / LIMIT) < 1e-4


def test_time_that_nobody_used_is_not_saved_up(tmp_path):
    take(tmp_path, 1000)
    time.sleep(0.3)
    began = time.monotonic()
    take(tmp_path, 100_000)
    assert time.monotonic() - began > 100_000 / LIMIT * 0.99


def test_a_clock_that_was_set_back_stops_nobody(tmp_path):
    take(tmp_path, 1000)
    (file,) = tmp_path.iterdir()
    file.write_bytes(struct.pack("<d", time.time() + 10_000))
    assert Rate(tmp_path, LIMIT).wait(4000) <= 0.02
    file.write_bytes(b"half")
    assert Rate(tmp_path, LIMIT).wait(4000) <= 0.02


def test_no_limit_costs_nothing(tmp_path):
    assert Rate(tmp_path, None).wait(1 << 40) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_download_keeps_to_it(server, find):
    server.files["/v.mp4"] = bytes(300_000)
    began = time.monotonic()
    find(f"{server.url}/v.mp4", timeout=0.2, rate=0.4)
    assert 0.74 < time.monotonic() - began


def test_a_low_limit_is_not_taken_for_a_slow_server(server, find, waits):
    server.files["/v.mp4"] = bytes(300)
    assert find(f"{server.url}/v.mp4", timeout=0.25, rate=0.0005).read_bytes() == bytes(300)
    assert waits == []

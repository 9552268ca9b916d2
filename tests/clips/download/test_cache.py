"""What is kept in the folder of downloads, and what is removed, with several processes at once."""

import multiprocessing
import os
import random
import signal
import time

import pytest

from vlfm.clips.download.cache import Cache, hash_name

SIZE = 1000  # bytes of a file
FORK = multiprocessing.get_context("fork")


def content(number):
    return random.Random(number).randbytes(SIZE)


def obtain(kept_in, number, made=None):
    def make(path):
        kept_in.make_room(SIZE)
        part = path.with_suffix(".part")
        part.write_bytes(content(number))
        part.rename(path)
        if made is not None:
            made.append(number)

    return kept_in.obtain(hash_name(str(number)), make)


def kept(folder, numbers=range(100)):
    return [n for n in numbers if (folder / f"{hash_name(str(n))}.video").exists()]


def test_what_was_not_used_for_longest_goes_first(tmp_path):
    kept_in = Cache(tmp_path, 3.5 * SIZE)
    for number in (0, 1, 2):
        obtain(kept_in, number)
    made = []
    obtain(kept_in, 0, made)
    assert made == []
    obtain(kept_in, 3)
    assert kept(tmp_path) == [0, 2, 3]
    obtain(kept_in, 4)
    assert kept(tmp_path) == [0, 3, 4]
    locks = {path.stem for path in tmp_path.glob("*.lock")} - {"cache"}
    assert locks == {hash_name(str(n)) for n in (0, 3, 4)}, "no lock is left behind"


def test_without_a_limit_nothing_goes(tmp_path):
    kept_in = Cache(tmp_path, None)
    for number in range(10):
        obtain(kept_in, number)
    assert kept(tmp_path) == list(range(10))


def test_the_file_just_asked_for_stays_however_small_the_limit(tmp_path):
    kept_in = Cache(tmp_path, 1)
    for number in (0, 1, 0):
        path = obtain(kept_in, number)
        Cache(tmp_path, 1).make_room()
        assert path.read_bytes() == content(number) and kept(tmp_path) == [number]


def test_what_lies_there_and_is_not_ours_stays(tmp_path):
    names = ["mine.mp4", "0" * 31 + ".video", "0" * 32 + ".MP4", "abc", "." + "0" * 32 + ".video"]
    for name in names:
        (tmp_path / name).write_bytes(bytes(SIZE))
    (tmp_path / "folder").mkdir()
    obtain(Cache(tmp_path, 1), 0)
    Cache(tmp_path, 1).make_room(10**9)
    assert all((tmp_path / name).exists() for name in [*names, "folder"])


def test_what_is_left_of_interrupted_downloads_goes_too(tmp_path):
    old, work = tmp_path / f"{'0' * 32}.part", tmp_path / f"{'1' * 32}.work"
    old.write_bytes(bytes(SIZE))
    work.mkdir()
    (work / "video.mp4.part").write_bytes(bytes(SIZE))
    obtain(Cache(tmp_path, 2 * SIZE), 0)
    assert [old.exists(), work.exists()] != [True, True]
    obtain(Cache(tmp_path, 2 * SIZE), 1)
    assert not old.exists() and not work.exists() and kept(tmp_path) == [0, 1]


def _use(folder, number, ready, finish):
    obtain(Cache(folder, None), number)
    ready.set()
    finish.wait(20)


@pytest.mark.parametrize("how", ["ends", "is killed"])
def test_what_another_process_uses_stays_until_it_is_done(tmp_path, how):
    ready, finish = FORK.Event(), FORK.Event()
    job = FORK.Process(target=_use, args=(tmp_path, 0, ready, finish))
    job.start()
    assert ready.wait(20)
    kept_in = Cache(tmp_path, 1.5 * SIZE)
    for number in (1, 2, 3):
        obtain(kept_in, number)
    assert kept(tmp_path) == [0, 3]
    if how == "is killed":
        os.kill(job.pid, signal.SIGKILL)
    else:
        finish.set()
    job.join()
    obtain(kept_in, 4)
    assert kept(tmp_path) == [4]


def _work(folder, seed, numbers, steps):
    kept_in, choice = Cache(folder, 4 * SIZE), random.Random(seed)
    for _ in range(steps):
        number = choice.choice(numbers)
        path = obtain(kept_in, number)
        time.sleep(0.001)
        assert path.read_bytes() == content(number)


def test_many_processes_never_lose_what_they_use(tmp_path):
    jobs = [FORK.Process(target=_work, args=(tmp_path, seed, range(8), 60)) for seed in range(4)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(60)
    assert [job.exitcode for job in jobs] == [0] * 4
    Cache(tmp_path, 4 * SIZE).make_room()
    assert len(kept(tmp_path)) <= 4
    assert not list(tmp_path.glob("*.making")) and not list(tmp_path.glob("*.part"))


def test_downloads_keep_to_it(server, find, tmp_path):
    for number in range(4):
        server.files[f"/{number}.mp4"] = bytes([number]) * 100_000
    paths = [find(f"{server.url}/{number}.mp4", cache=0.00025) for number in range(4)]
    assert [path.exists() for path in paths] == [False, False, True, True]
    assert find(f"{server.url}/0.mp4", cache=0.00025).read_bytes() == server.files["/0.mp4"]
    assert [path.exists() for path in paths] == [True, False, False, True]

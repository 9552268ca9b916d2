"""The batch that fits and pays, on a made-up device with a known answer and on this machine's memory."""

import time

import numpy as np
import pytest
import torch

from vlfm.latents import batch_size
from vlfm.latents.batch_size import BatchSizes, HostMemory, find_batch_size

CPU = torch.device("cpu")


class Device:
    """So many bytes for the network and for each frame; so many seconds for a call and for each frame."""

    def __init__(self, free, base=0, frame=1, call=1.0, each=0.1, noise=None):
        self.free, self.base, self.frame, self.call, self.each = free, base, frame, call, each
        self.sizes, self.clock, self.peak = [], 0.0, 0

    def reset(self):
        self.peak = 0

    def grown(self):
        return self.peak

    def work(self, size):
        self.sizes.append(size)
        self.peak = max(self.peak, self.base + size * self.frame)
        if self.peak > self.free:
            raise torch.OutOfMemoryError
        self.clock += self.call + self.each * size

    def find(self, monkeypatch, largest=256):
        monkeypatch.setattr(batch_size.time, "perf_counter", lambda: self.clock)
        return find_batch_size(self.work, CPU, largest, self)


@pytest.mark.parametrize(
    ("free", "frame", "expected"),
    [(1000, 1, 256), (1000, 10, 64), (100, 10, 8), (10, 10, 1), (1e9, 1e9 / 1.1, 1), (150, 1, 64)],
)
def test_memory_is_not_exceeded_and_some_is_spared(monkeypatch, free, frame, expected):
    device = Device(free, frame=frame, call=1e6)
    assert device.find(monkeypatch) == expected
    assert max(device.sizes) * frame <= (1 - batch_size.SPARE) * free or max(device.sizes) == 1


def test_what_the_network_takes_once_is_not_counted_per_frame(monkeypatch):
    assert Device(1000, base=300, frame=4, call=1e6).find(monkeypatch) == 128


@pytest.mark.parametrize(("call", "expected"), [(0.0, 1), (0.02, 2), (1.0, 128), (1e6, 256)])
def test_it_stops_where_larger_is_no_faster(monkeypatch, call, expected):
    device = Device(1e9, call=call)
    found = device.find(monkeypatch)
    assert found == expected

    def rate(size):
        return size / (call + device.each * size)

    assert found == 256 or rate(2 * found) < 1.05 * rate(found)
    assert found == 1 or rate(found) >= 1.05 * rate(found // 2)


@pytest.mark.parametrize(("largest", "expected"), [(0, 1), (1, 1), (7, 4), (8, 8)])
def test_no_more_is_tried_than_there_is(monkeypatch, largest, expected):
    device = Device(1e9, call=1e6)
    assert device.find(monkeypatch, largest) == expected
    assert max(device.sizes, default=0) == (expected if largest > 1 else 0), "one size is no choice: no trial"
    assert sum(device.sizes) <= 2 * batch_size.RUNS * largest


def test_memory_that_runs_out_against_expectation_ends_the_search(monkeypatch):
    device = Device(1000, frame=1, call=1e6)
    device.grown = lambda: 0
    device.free = 40
    assert device.find(monkeypatch) == 32
    device.free = 0.5
    with pytest.raises(torch.OutOfMemoryError):
        device.find(monkeypatch)


def test_the_resident_memory_of_this_process():
    memory = HostMemory()
    assert 0 < memory.free < 2**50
    memory.reset()
    held = np.ones(2**23)  # 64 MiB
    assert 0.9 * held.nbytes < memory.grown() < 3 * held.nbytes
    del held
    time.sleep(0.01)
    assert memory.grown() > 0.9 * 2**26, "the peak, not what is held now"


def test_the_limit_of_a_control_group_counts(tmp_path, monkeypatch):
    inner = tmp_path / "job" / "step"
    inner.mkdir(parents=True)
    for folder, limit, used, cached in ((inner, "max", 1, 0), (inner.parent, "1000", 700, 200)):
        (folder / "memory.max").write_text(limit + "\n")
        (folder / "memory.current").write_text(f"{used}\n")
        (folder / "memory.stat").write_text(f"anon 5\ninactive_file {cached}\n")
    (tmp_path / "self").write_text("3:cpu:/elsewhere\n0::/job/step\n")
    assert batch_size.left_in_control_groups(tmp_path / "self", tmp_path) == 500
    (inner.parent / "memory.max").write_text("max\n")
    assert batch_size.left_in_control_groups(tmp_path / "self", tmp_path) == float("inf")
    assert batch_size.left_in_control_groups(tmp_path / "none", tmp_path) == float("inf")


def test_sizes_survive_and_shrink(tmp_path):
    path = tmp_path / "batch.json"
    sizes = BatchSizes(path, lambda: 20)
    assert sizes.halve(3) == 10 and sizes.halve(3) == 5 and sizes.halve(7) == 2
    again = BatchSizes(path, lambda: pytest.fail("it was found before"))
    for known in (sizes, again):
        assert known.first == 20
        assert [known.at(batch) for batch in range(9)] == [20, 20, 20, 5, 5, 5, 5, 2, 2]
    assert sizes.halve(8) == 1 and sizes.halve(8) == 1
    first = BatchSizes(tmp_path / "other.json", lambda: 8)
    assert first.halve(0) == 4 and (first.first, first.at(0)) == (8, 4)

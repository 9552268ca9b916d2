"""Inversion jobs that are killed again and again, latents that are not finite, disks that are full."""

import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from tests.data.latents import FRAMES, small, tree, write_clips, write_decoder
from vlfm import config as configs
from vlfm.decoders.load import load_decoder
from vlfm.errors import FingerprintMismatch, VLFMError
from vlfm.latents import invert
from vlfm.latents.invert_batch import Inverter
from vlfm.latents.store import LatentStore
from vlfm.storage.ledger import read_ledger

pytestmark = pytest.mark.usefixtures("captions_read_once")

CPU = torch.device("cpu")
ONE = {"batch_size": FRAMES}  # a clip a batch


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    return write_decoder(tmp_path_factory.mktemp("decoder"))


def run(folder, decoder, clips, **inversion):
    output = folder / "00000.zarr"
    invert.invert_shard(small(**ONE | inversion), clips, decoder, output, folder / "00000.parquet", CPU)
    return output


def pieces(folder):
    return [path for path in folder.glob(".00000.zarr.partial-*/[0-9a-f]*.safetensors") if path.stem != "captions"]


# --------------------------------------------------------------------------------------------- kills


@pytest.mark.slow(minutes=2)
def test_ten_kills_at_random_moments_leave_no_trace(tmp_path, decoder):
    """The command itself, with SIGKILL: five times anywhere, start-up included, and five amid the batches."""
    count, random = 48, np.random.default_rng(0)
    clips = write_clips(tmp_path / "c.tar", count)
    configs.save(small(**ONE, steps=10), tmp_path / "config.yaml")

    def start(folder):
        command = [sys.executable, "-m", "vlfm.cli", "invert", "--config", tmp_path / "config.yaml", "--clips", clips]
        command += ["--decoder", decoder, "--output", folder / "00000.zarr", "--ledger", folder / "00000.parquet"]
        with (folder / "log").open("ab") as log:
            return subprocess.Popen([*map(str, command), "--threads", "1"], stdout=log, stderr=log)

    def wait(job, folder, done, seconds):
        """Until a job is over, has done so many clips, or the time is up; returns how long that was."""
        clock, before = time.monotonic(), len(pieces(folder))
        while job.poll() is None and len(pieces(folder)) - before < done and time.monotonic() - clock < seconds:
            time.sleep(0.002)
        return time.monotonic() - clock

    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    for folder in (undisturbed, disturbed):
        folder.mkdir()
    job = start(undisturbed)
    start_up, pace = wait(job, undisturbed, 1, 300), wait(job, undisturbed, 10, 300) / 10
    assert job.wait() == 0, (undisturbed / "log").read_text()

    kept = [0]
    for kill in range(10):
        job = start(disturbed)
        if kill % 2:
            wait(job, disturbed, 1, 300)
            wait(job, disturbed, 2, random.uniform(0, 2 * pace))
        else:
            wait(job, disturbed, 3, random.uniform(0, 1.2 * start_up))
        job.send_signal(signal.SIGKILL)
        assert job.wait() == -signal.SIGKILL, (disturbed / "log").read_text()
        assert not (disturbed / "00000.zarr").exists()
        kept.append(len(pieces(disturbed)))
    assert kept == sorted(kept) and len(set(kept)) > 5 and kept[-1] < count
    assert start(disturbed).wait() == 0, (disturbed / "log").read_text()
    assert tree(disturbed / "00000.zarr") == tree(undisturbed / "00000.zarr")
    assert not list(disturbed.glob(".*"))
    assert len(read_ledger(disturbed / "00000.parquet")) == count


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from vlfm import config
from vlfm.latents import invert, store

folder, point = Path(sys.argv[1]), sys.argv[2]
module, name = {"array": (store.zarr.Group, "create_array"), "rename": (Path, "rename")}[point]
original = getattr(module, name)

def killed(*arguments, **options):
    if point == "rename" or options.get("name", arguments[1:2]) in ("tokens", ("tokens",)):
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments, **options)

setattr(module, name, killed)
invert.invert_shard(
    config.load(folder / "config.yaml"), folder / "c.tar", Path(sys.argv[3]), folder / "00000.zarr",
    folder / "00000.parquet", torch.device("cpu"),
)
"""


@pytest.mark.slow
@pytest.mark.parametrize("point", ["array", "rename"])
def test_killed_while_the_store_is_written(tmp_path, decoder, point):
    clips = write_clips(tmp_path / "c.tar", 3)
    (tmp_path / "whole").mkdir()
    whole = tree(run(tmp_path / "whole", decoder, clips))
    configs.save(small(**ONE), tmp_path / "config.yaml")
    job = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), point, str(decoder)], capture_output=True)
    assert job.returncode == -signal.SIGKILL, job.stderr.decode()
    assert (tmp_path / ".00000.zarr.tmp").is_dir() and not (tmp_path / "00000.zarr").exists()
    assert tree(run(tmp_path, decoder, clips)) == whole
    assert not list(tmp_path.glob(".*"))


# ---------------------------------------------------------------------------------------- not finite


@pytest.fixture
def sick(monkeypatch):
    """A decoder whose k-th call of a method gives what is not finite, or too large, in one number."""

    def sick(method, call, value):
        calls = []

        def load(config, folder, device):
            decoder = load_decoder(config, folder, device)
            original = getattr(decoder, method)

            def wrong(*arguments):
                result = original(*arguments).clone()
                calls.append(method)
                if len(calls) == call:
                    result[2, 0, 1, 1] = value
                return result

            setattr(decoder, method, wrong)
            return decoder

        monkeypatch.setattr(invert, "load_decoder", load)

    return sick


@pytest.mark.parametrize(
    ("method", "value", "reason"),
    [
        ("invert", float("nan"), "latents that are not finite"),
        ("invert", float("inf"), "latents that are not finite"),
        ("invert", 1e5, "too large for float16; set inversion.dtype to float32"),
        ("generate", float("nan"), "frames generated from them are not"),
    ],
)
def test_a_clip_that_is_not_finite_is_left_out_and_told(tmp_path, decoder, sick, method, value, reason):
    clips = write_clips(tmp_path / "c.tar", 4)
    healthy = list(LatentStore(run(tmp_path, decoder, clips, check=1)))
    sick(method, 3, value)
    store = LatentStore(run(tmp_path, decoder, clips, check=1))
    assert store.clip_ids == [clip.clip_id for index, clip in enumerate(healthy) if index != 2]
    for clip in healthy[:2] + healthy[3:]:
        assert np.array_equal(store[clip.clip_id].latents, clip.latents)
    rows = read_ledger(tmp_path / "00000.parquet")
    assert [row.status for row in rows] == ["ok", "ok", "bad", "ok"]
    assert reason in rows[2].reason and rows[2].bytes == 0


def test_large_latents_are_kept_in_float32(tmp_path, decoder, sick):
    sick("invert", 3, 1e5)
    store = LatentStore(run(tmp_path, decoder, write_clips(tmp_path / "c.tar", 4), dtype="float32"))
    assert len(store) == 4 and np.abs(list(store)[2].latents).max() == 1e5


def test_neighbours_of_a_sick_clip_are_healthy(tmp_path, decoder, sick):
    """In one batch: the clip is bad, not the batch; and it alone is tried again."""
    clips = write_clips(tmp_path / "c.tar", 4)
    healthy = tree(run(tmp_path, decoder, clips, batch_size=4 * FRAMES))
    sick("invert", 1, float("nan"))
    store = LatentStore(run(tmp_path, decoder, clips, batch_size=4 * FRAMES))
    assert len(store) == 3 and [row.status for row in read_ledger(tmp_path / "00000.parquet")].index("bad") == 0
    assert tree(run(tmp_path, decoder, clips, batch_size=4 * FRAMES)) == healthy


def test_too_many_sick_clips_fail_the_shard_and_the_others_are_kept(tmp_path, decoder, sick):
    clips = write_clips(tmp_path / "c.tar", 1)
    sick("invert", 1, float("nan"))
    with pytest.raises(VLFMError, match=r"1 of 1 clips are bad(.|\n)*not finite"):
        run(tmp_path, decoder, clips)
    assert not (tmp_path / "00000.zarr").exists() and len(read_ledger(tmp_path / "00000.parquet")) == 1
    assert len(LatentStore(run(tmp_path, decoder, clips))) == 1


# -------------------------------------------------------------------------------------------- disks


@pytest.fixture
def disk(tmp_path):
    """A folder on a disk of its own, and a way to make that larger."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = os.geteuid() == 0 and shutil.which("mount")
    if (
        not mounted
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=72k", "vlfm", folder], capture_output=True).returncode
    ):
        pytest.skip("no permission to mount a small disk")
    try:
        yield folder, lambda size: subprocess.run(["mount", "-o", f"remount,size={size}", folder], check=True)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.parametrize(("size", "finished"), [("40k", 0), ("76k", 4), ("200k", 12)])
def test_a_full_disk_is_told_and_what_is_finished_is_kept(tmp_path, decoder, disk, size, finished, monkeypatch):
    """Full while captions, clips or the store are written (a page of 4 KB is the least a file takes)."""
    folder, resize = disk
    clips = write_clips(tmp_path / "c.tar", 12)
    whole = tree(run(tmp_path, decoder, clips))
    resize(size)

    def on_disk():
        invert.invert_shard(small(**ONE), clips, decoder, folder / "00000.zarr", tmp_path / "disk.parquet", CPU)

    with pytest.raises(VLFMError, match=r"disk cannot be written \(No space left on device\); free space") as told:
        on_disk()
    kept = len(pieces(folder))
    assert kept == finished and f"after {kept} finished pieces, kept in" in str(told.value)
    assert not (folder / "00000.zarr").exists() and not (folder / ".00000.zarr.tmp").exists()
    resize("4m")
    inverted = []
    original = Inverter.__call__
    monkeypatch.setattr(Inverter, "__call__", lambda self, *rest: (inverted.append(1), original(self, *rest))[1])
    on_disk()
    assert len(inverted) == 12 - kept
    assert tree(folder / "00000.zarr") == whole


LIMITED = """
import resource, sys
from pathlib import Path
import torch
from vlfm import cli

resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_file_that_may_not_grow_is_told_alike(tmp_path, decoder):
    """A quota of bytes a file: the clips fit, the store's embeddings do not."""
    clips = write_clips(tmp_path / "c.tar", 4)
    configs.save(small(**ONE), tmp_path / "config.yaml")
    options = {
        "config": "config.yaml",
        "clips": clips,
        "output": "00000.zarr",
        "ledger": "l.parquet",
        "decoder": decoder,
    }
    command = [part for name, value in options.items() for part in (f"--{name}", str(tmp_path / value))]
    job = subprocess.run([sys.executable, "-c", LIMITED, "invert", *command], capture_output=True, text=True)
    assert job.returncode == 1 and "Traceback" not in job.stderr
    assert "cannot be written (File too large); free space there and run the rule again" in job.stderr
    assert "after 4 finished pieces, kept in .00000.zarr.partial-" in job.stderr
    assert len(pieces(tmp_path)) == 4 and not (tmp_path / ".00000.zarr.tmp").exists()


# ---------------------------------------------------------------------------------- another decoder's


def test_a_store_from_another_decoder_is_refused_and_untouched(tmp_path, decoder):
    clips = write_clips(tmp_path / "c.tar", 2)
    before = tree(run(tmp_path, decoder, clips))
    (tmp_path / "00000.parquet").unlink()
    with pytest.raises(FingerprintMismatch, match=r"00000\.zarr was made with other settings .* Remove it, or write"):
        run(tmp_path, write_decoder(tmp_path / "other", fingerprint="d1"), clips)
    assert tree(tmp_path / "00000.zarr") == before and not (tmp_path / "00000.parquet").exists()
    assert not list(tmp_path.glob(".*"))

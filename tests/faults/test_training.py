"""Files that are not what they should be, disks that fill: a clear error or a counted skip, and a good checkpoint."""

import contextlib
import io
import json
import resource
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import torch

from tests.conftest import SMALL, make_config, merge
from tests.data.model import write_shards
from vlfm import config as configs
from vlfm.cli import main
from vlfm.coefficients.shards import ClipCoefficients, write_shard
from vlfm.errors import VLFMError
from vlfm.storage import locks
from vlfm.storage.checkpoints import Checkpoints, load_state, save_state
from vlfm.storage.files import write_json
from vlfm.storage.npy import npy_bytes
from vlfm.training.log import MetricsLog
from vlfm.training.loop import train
from vlfm.training.trainer import Trainer


@pytest.fixture
def data(tmp_path, small_config):
    (tmp_path / "data").mkdir()
    return write_shards(tmp_path / "data", small_config)


def run(folder, data, **settings):
    _, tars, moments = data
    config = make_config(**merge(SMALL, {"training": settings}))
    train(config, tars, moments, folder / "model", folder / "checkpoints", folder / "m.csv", torch.device("cpu"))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("kept", [0, 300, 5000, -20000, "three members"])
def test_a_cut_shard_is_named(tmp_path, data, kept, workers):
    whole = data[1][1].read_bytes()
    if kept == "three members":
        with tarfile.open(data[1][1]) as tar:
            kept = tar.getmembers()[3].offset
    data[1][1].write_bytes(whole[:kept])
    with pytest.raises(VLFMError, match=r"00001\.tar (is damaged|holds)") as caught:
        run(tmp_path, data, workers=workers)
    assert "Traceback" not in str(caught.value)


def test_a_shard_of_noise_is_named(tmp_path, data):
    data[1][0].write_bytes(np.random.default_rng(0).bytes(50_000))
    with pytest.raises(VLFMError, match=r"00000\.tar is damaged"):
        run(tmp_path, data)


def test_a_shard_that_is_gone_is_named(tmp_path, data):
    data[1][0].unlink()
    with pytest.raises(VLFMError, match=r"00000\.tar is damaged \(.*No such file"):
        run(tmp_path, data)


@pytest.mark.parametrize("name", ["0000000000000000.pyd", "0000000000000000.coefficients.pickle", "x.pth"])
def test_a_smuggled_pickle_is_not_read(tmp_path, data, name):
    (tmp_path / "evil").write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    with tarfile.open(data[1][0], "a") as tar:
        tar.add(tmp_path / "evil", name)
    with pytest.raises(VLFMError, match=rf"00000\.tar: member '{name}' is not one of"):
        run(tmp_path, data)


def test_a_pickle_inside_an_array_is_not_read(tmp_path, data):
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with tarfile.open(data[1][0]) as old:
        members = [(member, old.extractfile(member).read()) for member in old]
    with tarfile.open(data[1][0], "w") as new:
        for member, content in members:
            content = buffer.getvalue() if member.name.endswith("mask.npy") else content
            member.size = len(content)
            new.addfile(member, io.BytesIO(content))
    with pytest.raises(VLFMError, match=r"00000\.tar: .*mask\.npy is not a plain npy array"):
        run(tmp_path, data)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_a_link_is_not_followed(tmp_path, data, kind):
    with tarfile.open(data[1][0], "a") as tar:
        link = tarfile.TarInfo("0000000000000000.extra.npy")
        link.type, link.linkname = kind, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(VLFMError, match=r"00000\.tar: member '0000000000000000\.extra\.npy'"):
        run(tmp_path, data)


@pytest.mark.parametrize(
    "change, told",
    [({"fingerprint": "beef"}, "fingerprint"), ({"mean_square": [1.0] * 6}, r"order differ \(6 and 4\)")],
)
def test_a_shard_of_another_order_or_decoder_is_named(tmp_path, data, change, told):
    write_json(data[2][1], {**json.loads(data[2][1].read_text()), **change})
    with pytest.raises(VLFMError, match=rf"00001\.json and .*{told}"):
        run(tmp_path, data)


def poison(data, *clips):
    """Write the first shard anew with coefficients that are not finite in some clips; its moments stay."""
    made, tars, _ = data
    changed = []
    for index, clip in enumerate(made[::2]):
        coefficients = clip.coefficients.copy()
        if index in clips:
            coefficients[0, 0, 0, 0] = np.nan
        changed.append(ClipCoefficients(**{**vars(clip), "coefficients": coefficients}))
    write_shard(tars[0], iter(changed))
    return [changed[index].clip_id for index in clips]


def test_steps_with_a_broken_clip_are_skipped_counted_and_named(tmp_path, data, capsys):
    (bad,) = poison(data, 1)
    run(tmp_path, data, batch_size=2, max_bad_steps=5)
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
    assert told and all(f"not finite in the shards: {bad}" in line for line in told)
    about = json.loads((tmp_path / "model" / "training.json").read_text())
    assert about["skipped"] == len(told) < 12
    assert (tmp_path / "m.csv").read_text().splitlines()[-1].endswith(f",{len(told)}")


def test_too_many_skipped_steps_in_a_row_stop_the_run(tmp_path, data):
    bad = poison(data, 0, 1, 2, 3)
    with pytest.raises(VLFMError, match=rf"not finite in 2 steps in a row.*{bad[0]}.*remove the shards"):
        run(tmp_path, data, batch_size=4, max_bad_steps=2)


def test_a_run_that_diverges_is_told_what_to_change(tmp_path, data, monkeypatch):
    backward = Trainer.backward

    def explode(self, parts):
        loss = backward(self, parts)
        next(self.model.parameters()).grad.fill_(torch.inf)
        return loss

    monkeypatch.setattr(Trainer, "backward", explode)
    with pytest.raises(VLFMError, match=r"in 5 steps in a row, up to step 5; lower training\.learning_rate"):
        run(tmp_path, data)


def flip(path, offset):
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", ["cut", "empty", "one bit", "noise"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, data, capsys, monkeypatch, damage):
    run(tmp_path / "a", data)
    straight = (tmp_path / "a" / "model" / "transformer" / "diffusion_pytorch_model.safetensors").read_bytes()
    with monkeypatch.context() as patch, pytest.raises(OSError):
        patch.setattr("vlfm.training.loop.save_model", lambda *_: (_ for _ in ()).throw(OSError("power cut")))
        run(tmp_path, data)
    older, newest = sorted((tmp_path / "checkpoints").glob("*/*"))
    size = newest.stat().st_size
    if damage == "one bit":
        flip(newest, size - 1000)
    else:
        newest.write_bytes({"cut": newest.read_bytes()[: size // 2], "empty": b"", "noise": b"x" * size}[damage])
    capsys.readouterr()
    run(tmp_path, data)
    told = capsys.readouterr().out
    assert f"warning: {newest} is no checkpoint, or a damaged one" in told and "going on from step 8" in told
    again = (tmp_path / "model" / "transformer" / "diffusion_pytorch_model.safetensors").read_bytes()
    assert again == straight
    assert older.exists()


def test_a_folder_of_damaged_checkpoints_starts_anew(tmp_path, capsys):
    saved = Checkpoints(tmp_path, keep=3)
    for step in (1, 2):
        saved.path(step).write_bytes(b"no checkpoint")
    assert saved.newest() is None
    assert capsys.readouterr().out.count("warning") == 2


def test_after_damaged_checkpoints_new_ones_are_kept(tmp_path):
    saved = Checkpoints(tmp_path, keep=1)
    saved.path(12).write_bytes(b"no checkpoint")
    for step in (2, 4):
        saved.save(step, {"step": step})
    assert saved.newest()["step"] == 4 and not saved.path(2).exists()
    saved.save(12, {"step": 12})
    assert [path.name for path in saved.paths()] == ["step-00000012.safetensors"]


FULL = """
import resource, sys, torch
from pathlib import Path
from vlfm.storage.checkpoints import Checkpoints
from vlfm.errors import VLFMError
saved = Checkpoints(Path(sys.argv[1]), keep=1)
saved.save(1, {"step": 1, "w": torch.ones(1000)})
if sys.argv[2] != "0":
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
try:
    saved.save(2, {"step": 2, "w": torch.ones(2_000_000)})
except VLFMError as error:
    print(error)
    assert saved.newest()["step"] == 1
    sys.exit(7)
"""


def test_a_full_disk_leaves_the_older_checkpoints(tmp_path):
    done = subprocess.run([sys.executable, "-c", FULL, tmp_path / "c", "1000000"], capture_output=True, text=True)
    assert done.returncode == 7, done.stderr
    assert "cannot write" in done.stdout and "free space" in done.stdout
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["step-00000001.safetensors"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], capture_output=True).returncode:
        pytest.skip("mounting a file system is not allowed here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_really_full_disk_leaves_the_older_checkpoints(small_disk):
    done = subprocess.run([sys.executable, "-c", FULL, small_disk / "c", "0"], capture_output=True, text=True)
    assert done.returncode == 7, done.stderr
    assert "No space left" in done.stdout
    assert load_state(small_disk / "c" / "step-00000001.safetensors")["step"] == 1


def test_a_disk_that_fills_while_training_is_told_by_the_command(tmp_path, data, small_config, capsys):
    configs.save(small_config, tmp_path / "config.yaml")
    (tmp_path / "plan.json").write_text('{"00000": {}, "00001": {}}')
    arguments = ["train", "--config", "config.yaml", "--plan", "plan.json", "--coefficients", "data"]
    arguments += ["--output", "model", "--checkpoints", "c", "--metrics", "m.csv", "--device", "cpu"]
    arguments += ["--threads", str(torch.get_num_threads())]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
        try:
            assert main(arguments) == 1
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert "cannot write" in capsys.readouterr().err
        assert main(arguments) == 0
    assert (tmp_path / "model" / "training.json").exists()


def test_what_tensorboard_could_not_write_hides_no_other_error(tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    log = MetricsLog(tmp_path / "m.csv", 0, tmp_path / "events")
    monkeypatch.setattr(log._events, "close", full)
    with pytest.raises(VLFMError, match="the one that counts"), contextlib.closing(log):
        raise VLFMError("the one that counts")
    assert "No space left" in capsys.readouterr().out
    monkeypatch.setattr("vlfm.training.log.write_bytes", full)
    with pytest.raises(VLFMError, match=r"cannot write .*m\.csv"):
        MetricsLog(tmp_path / "m.csv", 0, tmp_path / "events")


def test_what_a_killed_writer_left_is_cleared(tmp_path):
    (tmp_path / ".step-00000003.01234567-4711.tmp.safetensors").write_bytes(b"half")
    Checkpoints(tmp_path, keep=2).save(4, {"step": 4})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000004.safetensors"]


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    save_state(tmp_path / "s.safetensors", {"a": 1})
    assert load_state(tmp_path / "s.safetensors") == {"a": 1}
    (tmp_path / "s.safetensors").write_bytes(npy_bytes(np.ones(3)))
    with pytest.raises(VLFMError, match="no checkpoint, or a damaged one"):
        load_state(tmp_path / "s.safetensors")


def test_a_second_trainer_beside_a_first_is_refused_and_goes_on_after_it(tmp_path, data, monkeypatch):
    monkeypatch.setattr(locks, "PATIENCE", 0.3)
    run(tmp_path, data, steps=8, checkpoint_every=3)
    (folder,) = (tmp_path / "checkpoints").iterdir()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with (
        locks.sole_writer(folder),
        pytest.raises(VLFMError, match=rf"{folder.name} is being written by process \d+ on .*: wait for its end"),
    ):
        run(tmp_path, data, steps=8, checkpoint_every=3)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    run(tmp_path, data, steps=8, checkpoint_every=3)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]

"""What a machine lacks, told apart from what it has: real packages, programs and disks, and such as are broken."""

import json
import sys
from pathlib import Path

import imageio_ffmpeg
import pytest
import torch

from tests.conftest import ROOT, make_config
from vlfm import config as configs
from vlfm.cli import main
from vlfm.operations.doctor.check import Check, in_words
from vlfm.operations.doctor.gpus import _check_seen, check_gpus
from vlfm.operations.doctor.machine import batches_ahead, check_disk, check_shared_memory
from vlfm.operations.doctor.models import check_configuration
from vlfm.operations.doctor.packages import check_packages, read_constraints
from vlfm.operations.doctor.programs import check_ffmpeg


def named(checks):
    return {check.name: check for check in checks}


def program(folder, name, text):
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_versions_are_those_that_are_tested():
    found = named(check_packages())
    assert found["torch"].verdict == "ok" and found["torch"].found == torch.__version__
    tested = read_constraints(ROOT / "constraints.txt")
    assert tested["jinja2"] == "3.1.6", "names are written alike"
    for name in ("diffusers", "zarr", "decord2"):
        assert found[name].found == tested[name]
    assert not [check for check in found.values() if check.verdict == "missing" and "PATH" not in check.name]


def test_other_versions_are_told(tmp_path):
    other = tmp_path / "constraints.txt"
    other.write_text(f"# older\nzarr==0.0.1\ntorch=={torch.__version__.partition('+')[0]}\n")
    found = named(check_packages(other))
    assert found["zarr"].verdict == "warning" and "tested with 0.0.1" in found["zarr"].found
    assert "zarr==0.0.1" in found["zarr"].remedy
    assert found["torch"].verdict == "ok", "a build's own name after the version is none of it"


def test_packages_that_are_missing_too_old_or_do_not_load(tmp_path, monkeypatch):
    about = tmp_path / "vlfm-0.1.0.dist-info" / "METADATA"
    about.parent.mkdir()
    needs = ["no-such-package>=2", "zarr>=99", "decord2", "colorama; sys_platform == 'amiga'", "sphinx; extra == 'x'"]
    about.write_text("Name: vlfm\nVersion: 0.1.0\n" + "".join(f"Requires-Dist: {need}\n" for need in needs))
    (tmp_path / "decord.py").write_text("raise OSError('libGL.so.1: cannot open\\n shared object file')")
    twin = tmp_path / "decord-0.6.0.dist-info" / "METADATA"
    twin.parent.mkdir()
    twin.write_text("Name: decord\nVersion: 0.6.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "decord", raising=False)
    found = named(check_packages())
    assert found["no-such-package"].verdict == "missing"
    assert found["no-such-package"].remedy == "pip install -c constraints.txt 'no-such-package>=2'"
    assert found["zarr"].verdict == "missing" and "vlfm needs >=99" in found["zarr"].found
    assert found["decord2"].verdict == "missing" and "libGL.so.1: cannot open shared object" in found["decord2"].found
    assert found["decord"].verdict == "warning" and "uninstall -y decord decord2" in found["decord"].remedy
    assert not found.keys() & {"colorama", "sphinx"}


def test_programs_that_rules_call(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    program(tmp_path, "vlfm", "")
    found = named(check_packages())
    assert found["snakemake in PATH"].verdict == "missing"
    assert str(Path(sys.executable).parent) in found["snakemake in PATH"].remedy
    assert found["vlfm in PATH"].verdict == "warning" and "of another Python" in found["vlfm in PATH"].found
    assert found["Slurm"].verdict == "optional"


@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch is built for GPUs")
def test_gpus_that_torch_does_not_see(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (alone,) = check_gpus()
    assert alone.verdict == "ok" and "no GPU here" in alone.found
    program(
        tmp_path,
        "nvidia-smi",
        "echo '0, NVIDIA H100 80GB HBM3, 81559, 1024, 580.65.06'; echo '1, MIG, [N/A], [N/A], 1'",
    )
    found = named(check_gpus())
    assert found["GPU 0"].found == "NVIDIA H100 80GB HBM3, 79.6 GiB, 78.6 free; driver 580.65.06"
    assert "GPU 1" in found
    unseen = found[f"torch {torch.__version__}"]
    assert unseen.verdict == "warning" and "install a torch with CUDA" in unseen.remedy
    program(tmp_path, "nvidia-smi", "echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18")
    assert "Driver/library version mismatch" in named(check_gpus())["driver"].found


def test_why_torch_sees_fewer_gpus_than_there_are(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (found,) = _check_seen(torch, "torch", "built for CUDA", 0, 2)
    assert "MIG" in found.remedy and "unset" not in found.remedy
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    (found,) = _check_seen(torch, "torch", "built for CUDA", 0, 2)
    assert found.remedy == "CUDA_VISIBLE_DEVICES is 1; unset it to use all"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_gpus_that_torch_sees():
    found = named(check_gpus(wanted=99))
    assert found["cuda:0"].verdict == "ok" and torch.cuda.get_device_name(0) in found["cuda:0"].found
    assert found["training.processes"].verdict == "warning"


def test_ffmpeg_has_its_parts_or_what_it_lacks_is_told(tmp_path, monkeypatch):
    real = imageio_ffmpeg.get_ffmpeg_exe()
    found = named(check_ffmpeg())
    assert found["ffmpeg"].verdict == found["ffmpeg's parts"].verdict == "ok" and real in found["ffmpeg"].found
    lacking = program(tmp_path, "ffmpeg", f"'{real}' \"$@\" | grep -v -e libx264 -e libvmaf -e libdav1d")
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(lacking))
    found = named(check_ffmpeg())
    assert found["ffmpeg's parts"].verdict == "missing" and "libx264 (videos)" in found["ffmpeg's parts"].found
    assert found["ffmpeg's codecs"].verdict == "warning" and "libvmaf" in found["ffmpeg's codecs"].found
    assert "av1" not in found["ffmpeg's codecs"].found, "ffmpeg's own decoder does as well"
    assert "IMAGEIO_FFMPEG_EXE" in found["ffmpeg"].found
    program(tmp_path, "ffmpeg", "exit 1")
    (broken,) = check_ffmpeg()
    assert broken.verdict == "missing" and "does not run" in broken.found


def test_the_disk_that_results_go_to(tmp_path):
    before = list(tmp_path.iterdir())
    found = named(check_disk(tmp_path / "run" / "results"))
    assert found["results"].verdict == "ok" and "to be made there" in found["results"].found
    assert list(tmp_path.iterdir()) == before
    assert found["free space"].found.split()[1] in ("kB", "MB", "GB", "TB")
    found = named(check_disk(Path("/proc/results")))
    assert found["results"].verdict == "missing" and "--directory" in found["results"].remedy
    assert found["file system"].found.startswith("proc on /proc")


def test_shared_memory_holds_the_batches_of_the_readers(monkeypatch):
    config = make_config(training={"workers": 3, "processes": 2, "batch_size": 64, "accumulate": 4})
    clip = torch.zeros(16, 16, 16, config.flow.order)  # C, h, w, s of the default clips of 96×96 pixels
    # 8 clips in a part, 4 parts ahead for each of 3 readers of 2 processes.
    assert batches_ahead(config) == clip.nbytes * 8 * 4 * 3 * 2
    assert batches_ahead(make_config(training={"workers": 0})) == 0
    found = make_config(decoder={"name": "autoencoder", "model": "somewhere"})
    assert batches_ahead(found) is None
    if not Path("/dev/shm").is_dir():
        pytest.skip("no /dev/shm here")
    (enough,) = check_shared_memory(make_config(training={"workers": 0}))
    assert enough.verdict == "ok"
    huge = make_config(training={"workers": 1000, "batch_size": 4096})
    (short,) = check_shared_memory(huge)
    assert short.verdict == "warning" and "training.workers" in short.remedy


def test_models_that_a_configuration_names(tmp_path, stable_diffusion, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    sd = {"name": "stable-diffusion", "model": str(stable_diffusion)}
    there = named(check_configuration(make_config(clips={"size": 64}, decoder=sd, text={"encoder": "clip"})))
    assert {check.verdict for check in there.values()} == {"ok"}
    assert str(stable_diffusion) in there["decoder.model"].found
    config = make_config(
        clips={"captioner": "no-such-owner/no-such-model", "index": str(tmp_path / "none.csv")},
        decoder={"name": "autoencoder", "model": str(tmp_path)},
        generation={"features": "no-such-owner/no-such-features"},
    )
    found = named(check_configuration(config))
    lacking = {name for name, check in found.items() if check.verdict == "missing"}
    assert lacking == {"clips.index", "decoder.model", "clips.captioner", "generation.features"}
    remedy = found["clips.captioner"].remedy
    (command,) = (line for line in in_words(found.values()) if "hf download no-such-owner/no-such-model" in line)
    assert command.endswith("'model-?????-of-?????.safetensors'"), "in one line, to be copied"
    assert "a run fetches it by itself" in remedy
    assert "fetches" not in found["decoder.model"].remedy


def test_text_says_what_is_missing():
    checks = [
        Check("one", "a", "1.0"),
        Check("one", "b", "old", "warning", "take a new one"),
        Check("two", "c", "none", "missing", "pip install c"),
    ]
    lines = list(in_words(checks))
    assert lines[0] == "one" and lines[1].split() == ["ok", "a", "1.0"]
    assert lines[3].strip() == "→ take a new one" and lines[-1] == "missing: c; to look at: b"
    assert list(in_words(checks[:1]))[-1] == "nothing that a run needs is missing"
    assert max(map(len, in_words([Check("one", "a", "word " * 100)]))) <= 120


def test_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")
    default = ["doctor", "--results", str(tmp_path), "--config", str(ROOT / "config.yaml")]
    assert main(default) == 0
    assert "nothing that a run needs is missing" in capsys.readouterr().out
    changed = tmp_path / "mine.yaml"
    configs.save(make_config(clips={"index": "none.csv"}), changed)
    assert main(["doctor", "--results", str(tmp_path), "--config", str(changed), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert [check["name"] for check in told if check["verdict"] == "missing"] == ["clips.index"]
    changed.write_text("flow: {ordr: 3}")
    assert main([*default, "--config", str(changed)]) == 1
    assert "flow.ordr: no such key" in " ".join(capsys.readouterr().out.split())

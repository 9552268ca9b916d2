"""GPUs: what the driver says there is, and whether PyTorch can use it."""

import os
import shutil
import subprocess
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from vlfm.operations.doctor.check import Check
from vlfm.words import plural

PART = "GPU"
QUERY = ("index", "name", "memory.total", "memory.used", "driver_version")
TIMEOUT = 30.0  # seconds; a driver in trouble answers late or never
CPU_ONLY = "everything runs on the CPU; the demo is made for it"
INSTALL = "https://pytorch.org/get-started/locally has the command for your driver"


@dataclass(frozen=True)
class Gpu:
    """As the driver knows it; memory in MiB."""

    index: str
    name: str
    total: int
    used: int
    driver: str


def check_gpus(wanted: int = 1) -> Iterator[Check]:
    """What GPUs there are and whether PyTorch sees them.

    Args:
        wanted: processes of a training, a GPU each (`training.processes`).
    """
    import torch

    found, trouble = _ask_driver()
    if trouble:
        yield Check(PART, "driver", trouble, "warning", "run nvidia-smi; after an update of the driver, reboot")
    for gpu in found:
        memory = f"{gpu.total / 1024:.1f} GiB, {(gpu.total - gpu.used) / 1024:.1f} free"
        yield Check(PART, f"GPU {gpu.index}", f"{gpu.name}, {memory}; driver {gpu.driver}")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    build = torch.version.cuda or torch.version.hip
    name = f"torch {torch.__version__}"
    built = f"built for {'CUDA' if torch.version.cuda else 'ROCm'} {build}" if build else "built without CUDA"
    if not found and not seen and not trouble:
        yield Check(PART, name, f"{built}; no GPU here: {CPU_ONLY}")
    elif not seen:
        yield Check(PART, name, f"{built}; sees no GPU: {CPU_ONLY}", "warning", _why_unseen(build, said))
    else:
        yield from _check_seen(torch, name, built, seen, len(found))
    if seen and wanted > seen:
        remedy = f"set training.processes to {seen}, or run where there are more"
        yield Check(PART, "training.processes", f"{wanted}, of {plural(seen, 'GPU')} here", "warning", remedy)


def _check_seen(torch, name: str, built: str, seen: int, there: int) -> Iterator[Check]:
    if there > seen:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        remedy = (
            "see nvidia-smi: a GPU may be cut into parts (MIG), or its compute mode forbid it"
            if visible is None
            else f"CUDA_VISIBLE_DEVICES is {visible}; unset it to use all"
        )
        yield Check(PART, name, f"{built}; sees {seen} of {plural(there, 'GPU')}", "warning", remedy)
    else:
        yield Check(PART, name, f"{built}; sees {plural(seen, 'GPU')}")
    for index in range(seen):
        about = torch.cuda.get_device_properties(index)
        half = "bfloat16" if about.major >= 8 else "no bfloat16: float32 is used where precision is auto"
        known = {name.removeprefix("sm_").rstrip("af") for name in torch.cuda.get_arch_list() if name.startswith("sm_")}
        # Code for a capability runs on later ones of the same major number.
        fits = any(int(code[:-1]) == about.major and int(code[-1]) <= about.minor for code in known)
        found = f"{about.name}, {about.total_memory / 2**30:.1f} GiB, capability {about.major}.{about.minor}, {half}"
        if fits or not known or any(name.startswith("compute_") for name in torch.cuda.get_arch_list()):
            yield Check(PART, f"cuda:{index}", found)
        else:
            yield Check(PART, f"cuda:{index}", f"{found}; this torch has no code for it", "warning", INSTALL)


def _why_unseen(build: str | None, said: list[warnings.WarningMessage]) -> str:
    if build is None:
        return f"install a torch with CUDA: {INSTALL}"
    if said:
        return f"torch says: {' '.join(str(said[-1].message).split())}"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return f"CUDA_VISIBLE_DEVICES is {visible!r}: unset it, or give numbers of GPUs"
    return f"the driver is too old for this torch, or not loaded: update it, or take another torch: {INSTALL}"


def _ask_driver() -> tuple[list[Gpu], str]:
    """The GPUs that nvidia-smi lists, and what went wrong in asking, "" if nothing did."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return [], ""
    command = [program, f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired) as error:
        return [], f"nvidia-smi gives no answer ({error})"
    if done.returncode:
        return [], f"nvidia-smi failed: {' '.join((done.stdout + done.stderr).split())[:200]}"
    return [_gpu(line) for line in done.stdout.splitlines() if line.count(",") == len(QUERY) - 1], ""


def _gpu(line: str) -> Gpu:
    index, name, total, used, driver = (cell.strip() for cell in line.split(","))
    # A slice of a GPU, or one that is being reset, has "[N/A]" for numbers.
    return Gpu(index, name, *(int(cell) if cell.isdigit() else 0 for cell in (total, used)), driver)

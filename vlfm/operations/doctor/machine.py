"""The machine: cores, memory, the disk that results go to, shared memory."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil

from vlfm import config as configs
from vlfm.operations.doctor.check import Check
from vlfm.words import bytes_in_words, plural

PART = "machine"
SHM = Path("/dev/shm")
LITTLE_DISK = 5e9  # bytes: the demo leaves a tenth of it, and real data sets leave far more
FEW_FILES = 100_000
LITTLE_MEMORY = 4e9  # bytes: a job of the demo takes less than one
# File systems that several machines see; those of FUSE say after the dot what they are.
SHARED = {
    "nfs", "nfs4", "lustre", "gpfs", "beegfs", "beegfs_nodev", "ceph", "cifs", "smb3", "smbfs", "glusterfs", "afs",
    "ocfs2", "gfs2", "wekafs", "panfs", "pvfs2", "orangefs", "9p", "virtiofs", "fuse.sshfs", "fuse.glusterfs",
    "fuse.ceph", "fuse.ceph-fuse", "fuse.juicefs", "fuse.s3fs", "fuse.gcsfuse", "fuse.lustre", "fuse.mfs",
}  # fmt: skip
IN_MEMORY = {"tmpfs", "ramfs"}
FLOAT = 4  # bytes of a coefficient in a batch


def check_machine(results: Path, config: configs.Config | None) -> Iterator[Check]:
    """Cores, memory, disk and shared memory.

    Args:
        results: the folder that results go to; it need not be there yet.
        config: what the size of the batches in shared memory is taken from.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = psutil.virtual_memory()
    size = f"{bytes_in_words(memory.total)}, {bytes_in_words(memory.available)} free"
    short = memory.total < LITTLE_MEMORY
    remedy = "run fewer jobs at once: snakemake --cores 1"
    yield Check(PART, "cores", f"{cores}")
    yield Check(PART, "memory", size, *(("warning", remedy) if short else ()))
    yield from check_disk(results)
    yield from check_shared_memory(config)


def check_disk(results: Path) -> Iterator[Check]:
    """The file system that `results` is on, or would be: writable, free space, seen by other machines or not."""
    place = next(folder for folder in (results.absolute(), *results.absolute().parents) if folder.is_dir())
    reason = _why_not_writable(place)
    if reason:
        remedy = "give another folder (snakemake --directory), or rights to this one"
        yield Check(PART, "results", f"{place} cannot be written ({reason})", "missing", remedy)
    else:
        yield Check(
            PART,
            "results",
            f"{place} can be written" + ("" if place == results.absolute() else ", and it is to be made there"),
        )
    free = shutil.disk_usage(place).free
    inodes = os.statvfs(place)
    few = inodes.f_files > 0 and inodes.f_favail < FEW_FILES
    found = bytes_in_words(free) + (f", {plural(inodes.f_favail, 'file')} more" if few else "")
    remedy = "free space, or run elsewhere; `vlfm plan` says what a run will take"
    yield Check(PART, "free space", found, *(("warning", remedy) if free < LITTLE_DISK or few else ()))
    kind, mount = _file_system(place)
    if kind in IN_MEMORY:
        remedy = "put results on a disk: in memory they are lost when the machine stops, and take up memory"
        yield Check(PART, "file system", f"{kind}, in memory", "warning", remedy)
    elif kind in SHARED:
        yield Check(PART, "file system", f"{kind} on {mount}: other machines may see it")
    else:
        yield Check(PART, "file system", f"{kind or 'unknown'} on {mount}: this machine's own, as it seems", *_alone())


def _alone() -> tuple:
    """What to say of a file system of this machine alone: much where jobs go to other machines."""
    if shutil.which("sbatch") is None:
        return ()
    return ("warning", "jobs of the profile slurm must see the results: put them on a shared file system")


def _why_not_writable(folder: Path) -> str:
    """Why no file can be made there, "" if one can: it is made, without a name where the system knows such files."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0")
        return ""
    except OSError as error:
        return str(error.strerror)


def _file_system(folder: Path) -> tuple[str, str]:
    """Kind and mount point of the file system that a folder is on."""
    place = folder.resolve()
    mounts: list[tuple[int, int, str, str]] = []
    with contextlib.suppress(OSError):
        for order, mount in enumerate(psutil.disk_partitions(all=True)):
            if place.is_relative_to(mount.mountpoint):
                # The longest; of two in one place, the later hides the earlier.
                mounts.append((len(mount.mountpoint), order, mount.fstype, mount.mountpoint))
    return max(mounts)[2:] if mounts else ("", str(place))


def check_shared_memory(config: configs.Config | None) -> Iterator[Check]:
    """Room for the batches that a training's readers hold ready in shared memory."""
    if not SHM.is_dir():
        return
    usage = shutil.disk_usage(SHM)
    found = f"{bytes_in_words(usage.total)}, {bytes_in_words(usage.free)} free"
    needed = None if config is None else batches_ahead(config)
    if needed is None:
        yield Check(PART, "shared memory", found)
        return
    found += f"; training's readers hold {bytes_in_words(needed)}, about"
    remedy = "a container: docker run --shm-size=8g; or set training.workers to 0, which reads in the training itself"
    yield Check(PART, "shared memory", found, *(("warning", remedy) if usage.free < 1.5 * needed else ()))


def batches_ahead(config: configs.Config) -> float | None:
    """Bytes of the coefficients that all readers of a training on this machine hold ready: of the largest clips.

    None where the shape of the latents is the model's to say.
    """
    from vlfm.training.loader import AHEAD

    training, embedded = config.training, config.decoder.embedded
    if not training.workers:
        return 0.0
    if config.decoder.name != "embedded":
        return None
    positions = max(height * width for height, width in config.clips.sizes) / embedded.patch**2
    clip = embedded.channels * positions * config.flow.order * FLOAT
    # Each process takes its share of a batch, in parts; each of its readers holds so many parts.
    part = training.batch_size / training.processes / training.accumulate
    return clip * part * AHEAD * training.workers * training.processes

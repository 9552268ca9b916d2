"""Python, the packages that vlfm declares, their versions against those that are tested, and what runs them."""

import importlib
import importlib.metadata
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from vlfm import __version__
from vlfm.operations.doctor.check import Check

PART = "packages"
OWN = Path(__file__).parents[2]  # vlfm itself
# Those that are named one by one; the others only where something is the matter.
NAMED = ("torch", "diffusers", "transformers", "accelerate", "snakemake", "zarr", "webdataset", "decord2")
# With parts that are no Python: they may be installed and yet not load, for want of a library of the system's.
NATIVE = {"torch": "torch", "decord2": "decord", "opencv-python-headless": "cv2", "pyarrow": "pyarrow"}
# Not there unless asked for → what they are for, and how to get them.
OPTIONAL = {
    "yt-dlp": ("sources on YouTube", "pip install 'vlfm[youtube]'"),
    "lpips": ("LPIPS: to convert its weights, once", "pip install lpips, which brings torchvision"),
}
# Packages that hold the same modules: the one installed last has overwritten the other.
TWINS = (("decord", "decord2"), ("opencv-python", "opencv-python-headless"))


def check_packages(constraints: Path | None = None) -> Iterator[Check]:
    """Everything about packages.

    Args:
        constraints: the file of the tested versions; default the checkout's, where this is one.
    """
    yield Check(PART, "python", f"{platform.python_version()}, {sys.executable}")
    yield Check(PART, "vlfm", f"{__version__}, {OWN}")
    file = constraints or OWN.parent / "constraints.txt"
    tested = read_constraints(file) if file.is_file() else {}
    needed = _needed()
    alike, found = 0, {name: _version(name) for name in needed}
    for name, requirement in needed.items():
        check = _check(name, requirement, found[name], tested.get(name))
        if check.verdict != "ok" or name in NAMED:
            yield check
        else:
            alike += 1
    others = "of the versions they were tested in" if tested else "no constraints.txt is at hand to compare with"
    yield Check(PART, f"{alike} others", others)
    for name, twin in TWINS:
        if _version(name) and _version(twin):
            remedy = f"pip uninstall -y {name} {twin}, then pip install {_pin(twin, tested.get(twin))}"
            yield Check(PART, name, f"is installed beside {twin}, and holds the same modules", "warning", remedy)
    for name, (purpose, remedy) in OPTIONAL.items():
        version = _version(name)
        yield Check(PART, name, f"{version or 'not installed'}: {purpose}", *(() if version else ("optional", remedy)))
    yield from check_programs()


def check_programs() -> Iterator[Check]:
    """The programs that rules call by name: those of this Python, not of another."""
    for name in ("vlfm", "snakemake"):
        place = shutil.which(name)
        own = Path(sys.executable).with_name(name)
        remedy = f"activate the environment: put {own.parent} first in PATH"
        if place is None:
            yield Check(PART, f"{name} in PATH", "no program of this name", "missing", remedy)
        elif own.exists() and not own.samefile(place):
            yield Check(PART, f"{name} in PATH", f"{place}, of another Python", "warning", remedy)
    sbatch = shutil.which("sbatch")
    found = f"{sbatch}" if sbatch else "no sbatch here: for `snakemake --profile workflow/profiles/slurm`"
    yield Check(PART, "Slurm", found, *(() if sbatch else ("optional", "run Snakemake on the cluster's login node")))


def read_constraints(path: Path) -> dict[str, str]:
    """Package → version, of a file of lines `name==version`."""
    lines = [line.partition("#")[0].strip() for line in path.read_text().splitlines()]
    pairs = [line.split("==", 1) for line in lines if "==" in line]
    return {canonicalize_name(name.strip()): version.strip() for name, version in pairs}


def _needed() -> dict[str, Requirement]:
    """The packages that vlfm declares for this platform, extras left out."""
    requirements = [Requirement(text) for text in importlib.metadata.requires("vlfm") or ()]
    here = [each for each in requirements if each.marker is None or each.marker.evaluate({"extra": ""})]
    named = {canonicalize_name(each.name): each for each in here}
    return {name: named[name] for name in (*(name for name in NAMED if name in named), *named)}


def _check(name: str, requirement: Requirement, version: str | None, tested: str | None) -> Check:
    install = f"pip install -c constraints.txt '{requirement.name}{requirement.specifier}'"
    if version is None:
        return Check(PART, name, "not installed", "missing", install)
    if not requirement.specifier.contains(version, prereleases=True):
        return Check(PART, name, f"{version}, where vlfm needs {requirement.specifier}", "missing", install)
    if name in NATIVE and (reason := _why_not_loaded(NATIVE[name])):
        remedy = f"pip install --force-reinstall --no-deps {_pin(name, tested)}; or install the missing system library"
        return Check(PART, name, f"{version} does not load ({reason})", "missing", remedy)
    # A build of torch has a name of its own after the version: 2.13.0+cu130.
    if tested and Version(version).public != Version(tested).public:
        remedy = f"pip install {_pin(name, tested)}, if something fails"
        return Check(PART, name, f"{version}, tested with {tested}", "warning", remedy)
    return Check(PART, name, version)


def _why_not_loaded(module: str) -> str:
    """What importing a module says, "" where it goes well."""
    try:
        importlib.import_module(module)
    except (ImportError, OSError) as error:
        return re.sub(r"\s+", " ", str(error))
    return ""


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _pin(name: str, tested: str | None) -> str:
    return f"{name}=={tested}" if tested else name

"""Imports run one way: a package or module knows the layers before its own, and none after."""

import ast
from pathlib import Path

import vlfm

# Along the way of the data. What stands in one line may not import one another.
LAYERS = [
    {"errors", "words", "learning_rate", "precision", "progress", "frames", "plots", "spread", "__version__"},
    {"splits", "devices"},
    {"storage"},
    {"weights"},
    {"config"},
    {"flow", "clips"},
    {"captions"},
    {"decoders"},
    {"latents"},
    {"coefficients"},
    {"model"},
    {"pipeline"},
    {"training", "finished_run", "video", "forecast"},
    {"generate"},
    {"evaluation"},
    {"experiments", "theory"},
    {"report", "operations"},
    {"commands"},
    {"cli"},
]
LAYER = {name: layer for layer, names in enumerate(LAYERS) for name in names}
# The geometry of the moving digits, which itself imports nothing: the configuration refuses what does not fit it.
ALLOWED = {("config", "vlfm.clips.moving_digits.drawing")}


def imports():
    """(package, file, module) of every import of our own."""
    root = Path(vlfm.__file__).parent
    for path in sorted(root.rglob("*.py")):
        package = path.relative_to(root).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            if names == ["vlfm"]:
                names = [f"vlfm.{alias.name}" for alias in node.names]
            yield from ((package, path, name) for name in names if name.startswith("vlfm."))


def test_every_package_has_its_layer():
    root = Path(vlfm.__file__).parent
    packages = {path.name.removesuffix(".py") for path in root.iterdir() if path.is_dir() or path.suffix == ".py"}
    assert packages - {"__init__", "__pycache__"} == LAYER.keys() - {"__version__"}


def test_no_import_runs_back():
    found = list(imports())
    assert len(found) > 500
    for package, path, name in found:
        other = name.split(".")[1]
        onward = other == package or LAYER[other] < LAYER[package]
        assert onward or (package, name) in ALLOWED, f"{path} imports {name}"

"""Imports run one way: a room knows those before it, and none after."""

import ast
from pathlib import Path

import vlfm

# Along the way of the data. What stands in one line may not import one another.
ROOMS = [
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
    {"training", "run", "video", "forecast"},
    {"generate"},
    {"evaluation"},
    {"experiments", "theory"},
    {"report", "operations"},
    {"commands"},
    {"cli"},
]
FLOOR = {name: floor for floor, names in enumerate(ROOMS) for name in names}
# The geometry of the moving digits, which itself imports nothing: the configuration refuses what does not fit it.
ALLOWED = {("config", "vlfm.clips.moving_digits.drawing")}


def imports():
    """(room, file, module) of every import of our own."""
    root = Path(vlfm.__file__).parent
    for path in sorted(root.rglob("*.py")):
        room = path.relative_to(root).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            if names == ["vlfm"]:
                names = [f"vlfm.{alias.name}" for alias in node.names]
            yield from ((room, path, name) for name in names if name.startswith("vlfm."))


def test_every_room_has_its_place():
    root = Path(vlfm.__file__).parent
    rooms = {path.name.removesuffix(".py") for path in root.iterdir() if path.is_dir() or path.suffix == ".py"}
    assert rooms - {"__init__", "__pycache__"} == FLOOR.keys() - {"__version__"}


def test_no_import_runs_back():
    found = list(imports())
    assert len(found) > 500
    for room, path, name in found:
        other = name.split(".")[1]
        onward = other == room or FLOOR[other] < FLOOR[room]
        assert onward or (room, name) in ALLOWED, f"{path} imports {name}"

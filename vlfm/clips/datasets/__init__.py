"""Published video data sets: what their index files say, as rows.

A data set is one module here, and its name in `clips.index` is the module's. The docstring tells the terms it comes
with. It has

- `FILES`: patterns of its index files, where `index` is a folder;
- `LICENCE`: the terms in a few words, "" where each row tells its own;
- `COLUMNS`: the published columns that `where` may name, and `seconds`, `width`, `height` if it knows them;
- `CAPTIONS`: the columns that captions may come from, the default first; empty if there is no choice;
- `read(request)`: yields a `Row` or `Bad` for each row of its files, without holding them all.
"""

import glob
import importlib
import pkgutil
from pathlib import Path
from types import ModuleType

from vlfm import config
from vlfm.errors import VLFMError


def names() -> list[str]:
    """The data sets there are."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def data_set(name: str) -> ModuleType:
    """The module of a data set.

    Raises:
        VLFMError: there is no such data set; the message names those there are.
    """
    if name not in names():
        raise VLFMError(f"clips.index names the data set {name!r}; there are {', '.join(names())}")
    return importlib.import_module(f"{__name__}.{name}")


def index_files(entry: config.DataSet) -> list[Path]:
    """The index files of one data set: `index` with folders and patterns (`train*.tfrecord`) filled in, in order.

    Raises:
        VLFMError: no such file or folder, a folder without index files, a pattern that nothing fits.
    """
    patterns = data_set(entry.dataset).FILES
    files: list[Path] = []
    for path in entry.paths:
        if Path(path).is_dir():
            found = [file for pattern in patterns for file in sorted(Path(path).glob(pattern)) if file.is_file()]
            if not found:
                raise VLFMError(f"{path} holds no index file of {entry.dataset} ({', '.join(patterns)})")
        elif Path(path).exists():
            found = [Path(path)]
        else:
            found = sorted(map(Path, glob.glob(path, recursive=True)))
            if not found:
                raise VLFMError(f"{path}: no such file or folder; correct `index` of {entry.dataset} in clips.index")
        files += found
    return list(dict.fromkeys(files))


def caption_column(entry: config.DataSet) -> str:
    """The column that a data set's captions come from.

    Raises:
        VLFMError: there is no such choice.
    """
    choice = data_set(entry.dataset).CAPTIONS
    if entry.caption is None:
        return choice[0] if choice else ""
    if entry.caption not in choice:
        there = f"they may come from {', '.join(choice)}" if choice else "leave `caption` out"
        raise VLFMError(f"{entry.dataset} has no captions in {entry.caption!r}; {there}")
    return entry.caption

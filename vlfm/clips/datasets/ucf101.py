"""UCF-101: 13,320 clips of 101 human actions (Soomro et al., https://arxiv.org/abs/1212.0402).

Terms: none are stated; the videos are of YouTube, whose uploaders hold the rights, and the set is meant for research.

Index: the folder `ucfTrainTestlist`, of which the first of the three splits is taken, or the files themselves:
`classInd.txt` and any of `trainlist0N.txt`, `testlist0N.txt`. `videos` is the folder of the clips. A caption is the
class in words: `ApplyEyeMakeup` is "apply eye makeup".
"""

import re
from collections.abc import Iterator
from pathlib import Path

from vlfm.clips.index_files.rows import Bad, Request, Row, missing
from vlfm.errors import BadClip, VLFMError
from vlfm.splits import TEST, TRAIN

FILES = ("classInd.txt", "trainlist01.txt", "testlist01.txt")
LICENCE = "none stated; videos of YouTube, for research"
COLUMNS = ("class", "group", "split")
CAPTIONS = ()


def read(request: Request) -> Iterator[Row | Bad]:
    """The rows of the lists.

    Raises:
        VLFMError: no `classInd.txt`, no list, another file, or no `videos`.
    """
    lists = [path for path in request.files if path.name.lower() != "classind.txt"]
    classes = _classes([path for path in request.files if path not in lists])
    if not request.videos:
        raise VLFMError("UCF-101 is read from its clips: let `videos` be the folder they are unpacked in")
    for path in lists:
        match = re.match("(train|test)list", path.name)
        if match is None:
            raise VLFMError(f"{path} is no list of UCF-101; give classInd.txt, trainlist01.txt, testlist01.txt")
        split = {"train": TRAIN, "test": TEST}[match[1]]
        for line, text in enumerate(_lines(path), 1):
            if name := text.split(" ")[0]:
                yield _row(request, classes, path, line, name, split)


def _row(request: Request, classes: set[str], path: Path, line: int, name: str, split: str) -> Row | Bad:
    try:
        label = name.partition("/")[0]
        if label not in classes:
            raise BadClip(f"{name}: classInd.txt has no class {label!r}; both are to be of one release")
        source = request.videos.find(name, name.rpartition(".")[0])
        group = re.search(r"_g(\d+)_c\d+", name)
        columns = {"class": label, "group": group[1] if group else "", "split": split}
        extra = {"class": label, "group": columns["group"]}
        return Row(
            line,
            source or name,
            None,
            None,
            words(label),
            split,
            path.name,
            name,
            LICENCE,
            columns=columns,
            extra=extra,
            find=None if source else missing(f"{name} is not in `videos`; unpack it there, or leave the row out"),
        )
    except BadClip as error:
        return Bad(line, name, str(error), path.name)


def words(label: str) -> str:
    """A class name as a caption: `YoYo` → `yo yo`."""
    return " ".join(re.findall(r"[A-Z]+(?![a-z])|[A-Z][a-z]*|[a-z]+|\d+", label)).lower()


def _classes(paths: list[Path]) -> set[str]:
    if len(paths) != 1:
        raise VLFMError("UCF-101 is read with one classInd.txt; give the folder ucfTrainTestlist, or its files")
    return {text.split(" ")[1] for text in _lines(paths[0]) if " " in text}


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text("utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise VLFMError(f"{path} cannot be read as text ({error}); correct its path in clips.index") from None

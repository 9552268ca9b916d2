"""A folder of videos, each with its caption in a text file beside it: `dog.mp4` and `dog.txt`.

Terms: the user's own. `index` is the folder; it is searched through and through for the text files.
"""

from collections.abc import Iterator
from pathlib import Path

from vlfm.clips.index_files.rows import Bad, Request, Row, one_line
from vlfm.clips.index_files.videos import VIDEOS
from vlfm.errors import BadClip

FILES = ("**/*.txt",)
LICENCE = ""
COLUMNS = ("name",)
CAPTIONS = ()


def read(request: Request) -> Iterator[Row | Bad]:
    """One row per text file, its line the file's place in the order of names, from 1."""
    beside: dict[Path, dict[str, str]] = {}
    for line, path in enumerate(request.files, 1):
        if path.parent not in beside:
            beside[path.parent] = _videos(path.parent)
        try:
            if path.stem not in beside[path.parent]:
                raise BadClip(f"{path} has no video beside it; give one the name {path.stem}.mp4, or another ending")
            video = beside[path.parent][path.stem]
            caption = one_line(path.read_text("utf-8-sig"), str(path), request.captioned)
            yield Row(line, video, None, None, caption, file=path.name, key=path.stem, columns={"name": path.stem})
        except BadClip as error:
            yield Bad(line, str(path), str(error), path.name)
        except UnicodeDecodeError:
            yield Bad(line, str(path), f"{path} is not UTF-8 text; save it as UTF-8", path.name)


def _videos(folder: Path) -> dict[str, str]:
    """Name without ending → path, of a folder's videos."""
    return {path.stem: str(path) for path in sorted(folder.iterdir()) if path.suffix.lower() in VIDEOS}

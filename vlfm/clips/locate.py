"""From what the user wrote to a file on this machine: paths, files inside installed packages, and what is fetched."""

import importlib.util
from pathlib import Path

from vlfm import config
from vlfm.clips.download.address import split_address
from vlfm.clips.download.downloads import Downloads
from vlfm.clips.download.web import is_http
from vlfm.clips.download.whole import fetch_file
from vlfm.clips.download.youtube import YOUTUBE, fetch_video, split_youtube
from vlfm.clips.download.zips import ZIP, fetch_member, split_zip
from vlfm.errors import BadClip, VLFMError

PACKAGE = "package:"


def is_remote(source: str) -> bool:
    """Whether the source has to be downloaded, in full or in part."""
    if source.startswith(ZIP):
        return any(is_http(part) for part in source.removeprefix(ZIP).partition("!")[0].split("|"))
    return is_http(source) or source.startswith(YOUTUBE)


def is_file(source: str) -> bool:
    """Whether the source is a file as it stands, in a folder or a package."""
    return not is_remote(source) and not source.startswith(ZIP)


def name_source(source: str, folder: Path) -> str:
    """What the manifest calls a source: the string as written, with every relative path in it joined with the CSV's
    folder.

    Raises:
        BadClip: an address of a kind that is not supported, or not written as it must be.
    """
    if source.startswith(ZIP):
        parts, member = split_zip(source)
        return f"{ZIP}{'|'.join(_name_file(part, folder) for part in parts)}!{member}"
    if source.startswith(YOUTUBE):
        split_youtube(source)
        return source
    return _name_file(source, folder)


def _name_file(source: str, folder: Path) -> str:
    if is_http(source):
        split_address(source)
        return source
    if source.startswith(PACKAGE):
        return source
    if "://" in source:
        raise BadClip(f"{source}: give a path, an http(s) address, package:NAME/PATH, zip:ARCHIVE!MEMBER or youtube:ID")
    return str(folder / source)


def find(source: str, folder: Path, timeout: float, settings: config.Download) -> Path:
    """The local file of a source as the manifest names it; fetches what has to be.

    Args:
        source: a path, `package:NAME/PATH`, or

            - `http(s)://…`, perhaps with `#sha256=…&size=…` (`split_address`)
            - `zip:ARCHIVE!MEMBER`, the archive a path or an address, or `PART|PART` (`fetch_member`)
            - `youtube:ID?start=SECONDS&end=SECONDS` (`fetch_video`)
        folder: where what is fetched lies, under a hash of its source. It is used again by every shard and every
            run; to free the space the folder can be deleted at any time.
        timeout: seconds without data after which a server is given up.
        settings: how to fetch.

    Returns:
        a file that stays until the same thread asks for another one, or its process ends. Later it may be removed,
        where `clips.download.cache` is a limit: ask again.

    Raises:
        BadClip: not there, empty, no file; the message names the source and the reason.
        VLFMError: the folder cannot be written; yt-dlp is needed and missing.
    """
    if is_file(source):
        return local_file(source)
    downloads = Downloads.into(folder, timeout, settings)
    try:
        if source.startswith(ZIP):
            parts, member = split_zip(source)
            return fetch_member(
                source, [part if is_http(part) else local_file(part) for part in parts], member, downloads
            )
        return fetch_video(source, downloads) if source.startswith(YOUTUBE) else fetch_file(source, downloads)
    except OSError as error:
        raise VLFMError(f"{folder} cannot hold downloads ({error}); free space or change permissions") from error


def local_file(source: str) -> Path:
    """The file of a path or `package:NAME/PATH`.

    Raises:
        BadClip: not there, empty, no file; the message names the source and the reason.
    """
    path = package_file(source) if source.startswith(PACKAGE) else Path(source)
    try:
        if not path.exists():
            raise BadClip(f"{source}: no such file; correct the path or leave the row out")
        if not path.is_file():
            raise BadClip(f"{source} is not a file; give the path of one video")
        if path.stat().st_size == 0:
            raise BadClip(f"{source} is empty (0 bytes); fetch the file again")
        with open(path, "rb"):
            return path
    except (OSError, ValueError) as error:  # no permission, a name too long, a NUL in it
        raise BadClip(f"{source} cannot be read ({error})") from error


def package_file(source: str) -> Path:
    """The path of `package:NAME/PATH`, without importing NAME.

    Raises:
        BadClip: no such package, or PATH leads out of it.
    """
    name, _, inside = source.removeprefix(PACKAGE).partition("/")
    try:
        # Of a dotted name the parents would be imported.
        spec = importlib.util.find_spec(name) if name.isidentifier() else None
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise BadClip(f"{source}: no package {name!r} is installed; pip install it, or correct the source")
    root = Path(spec.submodule_search_locations[0]).resolve()
    path = (root / inside).resolve()
    if not inside or not path.is_relative_to(root) or path == root:
        raise BadClip(f"{source}: the path must name a file inside the package {name}")
    return path

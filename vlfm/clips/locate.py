"""From what the user wrote to a file on this machine: paths, URLs, files inside installed packages."""

import fcntl
import hashlib
import importlib.util
import os
import time
from pathlib import Path

import requests
from requests.exceptions import RequestException

from vlfm.errors import BadClip, VLFMError
from vlfm.storage.files import read_json, write_json

ATTEMPTS = 5
SLOWEST = 1024  # bytes a second, averaged over a timeout; a slower server is given up
PACKAGE = "package:"


def is_url(source: str) -> bool:
    """Whether the source has to be downloaded."""
    return source.lower().startswith(("http://", "https://"))


def name_source(source: str, folder: Path) -> str:
    """What the manifest calls a source: the string as written, or a relative path joined with the CSV's
    folder.

    Raises:
        BadClip: an address of a kind that is not supported.
    """
    if is_url(source) or source.startswith(PACKAGE):
        return source
    if "://" in source:
        raise BadClip(f"{source}: give a path, an http(s) address or package:NAME/PATH")
    return str(folder / source)


def find(source: str, folder: Path, timeout: float) -> Path:
    """The local file of a source as the manifest names it; downloads what has to be.

    Args:
        source: path, `http(s)://…`, or `package:NAME/PATH`.
        folder: where downloads lie, under a hash of their address. They are used again by every shard and
        every
            run; to free the space the folder can be deleted at any time.
        timeout: seconds without data after which a server is given up.

    Raises:
        BadClip: not there, empty, no file; the message names the source and the reason.
    """
    if is_url(source):
        return download(source, folder, timeout)
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


def download(url: str, folder: Path, timeout: float) -> Path:
    """Download a file once; an interrupted download goes on where it stopped.

    The file is named by a hash of the address, never by anything in it. Jobs that want the same file wait
    for the first of them.

    Raises:
        BadClip: the server does not give the file; the message names address and reason.
        VLFMError: the folder cannot be written.
    """
    path = folder / f"{hashlib.sha256(url.encode()).hexdigest()[:32]}.video"
    if path.is_file():
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(path.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            return path if path.is_file() else _download(url, path, timeout)
    except RequestException as error:
        raise BadClip(f"{url} cannot be downloaded ({_reason(error)})") from error
    except OSError as error:
        raise VLFMError(f"{folder} cannot hold downloads ({error}); free space or change permissions") from error


class _Again(RequestException):
    """A try that failed in a way that may pass."""


def _download(url: str, path: Path, timeout: float) -> Path:
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(min(0.25 * 2**attempt, timeout))
        try:
            _fetch(url, path.with_suffix(".part"), path.with_suffix(".json"), timeout)
        except (_Again, requests.ConnectionError, requests.Timeout) as error:
            last = error
            continue
        os.replace(path.with_suffix(".part"), path)
        path.with_suffix(".json").unlink(missing_ok=True)
        return path
    raise BadClip(f"{url} cannot be downloaded ({_reason(last)}; tried {ATTEMPTS} times); try again later")


def _fetch(url: str, part: Path, note: Path, timeout: float) -> None:
    """One request: the rest of `part`, or all of it where the server or the file has changed."""
    import urllib3

    headers = {"Accept-Encoding": "identity", "User-Agent": "vlfm"}
    known = read_json(note) if note.is_file() and part.is_file() else {}
    have = part.stat().st_size if known.get("validator") else 0
    if have and have == known.get("total"):
        return
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": known["validator"]}
    with requests.get(url, headers=headers, stream=True, timeout=timeout) as answer:
        if answer.status_code == 416:
            part.unlink(missing_ok=True)
            raise _Again("the server no longer has the rest of the file")
        if answer.status_code in (408, 425, 429) or answer.status_code >= 500:
            raise _Again(f"status {answer.status_code} {answer.reason}")
        if answer.status_code not in (200, 206):
            raise BadClip(
                f"{url} cannot be downloaded (status {answer.status_code} {answer.reason}); correct the address"
            )
        if answer.status_code == 206 and not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            part.unlink(missing_ok=True)
            raise _Again("the server sent another part than the one asked for")
        if answer.status_code == 200:
            have = 0
        length = answer.headers.get("Content-Length", "")
        total = have + int(length) if length.isdigit() else None
        validator = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
        if validator and validator.startswith("W/"):
            validator = None  # says that two files mean the same, not that their bytes are the same
        if answer.status_code == 200:
            part.unlink(missing_ok=True)
            write_json(note, {"url": url, "validator": validator, "total": total})
        mark, got = time.monotonic(), 0
        with open(part, "ab") as out:
            try:
                while data := answer.raw.read1(1 << 16):
                    out.write(data)
                    have, got = have + len(data), got + len(data)
                    if time.monotonic() - mark > timeout:
                        if got < SLOWEST * timeout:
                            raise _Again(f"less than {SLOWEST} bytes a second")
                        mark, got = time.monotonic(), 0
            except urllib3.exceptions.HTTPError as error:
                raise _Again(f"the connection broke after {have} bytes: {error}") from error
            out.flush()
            os.fsync(out.fileno())
    if total is not None and have != total:
        raise _Again(f"{have} of {total} bytes came")
    if have == 0:
        part.unlink(missing_ok=True)
        raise BadClip(f"{url} is empty (0 bytes)")


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0][:300] if str(error) else type(error).__name__

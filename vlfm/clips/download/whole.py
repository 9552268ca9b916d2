"""A whole file from a server; an interrupted download goes on where it stopped."""

import functools
import os
from pathlib import Path

from vlfm.clips.download.address import Checks, check_file, check_size, split_address
from vlfm.clips.download.cache import hash_name
from vlfm.clips.download.downloads import Downloads
from vlfm.clips.download.retries import Again, Tries
from vlfm.errors import BadClip
from vlfm.storage.files import read_json, write_json


def fetch_file(source: str, downloads: Downloads) -> Path:
    """Download a file once, see `Cache.obtain`.

    Args:
        source: `http(s)://…`, perhaps with checks (`split_address`).

    Raises:
        BadClip: the server does not give the file, or another one than was promised; the message names address and
            reason.
        OSError: the folder cannot be written.
    """
    url, checks = split_address(source)
    make = functools.partial(_make, source, url, checks, downloads)
    return downloads.cache.obtain(hash_name(source), make)


def _make(source: str, url: str, checks: Checks, downloads: Downloads, path: Path) -> None:
    part, note = path.with_suffix(".part"), path.with_suffix(".json")
    tries, furthest = Tries(source, downloads.settings.attempts), 0

    def attempt() -> None:
        nonlocal furthest
        try:
            _try(source, url, checks, downloads, part, note)
        except Again:
            have = part.stat().st_size if part.is_file() else 0
            tries.got(max(0, have - furthest))  # one that had to begin anew has brought nothing yet
            furthest = max(furthest, have)
            raise

    tries.persist(attempt)
    os.replace(part, path)
    note.unlink(missing_ok=True)


def _try(source: str, url: str, checks: Checks, downloads: Downloads, part: Path, note: Path) -> None:
    """One request for the rest of `part`, or all of it where the server or the file has changed; then the checks."""
    known = read_json(note) if note.is_file() and part.is_file() else {}
    begun = part.stat().st_size if known.get("validator") else 0
    if not begun or begun != known.get("total"):
        _read_on(source, url, checks, downloads, part, note, begun and known["validator"])
    try:
        check_file(source, part, checks)
    except BadClip as error:
        part.unlink()
        if begun:  # perhaps its two halves do not belong together
            raise Again(str(error)) from error
        raise


def _read_on(
    source: str, url: str, checks: Checks, downloads: Downloads, part: Path, note: Path, validator: str | None
) -> None:
    have = part.stat().st_size if validator else 0
    headers = {"Range": f"bytes={have}-", "If-Range": validator} if validator else {}
    with downloads.web.get(url, headers) as answer:
        if answer.status == 416 or answer.start != (have if answer.status == 206 else 0):
            part.unlink(missing_ok=True)
            raise Again("the server no longer has the rest of the file, or sent another part than the one asked for")
        if answer.status == 200:
            have = 0
        if not have:
            part.unlink(missing_ok=True)
            write_json(note, {"url": url, "validator": answer.validator, "total": answer.total})
        if answer.total is not None:
            check_size(source, answer.total, checks)
            downloads.expect(source, answer.total, have)
        with open(part, "ab") as out:
            while data := answer.read(1 << 20):
                have += len(data)
                out.write(data)
                try:
                    downloads.allow(source, have)
                except BadClip:
                    part.unlink()
                    raise
            out.flush()
            os.fsync(out.fileno())
    if answer.total is not None and have != answer.total:
        raise Again(f"{have} of {answer.total} bytes came")
    if have == 0:
        part.unlink(missing_ok=True)
        raise BadClip(f"{source} is empty (0 bytes)")
    if answer.total is None:
        downloads.cache.make_room()

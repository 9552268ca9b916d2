"""An address and what its end says about the file: `https://host/v.mp4#sha256=…&size=…`, as pip writes it."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from vlfm.errors import BadClip

ALGORITHMS = ("md5", "sha1", "sha224", "sha256", "sha384", "sha512")


@dataclass(frozen=True)
class Checks:
    """What a file must be: its checksum, hexadecimal, and its size in bytes; None is not checked."""

    algorithm: str | None = None
    digest: str | None = None
    size: int | None = None


def split_address(source: str) -> tuple[str, Checks]:
    """The address to ask for, and the checks after its `#`; anything else there is for browsers, and is left out.

    Raises:
        BadClip: a checksum that is none, or a size that is no number.
    """
    address, _, fragment = source.partition("#")
    checks: dict[str, str | int] = {}
    for part in fragment.split("&"):
        key, equals, value = part.partition("=")
        key = key.lower()
        if key in ALGORITHMS and equals:
            if not re.fullmatch(f"[0-9a-fA-F]{{{2 * hashlib.new(key).digest_size}}}", value):
                raise BadClip(f"{source}: {value!r} is no {key} checksum; correct what stands after the #")
            checks |= {"algorithm": key, "digest": value.lower()}
        elif key == "size" and equals:
            if not re.fullmatch("[0-9]{1,18}", value):
                raise BadClip(f"{source}: size is {value!r}; give bytes after the #")
            checks["size"] = int(value)
        elif re.fullmatch(r"(md|sha|blake)[0-9a-z_-]+", key) and equals:
            raise BadClip(f"{source}: {key} is no checksum known here; give one of {', '.join(ALGORITHMS)}")
    return address, Checks(**checks)


def check_file(source: str, file: Path, checks: Checks) -> None:
    """Read a file through and compare.

    Raises:
        BadClip: it is not the one that the address promises.
    """
    size = file.stat().st_size
    check_size(source, size, checks)
    if checks.algorithm:
        with open(file, "rb") as handle:
            found = hashlib.file_digest(handle, checks.algorithm).hexdigest()
        if found != checks.digest:
            raise BadClip(
                f"{source}: the file's {checks.algorithm} is {found}, not what stands after the #; "
                "correct it, or find the file that it belongs to"
            )


def check_size(source: str, size: int, checks: Checks) -> None:
    """Compare a file's size, bytes.

    Raises:
        BadClip: it is another one.
    """
    if checks.size is not None and size != checks.size:
        raise BadClip(f"{source}: the file has {size} bytes, not the {checks.size} that stand after the #")

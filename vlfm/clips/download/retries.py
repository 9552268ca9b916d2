"""Trying again: what may pass, how long to wait, when to stop."""

import email.utils
import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from time import sleep
from typing import TypeVar

from vlfm.errors import BadClip

T = TypeVar("T")

LONGEST = 60.0  # seconds between two tries, where the server does not ask for more
PATIENCE = 300.0  # seconds that a server may ask for
PROGRESS = 8 << 20  # bytes that make a try count as a success that was interrupted


class Again(Exception):
    """A try that failed in a way that may pass.

    Args:
        reason: one line.
        wait: seconds that the server asks to be left alone for.
        got: bytes that came before it failed.
    """

    def __init__(self, reason: str, wait: float = 0.0, got: int = 0) -> None:
        super().__init__(reason)
        self.wait = wait
        self.got = got


def persist(what: str, attempts: int, do: Callable[[], T]) -> T:
    """Call `do` until it does not raise `Again`, with ever longer waits.

    Args:
        what: the address, for the message.
        attempts: tries in a row that bring next to nothing, before it is given up.

    Raises:
        BadClip: so many tries failed, or the server asks to wait for longer than `PATIENCE`.
    """
    tries = 0
    while True:
        try:
            return do()
        except Again as error:
            tries = 1 if error.got >= PROGRESS else tries + 1
            if tries >= attempts:
                raise BadClip(f"{what} cannot be downloaded ({error}; tried {tries} times); try again later") from error
            if error.wait > PATIENCE:
                raise BadClip(
                    f"{what} cannot be downloaded ({error}; the server asks to wait {error.wait:.0f} s); "
                    "try again after that"
                ) from error
            # On top of what the server asks for: it may ask the same of a hundred jobs.
            sleep(error.wait + back_off(what, tries))


def back_off(what: str, tries: int) -> float:
    """Seconds to wait after so many failed tries: 2^(tries − 1), at most `LONGEST`, less up to half of it.

    How much less is drawn from the address, so that jobs that failed together do not come back together.
    """
    digest = hashlib.sha256(f"{what} {tries}".encode(errors="surrogateescape")).digest()
    share = int.from_bytes(digest[:4], "big") / 2**32
    return min(LONGEST, 2.0 ** (tries - 1)) * (1 - share / 2)


def asked_wait(header: str | None) -> float:
    """Seconds that a `Retry-After` header asks for, a number or a date; 0 where it says nothing of use."""
    if header is None:
        return 0.0
    if header.strip().isdecimal():
        return float(header)
    try:
        moment = email.utils.parsedate_to_datetime(header)
    except (ValueError, TypeError, OverflowError):
        return 0.0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())

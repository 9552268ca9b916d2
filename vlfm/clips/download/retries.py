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
PROGRESS = 8 << 20  # bytes after which earlier failures are forgotten


class Again(Exception):
    """A try that failed in a way that may pass.

    Args:
        reason: one line.
        wait: seconds that the server asks to be left alone for.
    """

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


class Tries:
    """The tries at one thing, with ever longer waits.

    Args:
        what: its address, for the message.
        attempts: tries in a row that bring next to nothing, before it is given up.
    """

    def __init__(self, what: str, attempts: int) -> None:
        self._what = what
        self._attempts = attempts
        self._failed = self._got = 0

    def got(self, count: int) -> None:
        """Say that so many bytes came which no try brought before; after `PROGRESS` the count begins anew."""
        self._got += count
        if self._got >= PROGRESS:
            self._failed = self._got = 0

    def persist(self, do: Callable[[], T]) -> T:
        """Call `do` until it does not raise `Again`.

        Raises:
            BadClip: too many tries failed, or the server asks to wait for longer than `PATIENCE`.
        """
        while True:
            try:
                return do()
            except Again as error:
                self._failed += 1
                said = f"{self._what} cannot be downloaded ({error}"
                if self._failed >= self._attempts:
                    raise BadClip(f"{said}; tried {self._failed} times); try again later") from error
                if error.wait > PATIENCE:
                    raise BadClip(
                        f"{said}; the server asks to wait {error.wait:.0f} s); try again after that"
                    ) from error
                # On top of what the server asks for: it may ask the same of a hundred jobs.
                sleep(error.wait + back_off(self._what, self._failed))


def back_off(what: str, tries: int) -> float:
    """Seconds to wait after so many failed tries: 2^(tries − 1), at most `LONGEST`, less up to half of it.

    How much less is drawn from the address, so that jobs that failed together do not come back together.
    """
    digest = hashlib.sha256(f"{what} {tries}".encode(errors="surrogatepass")).digest()
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

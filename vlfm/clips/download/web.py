"""One request to a server: redirects, refusals, and a body that comes in pieces."""

import re
import time
from urllib.parse import urljoin

import requests
import urllib3

from vlfm.clips.download.rate import Rate
from vlfm.clips.download.retries import Again, asked_wait
from vlfm.errors import BadClip
from vlfm.words import first_line

SLOWEST = 1024  # bytes a second, averaged over a timeout; a slower server is given up
REDIRECTS = 10
HEADERS = {"Accept-Encoding": "identity", "User-Agent": "vlfm"}


def is_http(source: str) -> bool:
    """Whether it is an address of the web."""
    return source.lower().startswith(("http://", "https://"))


class Web:
    """Asks servers.

    Args:
        timeout: seconds without data after which a server is given up.
        rate: the limit on bytes a second.
    """

    def __init__(self, timeout: float, rate: Rate) -> None:
        self.timeout = timeout
        self.rate = rate
        self._session = requests.Session()

    def get(self, url: str, headers: dict[str, str]) -> "Answer":
        """Ask for an address, and follow where it leads; status 200, 206 or 416. The answer has to be closed.

        Raises:
            Again: the server cannot be reached, or cannot serve now.
            BadClip: it refuses, or leads round in circles or to something else than http(s).
        """
        address = url
        for _ in range(REDIRECTS):
            response = self._ask(url, address, headers)
            try:
                target = self._session.get_redirect_target(response)
                address = address if target is None else urljoin(address, target)
            except ValueError as error:  # no text, no address
                response.close()
                raise BadClip(f"{url} leads to what is no address ({_reason(error)}); correct the address") from error
            if target is None:
                return self._checked(url, response)
            response.close()
            if not is_http(address):
                raise BadClip(f"{url} leads to {address[:200]}, which is no http(s) address; correct the address")
        raise BadClip(f"{url} leads from one address to the next, {REDIRECTS} times; correct the address")

    def _ask(self, url: str, address: str, headers: dict[str, str]) -> requests.Response:
        try:
            return self._session.get(
                address, headers=HEADERS | headers, stream=True, timeout=self.timeout, allow_redirects=False
            )
        except (requests.ConnectionError, requests.Timeout) as error:
            raise Again(_reason(error)) from error
        except (requests.RequestException, ValueError) as error:  # no host, a port that is none, …
            raise BadClip(f"{url} cannot be downloaded ({_reason(error)}); correct the address") from error

    def _checked(self, url: str, response: requests.Response) -> "Answer":
        code = response.status_code
        if code in (200, 206, 416):
            return Answer(response, self.timeout, self.rate)
        response.close()
        said = f"status {code} {response.reason}"
        if code in (408, 425, 429) or code >= 500:
            raise Again(said, wait=asked_wait(response.headers.get("Retry-After")))
        raise BadClip(f"{url} cannot be downloaded ({said}); correct the address")


class Answer:
    """What a server sends.

    Attributes:
        status: 200 all of a file, 206 a part, 416 there is no such part.
        start: of a part, the place in the file of its first byte; None where the server does not say.
        total: bytes of the whole file; None where the server does not say.
        validator: what tells this file from a later one at the same address, byte for byte; or None.
        got: bytes read so far.
    """

    def __init__(self, response: requests.Response, timeout: float, rate: Rate) -> None:
        self.status = response.status_code
        self.got = 0
        self._response = response
        self._timeout = timeout
        self._rate = rate
        self._mark, self._since_mark = time.monotonic(), 0
        length = re.fullmatch(r"\d{1,18}", response.headers.get("Content-Length", ""))
        part = re.fullmatch(
            r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)", response.headers.get("Content-Range", "").strip()
        )
        if self.status == 206:
            self.start = int(part[1]) if part else None
            self.total = int(part[2]) if part and part[2] != "*" else None
        else:
            self.start = 0
            self.total = int(length[0]) if length else None
        validator = response.headers.get("ETag") or response.headers.get("Last-Modified")
        # A weak one says that two files mean the same, not that their bytes are the same.
        self.validator = None if validator and validator.startswith("W/") else validator

    def read(self, most: int) -> bytes:
        """Between 1 and `most` bytes, as they come; none at the end.

        Raises:
            Again: the connection breaks, ends early or is too slow.
        """
        try:
            data = self._response.raw.read1(min(most, self._rate.piece))
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise Again(f"the connection broke after {self.got} bytes: {_reason(error)}") from error
        self.got += len(data)
        self._since_mark += len(data)
        self._mark += self._rate.wait(len(data)) if data else 0.0  # our own waiting is not the server's
        if time.monotonic() - self._mark > self._timeout:
            if self._since_mark < SLOWEST * self._timeout:
                raise Again(f"less than {SLOWEST} bytes a second")
            self._mark, self._since_mark = time.monotonic(), 0
        return data

    def close(self) -> None:
        self._response.close()

    def __enter__(self) -> "Answer":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def _reason(error: Exception) -> str:
    return first_line(error)[:300]

"""The true ids of YouTube-8M's videos, asked for once and kept."""

import re
from pathlib import Path

import requests
from requests.exceptions import RequestException

from vlfm.errors import BadClip, VLFMError

SERVER = "http://data.yt8m.org/2/j/i"
ATTEMPTS = 3  # in a row without any answer, after which the network is taken to be down
GONE = "-"


class PseudoIds:
    """Finds true ids.

    Args:
        known: a text file of what has been found, a line each: the id, and the true one or `-`. It grows; lines that
            a kill has cut short are found again.
        timeout: seconds without an answer after which the server is given up.
    """

    def __init__(self, known: Path, timeout: float) -> None:
        self._file = known
        self._timeout = timeout
        self._failed = 0
        self._session = requests.Session()
        text = known.read_text() if known.is_file() else ""
        pairs = (line.split("\t") for line in text.split("\n")[:-1])
        self._known = {pair[0]: pair[1] for pair in pairs if len(pair) == 2}

    def find(self, name: str) -> str:
        """The true id.

        Raises:
            BadClip: the server does not tell it: the video is gone, or the answer is another.
            VLFMError: there is no network, or the folder cannot be written.
        """
        if name not in self._known:
            self._known[name] = self._ask(name)
            self._keep(name)
        if self._known[name] == GONE:
            raise BadClip(f"{name}: the server of YouTube-8M tells no video of this id any more")
        return self._known[name]

    def _ask(self, name: str) -> str:
        """JSONP: `i("nXSc","0sf943sWZls");`"""
        address = f"{SERVER}/{name[:2]}/{name}.js"
        try:
            answer = self._session.get(address, timeout=self._timeout, headers={"User-Agent": "vlfm"})
        except RequestException as error:
            self._failed += 1
            if self._failed >= ATTEMPTS:
                raise VLFMError(
                    f"{address} cannot be asked for true ids ({error}); what was found so far is kept: run again "
                    "where there is a network, or give `videos`, files named by their ids"
                ) from None
            raise BadClip(f"{name}: {address} cannot be asked for its true id ({error})") from None
        self._failed = 0
        if answer.status_code in (403, 404, 410):
            return GONE
        match = re.search(r'i\("([\w-]+)",\s*"([\w-]{11})"\)', answer.text)
        if answer.status_code != 200 or match is None or match[1] != name:
            raise BadClip(f"{name}: {address} answers status {answer.status_code}, and no true id; try again later")
        return match[2]

    def _keep(self, name: str) -> None:
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("a") as file:
                file.write(f"{name}\t{self._known[name]}\n")
        except OSError as error:
            raise VLFMError(f"{self._file} cannot be written ({error}); free space or change permissions") from None

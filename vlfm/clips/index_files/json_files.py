"""JSON files too large to hold: a list's entries and a file's lines, one at a time."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from vlfm.errors import VLFMError

CHUNK = 1 << 20  # characters read at once
BLANK = " \t\r\n"


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file that are not empty, with their numbers from 1.

    Raises:
        VLFMError: no such file, or no UTF-8 text.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            for line, text in enumerate(file, 1):
                if text := text.strip():
                    yield line, text
    except OSError as error:
        raise VLFMError(f"{path} cannot be read ({error.strerror}); correct its path in clips.index") from None
    except UnicodeDecodeError as error:
        raise VLFMError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from None


def read_list(path: Path) -> Iterator[tuple[int, Any]]:
    """The entries of a JSON list, with their places from 1.

    Raises:
        VLFMError: no such file, no UTF-8 text, or no JSON list; what came before is yielded.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            text, place = _Text(file), 0
            if text.next_sign() != "[":
                raise VLFMError(f"{path} is no JSON list; correct its path in clips.index")
            text.at += 1
            while (sign := text.next_sign()) != "]":
                if place and sign != ",":
                    raise VLFMError(f"{path}: no comma after entry {place}; fetch the file again")
                text.at += bool(place)
                place += 1
                try:
                    value = text.next_value()
                except ValueError as error:
                    raise VLFMError(f"{path}: entry {place} is no JSON ({error}); fetch the file again") from None
                yield place, value
    except OSError as error:
        raise VLFMError(f"{path} cannot be read ({error.strerror}); correct its path in clips.index") from None
    except UnicodeDecodeError as error:
        raise VLFMError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from None


class _Text:
    """A text file from its place `at` on, of which little is held."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._text = ""
        self._decoder = json.JSONDecoder()
        self.at = 0

    def next_sign(self) -> str:
        """The sign at the next place that is not blank, which becomes `at`; "" at the end."""
        while True:
            while self.at < len(self._text) and self._text[self.at] in BLANK:
                self.at += 1
            if self.at < len(self._text) or not self._read():
                return self._text[self.at : self.at + 1]

    def next_value(self) -> Any:
        """The JSON value from here on, behind which `at` is then; raises `ValueError`."""
        self.next_sign()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self.at)
            except ValueError:
                if not self._read():
                    raise
                continue
            # Of a number there may be more to come.
            if self._text[end : end + 1] in (*BLANK, ",", "]") or not self._read():
                self.at = end
                return value

    def _read(self) -> bool:
        if chunk := self._file.read(CHUNK):
            self._text = self._text[self.at :] + chunk
            self.at = 0
        return bool(chunk)

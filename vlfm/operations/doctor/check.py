"""One thing that was looked at, and many of them as text."""

import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "missing", "warning", "optional"]
WIDTH = 120  # of a line
NAME = 24  # of the column of names


@dataclass(frozen=True)
class Check:
    """What was found.

    Attributes:
        part: what it belongs to: `packages`, `GPU`, …
        name: of the thing. found: what is there, in words.
        verdict: `ok`; `missing`, a run needs it; `warning`, a run can do without it, or suffers from it; `optional`, it
            is not there, and only needed for what was not asked for.
        remedy: how to get it, or what to do; "" where nothing is to be done.
    """

    part: str
    name: str
    found: str
    verdict: Verdict = "ok"
    remedy: str = ""


def in_words(checks: Iterable[Check]) -> Iterator[str]:
    """Lines for each check as it comes, part by part, its remedy below it; at the end what is missing."""
    said: dict[Verdict, list[str]] = {"missing": [], "warning": []}
    part = None
    for check in checks:
        if check.part != part:
            yield from ([""] if part else [])
            yield check.part
            part = check.part
        said.setdefault(check.verdict, []).append(check.name)
        head = f"  {check.verdict:<8}  {check.name:<{NAME}}  "
        yield from _wrapped(head, " " * len(head), check.found)
        # Not wrapped: a command must stay in one line to be copied.
        for place, line in enumerate(check.remedy.splitlines()):
            yield " " * len(head) + ("  " if place else "→ ") + line
    missing, warnings = said["missing"], said["warning"]
    yield ""
    yield (f"missing: {', '.join(missing)}" if missing else "nothing that a run needs is missing") + (
        f"; to look at: {', '.join(warnings)}" if warnings else ""
    )


def _wrapped(first: str, others: str, text: str) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=others,
        break_long_words=False,
        break_on_hyphens=False,
    )

"""Numbers in sentences."""


def plural(count: int, noun: str) -> str:
    """A number with its noun: `1 clip`, `0 clips`, `12 clips`."""
    return f"{count} {noun}{'s' * (count != 1)}"

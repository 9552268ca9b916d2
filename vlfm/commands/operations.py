"""For who runs it: is this machine ready, how far is the run."""

import json
from pathlib import Path

from vlfm.commands.options import Commands


def add(commands: Commands) -> None:
    """Declare them."""
    status = commands.add(
        "status",
        _status,
        "say how far a run has come: done, bad, left, how long yet, what failed; nothing is changed",
        config=False,
    )
    status.add_argument("--directory", type=Path, default=Path("."), help="the run's folder (default: this one)")
    status.add_argument("--json", action="store_true", help="as JSON, for programs")


def _status(arguments):
    from vlfm.operations.status.status import in_words, read_status

    status = read_status(arguments.directory)
    print(json.dumps(status.as_json(), indent=2) if arguments.json else in_words(status))

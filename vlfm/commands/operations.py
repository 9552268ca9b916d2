"""For who runs it: is this machine ready, how far is the run."""

import json
from dataclasses import asdict
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
    doctor = commands.add(
        "doctor",
        _doctor,
        "say whether this machine has what a run needs, and how to get what it lacks; status 1 if something is missing",
        results="results",
    )
    doctor.add_argument("--constraints", type=Path, help="versions to compare with (default: the checkout's)")
    doctor.add_argument("--json", action="store_true", help="as JSON, for programs")


def _status(arguments):
    from vlfm.operations.status.status import in_words, read_status

    status = read_status(arguments.directory)
    print(json.dumps(status.as_json(), indent=2) if arguments.json else in_words(status))


def _doctor(arguments):
    from vlfm.operations.doctor.check import in_words
    from vlfm.operations.doctor.examine import examine

    checks = []

    def found():
        for check in examine(arguments.results, arguments.config or (), arguments.constraints):
            checks.append(check)
            yield check

    if arguments.json:
        print(json.dumps([asdict(check) for check in found()], indent=2))
    else:
        for line in in_words(found()):
            print(line, flush=True)
    return int(any(check.verdict == "missing" for check in checks))

"""The command line: one subcommand per stage, each of which the workflow calls and which also runs by itself.

`vlfm.commands` declares them. Nothing heavy is imported until a subcommand needs it: `vlfm --help` is instant.
"""

import argparse
import contextlib
import os
import select
import signal
import sys
import traceback
from pathlib import Path

from vlfm import __version__
from vlfm.commands import clips, evaluation, latents, operations, training, videos
from vlfm.commands.options import Commands, claim_gpus, rank
from vlfm.errors import Stopped, VLFMError


class _Copy:
    """A text stream that also writes to a log; asked whether it is a terminal, it answers as the original does."""

    def __init__(self, stream, log):
        self._stream, self._log = stream, log

    def write(self, text: str) -> int:
        self._log.write(text)
        self._log.flush()
        return self._stream.write(text)

    def __getattr__(self, name):
        return getattr(self._stream, name)


@contextlib.contextmanager
def _copied_to(path: Path | None):
    """Copy everything printed, tracebacks included, to a file. Progress bars go to the terminal alone."""
    if path is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as log:
        stdout, stderr = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = _Copy(stdout, log), _Copy(stderr, log)
        try:
            yield
        except Exception:
            log.write(traceback.format_exc())
            raise
        finally:
            sys.stdout, sys.stderr = stdout, stderr


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vlfm", description="Video Latent Flow Matching: clips → latents → paths → a caption-to-video model."
    )
    parser.add_argument("--version", action="version", version=f"vlfm {__version__}")
    commands = Commands(parser)
    for group in (clips, latents, training, evaluation, videos, operations):
        group.add(commands)
    return parser


def _nobody_reads(descriptor: int) -> bool:
    """Whether it is a pipe whose reader has gone."""
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand; a `VLFMError` becomes one message and exit status 1, or 143 where a signal asked to stop."""
    arguments = _parser().parse_args(argv)
    arguments.command_line = sys.argv[1:] if argv is None else argv
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    who, log = arguments.command, arguments.log
    if number := rank():
        who, log = f"{who}, process {number}", log and log.with_suffix(f".{number}{log.suffix}")
    with _copied_to(log):
        try:
            claim_gpus(arguments)
            status = arguments.run(arguments) or 0
            sys.stdout.flush()
            return status
        except BrokenPipeError:
            if not _nobody_reads(sys.__stdout__.fileno()):
                raise
            # `vlfm status | head` has what it wanted; Python would complain once more when it flushes at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno())
            return 128 + signal.SIGPIPE
        except VLFMError as error:
            print(f"vlfm {who}: {error}", file=sys.stderr)
            return 143 if isinstance(error, Stopped) else 1


if __name__ == "__main__":
    sys.exit(main())

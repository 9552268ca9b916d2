"""A child process that can be killed: decoders hang, and hold the interpreter while they do.

A child that did its task is kept for the next one, since it takes longer to start than to decode a short video. One in
which a decoder failed is not: nobody knows what it left behind.
"""

import atexit
import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from typing import Any

COMMAND = [sys.executable, "-m", "vlfm.clips.decode_worker"]


class Died(Exception):
    """The child hung, crashed or ran out of memory; the message says which."""


def run(task: Mapping[str, Any], timeout: float) -> Iterator[dict[str, Any]]:
    """Run one task of `vlfm.clips.decode_worker` and yield what it reports, as it reports it.

    The child is killed, with every process it started, when it says nothing for `timeout` seconds, and when
    the caller stops listening. It says something for every few frames, so that a long source is not taken
    for a hang.

    Raises:
        Died: if it did not come to its end.
    """
    child, sound = _child(), False
    try:
        with tempfile.NamedTemporaryFile("w", suffix=".json") as order:
            json.dump(dict(task), order)
            order.flush()
            failed = False
            for report in child.reports(order.name, timeout):
                failed = failed or "failed" in report
                yield report
        sound = not failed
    finally:
        if sound:
            _idle.append(child)
        else:
            child.kill()


class _Child:
    """One process, which is told the names of files with tasks in them."""

    def __init__(self) -> None:
        self.command = COMMAND
        self._errors = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        self._lines: queue.Queue = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        with self._process.stdout as stream:
            for line in stream:
                self._lines.put(line)
        self._lines.put(None)

    @property
    def lives(self) -> bool:
        return self._process.poll() is None

    def reports(self, order: str, timeout: float) -> Iterator[dict[str, Any]]:
        """What it reports about one task, up to its end."""
        said_before = os.fstat(self._errors.fileno()).st_size
        with contextlib.suppress(BrokenPipeError):  # it is dead, which the lines will tell
            self._process.stdin.write(f"{order}\n".encode())
            self._process.stdin.flush()
        while True:
            try:
                line = self._lines.get(timeout=timeout)
            except queue.Empty:
                raise Died(f"no frame in {timeout:g} s (clips.timeout)") from None
            if line is None:
                break
            report = json.loads(line)
            if report.get("end"):
                return
            if report:
                yield report
        try:
            code = self._process.wait(timeout=timeout)
        except subprocess.TimeoutExpired:
            raise Died(f"it did not end in {timeout:g} s (clips.timeout)") from None
        said = os.pread(self._errors.fileno(), 1 << 20, said_before).decode(errors="replace").strip().splitlines()[-1:]
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        raise Died(f"the decoding process ended early ({how}{''.join(f': {line[:300]}' for line in said)})")

    def kill(self) -> None:
        """With every process it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._errors.close()


_idle: list[_Child] = []


def _child() -> _Child:
    """One that waits for a task, or a new one."""
    while _idle:
        child = _idle.pop()
        if child.lives and child.command == COMMAND:
            return child
        child.kill()
    return _Child()


@atexit.register
def _dismiss() -> None:
    while _idle:
        _idle.pop().kill()

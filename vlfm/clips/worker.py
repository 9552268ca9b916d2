"""A child process that can be killed: decoders hang, and hold the interpreter while they do."""

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
    with tempfile.TemporaryFile() as order, tempfile.TemporaryFile() as errors:
        order.write(json.dumps(task).encode())
        order.seek(0)
        process = subprocess.Popen(
            COMMAND,
            stdin=order,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        lines: queue.Queue = queue.Queue()
        threading.Thread(target=_read, args=(process.stdout, lines), daemon=True).start()
        try:
            while True:
                try:
                    line = lines.get(timeout=timeout)
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
                code = process.wait(timeout=timeout)
            except subprocess.TimeoutExpired:
                raise Died(f"it did not end in {timeout:g} s (clips.timeout)") from None
            errors.seek(max(0, errors.seek(0, os.SEEK_END) - 2000))
            said = errors.read().decode(errors="replace").strip().splitlines()[-1:]
            how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
            raise Died(f"the decoding process ended early ({how}{''.join(f': {line[:300]}' for line in said)})")
        finally:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()


def _read(stream, lines: queue.Queue) -> None:
    with stream:
        for line in stream:
            lines.put(line)
    lines.put(None)

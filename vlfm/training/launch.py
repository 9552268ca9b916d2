"""Several processes that train together: those of this machine, or of one of several nodes."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vlfm.clips.video_files import die_with_parent

# Seconds that the others have to end once one process has failed.
GRACE = 30


def launched() -> bool:
    """Whether torchrun or `launch` started this process as one of several: both set LOCAL_RANK, Slurm does not."""
    return "LOCAL_RANK" in os.environ


@dataclass(frozen=True)
class Meeting:
    """Where processes meet, and which of the nodes that train together this machine is.

    Attributes:
        address, port: what process 0 listens at, on node 0.
        node: this machine's number, from 0.
    """

    address: str
    port: int
    node: int = 0
    nodes: int = 1


def free_port(address: str = "") -> int:
    """A port that nothing listens at on this machine; "" stands for all its addresses."""
    with socket.socket() as free:
        free.bind((address, 0))
        return free.getsockname()[1]


def launch(arguments: Sequence[str], processes: int, threads: int, meeting: Meeting | None = None) -> int:
    """Run `vlfm ARGUMENTS` in several processes of this machine that train together.

    Signals to stop are passed on. When one process fails, the others are ended; all die with this one.

    Args:
        threads: CPU threads of all together, on this machine.
        meeting: with the processes of other nodes, as many on each; None: these alone.

    Returns:
        The first exit status that is not 0, as a shell would say it, else 0.
    """
    meeting = meeting or Meeting("127.0.0.1", free_port("127.0.0.1"))
    first, world = meeting.node * processes, meeting.nodes * processes
    share = str(max(1, threads // processes))
    children: list[subprocess.Popen] = []

    def pass_on(number: int, _frame: Any) -> None:
        for child in children:
            if child.poll() is None:
                child.send_signal(number)

    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    before = {number: signal.signal(number, pass_on) for number in numbers}
    try:
        for rank in range(processes):
            place = {"RANK": first + rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": processes}
            group = {"MASTER_ADDR": meeting.address, "MASTER_PORT": meeting.port, "OMP_NUM_THREADS": share}
            environment = os.environ | {name: str(value) for name, value in (place | group).items()}
            command = [sys.executable, "-m", "vlfm.cli", *arguments, "--threads", share]
            # A session of its own: what the terminal sends to the group arrives once, through this process.
            children.append(
                subprocess.Popen(command, env=environment, preexec_fn=die_with_parent, start_new_session=True)
            )
        return _wait(children)
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
                child.wait()
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(children: list[subprocess.Popen]) -> int:
    """Wait for all, or for the first that fails and then GRACE seconds for the others."""
    deadline = None
    while any(child.poll() is None for child in children):
        if deadline is None and any(child.poll() for child in children):
            deadline = time.monotonic() + GRACE
        if deadline is not None and time.monotonic() > deadline:
            break
        time.sleep(0.1)
    failed = next((child.poll() for child in children if child.poll()), 0)
    return failed if failed >= 0 else 128 - failed

"""Several nodes of a Slurm job that train together: one launcher on each, all that they print in one place."""

import argparse
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from vlfm.errors import VLFMError
from vlfm.training.launch import GRACE, Meeting, free_port

# What `launch_on_nodes` tells the launchers; which of the nodes it is on, each learns from Slurm.
ADDRESS, PORT, NODES = "VLFM_MEETING_ADDRESS", "VLFM_MEETING_PORT", "VLFM_NODES"


def meeting() -> Meeting | None:
    """Where this launcher's processes meet those of the other nodes; None where `launch_on_nodes` did not start it."""
    if NODES not in os.environ:
        return None
    here = os.environ
    return Meeting(here[ADDRESS], int(here[PORT]), int(here["SLURM_PROCID"]), int(here[NODES]))


def launch_on_nodes(arguments: Sequence[str], nodes: int) -> int:
    """Run `vlfm ARGUMENTS` once on each node of this Slurm job, as one job step.

    Must be called on the job's first node, where the processes will meet. A signal to stop reaches all nodes. When one
    has ended, the others have `GRACE` seconds. What they print is printed here; their `--log` is this process's.

    Returns:
        The exit status of the step: the highest of the nodes'.

    Raises:
        VLFMError: if this is no Slurm job.
    """
    if "SLURM_JOB_ID" not in os.environ:
        raise VLFMError(
            f"to train on {nodes} nodes takes a Slurm job: run `snakemake --profile workflow/profiles/slurm`, or "
            "`vlfm train` in a job of yours, or set training.nodes to 1"
        )
    # One launcher a node, with all of the job's processors there.
    options = [f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", "--cpu-bind=none"]
    # A node that ends first leaves the others the time to save, whatever the cluster's own rule is.
    options += ["--kill-on-bad-exit=0", f"--wait={GRACE}"]
    told = {ADDRESS: socket.gethostname(), PORT: str(free_port()), NODES: str(nodes)}
    step = subprocess.Popen(
        ["srun", *options, sys.executable, "-m", "vlfm.cli", *without_log(arguments)],
        env=os.environ | told,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # a Ctrl-C arrives once, through this process
    )

    def pass_on(_number: int, _frame: Any) -> None:
        step.send_signal(signal.SIGUSR1)  # at SIGTERM srun kills its tasks; SIGUSR1 it passes on

    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    before = {number: signal.signal(number, pass_on) for number in numbers}
    try:
        for line in step.stdout:
            print(line, end="", flush=True)
        return step.wait()
    finally:
        if step.poll() is None:
            step.terminate()
            step.wait()
        for number, handler in before.items():
            signal.signal(number, handler)


def without_log(arguments: Sequence[str]) -> list[str]:
    """Command-line arguments less `--log` and its file."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--log")
    return parser.parse_known_args(arguments)[1]

"""What subcommands share: how they are declared, and the options that several have.

Nothing heavy is imported here: `vlfm --help` is instant.
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vlfm.errors import VLFMError

PLAN = "results/clips/shards.json"


class Commands:
    """The subcommands of a parser.

    Args:
        parser: of the whole command line.
    """

    def __init__(self, parser: argparse.ArgumentParser):
        self._commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(
        self,
        name: str,
        run: Callable[[argparse.Namespace], Any],
        text: str,
        device: bool = False,
        config: bool = True,
        **paths: str,
    ) -> argparse.ArgumentParser:
        """Declare a subcommand and return its parser, for options of its own.

        Args:
            run: what it does with its arguments; what it returns is the exit status, None is 0.
            text: what `--help` says of it.
            device: whether it computes, and has `--device` and `--threads`.
            config: whether it reads the configuration, and has `--config`.
            paths: options that are paths, with their defaults.
        """
        command = self._commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run)
        if config:
            command.add_argument(
                "--config",
                type=Path,
                action="append",
                help="a complete configuration (default results/config.yaml); given again, a file of keys that change",
            )
        command.add_argument("--log", type=Path, help="also write messages to this file")
        if device:
            command.add_argument(
                "--threads", type=int, default=_threads(), help="CPU threads (default OMP_NUM_THREADS, or all)"
            )
            command.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, …")
            command.set_defaults(gpus=lambda arguments: 1)
        for option, default in paths.items():
            add_path(command, option, default)
        return command


def _threads() -> int:
    """What `OMP_NUM_THREADS` says, whose first number counts (the others are for nested loops), or all cores."""
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(first) if first.isdigit() and int(first) else os.cpu_count() or 1


def add_path(command: argparse.ArgumentParser, name: str, default: str | None = None) -> None:
    """An option that is a path; without a default it must be given."""
    option = "--" + name.replace("_", "-")
    if default is None:
        command.add_argument(option, type=Path, required=True)
    else:
        command.add_argument(option, type=Path, default=Path(default), help=f"default {default}")


def read_config(arguments: argparse.Namespace):
    """The configuration that `--config` names."""
    from vlfm import config

    return config.load(*(arguments.config or ["results/config.yaml"]))


def claim_gpus(arguments: argparse.Namespace) -> None:
    """Under a workflow of one machine, take the GPUs that no other job uses, unless `--device` names something.

    Before anything is imported: a library that asks for CUDA as it is imported would have all of them.
    """
    from vlfm.devices import claim

    if getattr(arguments, "device", None) == "auto":
        claim(arguments.gpus(arguments))


def start_device(arguments: argparse.Namespace, deterministic: bool = True):
    """The device that `--device` names, with threads and determinism set.

    Args:
        deterministic: whether a GPU makes the same sums in the same order, where it has such kernels; a CPU does.
    """
    import torch

    name = arguments.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise VLFMError(f"--device {name}: there is no such device; give auto, cpu, cuda or cuda:1") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise VLFMError(f"--device {name}: PyTorch sees no GPU here; `vlfm doctor` says why. Give cpu, or auto")
    if arguments.threads < 1:
        raise VLFMError(f"--threads is {arguments.threads}: give a number from 1 up")
    torch.set_num_threads(arguments.threads)
    torch.use_deterministic_algorithms(deterministic or device.type == "cpu", warn_only=True)
    # A debugging aid that comes with the line above and costs a pass over every new tensor.
    torch.utils.deterministic.fill_uninitialized_memory = False
    return device


def rank() -> int:
    """This process's number among those that train together; 0 where it is alone."""
    return int(os.environ.get("RANK", "0"))


def plan_shards(arguments: argparse.Namespace) -> list[str]:
    """The names of all shards of the plan, in order."""
    from vlfm.storage.files import read_json

    return sorted(read_json(arguments.plan))


def plan_splits(arguments: argparse.Namespace) -> dict[str, str]:
    """Shard → split, of the whole plan."""
    from vlfm.splits import splits_of
    from vlfm.storage.files import read_json

    return splits_of(read_json(arguments.plan))


def plan_training_shards(arguments: argparse.Namespace) -> list[str]:
    """The names of the shards to train on, in order."""
    from vlfm.splits import training_shards
    from vlfm.storage.files import read_json

    return training_shards(read_json(arguments.plan), arguments.plan)

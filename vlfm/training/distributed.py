"""The processes of one run: what each works on, what they tell each other, and how they are asked to stop."""

import contextlib
import datetime
import signal
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs

from vlfm.errors import VLFMError
from vlfm.training.launch import launched

# How long a process waits for another: a checkpoint of a large network takes minutes to write.
PATIENCE = datetime.timedelta(minutes=30)


def make_accelerator(device: torch.device) -> Accelerator:
    """Accelerate's view of this process: its device, and the group it trains with (gloo on CPUs, NCCL on GPUs).

    Raises:
        VLFMError: if one GPU is named for several processes.
    """
    threads = torch.get_num_threads()
    if device.type == "cuda" and device.index is not None:
        if launched():
            raise VLFMError(f"--device {device} is one GPU, several processes take one each; leave out its number")
        torch.cuda.set_device(device)
    accelerator = Accelerator(
        cpu=device.type == "cpu",
        kwargs_handlers=[
            # The buffers are scales that never change.
            DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True),
            InitProcessGroupKwargs(timeout=PATIENCE),
        ],
    )
    torch.set_num_threads(threads)  # Accelerate sets its own number on CPUs
    return accelerator


def wrap(accelerator: Accelerator, model: torch.nn.Module) -> torch.nn.Module:
    """The model as the processes train it together: its gradients are averaged over them."""
    with warnings.catch_warnings():
        # PyTorch 2.13's new name for the option has no place in Accelerate yet.
        warnings.filterwarnings("ignore", message=".*broadcast_buffers", category=FutureWarning)
        return accelerator.prepare_model(model)


class ProcessGroup:
    """What the processes of a run tell each other beside gradients.

    Over gloo, on GPUs too: asking does not wait for the work a GPU still has to do.
    """

    def __init__(self, accelerator: Accelerator):
        self._group = None
        self._rank, self._size = accelerator.process_index, accelerator.num_processes
        if self._size > 1:
            self._group = torch.distributed.new_group(backend="gloo", timeout=PATIENCE)

    def any(self, wish: bool, error: VLFMError | None = None) -> bool:
        """Whether `wish` is true in any process; all get the same answer. Every process must call this.

        Raises:
            VLFMError: in all processes, if one has an error to tell.
        """
        if self._group is None:
            if error is not None:
                raise error
            return wish
        word = torch.tensor([2 if error is not None else int(wish)])
        torch.distributed.all_reduce(word, torch.distributed.ReduceOp.MAX, group=self._group)
        if word.item() == 2:
            told = [text for text in self.gather("" if error is None else str(error)) if text]
            raise VLFMError("\n".join(dict.fromkeys(told)))
        return bool(word.item())

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """An error in this block, in one process, is raised in all. Every process must pass through it."""
        error = None
        try:
            yield
        except VLFMError as caught:
            error = caught
        self.any(False, error)

    def gather(self, value: Any) -> list[Any]:
        """The value of every process, in all processes."""
        if self._group is None:
            return [value]
        values: list[Any] = [None] * self._size
        torch.distributed.all_gather_object(values, value, group=self._group)
        return values

    def from_main(self, value: Any) -> Any:
        """The main process's value, in all processes."""
        return self.gather(value if self._rank == 0 else None)[0]


class StopRequest:
    """A context in which SIGTERM, SIGUSR1 and a first Ctrl-C ask for a stop at the next step; a second interrupts."""

    def __init__(self):
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        # Python lets only the main thread set handlers.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: Any) -> None:
        if number == signal.SIGINT and self.requested:
            raise KeyboardInterrupt
        self.requested = True

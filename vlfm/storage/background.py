"""Work that a thread does beside the one that asks for it."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class BackgroundWork:
    """One piece of work at a time, in a thread of its own; its error is raised to whoever asks next."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._work: Future[None] | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Begin some work once the work before is done. Raises what that raised, as `check` and `wait` do."""
        self.wait()
        self._work = self._thread.submit(work)

    def check(self) -> None:
        """Raise the error of work that has failed, without waiting for work that goes on."""
        if self._work is not None and self._work.done():
            self.wait()

    def wait(self) -> None:
        """Wait for the end of the work."""
        work, self._work = self._work, None
        if work is not None:
            work.result()

    def close(self) -> None:
        """Wait, and tell of an error that nobody has asked for; raises none, to stand in for no other."""
        self._thread.shutdown()
        error = self._work and self._work.exception()
        if error is not None:
            print(f"warning: {error}", flush=True)

"""What a run says of itself: a CSV that is the same however often it was stopped, and TensorBoard's event files."""

import csv
import io
import re
from pathlib import Path

from vlfm.errors import VLFMError
from vlfm.storage.files import write_bytes


class MetricsLog:
    """A CSV, and TensorBoard events beside it, which a resumed run continues: rows past its step are dropped.

    The CSV holds nothing that depends on the clock; speeds go to TensorBoard alone.

    Args:
        path: of the CSV. step: that the run goes on from.
        events: folder of the event files.

    Raises:
        VLFMError: if they cannot be written.
    """

    COLUMNS = ("step", "samples", "loss", "gradient", "learning_rate", "skipped")

    def __init__(self, path: Path, step: int, events: Path):
        from torch.utils.tensorboard import SummaryWriter

        self.path = path
        kept: list[list[str]] = []
        if path.exists() and step:
            with path.open(newline="") as file:
                rows = [row for row in csv.reader(file) if len(row) == len(self.COLUMNS)]
            kept = [row for row in rows if re.fullmatch(r"\d+", row[0]) and int(row[0]) <= step]
        text = io.StringIO(newline="")
        csv.writer(text).writerows([self.COLUMNS, *kept])
        try:
            write_bytes(path, text.getvalue().encode())
            self._events = SummaryWriter(str(events), purge_step=step + 1)
        except OSError as error:
            raise self._unwritable(error) from error

    def write(
        self, step: int, samples: int, loss: float, gradient: float, learning_rate: float, skipped: int, **speeds: float
    ) -> None:
        """Add a row.

        Args:
            loss: in units of the latents' mean square. gradient: its norm before clipping.
            skipped: steps so far that changed nothing.
            speeds: for TensorBoard.

        Raises:
            VLFMError: if it cannot be written.
        """
        row = (step, samples, f"{loss:.6g}", f"{gradient:.6g}", f"{learning_rate:.6g}", skipped)
        try:
            with self.path.open("a", newline="") as file:
                csv.writer(file).writerow(row)
            values = {"loss": loss, "gradient": gradient, "learning_rate": learning_rate, "skipped": skipped, **speeds}
            for name, value in values.items():
                self._events.add_scalar(name, value, step)
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> VLFMError:
        return VLFMError(
            f"cannot write {self.path} ({error}); free space, then run the rule again: it goes on from the last "
            "checkpoint"
        )

    def close(self) -> None:
        """Raises nothing, which would stand in for the error that training ends with."""
        try:
            self._events.close()
        except OSError as error:
            print(f"warning: TensorBoard's events beside {self.path} are not whole ({error})", flush=True)

"""All that `vlfm doctor` looks at."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from vlfm import config as configs
from vlfm.errors import VLFMError
from vlfm.operations.doctor.check import Check
from vlfm.operations.doctor.gpus import check_gpus
from vlfm.operations.doctor.machine import check_machine
from vlfm.operations.doctor.models import PART, check_configuration
from vlfm.operations.doctor.packages import check_packages
from vlfm.operations.doctor.programs import check_programs

# Looked for in this order where no configuration is named: the run's own, then the project's.
USUAL = ("results/config.yaml", "config.yaml")


def examine(results: Path, paths: Sequence[Path] = (), constraints: Path | None = None) -> Iterator[Check]:
    """Look at everything, a check at a time.

    Args:
        results: the folder that results go to.
        paths: of the configuration, see `config.load`; without any, the usual ones are looked for.
        constraints: the file of the tested versions; default the checkout's.
    """
    chosen = list(paths) or [path for path in map(Path, USUAL) if path.is_file()][:1]
    config, trouble = None, None
    if chosen:
        try:
            config = configs.load(*chosen)
        except VLFMError as error:
            trouble = Check(PART, "configuration", " ".join(str(error).split()), "missing", "correct it")
    yield from check_packages(constraints)
    yield from check_gpus(config.training.processes if config else 1)
    yield from check_programs()
    yield from check_machine(results, config)
    if config is not None:
        yield Check(PART, "file", " with ".join(map(str, chosen)))
        yield from check_configuration(config)
    else:
        remedy = "name one, to have its models looked for: vlfm doctor --config config.yaml"
        yield trouble or Check(PART, "file", "none here", "optional", remedy)

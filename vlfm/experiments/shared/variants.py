"""What can be trained on a run's clips in place of its own network: variants, which differ in what they predict."""

from dataclasses import dataclass
from pathlib import Path

import torch

from vlfm import config as configs
from vlfm.captions.encoders import read_empty_caption
from vlfm.experiments.shared import all_frames
from vlfm.finished_run import Run
from vlfm.training.data import read_moments
from vlfm.training.loop import NewNetwork, Preview, train
from vlfm.training.network import new_model
from vlfm.training.objective import Captions, Objective
from vlfm.training.trainer import Trainer

ALL_FRAMES = "all-frames"


@dataclass(frozen=True)
class Variant:
    """Something to train.

    Attributes:
        shards, moment_files: what it is trained on, as `train` takes them.
        objective, network: its loss, and what makes its network.
    """

    config: configs.Config
    shards: list[Path]
    moment_files: list[Path]
    objective: Objective
    network: NewNetwork = new_model

    def train(self, folder: Path, device: torch.device, preview: Preview | None = None) -> None:
        """Train it: `model/`, `metrics.csv` and, on the way, `checkpoints/` in `folder`, from which it goes on after a
        stop.

        Raises:
            VLFMError: as `train` does.
        """
        train(
            self.config,
            self.shards,
            self.moment_files,
            folder / "model",
            folder / "checkpoints",
            folder / "metrics.csv",
            device,
            self.objective,
            preview,
            network=self.network,
        )

    def trainer(self, device: torch.device) -> Trainer:
        """What takes its steps, at the first of them."""
        return Trainer(self.config, self.network(self.config, read_moments(self.moment_files)), device, self.objective)


def with_head(config: configs.Config, head: str, **training) -> configs.Config:
    """The configuration that trains one head, at the times its loss asks for: `velocity` and `direct` uniformly over
    the clip (Definition D.9), `coefficients` as configured.

    Args:
        training: keys of that section that change as well.
    """
    if head != "coefficients":
        training |= {"pure_noise": 0.0, "lead_in": 0.0}
    return config.model_copy(
        update={
            "model": config.model.model_copy(update={"head": head}),
            "training": config.training.model_copy(update=training),
        }
    )


def projected(run: Run, config: configs.Config, coefficients: Path | None = None) -> Variant:
    """Training on coefficients of the run's training clips, as a configuration says.

    Args:
        coefficients: the folder of their shards; default the run's own.
    """
    folder = coefficients or run.results / "coefficients"
    shards = [folder / f"{shard}.tar" for shard in run.training_shards]
    return Variant(config, shards, _moments(shards), Objective(config, empty_caption(run, config)))


def of_all_frames(run: Run, config: configs.Config, frames: Path) -> Variant:
    """A rectified flow over all frames, from the shards that `all_frames.write_frames` left in `frames`."""
    config = all_frames.configured(config)
    shards = [frames / f"{shard}.tar" for shard in run.training_shards]
    objective = all_frames.AllFrames(config, empty_caption(run, config))
    return Variant(config, shards, _moments(shards), objective, all_frames.new_network)


def _moments(shards: list[Path]) -> list[Path]:
    return [path.with_suffix(".json") for path in shards]


def empty_caption(run: Run, config: configs.Config) -> Captions | None:
    """The run's empty caption, where captions are dropped."""
    dropped = config.training.caption_dropout > 0
    return read_empty_caption(run.results / "captions" / "empty.safetensors") if dropped else None

"""The training loop: Parseval loss on predicted coefficients, exact resume, progress counted in samples."""

import contextlib
import csv
import math
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from vlfm import config as configs
from vlfm.artifacts import Stopwatch, fingerprint, progress, write_json
from vlfm.checkpoints import load_state, save_state
from vlfm.errors import VLFMError
from vlfm.learning_rate import warmup_cosine
from vlfm.model.flow_model import FlowModel
from vlfm.model.transformer import VLFMTransformer
from vlfm.training.data import Batch, batches, read_moments
from vlfm.training.network import new_model
from vlfm.training.objective import Objective

LOG_EVERY = 10


def new_optimizer(config: configs.Config, model: VLFMTransformer) -> torch.optim.Optimizer:
    """Grams (the paper's optimizer), from pytorch-optimizer, or AdamW."""
    from pytorch_optimizer import Grams

    optimizers = {"grams": Grams, "adamw": torch.optim.AdamW}
    return optimizers[config.training.optimizer](model.parameters(), lr=config.training.learning_rate)


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype:
    """What matrix products run in; weights, optimizer, path and loss stay in float32."""
    if precision != "auto":
        return getattr(torch, precision)
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported()
    else:
        fast = torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if fast else torch.float32


def attention_kernel(device: torch.device) -> contextlib.AbstractContextManager:
    """On a CPU the plain product: the fused kernel's backward pass costs a quarter of a step at 64 tokens."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else contextlib.nullcontext()


@dataclass
class Trainer:
    """Everything a step changes, and the step.

    Two trainers with the same configuration and data that have taken the same number of steps are equal, bit
    by bit on a CPU, however often either was stopped: the batch, the noise and the times of step k are drawn
    from (seed, k) alone.
    """

    config: configs.Config
    model: VLFMTransformer
    device: torch.device
    step: int = 0

    def __post_init__(self):
        settings = self.config.training
        self.model.to(self.device).train()
        self.objective = Objective(self.config)
        self.dtype = autocast_dtype(settings.precision, self.device)
        self.optimizer = new_optimizer(self.config, self.model)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, warmup_cosine(settings.steps, settings.warmup)
        )

    def take_step(self, batch: Batch) -> float:
        """One optimizer step on one batch; returns the loss in units of the latents' mean square."""
        settings = self.config.training
        count, *shape = batch.coefficients.shape[:-1]
        draw = self.objective.draw(self.step, range(count), tuple(shape)).to(self.device)
        with (
            attention_kernel(self.device),
            torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32),
        ):
            loss = self.objective(self.model, batch, draw, self.model.latent_scale).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), settings.clip)
        self.optimizer.step()
        self.schedule.step()
        self.step += 1
        value = loss.item()
        if not math.isfinite(value):
            raise VLFMError(
                f"the loss is not finite at step {self.step}; lower training.learning_rate, then run the rule "
                "again: it goes on from the last checkpoint"
            )
        return value

    def state(self) -> dict:
        """All that a checkpoint holds."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "step": self.step,
        }

    def load(self, state: dict) -> None:
        """Go on from a checkpoint."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.step = state["step"]


def train(
    config: configs.Config,
    shards: list[Path],
    moment_files: list[Path],
    output: Path,
    checkpoints: Path,
    metrics: Path,
    device: torch.device,
) -> None:
    """Train a model on coefficient shards and save it as a diffusers-style folder.

    Args:
        shards, moment_files: of the projection stage, in the same order.
        output: the model's folder; `output/training.json` is written last.
        checkpoints: folder for `step-*.safetensors`; training goes on from the newest that fits.
        metrics: CSV with a row every ten steps.

    Raises:
        VLFMError: if the shards do not belong together, or the loss stops being finite.
    """
    moments = read_moments(moment_files)
    identity = fingerprint(
        {
            **configs.settings(config, "seed", "model", "training", "clips.fps", "clips.duration", "flow"),
            "data": moments.fingerprint,
            "shards": [path.name for path in shards],
            "clips": moments.clips,
            "mean_square": moments.mean_square.tolist(),
        }
    )
    trainer = Trainer(config, new_model(config, moments), device)
    folder = checkpoints / identity
    newest = newest_checkpoint(folder)
    if newest is not None:
        trainer.load(load_state(newest))
        print(f"going on from step {trainer.step}")
    settings = config.training
    source = batches(shards, moments.clips, settings.batch_size, config.seed, trainer.step * settings.batch_size)
    log = MetricsLog(metrics, trainer.step)
    bar = progress(total=settings.steps, what="train", unit="step")
    bar.update(trainer.step)
    watch = Stopwatch()
    started = trainer.step
    while trainer.step < settings.steps:
        loss = trainer.take_step(next(source).to(device))
        bar.update(1)
        if trainer.step % LOG_EVERY == 0 or trainer.step == settings.steps:
            rate = (trainer.step - started) * settings.batch_size / watch.seconds
            log.write(trainer.step, trainer.step * settings.batch_size, loss, trainer.schedule.get_last_lr()[0])
            bar.set_postfix(loss=f"{loss:.4f}", samples_per_second=f"{rate:.0f}")
        if trainer.step % settings.checkpoint_every == 0 and trainer.step < settings.steps:
            save_state(folder / f"step-{trainer.step:08d}.safetensors", trainer.state())
            prune(folder, settings.keep)
    bar.close()
    FlowModel.of(config, trainer.model.eval()).save_pretrained(output)
    write_json(output / "training.json", {"fingerprint": identity, "steps": trainer.step, "clips": moments.clips})


def newest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint with the most steps, or None."""
    return max(folder.glob("step-*.safetensors"), default=None)


def prune(folder: Path, keep: int) -> None:
    """Remove all but the `keep` newest checkpoints."""
    for path in sorted(folder.glob("step-*.safetensors"))[:-keep]:
        path.unlink()


class MetricsLog:
    """A CSV that a resumed run continues: rows past the checkpoint it resumes from are dropped."""

    COLUMNS = ("step", "samples", "loss", "learning_rate")

    def __init__(self, path: Path, step: int):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        kept: list[list[str]] = []
        if path.exists() and step:
            with path.open(newline="") as file:
                rows = [row for row in csv.reader(file) if len(row) == len(self.COLUMNS)]
            kept = [row for row in rows if re.fullmatch(r"\d+", row[0]) and int(row[0]) <= step]
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([self.COLUMNS, *kept])

    def write(self, step: int, samples: int, loss: float, learning_rate: float) -> None:
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerow([step, samples, f"{loss:.6g}", f"{learning_rate:.6g}"])

"""The training loop, on a CPU, a GPU or several: data in, checkpoints and a model out, exact resume."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from vlfm import config as configs
from vlfm.captions.load import caption_encoder_fingerprint
from vlfm.errors import Stopped, VLFMError
from vlfm.model.training_captions import TrainingCaptions
from vlfm.model.transformer import VLFMTransformer
from vlfm.progress import Stopwatch, progress
from vlfm.storage.background import BackgroundWork
from vlfm.storage.checkpoints import Checkpoints, copied, load_state
from vlfm.storage.files import disk_may_be_full, write_json
from vlfm.storage.fingerprints import fingerprint
from vlfm.storage.locks import sole_writer
from vlfm.training.collect_captions import training_captions
from vlfm.training.data import Batch, Moments, read_moments
from vlfm.training.distributed import StopRequest
from vlfm.training.loader import batches
from vlfm.training.log import MetricsLog
from vlfm.training.network import new_model, save_model
from vlfm.training.nonfinite_gradients import make_updates
from vlfm.training.objective import Objective
from vlfm.training.throughput import Throughput, peak_flops
from vlfm.training.trainer import Part, Trainer
from vlfm.words import plural

VERSION = 3  # of what a run gives for the same settings and data; raise it when that changes
LOG_EVERY = 10

Preview = Callable[[VLFMTransformer, int], None]
NewNetwork = Callable[[configs.Config, Moments], VLFMTransformer]


def train(
    config: configs.Config,
    shards: list[Path],
    moment_files: list[Path],
    output: Path,
    checkpoints: Path,
    metrics: Path,
    device: torch.device,
    objective: Objective | None = None,
    preview: Preview | None = None,
    decoder: Path | None = None,
    network: NewNetwork = new_model,
) -> None:
    """Train a model on coefficient shards and save it as a diffusers-style folder.

    Started in several processes (`vlfm train --processes`, torchrun), they share each batch.

    Args:
        shards, moment_files: of the projection stage, in the same order.
        output: the model's folder; `output/training.json` is written last.
        checkpoints: folder for `step-*.safetensors`; training goes on from the newest that fits.
        metrics: CSV with a row every ten steps; TensorBoard's events go to `tensorboard/` beside it.
        objective: the loss; default what the configuration asks for.
        preview: called with the network and the step every `training.preview_every` steps.
        decoder: the visual decoder's folder, which makes `output` one that `VLFMPipeline` reads.
        network: makes what is trained, from the configuration and the moments; default what the configuration asks for.

    Raises:
        Stopped: after a signal to stop; the last step is saved.
        VLFMError: if the shards do not belong together or cannot be read, nothing can be written, another process
            trains in the same folder of checkpoints, or gradients stay not finite for `training.max_bad_steps` steps.
    """
    moments = read_moments(moment_files)
    settings = config.training
    identity = fingerprint(
        {
            **configs.settings(config, "seed", "model", "training", "flow"),
            "version": VERSION,
            "data": moments.fingerprint,
            "shards": [path.name for path in shards],
            "clips": [shard.clips for shard in moments.shards],
            "mean_square": moments.mean_square.tolist(),
        }
    )
    with StopRequest() as stop, contextlib.ExitStack() as held:
        trainer = Trainer(config, network(config, moments), device, objective)
        main, group = trainer.accelerator.is_main_process, trainer.group
        with group.together():
            if main:
                held.enter_context(sole_writer(checkpoints / identity))
                # The model's folder names the caption encoder: better to miss it now than after the last step.
                encoder = caption_encoder_fingerprint(config) if decoder else None
        saved = Checkpoints(checkpoints / identity, settings.keep)
        _resume(trainer, saved)
        source = batches(
            shards,
            moments,
            settings.batch_size,
            config.seed,
            parts=trainer.parts,
            start=trainer.step,
            stop=settings.steps,
            workers=settings.workers,
            pin_memory=trainer.device.type == "cuda",
        )
        speed = Throughput(peak_flops(trainer.device, trainer.dtype) * trainer.accelerator.num_processes)
        updates = make_updates(trainer)
        with contextlib.ExitStack() as stack:
            writer = stack.enter_context(contextlib.closing(BackgroundWork()))
            batches_ahead = stack.enter_context(contextlib.closing(StepBatches(trainer, source)))
            with group.together():
                if main:
                    events = metrics.parent / "tensorboard" / identity
                    log = stack.enter_context(contextlib.closing(MetricsLog(metrics, trainer.step, events)))
                    bar = progress(total=settings.steps, what="train", unit="step", initial=trainer.step)
                    stack.enter_context(contextlib.closing(bar))
            with group.together():
                coming = next(batches_ahead, None)
            while trainer.step < settings.steps:
                parts = coming
                loss = trainer.backward(parts)
                with group.together():  # the next step's data are read and drawn while a GPU works on this one
                    coming = next(batches_ahead, None)
                    writer.check()
                stopping = group.any(stop.requested)
                rate = trainer.learning_rate
                updates.take(parts, loss)
                speed.add(trainer.model, parts[0][0], settings.batch_size, batches_ahead.waited)
                step, last = trainer.step, trainer.step == settings.steps
                logging = step % LOG_EVERY == 0 or last
                saving = step % settings.checkpoint_every == 0 or stopping
                showing = settings.preview_every and step % settings.preview_every == 0
                if logging or saving or showing:
                    loss, gradient = updates.look()
                if logging:
                    loss = trainer.accelerator.reduce(loss, "mean").item()
                    with group.together():
                        if main:
                            samples = step * settings.batch_size
                            log.write(step, samples, loss, gradient, rate, trainer.skipped, **speed.rates("log"))
                            bar.update(step - bar.n)
                            bar.set_postfix(loss=f"{loss:.4f}")
                if saving:
                    with group.together():
                        if main:
                            writer.wait()  # one copy at a time
                            writer.start(functools.partial(saved.save, step, copied(trainer.state(), "cpu")))
                            if stopping:
                                writer.wait()
                            print(f"step {step} of {settings.steps}: {speed.report()}", flush=True)
                if showing and preview is not None and main:
                    _preview(trainer, preview)
                if stopping and not last:
                    raise Stopped(f"asked to stop: step {step} is saved; run the rule again to go on from there")
            speed_of_job = speed.report("job")
            with group.together():
                writer.wait()
        with group.together():
            if main:
                captions = decoder and _captions(shards, moments, config.seed)
                with trainer.averaged() as model:
                    empty = trainer.objective.empty_caption
                    save_model(config, model, output, empty, decoder, moments.observed, captions, encoder)
                about = {"fingerprint": identity, "steps": trainer.step, "clips": moments.clips}
                if captions and captions.complete:
                    about["captions"] = len(captions.captions)
                with disk_may_be_full(output):
                    write_json(output / "training.json", {**about, "skipped": trainer.skipped})
                print(
                    f"{plural(trainer.step, 'step')} of {plural(settings.batch_size, 'clip')}: {speed_of_job}",
                    flush=True,
                )
    trainer.accelerator.end_training()


class StepBatches:
    """This process's parts of the coming steps, one step at a time.

    Attributes:
        waited: seconds that the last step's clips were waited for.
    """

    def __init__(self, trainer: Trainer, source: Iterator[Batch]):
        self._trainer, self._source = trainer, source
        self._step = trainer.step
        self.waited = 0.0

    def __iter__(self) -> "StepBatches":
        return self

    def __next__(self) -> list[Part]:
        watch = Stopwatch()
        batches = [next(self._source) for _ in self._trainer.parts]
        self.waited = watch.seconds
        self._step += 1
        return self._trainer.prepare(batches, self._step - 1)

    def close(self) -> None:
        self._source.close()


def _resume(trainer: Trainer, saved: Checkpoints) -> None:
    """Load the newest good checkpoint, in every process the one that the main process finds."""
    state = saved.newest() if trainer.accelerator.is_main_process else None
    step = trainer.group.from_main(state and state["step"])
    if step is None:
        return
    with trainer.group.together():
        trainer.load(state if state is not None else load_state(saved.path(step)))
    if trainer.accelerator.is_main_process:
        print(f"going on from step {step}", flush=True)


def _preview(trainer: Trainer, preview: Preview) -> None:
    """A video on the way; that it cannot be made is no reason to stop training."""
    try:
        with trainer.averaged() as model, torch.no_grad():
            preview(model, trainer.step)
    except (VLFMError, OSError, torch.OutOfMemoryError) as error:
        print(f"warning: no preview at step {trainer.step}: {error}", flush=True)


def _captions(shards: list[Path], moments: Moments, seed: int) -> TrainingCaptions | None:
    """What the model's folder keeps of the captions; that they cannot be read is no reason to lose the model."""
    try:
        return training_captions(shards, moments, seed)
    except VLFMError as error:
        print(f"warning: the model will not know when a caption is unlike those of its training: {error}", flush=True)
        return None

"""A step of training, on a CPU, a GPU or several, and everything that it changes."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from vlfm import config as configs
from vlfm.errors import VLFMError
from vlfm.learning_rate import warmup_cosine
from vlfm.model.transformer import VLFMTransformer
from vlfm.precision import network_dtype
from vlfm.training.data import Batch
from vlfm.training.distributed import ProcessGroup, make_accelerator, wrap
from vlfm.training.muon import muon_class
from vlfm.training.objective import Draw, Objective

Part = tuple[Batch, Draw]
# Of Muon: its authors' choices for what AdamW moves, and AdamW's own decay for all.
ADAMW_BETAS = (0.9, 0.95)
WEIGHT_DECAY = 0.01


def new_optimizer(config: configs.Config, model: VLFMTransformer, device: torch.device) -> torch.optim.Optimizer:
    """Grams (the paper's optimizer) or Muon, from pytorch-optimizer, or AdamW.

    Muon (Jordan, 2024) moves the blocks' matrices by orthogonalised momentum, those of attention a head at a time. Its
    steps are scaled to the size of AdamW's, so that one learning rate serves both (Liu et al., "Muon is scalable for
    LLM training", 2025). The rest is moved by AdamW.
    """
    from pytorch_optimizer import Grams

    settings, gpu = config.training, device.type == "cuda"
    if settings.optimizer == "grams":
        # On a GPU all parameters at once: one by one, starting the kernels takes longer than running them.
        return Grams(model.parameters(), lr=settings.learning_rate, foreach=gpu)
    if settings.optimizer == "muon":
        matrices = model.matrices()
        moved = {id(weight) for weights in matrices.values() for weight in weights}
        rest = [parameter for parameter in model.parameters() if id(parameter) not in moved]
        shared = {"lr": settings.learning_rate, "weight_decay": WEIGHT_DECAY}
        muon = {"use_muon": True, "use_adjusted_lr": True, "heads": model.config.heads, **shared}
        return muon_class(device)(
            [
                *({"params": weights, "split": split, **muon} for split, weights in matrices.items()),
                {"params": rest, "use_muon": False, "betas": ADAMW_BETAS, **shared},
            ]
        )
    return torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, fused=gpu)


def attention_kernel(device: torch.device) -> contextlib.AbstractContextManager:
    """On a CPU the plain product: the fused kernel's backward pass costs a quarter of a step at 64 tokens."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else contextlib.nullcontext()


def split_batch(batch_size: int, processes: int, accumulate: int, rank: int) -> list[range]:
    """The positions in a step's batch of each part that process `rank` takes.

    Raises:
        VLFMError: if the batch does not divide into as many equal parts.
    """
    size, rest = divmod(batch_size, processes * accumulate)
    if rest:
        raise VLFMError(
            f"training.batch_size is {batch_size}, which {processes} processes × training.accumulate = {accumulate} "
            "do not divide"
        )
    firsts = [(part * processes + rank) * size for part in range(accumulate)]
    return [range(first, first + size) for first in firsts]


@dataclass
class Trainer:
    """Everything a step changes, and the step.

    Two trainers with the same configuration and data that have taken the same number of steps are equal, bit
    by bit on a CPU with as many processes, however often either was stopped: the batch, the noise and the times of
    step k are drawn from (seed, k) alone.

    Args:
        objective: the loss; default what the configuration asks for.
    """

    config: configs.Config
    model: VLFMTransformer
    device: torch.device
    objective: Objective | None = None
    step: int = 0
    skipped: int = 0  # steps so far that changed nothing, since their gradient was not finite
    in_a_row: int = 0  # of these, without a good one since
    parts: list[range] = field(init=False)

    def __post_init__(self):
        settings = self.config.training
        self.accelerator = make_accelerator(self.device)
        self.device = self.accelerator.device
        self.group = ProcessGroup(self.accelerator)
        processes, self.rank = self.accelerator.num_processes, self.accelerator.process_index
        self.parts = split_batch(settings.batch_size, processes, settings.accumulate, self.rank)
        self.objective = self.objective or Objective(self.config)
        self.dtype = network_dtype(settings.precision, self.device)
        self.model.to(self.device).train()
        if settings.gradient_checkpointing:
            self.model.backbone.enable_gradient_checkpointing()
        if settings.compile:
            # Block by block: one compilation serves all, and gradients are exchanged while the next are computed.
            for block in self.model.backbone.transformer_blocks:
                block.compile()
        self.network = wrap(self.accelerator, self.model)
        self.optimizer = new_optimizer(self.config, self.model, self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        self.learning_rate_factor = warmup_cosine(settings.steps, settings.warmup)
        self.ema = None
        if settings.ema and self.accelerator.is_main_process:
            from diffusers.training_utils import EMAModel  # seconds, for the sake of much else

            # Its decay rises as (1 + k) / (10 + k), so that the average forgets the untrained network.
            self.ema = EMAModel(self.model.parameters(), decay=settings.ema, foreach=True)

    @property
    def learning_rate(self) -> float:
        """Of the step that comes."""
        return self.config.training.learning_rate * self.learning_rate_factor(self.step)

    def prepare(self, batches: Sequence[Batch], step: int) -> list[Part]:
        """This process's parts of a step's batch and their random numbers, on the way to the device."""
        drawn = []
        for batch, positions in zip(batches, self.parts, strict=True):
            draw = self.objective.draw(step, positions, batch.shape)
            if self.device.type == "cuda":  # a copy from other memory would wait for the work before it
                draw = draw.pin_memory()
            drawn.append((batch.to(self.device), draw.to(self.device)))
        return drawn

    def backward(self, parts: Sequence[Part]) -> torch.Tensor:
        """Set the gradients of one step; returns the mean loss of this process's clips, still on the device.

        Afterwards every `p.grad` is the gradient of the mean over the whole batch.
        """
        settings = self.config.training
        # Nothing in the network draws from the global generator but dropout, where a backbone has it. Seeded anew at
        # each step, it needs no saving.
        torch.manual_seed(((self.config.seed * 1_000_003 + self.step) * 65_537 + self.rank) % 2**63)
        self.optimizer.zero_grad(set_to_none=True)
        share = settings.batch_size / self.accelerator.num_processes
        total = torch.zeros((), device=self.device)
        for index, (batch, draw) in enumerate(parts):
            last = index == len(parts) - 1
            # Gradients are exchanged with the last part's, once.
            exchange = contextlib.nullcontext() if last else self.accelerator.no_sync(self.network)
            # The kernel holds backwards too: gradient checkpointing runs the blocks again.
            with exchange, attention_kernel(self.device):
                with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
                    loss = self.objective(self.network, batch, draw, self.model.latent_scale).sum() / share
                self.scaler.scale(loss).backward()
            total += loss.detach()
        return total

    def update(self) -> float:
        """Move the weights by the gradients; returns the gradient's norm before clipping.

        A step whose gradient is not finite changes no weight and is counted. All processes see the same gradients
        and so decide alike. To know it is to wait for the device.
        """
        norm = self._clip().item()
        if math.isfinite(norm):
            self._move()
            self.in_a_row = 0
        else:
            self.skipped += 1
            # In float16 an overflow first says that the loss was scaled up too far.
            self.in_a_row += self.scaler.get_scale() <= 1
        self.scaler.update()
        self.step += 1
        return norm

    def update_unasked(self) -> torch.Tensor:
        """Move the weights by the gradients, finite or not; returns their norm before clipping, on the device.

        Where all gradients are finite this is `update`, but for `in_a_row`.
        """
        norm = self._clip()
        self._move()
        self.scaler.update()
        self.step += 1
        return norm

    def _clip(self) -> torch.Tensor:
        """Unscale the gradients and clip them; their norm before."""
        self.scaler.unscale_(self.optimizer)
        return torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.training.clip)

    def _move(self) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate
        # Not by way of the scaler, which would ask the device whether the gradients are finite.
        self.optimizer.step()
        if self.ema is not None:
            self.ema.step(self.model.parameters())

    def take_step(self, batch: Batch) -> float:
        """One whole step on one batch, in this process alone; returns the loss in units of the latents' mean square."""
        loss = self.backward(self.prepare([batch.part(positions) for positions in self.parts], self.step))
        self.update()
        return loss.item()

    @contextlib.contextmanager
    def averaged(self) -> Iterator[VLFMTransformer]:
        """The network with the averaged weights, if they are kept, ready for use; the main process has them."""
        self.model.eval()
        if self.ema is not None:
            self.ema.store(self.model.parameters())
            self.ema.copy_to(self.model.parameters())
        try:
            yield self.model
        finally:
            if self.ema is not None:
                self.ema.restore(self.model.parameters())
            self.model.train()

    def state(self) -> dict:
        """All that a checkpoint holds. The learning rate and all random numbers are functions of the step."""
        return {
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict() if self.ema is not None else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "step": self.step,
            "samples": self.step * self.config.training.batch_size,
            "skipped": self.skipped,
            "in_a_row": self.in_a_row,
        }

    def load(self, state: dict) -> None:
        """Go on from a checkpoint."""
        # How each group is moved is the configuration's to say. A checkpoint has lists where Muon wants tuples.
        told = self.optimizer.state_dict()["param_groups"]
        groups = [
            saved | {name: value for name, value in own.items() if name != "step"}
            for saved, own in zip(state["optimizer"]["param_groups"], told, strict=True)
        ]
        self.restore(state | {"optimizer": state["optimizer"] | {"param_groups": groups}})

    def restore(self, state: dict) -> None:
        """Go back to a copy of what `state` gave; the copy is spent, since its tensors become the trainer's own."""
        self.model.load_state_dict(state["model"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
            self.ema.to(self.device)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.step, self.skipped, self.in_a_row = state["step"], state["skipped"], state["in_a_row"]

"""A trained network with its flow: caption embeddings and noise → latents of a clip at any times."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import torch
from safetensors.torch import save_file

from vlfm import config as configs
from vlfm.captions.encoders import read_empty_caption
from vlfm.errors import VLFMError
from vlfm.flow import readout
from vlfm.flow.bases import make_basis
from vlfm.flow.path import VideoLatentPath
from vlfm.flow.projection import check_finite
from vlfm.flow.schedules import make_schedule
from vlfm.flow.solvers import PREDICTION_REMEDY, check_query_times, ode, render
from vlfm.model.guidance import Captions, Guided
from vlfm.model.transformer import VLFMTransformer
from vlfm.storage.files import atomic_path, read_json, write_json
from vlfm.weights import load_network

EMPTY_CAPTION = "empty_caption.safetensors"
EVERYWHERE = (0.0, 1.0)
DAMAGED = "copy it again, or train again"


@dataclass
class FlowModel:
    """A network and the paths it was trained on.

    Attributes:
        transformer: in evaluation mode.
        flow: basis, order and schedule. fps, durations: of the clips it was trained on, frames a second and seconds.
        empty_caption: tokens (L, D) and mask (L,), for guidance; None if it never saw one.
        observed: T, one of `durations` → (first, last) in shares of T, between which every training clip of that length
            with N frames has frames; (0, 1) for a length that is missing.
        evaluations: of the network for each clip, in the last call of `latents`; a guided one counts twice.
    """

    transformer: VLFMTransformer
    flow: configs.Flow
    fps: float
    durations: tuple[float, ...]
    empty_caption: Captions | None = None
    observed: Mapping[float, tuple[float, float]] = field(default_factory=dict)
    evaluations: int = 0

    @classmethod
    def of(
        cls,
        config: configs.Config,
        transformer: VLFMTransformer,
        empty_caption: Captions | None = None,
        observed: Mapping[float, tuple[float, float]] | None = None,
    ) -> Self:
        """The model of a network trained with this configuration."""
        durations = tuple(transformer.config.durations)
        return cls(transformer, config.flow, config.clips.fps, durations, empty_caption, observed or {})

    @classmethod
    def from_pretrained(cls, folder: Path | str, device: torch.device | str = "cpu") -> Self:
        """Read what `save_pretrained` wrote.

        Raises:
            VLFMError: if there is no trained model, or a file of it is damaged.
        """
        folder = Path(folder)
        if not (folder / "flow.json").exists():
            raise VLFMError(f"there is no trained model in {folder}; run `snakemake --cores all train`")
        about = read_json(folder / "flow.json")
        try:
            flow = configs.Flow(**about["flow"])
            fps, durations = float(about["fps"]), tuple(about["durations"])
            observed = _read_observed(about.get("observed", EVERYWHERE), durations)
        except (KeyError, TypeError, ValueError) as error:
            raise VLFMError(f"{folder / 'flow.json'} was written by another version ({error}); train again") from error
        transformer = load_network(VLFMTransformer, folder, "transformer", torch.float32, remedy=DAMAGED)
        empty = None
        if (folder / EMPTY_CAPTION).exists():
            empty = read_empty_caption(folder / EMPTY_CAPTION, DAMAGED)
        return cls(transformer, flow, fps, durations, empty, observed).to(device)

    def save_pretrained(self, folder: Path | str) -> None:
        """Write `transformer/`, `flow.json` and, if there is one, the empty caption's embedding."""
        folder = Path(folder)
        self.transformer.save_pretrained(folder / "transformer")
        write_json(
            folder / "flow.json",
            {
                "flow": self.flow.model_dump(),
                "fps": self.fps,
                "durations": list(self.durations),
                "observed": [list(self.observed.get(duration, EVERYWHERE)) for duration in self.durations],
            },
        )
        (folder / EMPTY_CAPTION).unlink(missing_ok=True)
        if self.empty_caption is not None:
            tokens, mask = (value.cpu().contiguous() for value in self.empty_caption)
            with atomic_path(folder / EMPTY_CAPTION) as temporary:
                save_file({"tokens": tokens, "mask": mask}, temporary)

    def to(self, device: torch.device | str) -> Self:
        """Move the network; returns the model."""
        self.transformer.to(device)
        return self

    @property
    def device(self) -> torch.device:
        return self.transformer.device

    def path(self, duration: float | None = None) -> VideoLatentPath:
        """The path, in seconds, of clips of `duration` seconds; by default the longest it was trained on.

        Raises:
            VLFMError: for a length it was not trained on.
        """
        duration = self._known(duration)
        flow, frames = self.flow, round(self.fps * duration)
        return VideoLatentPath(
            make_basis(flow.basis, flow.order, duration, frames),
            make_schedule(flow.schedule, frames, duration, flow.sigma_min, flow.renoise, flow.alpha),
        )

    def hold(self, times: torch.Tensor, duration: float | None = None) -> torch.Tensor:
        """Times within a clip, seconds; those outside the range that training saw are moved to the nearer end of it.

        A video shows its first and last picture there, as a player does: the frame on display at T was captured up to
        a frame before it, and a path beyond its data means nothing (D7).
        """
        duration = self._known(duration)
        first, last = self.observed.get(duration, EVERYWHERE)
        return times.clamp(first * duration, last * duration)

    def _known(self, duration: float | None) -> float:
        if duration is None:
            return max(self.durations)
        nearest = min(self.durations, key=lambda known: abs(known - duration))
        if abs(nearest - duration) > 1e-6:
            known = ", ".join(f"{each:g}" for each in self.durations)
            raise VLFMError(
                f"the model was trained on clips of {known} s, not of {duration:g} s; ask for such a length"
            )
        return nearest

    @torch.no_grad()
    def latents(
        self,
        tokens: torch.Tensor,
        mask: torch.Tensor,
        noise: torch.Tensor,
        times: torch.Tensor,
        steps: int = 1,
        *,
        duration: float | None = None,
        guidance: float = 1.0,
        solver: str = "midpoint",
        solver_steps: int = 4,
    ) -> torch.Tensor:
        """Latents u_t, (B, K, C, h, w), in the units of the visual decoder.

        Args:
            tokens: (B, L, D). mask: (B, L). noise: z, (B, C, h, w).
            times: (K,) seconds in (0, T], for all clips; the head `coefficients` takes (B, K) as well.
            steps: network evaluations of the head `coefficients`; see `vlfm.flow.solvers.exponential`.
            duration: T of these clips, seconds; by default the longest the model was trained on.
            guidance: w of classifier-free guidance (Ho & Salimans, 2022): the prediction is that of the empty caption
                plus w times what the caption changes. 1 is off.
            solver, solver_steps: of the head `velocity`: euler, midpoint or dopri5, and its steps between two frames.

        The head `direct` is evaluated once for each time.

        Raises:
            VLFMError: for times outside the clip, a length the model was not trained on, or guidance of a model that
                was trained without caption dropout.
        """
        path = self.path(duration)
        network = Guided(self.transformer, tokens, mask, path.duration, guidance, self.empty_caption)
        noise, times = noise.to(self.device), times.to(self.device)
        head = self.transformer.config.head
        if head == "coefficients":
            values = render(network, noise, path, times, steps)
        elif head == "velocity":
            values = _integrated(network, noise, path, times, solver, solver_steps)
        else:
            values = torch.stack(
                [
                    network(noise, t.expand(len(noise)))
                    for t in check_query_times(times, path.duration, noise).unbind(1)
                ],
                1,
            )
        self.evaluations = network.evaluations
        return values.float() * self.transformer.latent_scale

    @torch.no_grad()
    def coefficients_from(
        self,
        tokens: torch.Tensor,
        mask: torch.Tensor,
        latents: torch.Tensor,
        noise: torch.Tensor,
        time: float,
        *,
        duration: float | None = None,
        guidance: float = 1.0,
    ) -> torch.Tensor:
        """Ĥ of clips that show given latents u at a time t, (B, C, h, w, s), in the units of the visual decoder.

        The network sees the state `ψ_t = m(t) u + σ(t) z` there. For the head `coefficients`.

        Args:
            tokens, mask, noise, duration, guidance: as for `latents`.
            latents: u, (B, C, h, w), in the units of the visual decoder.
            time: t, seconds. Training saw it if it lies in the lead-in, T/N included, or `training.pure_noise` and
                `training.lead_in` left a share for the rest.
        """
        path = self.path(duration)
        network = Guided(self.transformer, tokens, mask, path.duration, guidance, self.empty_caption)
        scale = self.transformer.latent_scale
        t = torch.tensor(time, dtype=torch.float64)
        m, sigma = float(path.schedule.mean_scale(t)[0]), float(path.schedule.sigma(t)[0])
        psi = m * latents.to(self.device) / scale + sigma * noise.to(self.device)
        coefficients = network(psi, torch.full((len(psi),), time, device=self.device)) * scale
        self.evaluations = network.evaluations
        check_finite(coefficients, "the predicted coefficients of", PREDICTION_REMEDY)
        return coefficients


def _read_observed(written: Sequence, durations: Sequence[float]) -> dict[float, tuple[float, float]]:
    """What `flow.json` says: a pair for each length, or, of an older version, one for all."""
    pairs = written if isinstance(written[0], Sequence) else [written] * len(durations)
    return {duration: (float(first), float(last)) for duration, (first, last) in zip(durations, pairs, strict=True)}


def _integrated(
    field: Guided, noise: torch.Tensor, path: VideoLatentPath, times: torch.Tensor, solver: str, solver_steps: int
) -> torch.Tensor:
    """û at the times by solving dψ/dt = F from the noise; fixed-step solvers pass through every time asked for."""
    if times.ndim != 1:
        raise VLFMError("the head velocity renders all clips at the same times: give (K,)")
    readout.check_scale(path.schedule.mean_scale(times)[0])
    wanted = check_query_times(times, path.duration, noise)[0].double()
    grid, places = torch.unique(wanted, return_inverse=True)
    if solver != "dopri5":
        step = path.schedule.lead_in / solver_steps
        nodes = torch.arange(1, round(path.duration / step), dtype=grid.dtype, device=grid.device) * step
        # No step between a node and a time that rounding put beside it.
        apart = (nodes[:, None] - grid).abs().amin(1) > 1e-6 * path.duration
        grid = torch.cat([grid, nodes[apart & (nodes < grid[-1])]]).sort().values
        places = torch.searchsorted(grid, wanted)
    psi = ode(field, noise, grid, path.duration, solver)[:, places]
    return readout.mean(psi, noise, wanted[None], path.schedule)

"""A rectified flow over all frames of a clip at once: what most video models are, with no path through the latents.

The state is a clip's N frame latents side by side, N·C channels; the network is the run's own with as many channels. It
learns `v = x − z` on the straight line `ψ_t = (1 − t) z + t x` from noise z to the clip x (Liu et al., "Flow Straight
and Fast", 2023), at logit-normal times (Esser et al., "Scaling Rectified Flow Transformers", 2024), and is sampled in
Euler steps. The clips are read like coefficients, of a path that has N·C channels and the one order 0, so that the
ordinary loader and trainer do all of it.

A network narrower than the patch² · N · C numbers of a token is a bottleneck, as it is for coefficients.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from vlfm import config as configs
from vlfm.coefficients.project import of_clip
from vlfm.coefficients.shards import ClipCoefficients, write_shard
from vlfm.errors import VLFMError
from vlfm.evaluation.generation.sources import Source, Video, conditions, drawn
from vlfm.finished_run import Run
from vlfm.flow.losses import velocity_mse
from vlfm.latents.store import ClipLatents, LatentStore
from vlfm.model.flow_model import FlowModel
from vlfm.model.guidance import Guided
from vlfm.model.transformer import VLFMTransformer
from vlfm.storage.files import read_json, write_json
from vlfm.storage.fingerprints import fingerprint
from vlfm.training.data import Batch, Moments
from vlfm.training.network import new_model
from vlfm.training.objective import Draw, Objective


def configured(config: configs.Config) -> configs.Config:
    """The configuration that trains it: one order, a velocity."""
    return config.model_copy(
        update={
            "model": config.model.model_copy(update={"head": "velocity"}),
            "flow": config.flow.model_copy(update={"order": 1}),
        }
    )


def side_by_side(latents: np.ndarray | torch.Tensor) -> np.ndarray | torch.Tensor:
    """Frames (N, C, h, w) as one state (N·C, h, w); channel `n·C + c` is channel c of frame n."""
    return latents.reshape(-1, *latents.shape[-2:])


def write_frames(latents: Path, projected: Path, output: Path) -> None:
    """Write a shard's latents for the trainer: the tar `output`, and its moments beside it, last.

    Args:
        latents: the shard's store.
        projected: moments of the shard's coefficients, for what they say of captions.
    """
    store = LatentStore(latents)
    squares: list[float] = []

    def states() -> Iterator[ClipCoefficients]:
        for clip in store:
            squares.append(float(np.square(clip.latents, dtype=np.float64).mean()))
            yield _state(clip)

    write_shard(output, states())
    write_json(
        output.with_suffix(".json"),
        {
            **read_json(projected),
            "clips": len(store),
            "mean_square": [float(np.mean(squares))],
            "shape": [store.num_frames * store.shape[0], *store.shape[1:]],
            "fingerprint": fingerprint({"frames": store.fingerprint}),
        },
    )


def _state(clip: ClipLatents) -> ClipCoefficients:
    return of_clip(clip, side_by_side(clip.latents)[..., None])


def check_alike(stores: Sequence[LatentStore]) -> None:
    """Raises `VLFMError` unless all clips have as many frames."""
    counts = sorted({length for store in stores for length in (store.num_frames, *store.lengths.values())})
    if len(counts) > 1:
        raise VLFMError(
            f"clips of {' and '.join(map(str, counts))} frames do not fit one network over all frames at once; to "
            "compare with it give clips.duration one length, and leave out sources with fewer frames a second than "
            "clips.fps"
        )


def new_network(config: configs.Config, moments: Moments) -> VLFMTransformer:
    """The network: the configured one with N·C channels in and out.

    Args:
        moments: of the shards of `write_frames`.
    """
    network = new_model(config, moments)
    # Of x − z, both of unit mean square and uncorrelated.
    network.velocity_scale.fill_(2**0.5)
    return network


class AllFrames(Objective):
    """The loss of rectified flow, `|F − (x − z)|²` in units of the latents' mean square; takes the place of
    `Objective`, whose captions and noise it has."""

    def __call__(
        self, model: Callable[..., torch.Tensor], batch: Batch, draw: Draw, scale: torch.Tensor
    ) -> torch.Tensor:
        """The loss of each clip, (B,)."""
        clips = batch.coefficients[..., 0] / scale
        t = logit_normal(draw.uniform)
        share = t.reshape(-1, 1, 1, 1)
        prediction = model((1 - share) * draw.noise + share * clips, t, *self._captions(batch, draw))
        return velocity_mse(prediction, clips - draw.noise, reduction="none")


def logit_normal(uniform: torch.Tensor) -> torch.Tensor:
    """Times in [0, 1] whose logit is standard normal, from uniform numbers in [0, 1): most lie midway."""
    return torch.special.ndtri(uniform).sigmoid()


@torch.no_grad()
def sample(
    model: FlowModel, tokens: torch.Tensor, mask: torch.Tensor, noise: torch.Tensor, steps: int, guidance: float = 1.0
) -> torch.Tensor:
    """All frames of clips, (B, N·C, h, w), in the units of the visual decoder, in Euler steps of equal length.

    Args:
        model: whose network `new_network` made. tokens, mask, guidance: as for `FlowModel.latents`.
        noise: (B, N·C, h, w).
        steps: evaluations of the network; guided ones count twice in `model.evaluations`.
    """
    network = Guided(model.transformer, tokens, mask, 1.0, guidance, model.empty_caption)
    state = noise.to(model.device)
    for step in range(steps):
        state = state + network(state, state.new_full((len(state),), step / steps)) / steps
    model.evaluations = network.evaluations
    return state * model.transformer.latent_scale


def generated(run: Run, model: FlowModel, steps: int) -> Source:
    """What the network makes of captions, with the guidance of `evaluation`; as `vlfm.evaluation.generation.sources`.

    Args:
        steps: of `sample`.
    """

    def make(videos: Sequence[Video]) -> list[np.ndarray]:
        store = videos[0].prompt.store
        count, (channels, *sides) = store.num_frames, store.shape
        given = conditions(videos, run.config.seed, (count * channels, *sides))
        states = sample(model, *given, steps, run.config.evaluation.guidance)
        return drawn(run, states.reshape(-1, count, channels, *sides), videos)

    return make

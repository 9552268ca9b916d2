"""Videos of what a network makes of some captions while it is being trained."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from vlfm import config as configs
from vlfm.captions.load import load_caption_encoder
from vlfm.decoders.load import load_decoder
from vlfm.frames import to_uint8
from vlfm.model.flow_model import FlowModel
from vlfm.model.transformer import VLFMTransformer
from vlfm.storage.pictures import write_mp4


def make_preview(
    config: configs.Config,
    decoder: Path,
    captions: Sequence[str],
    output: Path,
    device: torch.device,
    observed: Mapping[float, tuple[float, float]] | None = None,
) -> Callable[[VLFMTransformer, int], None]:
    """What `vlfm.training.loop.train` calls with the network and the step: it writes `output/step-00000100.mp4`.

    All captions side by side, each always from the same noise, at the first of `clips.size`, the longest
    `clips.duration` and `evaluation.steps`. Nothing is loaded before the first call, and between calls the visual
    decoder waits in the machine's memory, not the GPU's.

    Args:
        decoder: the folder that `vlfm prepare-decoder` wrote.
        observed: see `FlowModel`.
    """
    loaded = {}

    def preview(network: VLFMTransformer, step: int) -> None:
        if not loaded:
            embedded = load_caption_encoder(config, device).encode(captions)
            loaded.update(captions=embedded, decoder=load_decoder(config, decoder, device))  # both, or neither
        embedded, visual = loaded["captions"], loaded["decoder"].to(device)
        training = network.training
        model = FlowModel.of(config, network.eval(), observed=observed)
        clips, settings = config.clips, config.evaluation
        shape = visual.latent_shape(*clips.sizes[0])
        noise = torch.randn(len(captions), *shape, generator=torch.Generator().manual_seed(config.seed))
        duration = model.path().duration
        times = torch.arange(1, round(duration * clips.fps) + 1, dtype=torch.float64) / clips.fps
        latents = model.latents(
            embedded.tokens,
            embedded.mask,
            noise,
            model.hold(times),
            settings.steps,
            solver=settings.solver,
            solver_steps=settings.solver_steps,
        )
        network.train(training)
        shown = [caption for caption in captions for _ in times]
        frames = to_uint8(visual.generate(latents.flatten(0, 1), shown).cpu())
        loaded["decoder"] = visual.to("cpu")
        videos = frames.reshape(len(captions), len(times), *frames.shape[1:])
        write_mp4(output / f"step-{step:08d}.mp4", np.concatenate(list(videos), 2), clips.fps)

    return preview

"""The network a run trains: made to the configured size, and saved as a folder."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError

from vlfm import config as configs
from vlfm.errors import VLFMError
from vlfm.model.flow_model import Captions, FlowModel
from vlfm.model.training_captions import TrainingCaptions
from vlfm.model.transformer import VLFMTransformer
from vlfm.pipeline import write_pipeline
from vlfm.training.data import Moments
from vlfm.training.objective import velocity_rms


def new_model(config: configs.Config, moments: Moments) -> VLFMTransformer:
    """A network of the configured size, initialised from the configured seed.

    Raises:
        VLFMError: if it does not fit the shards.
    """
    if moments.order != config.flow.order:
        raise VLFMError(
            f"the coefficient shards are of order {moments.order}, flow.order is {config.flow.order}; "
            "run `snakemake` again, which projects anew"
        )
    try:
        for shape in moments.shapes:
            config.check_model(shape)
    except ValueError as error:
        raise VLFMError(str(error)) from None
    if unknown := set(moments.durations) - set(config.clips.durations):
        raise VLFMError(
            f"there are coefficients of clips of {min(unknown):g} s, which clips.duration does not list: list that "
            "length, or remove those shards and run `snakemake` again"
        )
    torch.manual_seed(config.seed)
    model = VLFMTransformer(
        head=config.model.head,
        channels=moments.shape[0],
        positions=max(max(height, width) for _, height, width in moments.shapes),
        order=config.flow.order,
        durations=moments.durations,
        patch=config.model.patch,
        layers=config.model.layers,
        heads=config.model.heads,
        head_dim=config.model.head_dim,
        caption_channels=moments.caption_channels,
        gate=config.model.gate,
        convolution=config.model.convolution,
        caption_in_adaln=config.model.caption_in_adaln,
    )
    model.set_caption_statistics(moments.mean_token, moments.mean_token_square)
    model.set_scales(moments.mean_square, moments.caption_mean_square, velocity_rms(config, moments.mean_square))
    return model


def save_model(
    config: configs.Config,
    model: VLFMTransformer,
    output: Path,
    empty_caption: Captions | None = None,
    decoder: Path | None = None,
    observed: Mapping[float, tuple[float, float]] | None = None,
    captions: TrainingCaptions | None = None,
    caption_encoder: str | None = None,
) -> None:
    """Write the trained network, the flow's settings and the empty caption it knows to the folder `output`,
    diffusers-style; with the folder of a visual decoder, as a whole that `VLFMPipeline` reads, with the captions of
    the training.

    Raises:
        VLFMError: if it cannot be written, the disk being full for example.
    """
    flow = FlowModel.of(config, model, empty_caption, observed)
    try:
        if decoder is None:
            flow.save_pretrained(output)
        else:
            write_pipeline(output, flow, config, decoder, caption_encoder, captions)
    except (OSError, SafetensorError) as error:
        raise VLFMError(f"cannot write {output} ({error}); free space, then run the rule again") from error

"""The decoder stage: what inversion needs, trained or found, and described in `decoder.json`."""

from pathlib import Path

import torch

from vlfm import config as configs
from vlfm.decoders.autoencoder import locate_autoencoder
from vlfm.decoders.fit_embedded import fit_decoder
from vlfm.decoders.load import FOUND, RECORD, open_decoder, recorded_fingerprint
from vlfm.errors import VLFMError
from vlfm.storage.files import write_json
from vlfm.weights import is_whole, locate


def prepare_decoder(config: configs.Config, shards: list[Path], output: Path, device: torch.device) -> None:
    """Make the visual decoder ready in the folder `output`: train the embedded one, find and check the others.

    `output/decoder.json`, written last, holds at least `fingerprint` (what the latents depend on: the weights,
    not where they lie), `name` and `shape`, (C, h, w) of a latent (at the first of `clips.size`). Of a decoder
    that was found also `model` and `vae`, its folders, `parts`, what is used of the first, and `settings`.

    Raises:
        VLFMError: if the model is not to be had or does not load, if it cannot take frames of `clips.size`, or
            if `model.*` and `flow.order` do not fit its latents.
    """
    if config.decoder.name == "embedded":
        fit_decoder(config, shards, output, device)
        return
    model, vae, parts = locate_decoder(config.decoder)
    # Loaded to see that it loads, in the precision that takes the least memory.
    brief = config.model_copy(update={"inversion": config.inversion.model_copy(update={"precision": "bfloat16"})})
    decoder = open_decoder(brief, model, vae, parts, torch.device("cpu"))
    shapes = []
    for height, width in config.clips.sizes:
        try:
            shapes.append(decoder.latent_shape(height, width))
            config.check_model(shapes[-1])
        except (VLFMError, ValueError) as error:
            raise VLFMError(
                f"clips.size {width}×{height} with decoder.model {config.decoder.model}: {error}"
            ) from error
    identity = recorded_fingerprint(output / RECORD, config.decoder.name, model, vae, parts, anew=True)
    write_json(
        output / "decoder.json",
        {
            "fingerprint": identity,
            "name": config.decoder.name,
            "shape": shapes[0],
            "model": str(model),
            "vae": None if vae is None else str(vae),
            "parts": list(parts),
            "settings": configs.settings(config, *FOUND),
        },
    )
    print(f"{config.decoder.name} in {model}: latents {'×'.join(map(str, shapes[0]))}, fingerprint {identity}")


def locate_decoder(settings: configs.Decoder, online: bool = True) -> tuple[Path, Path | None, tuple[str, ...]]:
    """The model's folder, stable-diffusion's autoencoder's, and the parts of the first that are used.

    Args:
        online: False never fetches.
    """
    if settings.name == "autoencoder":
        return locate_autoencoder(settings.model, online=online), None, ("",)
    if settings.name == "stable-diffusion":
        from vlfm.decoders import stable_diffusion

        parts = stable_diffusion.PARTS
        own = () if settings.vae else ("vae",)
        model = locate(settings.model, {*parts, *own}, online=online)
        if settings.vae:
            return model, locate_autoencoder(settings.vae, "decoder.vae", online), parts
        return model, model / "vae", parts
    from vlfm.decoders import rectified_flow

    parts = rectified_flow.PARTS
    model = locate(settings.model, parts, online=online)
    optional = rectified_flow.OPTIONAL_PARTS
    return model, None, parts + (optional if is_whole(model, optional) else ())

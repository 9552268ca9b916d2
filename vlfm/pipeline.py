"""A trained model with its visual decoder and caption encoder: captions → videos, with the face of diffusers."""

import math
import shutil
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image

from vlfm import config as configs
from vlfm.captions.encoders import CaptionEmbeddings, CaptionEncoder
from vlfm.captions.load import caption_encoder_fingerprint, load_caption_encoder
from vlfm.captions.pooling import mean_embedding
from vlfm.captions.similarity import Likeness
from vlfm.decoders.base import VisualDecoder
from vlfm.decoders.load import decoder_fingerprint, load_decoder, open_decoder
from vlfm.decoders.prepare import locate_decoder
from vlfm.errors import VLFMError
from vlfm.model.flow_model import FlowModel
from vlfm.model.training_captions import TRAINING_CAPTIONS, TrainingCaptions
from vlfm.storage.files import read_json, write_json
from vlfm.storage.fingerprints import check_fingerprint
from vlfm.weights import files, fingerprint_folder

EMBEDDED = ("autoencoder", "scheduler", "unet")  # the last where there is a noise predictor
OUTPUTS = ("np", "pil", "pt", "latent")


class UnlikeCaptionWarning(UserWarning):
    """No caption of the model's training is like the one it is asked to show.

    A warning rather than a line of a log: it is shown where nothing is set up, once a caption, and a program can catch,
    count or silence this one kind.
    """


@dataclass
class VLFMPipelineOutput(BaseOutput):
    """What a pipeline returns.

    Attributes:
        frames: K frames of each of B prompts. `np`: float32 (B, K, H, W, 3) in [0, 1]; `pt`: (B, K, 3, H, W) in
            [0, 1]; `pil`: a list of pictures a prompt; `latent`: (B, K, C, h, w), in the visual decoder's units.
        times: (K,) seconds, when each frame is shown.
        fps: frames a second, for a player.
    """

    frames: np.ndarray | torch.Tensor | list[list[Image.Image]]
    times: np.ndarray
    fps: float


class VLFMPipeline:
    """Captions → videos. Made by `from_pretrained`, from the folder that `vlfm train` writes.

        pipeline = VLFMPipeline.from_pretrained("results/model", "cuda")
        video = pipeline("a red square moves right", fps=24, generator=torch.Generator().manual_seed(0)).frames[0]

    Args:
        flow: the network and its paths.
        decoder: latents → frames.
        encoder: captions → token embeddings.
        config: what the model was trained with.
        folder: where it was read.
        captions: those of its training; without them nothing is said of a caption that is unlike them all.
    """

    def __init__(
        self,
        flow: FlowModel,
        decoder: VisualDecoder,
        encoder: CaptionEncoder,
        config: configs.Config,
        folder: Path,
        captions: TrainingCaptions | None = None,
    ):
        self.flow, self.decoder, self.encoder = flow, decoder, encoder
        self.config, self.folder, self.captions = config, folder, captions

    @classmethod
    def from_pretrained(cls, folder: Path | str, device: torch.device | str = "cpu") -> Self:
        """Read a model's folder; its decoder and caption encoder must be what the model was trained with.

        Args:
            device: where the networks go. Given here rather than to `to`, it also decides their precision.

        Raises:
            VLFMError: saying which part is missing and how to get it.
            FingerprintMismatch: for a part whose content is not what the model was trained with.
        """
        folder, device = Path(folder), torch.device(device)
        flow = FlowModel.from_pretrained(folder, device)
        if not (folder / "pipeline.json").exists():
            raise VLFMError(
                f"{folder} holds a trained network without its visual decoder and caption encoder: train it with "
                "`vlfm train --decoder FOLDER`, as `snakemake` does"
            )
        about = read_json(folder / "pipeline.json")
        config = configs.parse(about["config"], str(folder / "pipeline.json"))
        decoder = _read_decoder(config, folder, about, device)
        encoder = _read_encoder(config, folder, about, device)
        if encoder.channels != flow.transformer.config.caption_channels:
            raise VLFMError(
                f"the caption encoder gives {encoder.channels} numbers a token, but the network in {folder} takes "
                f"{flow.transformer.config.caption_channels}: it was trained with another text.encoder"
            )
        captions = TrainingCaptions.read(folder, encoder.channels)
        return cls(flow, decoder, encoder, config, folder, captions)

    def save_pretrained(self, folder: Path | str, full: bool = False) -> None:
        """Write a folder that `from_pretrained` reads.

        Args:
            full: with copies of the decoder and the caption encoder, so that it needs no other file; else those that
                were not trained here stay references (an embedded decoder is small and always copied).
        """
        folder = Path(folder)
        ours = read_json(self.folder / "pipeline.json")  # which is written over, if it is the same folder
        decoder = self.folder / "decoder"
        write_pipeline(folder, self.flow, self.config, decoder, self.encoder.fingerprint, self.captions)
        if full or ours["copies"]:
            about = read_json(folder / "pipeline.json")
            write_json(folder / "pipeline.json", {**about, "copies": self._copy_parts(folder, ours)})

    @property
    def device(self) -> torch.device:
        return self.flow.device

    def to(self, device: torch.device | str) -> Self:
        """Move all networks; returns the pipeline."""
        for part in (self.flow, self.decoder, self.encoder):
            part.to(device)
        return self

    @property
    def evaluations(self) -> int:
        """Network evaluations for each video, in the last call."""
        return self.flow.evaluations

    def nearest_captions(self, prompt: str | Sequence[str]) -> list[tuple[float, str]]:
        """The training caption nearest to each prompt, with its similarity in [−1, 1]; see `vlfm.captions.similarity`.

        Raises:
            VLFMError: for a model whose folder holds no captions of its training.
        """
        if self.captions is None:
            raise VLFMError(
                f"{self.folder} has no {TRAINING_CAPTIONS}: an older version trained the model, or its shards could "
                "not be read when training ended; train again"
            )
        return self._nearest(self.encoder.encode([prompt] if isinstance(prompt, str) else list(prompt)))

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        num_frames: int | None = None,
        fps: float | None = None,
        duration: float | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str = "np",
    ) -> VLFMPipelineOutput:
        """One video for each prompt. Warns (`UnlikeCaptionWarning`) of one that no caption of the training is like.

        Args:
            num_frames, fps: how many frames, evenly spread to the video's end, or how many a second: one of the two.
                Any number will do; the default is the rate of the clips the model was trained on.
            duration: seconds; by default the longest T that the model was trained on. For a length between two such,
                the video is the beginning of one of the next longer T, and things move as fast as in that one. Beyond
                the longest T nothing was learnt (D7): it is refused.
            height, width: of the frames, pixels; by default the first size the model was trained on.
            num_inference_steps: of sampling, for the head `coefficients` a network evaluation each, two with guidance:
                1 shows the average of what a caption stands for, 4 or more draw one of several clips. For `velocity`,
                solver steps between two frames of the training rate. By default `evaluation.steps`, or
                `evaluation.solver_steps`, of the model's training.
            guidance_scale: of classifier-free guidance; above 1 needs a model trained with `training.caption_dropout`.
                By default `evaluation.guidance` of the model's training.
            generator: of the noise, one or one a prompt: the same gives the same videos.
            output_type: np, pil, pt or latent; see `VLFMPipelineOutput`.

        Raises:
            VLFMError: for a length, size, rate or output type that is not to be had.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if not prompts:
            raise VLFMError("there is no prompt: give a string or a list of strings; the empty string is one")
        if output_type not in OUTPUTS:
            raise VLFMError(f"unknown output_type {output_type!r}; there are {', '.join(OUTPUTS)}")
        if isinstance(generator, list) and len(generator) != len(prompts):
            raise VLFMError(f"{len(generator)} generators for {len(prompts)} prompts: give one, or one a prompt")
        sampling = self.config.evaluation
        own = sampling.solver_steps if self.flow.transformer.config.head == "velocity" else sampling.steps
        steps = own if num_inference_steps is None else num_inference_steps
        if steps < 1 or int(steps) != steps:
            raise VLFMError(f"num_inference_steps must be a whole number from 1 up; it is {steps}")
        path = self.flow.path(self._clip_length(duration))
        times, fps = _times(num_frames, fps, duration or path.duration, self.flow.fps)
        embedded = self.encoder.encode(prompts)
        self._warn_of_unlike(prompts, embedded)
        noise = randn_tensor((len(prompts), *self._latent_shape(height, width)), generator, self.device, torch.float32)
        latents = self.flow.latents(
            embedded.tokens,
            embedded.mask,
            noise,
            self.flow.hold(torch.from_numpy(times), path.duration),
            steps,
            duration=path.duration,
            guidance=sampling.guidance if guidance_scale is None else guidance_scale,
            solver=sampling.solver,
            solver_steps=steps,
        )
        if output_type == "latent":
            return VLFMPipelineOutput(frames=latents, times=times, fps=fps)
        captions = [each for each in prompts for _ in times]
        frames = self.decoder.generate(latents.flatten(0, 1), captions)
        frames = (frames.float() / 2 + 0.5).clamp(0, 1).unflatten(0, latents.shape[:2])
        if output_type == "pt":
            return VLFMPipelineOutput(frames=frames, times=times, fps=fps)
        array = frames.movedim(2, -1).cpu().numpy()
        if output_type == "np":
            return VLFMPipelineOutput(frames=array, times=times, fps=fps)
        pixels = (array * 255).round().astype(np.uint8)
        pictures = [[Image.fromarray(frame) for frame in video] for video in pixels]
        return VLFMPipelineOutput(frames=pictures, times=times, fps=fps)

    @cached_property
    def _likeness(self) -> Likeness:
        return Likeness.of(self.encoder)

    def _nearest(self, embedded: CaptionEmbeddings) -> list[tuple[float, str]]:
        asked = mean_embedding(embedded.tokens, embedded.mask).cpu()
        similarity = self._likeness.similarity(asked, self.captions.embeddings)
        best, index = similarity.max(1)
        return [(value, self.captions.captions[at]) for value, at in zip(best.tolist(), index.tolist(), strict=True)]

    def _warn_of_unlike(self, prompts: list[str], embedded: CaptionEmbeddings) -> None:
        if self.captions is None:
            return
        known = self.captions
        none = "no training caption" if known.complete else f"none of {len(known.captions)} training captions"
        for prompt, (similarity, nearest) in zip(prompts, self._nearest(embedded), strict=True):
            learnt = not prompt and self.flow.empty_caption is not None  # by training.caption_dropout
            if similarity < self._likeness.threshold and not learnt:
                warnings.warn(
                    f'{none} is like "{_shortened(prompt)}" (nearest, similarity {similarity:.2f}: '
                    f'"{_shortened(nearest)}"); the model may show something else',
                    UnlikeCaptionWarning,
                    stacklevel=4,
                )

    def _clip_length(self, duration: float | None) -> float | None:
        """The shortest T that the model was trained on and that lasts for `duration` seconds."""
        if duration is None:
            return None
        longest = max(self.flow.durations)
        if not 0 < duration <= longest + 1e-6:
            raise VLFMError(
                f"the model was trained on clips of up to {longest:g} s and makes none of {duration:g} s; ask for "
                f"up to {longest:g} s, and let the video go on with `vlfm extrapolate VIDEO --seconds S`"
            )
        return min(known for known in self.flow.durations if known >= duration - 1e-6)

    def _latent_shape(self, height: int | None, width: int | None) -> tuple[int, int, int]:
        own = self.config.clips.sizes[0]
        height, width = height or own[0], width or own[1]
        shape = self.decoder.latent_shape(height, width)
        patch = self.flow.transformer.config.patch
        if shape[1] % patch or shape[2] % patch:
            raise VLFMError(
                f"frames of {width}×{height} pixels have latents of {shape[1]}×{shape[2]} positions, of which the "
                f"network takes {patch}×{patch} at once; choose sides that make both multiples of {patch}"
            )
        return shape

    def _copy_parts(self, folder: Path, ours: dict[str, Any]) -> dict[str, Any]:
        """Copy what was found elsewhere into the folder, and say where it now lies.

        Args:
            ours: what this pipeline's own folder says of itself.
        """
        copies = {}
        source = _decoder_source(self.config, self.folder, ours)
        if source is not None:
            model, vae, parts = source
            for part in parts:
                _copy_part(model, folder / "decoder" / "model", part)
            if vae is not None:
                _copy_part(vae, folder / "decoder" / "vae", "")
            copies["decoder"] = {"vae": vae is not None, "parts": list(parts)}
        for part in dict.fromkeys(self.encoder.parts):
            _copy_part(self.encoder.folder, folder / "caption_encoder", part)
        copies["caption_encoder"] = {"parts": list(self.encoder.parts)}
        return copies


def write_pipeline(
    folder: Path | str,
    flow: FlowModel,
    config: configs.Config,
    decoder: Path,
    caption_encoder: str | None = None,
    captions: TrainingCaptions | None = None,
) -> None:
    """Write the folder of a trained model: `transformer/`, `flow.json`, `decoder/`, `pipeline.json` and, if they are
    given, the captions of its training.

    Args:
        decoder: the folder that `vlfm prepare-decoder` wrote, copied whole: an embedded decoder, or a note of where
            another one was found.
        caption_encoder: its fingerprint; by default of the one that the configuration names.

    Raises:
        VLFMError: if there is no such decoder, or the caption encoder is not to be found.
    """
    folder = Path(folder)
    flow.save_pretrained(folder)
    about = read_json(decoder / "decoder.json")
    if decoder.resolve() != (folder / "decoder").resolve():
        shutil.rmtree(folder / "decoder", ignore_errors=True)
        (folder / "decoder").mkdir(parents=True)
        shutil.copyfile(decoder / "decoder.json", folder / "decoder" / "decoder.json")
        if about["name"] == "embedded":
            for part in EMBEDDED:
                _copy_part(decoder, folder / "decoder", part)
    if captions is None:
        (folder / TRAINING_CAPTIONS).unlink(missing_ok=True)
    else:
        captions.save(folder)
    weights = fingerprint_folder(folder / "decoder", EMBEDDED) if about["name"] == "embedded" else about["fingerprint"]
    write_json(
        folder / "pipeline.json",
        {
            "config": config.model_dump(mode="json"),
            "decoder": weights,
            "caption_encoder": caption_encoder or caption_encoder_fingerprint(config),
            "copies": {},
        },
    )


def _shortened(caption: str) -> str:
    """A caption on one line, its end left out if it is long."""
    return textwrap.shorten(caption, 100, placeholder=" …")


def _times(num_frames: int | None, fps: float | None, duration: float, own: float) -> tuple[np.ndarray, float]:
    """When frames of a video of `duration` seconds are shown, (K,) seconds, and how many a second."""
    if num_frames is not None and fps is not None:
        raise VLFMError("give num_frames or fps: with the clip's duration, one says the other")
    if num_frames is not None:
        if num_frames < 1 or int(num_frames) != num_frames:
            raise VLFMError(f"num_frames must be a whole number from 1 up; it is {num_frames}")
        return np.arange(1, int(num_frames) + 1) * (duration / num_frames), num_frames / duration
    fps = own if fps is None else fps
    count = int(duration * fps + 1e-6) if 0 < fps < math.inf else 0
    if not count:
        raise VLFMError(
            f"a clip of {duration:g} s has no frame at {fps:g} frames a second; its rate is {1 / duration:g} or more"
        )
    return np.arange(1, count + 1) / fps, fps


def _decoder_source(
    config: configs.Config, folder: Path, about: dict[str, Any]
) -> tuple[Path, Path | None, tuple[str, ...]] | None:
    """Where a decoder lies that is not embedded: its folder, its autoencoder's, and the parts of the first in use."""
    if config.decoder.name == "embedded":
        return None
    if copied := about["copies"].get("decoder"):
        vae = folder / "decoder" / "vae" if copied["vae"] else None
        return folder / "decoder" / "model", vae, tuple(copied["parts"])
    found = read_json(folder / "decoder" / "decoder.json")
    places = [Path(place) for place in (found["model"], found["vae"]) if place]
    if all(place.is_dir() for place in places):
        return places[0], places[1] if found["vae"] else None, tuple(found["parts"])
    # Trained on another machine: look for the same model on this one.
    return locate_decoder(config.decoder)


def _read_decoder(config: configs.Config, folder: Path, about: dict[str, Any], device: torch.device) -> VisualDecoder:
    source = _decoder_source(config, folder, about)
    if source is None:
        found = fingerprint_folder(folder / "decoder", EMBEDDED)
        remedy = "Copy the folder again from where it was trained, or train again."
        check_fingerprint(found, about["decoder"], folder / "decoder", remedy)
        return load_decoder(config, folder / "decoder", device)
    model, vae, parts = source
    remedy = f"The model needs the weights of {config.decoder.model} that it was trained with; fetch those."
    check_fingerprint(decoder_fingerprint(config.decoder.name, model, vae, parts), about["decoder"], model, remedy)
    return open_decoder(config, model, vae, parts, device)


def _read_encoder(config: configs.Config, folder: Path, about: dict[str, Any], device: torch.device) -> CaptionEncoder:
    if copied := about["copies"].get("caption_encoder"):
        encoder = CaptionEncoder(folder / "caption_encoder", config.text.max_tokens, tuple(copied["parts"]), device)
    else:
        encoder = load_caption_encoder(config, device)
    remedy = f"The model needs the caption encoder {config.text.encoder} that it was trained with; fetch that."
    check_fingerprint(encoder.fingerprint, about["caption_encoder"], encoder.folder, remedy)
    return encoder


def _copy_part(source: Path, target: Path, part: str) -> None:
    """Copy the files of a part that are read; of a part that is not there, nothing."""
    for file in files(source, part):
        (target / part).mkdir(parents=True, exist_ok=True)
        if file.resolve() != (target / part / file.name).resolve():
            shutil.copyfile(file, target / part / file.name)

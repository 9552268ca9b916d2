"""Training the embedded visual decoder on the clips' own frames."""

import hashlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from vlfm import config as configs
from vlfm.clips.shards import read_clips, read_ids
from vlfm.decoders.embedded import Autoencoder, EmbeddedDecoder, new_scheduler, new_unet
from vlfm.decoders.lapped_autoencoder import LappedAutoencoder
from vlfm.decoders.patch_autoencoder import PatchAutoencoder
from vlfm.errors import VLFMError
from vlfm.frames import psnr, to_tensor
from vlfm.learning_rate import warmup_cosine
from vlfm.precision import network_dtype
from vlfm.progress import progress
from vlfm.storage.checkpoints import copied, load_state, save_state
from vlfm.storage.files import write_json
from vlfm.storage.fingerprints import fingerprint
from vlfm.words import plural

if TYPE_CHECKING:
    from diffusers import UNet2DModel

# Enough to fit a basis of a hundred numbers and a small network: of a larger data set the first clips of each size.
MAX_FRAMES = 20_000
CHUNK = 256  # frames that are encoded or decoded at once
WARMUP = 50  # steps
NOISE = 0.05  # added to the latents that the autoencoder is trained on: what draws them later is not exact either

Size = tuple[int, int]
FramesBySize = dict[Size, torch.Tensor]
# The loss of a step, given the step and its random numbers.
Loss = Callable[[int, torch.Generator], torch.Tensor]


def fit_decoder(
    config: configs.Config,
    shards: list[Path],
    output: Path,
    device: torch.device,
    every: int = 100,
    autoencoder: Autoencoder | None = None,
) -> None:
    """Fit the autoencoder, in closed form and then by training, and train the noise predictor (not at depth 0).

    `output/decoder.json` is written last: its fingerprint, and on the clips held out the PSNR and how far a grid shows.
    Progress is saved every `every` steps beside `output`, so that a killed run goes on where it was. Frames may be of
    several sizes: a step of training sees one.

    Args:
        autoencoder: one that was fitted to these frames with these settings; by default it is fitted here.

    Raises:
        VLFMError: if there are too few clips to hold one out.
    """
    settings = config.decoder.embedded
    training, held_out, digest = _frames(shards, settings.holdout, config.seed)
    # What lies in the frames, not what was meant to: the rate, the codec and the sources may all have changed.
    made_of = configs.settings(config, "decoder.embedded", "seed", "clips.size")
    # `auto` is not the same everywhere, and other products give another decoder.
    dtype = str(network_dtype(settings.autoencoder.precision, device)) if settings.autoencoder.steps else None
    identity = fingerprint({**made_of, "dtype": dtype, "frames": digest})
    states = {
        part: output.parent / f".{output.name}.partial-{part}-{identity}.safetensors"
        for part in ("autoencoder", "unet")
    }
    if autoencoder is None:
        autoencoder = PatchAutoencoder.fit(list(training.values()), settings.patch, settings.channels).to(device)
        if settings.autoencoder.steps:
            autoencoder = _train_autoencoder(config, autoencoder, training, states["autoencoder"], every)
    scores, borders = _scores(autoencoder, held_out, settings.patch)
    score = scores.mean().item()

    unet = None
    if config.predictor_steps:
        unet = _train_unet(config, _encoded(autoencoder, training), states["unet"], every)
    decoder = EmbeddedDecoder(autoencoder, unet, new_scheduler(), depth=config.inversion.depth)
    decoder.save_pretrained(output)
    write_json(
        output / "decoder.json",
        {
            "fingerprint": identity,
            "name": "embedded",
            "shape": decoder.latent_shape(*config.clips.sizes[0]),
            "held_out_psnr": score,
            "held_out_borders": borders,
            "held_out_frames": len(scores),
            "training_frames": sum(map(len, training.values())),
            "dtype": dtype,
            "settings": configs.settings(config, "decoder.embedded"),
        },
    )
    for state in states.values():
        state.unlink(missing_ok=True)
    print(
        f"autoencoder: {score:.2f} dB on {len(scores)} held-out frames; steps across the borders of patches are "
        f"{borders:.2f} times those of the true frames"
    )


@torch.no_grad()
def _scores(autoencoder: Autoencoder, frames: FramesBySize, patch: int) -> tuple[torch.Tensor, float]:
    """PSNR of each frame in dB; and the mean difference of neighbouring pixels across the borders of patches, relative
    to the true frames': above 1 where a grid shows."""
    scores, found, true = [], 0.0, 0.0
    for part in frames.values():
        for chunk in part.split(CHUNK):
            made = autoencoder.decode(autoencoder.encode(chunk.to(autoencoder.device))).clamp(-1, 1).cpu()
            scores.append(psnr(made, chunk))
            found, true = found + _across(made, patch), true + _across(chunk, patch)
    return torch.cat(scores), found / true if true else 1.0


def _across(frames: torch.Tensor, patch: int) -> float:
    """The sum of differences between the pixels on both sides of the borders of patches."""
    down = frames[..., patch::patch, :] - frames[..., patch - 1 : -1 : patch, :]
    right = frames[..., patch::patch] - frames[..., patch - 1 : -1 : patch]
    return down.abs().sum().item() + right.abs().sum().item()


def _frames(shards: list[Path], holdout: float, seed: int) -> tuple[FramesBySize, FramesBySize, str]:
    """Frames (B, 3, H, W) in [−1, 1] of the clips to train on and of those held out, whole clips each, by (H, W).

    Also the SHA-256 of these frames as they were stored, in the order they are taken.
    """
    counts = [len(read_ids(path)) for path in shards]
    total = sum(counts)
    if total < 2:
        raise VLFMError(f"{plural(total, 'clip')} cannot train a decoder and be held out as well; give at least 2")
    sizes: list[Size | None] = []
    available: Counter[Size] = Counter()
    for path, count in zip(shards, counts, strict=True):
        first = next(read_clips(path), None)
        sizes.append(first and first.frames.shape[1:3])
        if first is not None:
            available[first.frames.shape[1:3]] += count * len(first.frames)
    # Each size gets its share, or the first shards would fill the whole.
    most = {size: MAX_FRAMES * frames / available.total() for size, frames in available.items()}
    order = np.random.default_rng(seed).permutation(total)
    held = set(order[: min(total - 1, max(1, round(holdout * total)))].tolist())
    parts: dict[bool, dict[Size, list[torch.Tensor]]] = {False: {}, True: {}}  # held out or not
    taken: Counter[tuple[bool, Size]] = Counter()
    digest = hashlib.sha256()
    position = 0
    for path, count, size in zip(shards, counts, sizes, strict=True):
        for place, clip in enumerate(read_clips(path), position):
            if all(taken[out, size] >= most[size] for out in parts):
                break  # of a million clips most are never looked at
            out = place in held
            if taken[out, size] < most[size]:
                digest.update(f"{clip.frames.shape} {out}\n".encode())
                digest.update(clip.frames.data)
                parts[out].setdefault(size, []).append(to_tensor(clip.frames))
                taken[out, size] += len(clip.frames)
        position += count
    return _joined(parts[False]), _joined(parts[True]), digest.hexdigest()


def _joined(frames: dict[Size, list[torch.Tensor]]) -> FramesBySize:
    return {size: torch.cat(parts) for size, parts in frames.items()}


@torch.no_grad()
def _encoded(autoencoder: Autoencoder, frames: FramesBySize) -> list[torch.Tensor]:
    """The latents of the frames, (B, C, h, w) for each size."""
    device = autoencoder.device
    return [
        torch.cat([autoencoder.encode(chunk.to(device)) for chunk in part.split(CHUNK)]) for part in frames.values()
    ]


def _train_autoencoder(
    config: configs.Config, patches: PatchAutoencoder, frames: FramesBySize, state: Path, every: int
) -> LappedAutoencoder:
    """A lapped autoencoder that starts as `patches` does, trained on the frames' squared error.

    A step sees frames of one size, cut at a place of its own, so that patches lie everywhere; half of them mirrored.
    """
    settings = config.decoder.embedded
    about = settings.autoencoder
    torch.manual_seed(config.seed)
    model = LappedAutoencoder.of_patches(patches, about.width, about.blocks).to(patches.device)
    parts = list(frames.values())
    device, dtype = model.device, network_dtype(about.precision, model.device)

    def loss(step: int, generator: torch.Generator) -> torch.Tensor:
        chosen = _batch(parts, about.batch_size, generator)
        height, width = (side - settings.patch for side in chosen.shape[-2:])
        top, left = torch.randint(settings.patch + 1, (2,), generator=generator).tolist()
        if height and width:
            chosen = chosen[..., top : top + height, left : left + width]
        mirrored = torch.rand(len(chosen), generator=generator) < 0.5
        chosen = torch.where(mirrored[:, None, None, None], chosen.flip(3), chosen).to(device)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            latents = model.encode(chosen)
            noise = torch.randn(latents.shape, generator=generator).to(latents)
            decoded = model.decode(latents + NOISE * noise)
        return functional.mse_loss(decoded.float(), chosen)

    _optimise(model, loss, about.steps, about.learning_rate, config.seed, state, every, "autoencoder")
    model.normalise(parts)
    return model


def _train_unet(config: configs.Config, latents: list[torch.Tensor], state: Path, every: int) -> "UNet2DModel":
    """The noise predictor, trained with the plain DDPM objective.

    Args:
        latents: (B, C, h, w) for each size.
    """
    settings = config.decoder.embedded
    device = latents[0].device
    torch.manual_seed(config.seed)
    positions = max(max(part.shape[-2:]) for part in latents)
    unet = new_unet(settings.channels, positions, settings.unet_channels).to(device)
    scheduler = new_scheduler()

    def loss(step: int, generator: torch.Generator) -> torch.Tensor:
        clean = _batch(latents, settings.batch_size, generator)
        noise = torch.randn(clean.shape, generator=generator).to(device)
        times = torch.randint(scheduler.config.num_train_timesteps, (len(clean),), generator=generator)
        times = times.to(device)
        return functional.mse_loss(unet(scheduler.add_noise(clean, noise, times), times).sample, noise)

    _optimise(unet, loss, settings.steps, settings.learning_rate, config.seed, state, every, "noise predictor")
    return unet


def _batch(parts: list[torch.Tensor], size: int, generator: torch.Generator) -> torch.Tensor:
    """`size` rows of one of the tensors, which is chosen in proportion to its length."""
    shares = torch.tensor([float(len(part)) for part in parts])
    # Nothing is drawn where there is no choice.
    part = parts[int(torch.multinomial(shares, 1, generator=generator)) if len(parts) > 1 else 0]
    return part[torch.randint(len(part), (size,), generator=generator).to(part.device)]


def _optimise(
    model: torch.nn.Module,
    loss_of: Loss,
    steps: int,
    learning_rate: float,
    seed: int,
    state: Path,
    every: int,
    what: str,
) -> None:
    """AdamW with warm-up and cosine decay; goes on exactly from `state`, which is written every `every` steps."""
    optimizer = torch.optim.AdamW(model.parameters(), learning_rate, weight_decay=0.01)
    scale = torch.optim.lr_scheduler.LambdaLR(optimizer, warmup_cosine(steps, WARMUP))
    start = 0
    if state.exists():
        saved = load_state(state)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        scale.load_state_dict(saved["scale"])
        start = saved["step"]
    model.train()
    bar = progress(range(start, steps), what=what, unit="step")
    for step in bar:
        loss = loss_of(step, torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scale.step()
        if (step + 1) % every == 0:
            bar.set_postfix(loss=f"{loss.item():.3g}")
            now = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "scale": scale.state_dict(),
                "step": step + 1,
            }
            save_state(state, copied(now, "cpu"))
    model.eval().requires_grad_(False)

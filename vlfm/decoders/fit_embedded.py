"""Training the embedded visual decoder on the clips' own frames."""

import hashlib
import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from vlfm import config as configs
from vlfm.clips.shards import read_clips, read_ids
from vlfm.decoders.embedded import EmbeddedDecoder, new_scheduler, new_unet
from vlfm.decoders.patch_autoencoder import PatchAutoencoder
from vlfm.errors import VLFMError
from vlfm.frames import psnr, to_tensor
from vlfm.learning_rate import warmup_cosine
from vlfm.progress import progress
from vlfm.storage.checkpoints import load_state, save_state
from vlfm.storage.files import write_json
from vlfm.storage.fingerprints import fingerprint
from vlfm.words import plural

# Enough to fit a basis of a hundred numbers and a small network; a larger data set is sampled, not loaded.
MAX_FRAMES = 20_000
WARMUP = 50  # steps

Size = tuple[int, int]
FramesBySize = dict[Size, torch.Tensor]


def fit_decoder(
    config: configs.Config, shards: list[Path], output: Path, device: torch.device, every: int = 100
) -> None:
    """Fit the autoencoder in closed form, train the noise predictor (not at depth 0), write to the folder `output`.

    `output/decoder.json` is written last: its fingerprint, and PSNR on the clips held out. Progress is saved
    every `every` steps beside `output`, so that a killed run goes on where it was. Frames may be of several sizes:
    the autoencoder sees the patches of all, the noise predictor one size a step.

    Raises:
        VLFMError: if there are too few clips to hold one out.
    """
    settings = config.decoder.embedded
    training, held_out, digest = _frames(shards, settings.holdout, config.seed)
    # What lies in the frames, not what was meant to: the rate, the codec and the sources may all have changed.
    identity = fingerprint({**configs.settings(config, "decoder.embedded", "seed", "clips.size"), "frames": digest})
    autoencoder = PatchAutoencoder.fit(list(training.values()), settings.patch, settings.channels).to(device)
    with torch.no_grad():
        scores = [
            psnr(autoencoder.decode(autoencoder.encode(frames.to(device))).clamp(-1, 1).cpu(), frames)
            for frames in held_out.values()
        ]
    scores = torch.cat(scores)
    score = scores.mean().item()

    state = output.parent / f".{output.name}.partial-{identity}.safetensors"
    unet = _train(config, _encoded(autoencoder, training), state, every) if config.predictor_steps else None
    decoder = EmbeddedDecoder(autoencoder, unet, new_scheduler(), depth=config.inversion.depth)
    decoder.save_pretrained(output)
    write_json(
        output / "decoder.json",
        {
            "fingerprint": identity,
            "name": "embedded",
            "shape": decoder.latent_shape(*config.clips.sizes[0]),
            "held_out_psnr": score,
            "held_out_frames": len(scores),
            "training_frames": sum(map(len, training.values())),
            "settings": configs.settings(config, "decoder.embedded"),
        },
    )
    state.unlink(missing_ok=True)
    print(f"autoencoder: {score:.2f} dB on {len(scores)} held-out frames")


def _frames(shards: list[Path], holdout: float, seed: int) -> tuple[FramesBySize, FramesBySize, str]:
    """Frames (B, 3, H, W) in [−1, 1] of the clips to train on and of those held out, whole clips each, by (H, W).

    Also the SHA-256 of these frames as they were stored, in the order they are taken.
    """
    counts = [len(read_ids(path)) for path in shards]
    total = sum(counts)
    if total < 2:
        raise VLFMError(f"{plural(total, 'clip')} cannot train a decoder and be held out as well; give at least 2")
    available: Counter[Size] = Counter()
    for path, count in zip(shards, counts, strict=True):
        for clip in itertools.islice(read_clips(path), 1):
            available[clip.frames.shape[1:3]] += count * len(clip.frames)
    # Each size gets its share, or the first shards would fill the whole.
    most = {size: MAX_FRAMES * frames / available.total() for size, frames in available.items()}
    order = np.random.default_rng(seed).permutation(total)
    held = set(order[: max(1, round(holdout * total))].tolist())
    training: dict[Size, list[torch.Tensor]] = {}
    held_out: dict[Size, list[torch.Tensor]] = {}
    position = 0
    digest = hashlib.sha256()
    for path in shards:
        for clip in read_clips(path):
            size = clip.frames.shape[1:3]
            out = position in held
            kept = (held_out if out else training).setdefault(size, [])
            position += 1
            if sum(map(len, kept)) < most[size]:
                digest.update(f"{clip.frames.shape} {out}\n".encode())
                digest.update(clip.frames.data)
                kept.append(to_tensor(clip.frames))
    return _joined(training), _joined(held_out), digest.hexdigest()


def _joined(frames: dict[Size, list[torch.Tensor]]) -> FramesBySize:
    return {size: torch.cat(parts) for size, parts in frames.items()}


@torch.no_grad()
def _encoded(autoencoder: PatchAutoencoder, frames: FramesBySize) -> list[torch.Tensor]:
    """The latents of the frames, (B, C, h, w) for each size."""
    device = autoencoder.device
    return [torch.cat([autoencoder.encode(chunk.to(device)) for chunk in part.split(256)]) for part in frames.values()]


def _train(config: configs.Config, latents: list[torch.Tensor], state: Path, every: int):
    """The noise predictor, trained with the plain DDPM objective; resumes exactly from `state`.

    Args:
        latents: (B, C, h, w) for each size; a step takes its batch from one, chosen in proportion to B.
    """
    settings = config.decoder.embedded
    device = latents[0].device
    shares = torch.tensor([float(len(part)) for part in latents])
    torch.manual_seed(config.seed)
    positions = max(max(part.shape[-2:]) for part in latents)
    unet = new_unet(settings.channels, positions, settings.unet_channels).to(device)
    scheduler = new_scheduler()
    optimizer = torch.optim.AdamW(unet.parameters(), settings.learning_rate, weight_decay=0.01)
    scale = torch.optim.lr_scheduler.LambdaLR(optimizer, warmup_cosine(settings.steps, WARMUP))
    start = 0
    if state.exists():
        saved = load_state(state)
        unet.load_state_dict(saved["unet"])
        optimizer.load_state_dict(saved["optimizer"])
        scale.load_state_dict(saved["scale"])
        start = saved["step"]
    unet.train()
    bar = progress(range(start, settings.steps), what="noise predictor", unit="step")
    for step in bar:
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        # Nothing is drawn where there is no choice.
        part = latents[int(torch.multinomial(shares, 1, generator=generator)) if len(latents) > 1 else 0]
        chosen = torch.randint(len(part), (settings.batch_size,), generator=generator)
        clean = part[chosen.to(device)]
        noise = torch.randn(clean.shape, generator=generator).to(device)
        times = torch.randint(scheduler.config.num_train_timesteps, (len(clean),), generator=generator)
        times = times.to(device)
        prediction = unet(scheduler.add_noise(clean, noise, times), times).sample
        loss = functional.mse_loss(prediction, noise)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        scale.step()
        if (step + 1) % every == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}")
            save_state(
                state,
                {
                    "unet": unet.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "scale": scale.state_dict(),
                    "step": step + 1,
                },
            )
    return unet

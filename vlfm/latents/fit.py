"""Training the embedded visual decoder on the clips' own frames."""

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from vlfm import config as configs
from vlfm.artifacts import fingerprint, progress, write_json
from vlfm.checkpoints import load_state, save_state
from vlfm.clips.shards import read_clips
from vlfm.errors import VLFMError
from vlfm.latents.embedded import EmbeddedDecoder, new_scheduler, new_unet
from vlfm.latents.frames import psnr, to_tensor
from vlfm.latents.patch import PatchAutoencoder
from vlfm.learning_rate import warmup_cosine

# Enough to fit a basis of a hundred numbers and a small network; a larger data set is sampled, not loaded.
MAX_FRAMES = 20_000
WARMUP = 50  # steps


def fit_decoder(
    config: configs.Config, shards: list[Path], output: Path, device: torch.device, every: int = 100
) -> None:
    """Fit the autoencoder in closed form, train the noise predictor, write both to the folder `output`.

    `output/decoder.json` is written last: its fingerprint, and PSNR on the clips held out. Progress is saved
    every `every` steps beside `output`, so that a killed run goes on where it was.

    Raises:
        VLFMError: if there are too few clips to hold one out.
    """
    identity = fingerprint(
        {
            **configs.settings(config, "decoder.embedded", "seed", "clips.size"),
            "shards": [path.name for path in shards],
            "clips": [clip.clip_id for path in shards for clip in read_clips(path)],
        }
    )
    settings = config.decoder.embedded
    training, held_out = _frames(shards, settings.holdout, config.seed)
    autoencoder = PatchAutoencoder.fit(training, settings.patch, settings.channels).to(device)
    with torch.no_grad():
        latents = torch.cat([autoencoder.encode(chunk.to(device)) for chunk in training.split(256)])
        decoded = autoencoder.decode(autoencoder.encode(held_out.to(device))).clamp(-1, 1).cpu()
    score = psnr(decoded, held_out).mean().item()

    state = output.parent / f".{output.name}.partial-{identity}.safetensors"
    unet = _train(config, latents, state, every)
    decoder = EmbeddedDecoder(autoencoder, unet, new_scheduler())
    decoder.save_pretrained(output)
    write_json(
        output / "decoder.json",
        {
            "fingerprint": identity,
            "name": "embedded",
            "shape": decoder.latent_shape(config.clips.size, config.clips.size),
            "held_out_psnr": score,
            "held_out_frames": len(held_out),
            "training_frames": len(training),
            "settings": configs.settings(config, "decoder.embedded"),
        },
    )
    state.unlink(missing_ok=True)
    print(f"autoencoder: {score:.2f} dB on {len(held_out)} held-out frames")


def _frames(shards: list[Path], holdout: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames (B, 3, H, W) in [−1, 1] of the clips to train on and of those held out, whole clips each."""
    total = sum(1 for path in shards for _ in read_clips(path))
    if total < 2:
        raise VLFMError(f"{total} clips are too few to train a decoder and hold one out; give at least 2")
    order = np.random.default_rng(seed).permutation(total)
    held = set(order[: max(1, round(holdout * total))].tolist())
    training: list[torch.Tensor] = []
    held_out: list[torch.Tensor] = []
    position = 0
    for path in shards:
        for clip in read_clips(path):
            bucket = held_out if position in held else training
            position += 1
            if sum(map(len, bucket)) < MAX_FRAMES:
                bucket.append(to_tensor(clip.frames))
    return torch.cat(training), torch.cat(held_out)


def _train(config: configs.Config, latents: torch.Tensor, state: Path, every: int):
    """The noise predictor, trained with the plain DDPM objective; resumes exactly from `state`."""
    settings = config.decoder.embedded
    device = latents.device
    torch.manual_seed(config.seed)
    unet = new_unet(settings.channels, latents.shape[-1], settings.unet_channels).to(device)
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
        chosen = torch.randint(len(latents), (settings.batch_size,), generator=generator)
        clean = latents[chosen.to(device)]
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

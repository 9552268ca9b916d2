import numpy as np
import pytest
import torch

from tests.evaluation.generation.conftest import FPS, draw, some_clips
from vlfm.clips.moving_digits.language import MovingDigit, caption_of, parse_caption
from vlfm.decoders.patch_autoencoder import PatchAutoencoder
from vlfm.errors import VLFMError
from vlfm.evaluation.generation import digits
from vlfm.evaluation.generation.digits import DigitJudge
from vlfm.frames import to_tensor, to_uint8


@pytest.fixture(scope="module")
def judge():
    """Trained on both kinds of clips, in fewer steps: a font has one shape a digit."""
    alone, captions = some_clips(120, seed=0)
    pairs, more = some_clips(60, seed=1, count=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digits, "STEPS", 200)
        patch.setattr(digits, "BATCH", 48)
        return DigitJudge.fit(np.concatenate([alone, pairs]), captions + more, seed=0)


def test_one_digit_is_read_from_new_clips(judge):
    clips, captions = some_clips(80, seed=2)
    scores = judge.scores(clips, captions, FPS)
    assert scores.shape == (80, 4) and scores.dtype == bool
    assert scores[:, 0].mean() >= 0.97 and scores[:, 1:].all()
    assert judge.read(clips[:1], FPS, 1)[0] == parse_caption(captions[0])


def test_two_digits_are_told_apart_by_colour(judge):
    clips, captions = some_clips(60, seed=3, count=2, side=48, height=20)
    scores = judge.scores(clips, captions, FPS)
    # Where one hides the other all the time, no motion can be measured.
    assert scores[:, 0].mean() >= 0.85 and scores[:, 1:].mean() >= 0.95
    # The order in which a caption names them does not matter.
    swapped = [" and ".join(reversed(caption.split(" and "))) for caption in captions]
    assert (judge.scores(clips, swapped, FPS) == scores).all()


def test_the_reading_survives_an_autoencoder_and_noise(judge):
    clips, captions = some_clips(60, seed=4)
    frames = to_tensor(clips).flatten(0, 1)
    autoencoder = PatchAutoencoder.fit(frames, patch=8, channels=24)
    passed = to_uint8(autoencoder.decode(autoencoder.encode(frames)).clamp(-1, 1)).reshape(clips.shape)
    noise = np.random.default_rng(0).normal(0, 8, clips.shape)
    for changed in (passed, (clips + noise).clip(0, 255).astype(np.uint8)):
        scores = judge.scores(changed, captions, FPS)
        assert scores[:, 0].mean() >= 0.9 and scores[:, 1:].mean() >= 0.99


def test_each_wrong_word_is_found_and_no_other(judge):
    shown = MovingDigit(4, "green", "left", "quickly")
    clip = draw([shown], np.random.default_rng(0))[None]
    told = {
        0: MovingDigit(7, "green", "left", "quickly"),
        1: MovingDigit(4, "blue", "left", "quickly"),
        2: MovingDigit(4, "green", "up", "quickly"),
        3: MovingDigit(4, "green", "left", "slowly"),
    }
    assert judge.scores(clip, [caption_of([shown])], FPS).all()
    for wrong, digit in told.items():
        expected = [index != wrong for index in range(4)]
        assert judge.scores(clip, [caption_of([digit])], FPS)[0].tolist() == expected
    # Half as many frames a second are half the speed.
    assert judge.read(clip, FPS / 2, 1)[0][0].speed == "slowly"


def test_what_stands_still_or_is_not_there(judge):
    still = np.repeat(draw([MovingDigit(3, "red", "up", "slowly")], np.random.default_rng(0))[:1], 8, 0)
    seen = judge.read(still[None], FPS, 1)[0][0]
    assert (seen.colour, seen.direction, seen.speed) == ("red", "", "")
    assert judge.read(still[None, :1], FPS, 1)[0][0].direction == ""
    empty = np.full((1, 8, 32, 32, 3), 12, np.uint8)
    assert judge.read(empty, FPS, 1) == judge.read(empty, FPS, 2) == [()]
    assert not judge.scores(empty, ["a red two moves left slowly"], FPS).any()
    # One digit where two are told of.
    assert len(judge.read(still[None], FPS, 2)[0]) == 1
    both = "a red three moves up slowly and a blue two moves left slowly"
    assert not judge.scores(still[None], [both], FPS).any()


def test_the_judge_is_the_same_from_the_same_seed_and_from_its_folder(judge, tmp_path, monkeypatch):
    clips, captions = some_clips(20, seed=5)
    monkeypatch.setattr(digits, "STEPS", 3)
    torch.manual_seed(1)
    first = DigitJudge.fit(clips, captions, seed=0)
    torch.manual_seed(2)
    again, other = DigitJudge.fit(clips, captions, seed=0), DigitJudge.fit(clips, captions, seed=1)
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert all(map(torch.equal, first._network.parameters(), again._network.parameters()))
    judge.save(tmp_path / "judge")
    loaded = DigitJudge.load(tmp_path / "judge")
    assert loaded.fingerprint == judge.fingerprint and loaded.read(clips, FPS, 1) == judge.read(clips, FPS, 1)


def test_other_captions_are_refused(judge):
    clips, captions = some_clips(2, seed=6)
    with pytest.raises(VLFMError, match="reads no other captions: 'a dog' does not tell of moving digits"):
        judge.scores(clips, [captions[0], "a dog"], FPS)
    with pytest.raises(VLFMError, match="2 clips of moving digits with 1 caption"):
        DigitJudge.fit(clips, captions[:1], seed=0)

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.evaluation.generation.conftest import draw, some_digits
from vlfm.errors import VLFMError
from vlfm.evaluation.generation import copying
from vlfm.evaluation.generation.copying import TrainingClips, nearest_training, pixel_vectors


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(2, 17), st.integers(1, 4), st.floats(-100, 100))
def test_the_nearest_against_all_distances(seed, ours, theirs, dims, shift):
    random = np.random.default_rng(seed)
    generated, training = random.normal(size=(ours, dims)), random.normal(size=(theirs, dims))
    table = np.linalg.norm(generated[:, None] - training, axis=-1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(copying, "CHUNK", 5)
        distance, index = nearest_training(generated, training)
        assert (index == table.argmin(1)).all() and distance == pytest.approx(table.min(1), rel=1e-9)
        moved, _ = nearest_training(generated + shift, training + shift)
        assert moved == pytest.approx(distance, rel=1e-6, abs=1e-6)


def test_a_copy_is_at_distance_zero_however_long_the_vectors():
    training = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32) + 1000
    distance, index = nearest_training(training[[7, 3]], training)
    assert distance.tolist() == [0, 0] and index.tolist() == [7, 3]


def test_nothing_to_be_near_to_is_refused():
    with pytest.raises(VLFMError, match=r"\(2, 3\) generated and \(0, 3\) training"):
        nearest_training(np.zeros((2, 3)), np.zeros((0, 3)))
    with pytest.raises(VLFMError, match=r"\(2, 3\) generated and \(4, 5\) training"):
        nearest_training(np.zeros((2, 3)), np.zeros((4, 5)))
    with pytest.raises(VLFMError, match="1 training clips with 1 captions"):
        TrainingClips.of(np.zeros((1, 3)), ["a"])


def test_copies_beside_what_is_usual():
    training = np.array([[0.0], [4], [10], [16], [100]])
    usual = TrainingClips.of(training, ["a", "a", "b", "b", "c"])
    found = usual.compare(np.array([[0.0], [5.5], [95]]))
    assert found.distance.tolist() == [0, 1.5, 5] and found.index.tolist() == [0, 1, 4]
    assert found.typical == 5 and found.copied.tolist() == [1, 1, 0]
    between = usual.compare(np.array([[7.0]]))
    assert between.distance.tolist() == [3] and between.copied.tolist() == [0]
    # One clip a caption: nothing says what is usual between two.
    alone = TrainingClips.of(training, range(5)).compare(np.array([[0.0]]))
    assert np.isnan(alone.typical) and alone.copied.tolist() == [0]


def test_pixels_are_rms_differences_in_grey_levels_of_clips_of_any_size():
    clip = np.full((5, 20, 30, 3), 100, np.uint8)
    darker = np.full((9, 64, 64, 3), 93, np.uint8)
    vectors = pixel_vectors([clip, darker])
    assert vectors.shape == (2, 6 * 3 * 16 * 16)
    assert np.linalg.norm(vectors[0] - vectors[1]) == pytest.approx(7, rel=1e-4)
    # Nothing stands out, nothing is moved.
    assert pixel_vectors([clip, darker], aligned=True) == pytest.approx(vectors)
    assert pixel_vectors([]).shape == (0, 6 * 3 * 16 * 16)


def test_a_clip_that_was_only_moved_is_a_copy_where_clips_are_aligned():
    random = np.random.default_rng(0)
    digits = some_digits(random)
    clip = draw(digits, random, side=64, height=15)
    room = 63 - np.argwhere((clip > 60).any((0, 3))).max(0)
    moved = np.roll(clip, tuple(room), (1, 2))
    other = draw((type(digits[0])((digits[0].digit + 3) % 10, *list(vars(digits[0]).values())[1:]),), random, side=64)
    place, looks = (
        np.linalg.norm(vectors[1:] - vectors[0], axis=1)
        for vectors in (pixel_vectors([clip, moved, other]), pixel_vectors([clip, moved, other], aligned=True))
    )
    assert looks[0] < 0.2 * place[0] and looks[0] < 0.3 * looks[1]

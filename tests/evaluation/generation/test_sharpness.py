import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from vlfm.evaluation.generation.sharpness import sharpness


def waves(length, side=64, amplitude=50.0, frames=3):
    """A wave to the right, `length` pixels long."""
    wave = 128 + amplitude * np.sin(2 * np.pi * np.arange(side) / length)
    return np.broadcast_to(wave[None, None, :, None], (frames, side, side, 3)).round().astype(np.uint8)


def test_the_sharpness_of_a_wave_is_its_frequency():
    # A difference of neighbours sees 2 sin(ω/2) of a frequency ω.
    for length in (8, 16, 32):
        expected = 2 * np.sin(np.pi / length)
        assert sharpness(waves(length)[None]) == pytest.approx([expected], rel=0.05)


def test_contrast_and_brightness_do_not_matter_and_blur_does():
    pictures = np.random.default_rng(0).normal(size=(4, 48, 40, 3))
    clip = (gaussian_filter(pictures, 1, axes=(1, 2)) * 150 + 128).clip(0, 255).astype(np.uint8)
    fainter = (clip * 0.5 + 60).astype(np.uint8)
    blurred = [gaussian_filter(clip, sigma, axes=(1, 2)) for sigma in (1, 2, 4)]
    found = sharpness([clip, fainter, *blurred])
    assert found[1] == pytest.approx(found[0], rel=0.02)
    assert found[0] > found[2] > found[3] > found[4] > 0


def test_the_average_of_two_clips_is_less_sharp_than_either():
    random = np.random.default_rng(0)
    one, other = (gaussian_filter((random.random((2, 40, 40, 1)) > 0.5) * 200.0, 1.5, axes=(1, 2)) for _ in range(2))
    ghost = gaussian_filter((one + other) / 2, 1, axes=(1, 2))
    values = [np.repeat(clip, 3, -1).astype(np.uint8) for clip in (one, other, ghost)]
    assert sharpness(values)[2] < sharpness(values)[:2].min()


def test_nothing_to_see_is_not_sharp():
    assert sharpness(np.full((2, 3, 8, 8, 3), 77, np.uint8)).tolist() == [0, 0]

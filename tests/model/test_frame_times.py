import numpy as np
import pytest

from vlfm.model.frame_times import nearest_frames, rate_times, shown_times


def test_rate_times():
    assert rate_times(8, 0.5).tolist() == [0.125, 0.25, 0.375, 0.5]
    assert len(rate_times(24, 0.5)) == 12 and len(rate_times(30, 0.1)) == 3
    assert rate_times(7, 0.5)[-1] <= 0.5


def test_nearest_frames():
    times = np.array([0.04, 0.09, 0.12, 0.17])
    assert nearest_frames(np.array([0.05, 0.1, 0.15]), times).tolist() == [0, 1, 3]
    assert nearest_frames(np.array([0.08, 0.09, 0.1]), times).tolist() == [1]


def test_a_video_holds_its_first_and_last_frame_rather_than_extrapolate():
    times = np.array([0.05, 0.2, 0.3, 0.47])
    assert shown_times(48, 0.5, times).min() == 0.05 and shown_times(48, 0.5, times).max() == 0.47
    assert len(shown_times(48, 0.5, times)) == 24
    inside = shown_times(10, 0.5, times)
    assert inside.tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.47])

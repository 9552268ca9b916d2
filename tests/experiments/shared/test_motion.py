import numpy as np
import pytest
import torch

from vlfm.errors import VLFMError
from vlfm.experiments.shared.motion import Motion, along_motion, estimate
from vlfm.experiments.shared.scene import scene
from vlfm.frames import psnr, to_tensor


def texture(shift, size=64):
    """A smooth picture, moved right by `shift` pixels."""
    y, x = torch.meshgrid(torch.arange(float(size)), torch.arange(float(size)), indexing="ij")
    x = x - shift
    waves = [torch.sin(x / 3 + y / 5), torch.sin(x / 7 - y / 4), torch.cos(x / 4 + y / 9)]
    return 0.7 * torch.stack(waves)


def test_the_flow_of_a_shift_is_the_shift():
    motion = estimate(texture(0), texture(3))
    inner = (slice(None), slice(10, -10), slice(10, -10))
    assert motion.forward[inner].mean((1, 2)).tolist() == pytest.approx([3, 0], abs=0.1)
    assert motion.backward[inner].mean((1, 2)).tolist() == pytest.approx([-3, 0], abs=0.1)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.8])
def test_halfway_along_a_shift_is_the_shifted_picture_and_a_mix_is_not(share):
    first, second, truth = texture(0), texture(6), texture(6 * share)
    made = estimate(first, second).between(first, second, share)
    inner = (slice(None), slice(12, -12), slice(12, -12))
    mixed = (1 - share) * first + share * second
    assert psnr(made[inner], truth[inner]) > psnr(mixed[inner], truth[inner]) + 6


def test_what_moves_with_the_frames_may_lie_on_a_coarser_grid():
    first, second = texture(0), texture(8)
    grids = [torch.nn.functional.avg_pool2d(frame[None], 4)[0] for frame in (first, second, texture(4))]
    made = estimate(first, second).between(*grids[:2], 0.5)
    inner = (slice(None), slice(4, -4), slice(4, -4))
    assert made.shape == (3, 16, 16)
    assert (made - grids[2])[inner].square().mean() < 0.3 * ((grids[0] + grids[1]) / 2 - grids[2])[
        inner
    ].square().mean()


def test_a_motion_that_the_frames_contradict_is_not_believed():
    still, wrong = texture(0), torch.tensor([7.0, 0.0]).view(2, 1, 1).expand(2, 64, 64)
    made = Motion(wrong, -wrong, still, still).between(still, still, 0.5)
    assert (made - still).abs().mean() < 0.05
    assert (Motion(wrong, -wrong, texture(0), texture(7)).between(still, still, 0.5) - still).abs().mean() > 0.1


def test_given_frames_come_back_and_ends_hold():
    frames = to_tensor(scene(1).frames(np.array([0.0, 0.1, 0.2]), 48))
    motions = [estimate(frames[0], frames[1]), estimate(frames[1], frames[2])]
    times = np.array([0.0, 0.1, 0.2])
    made = along_motion(motions, frames, times, np.array([-1.0, 0.0, 0.1, 0.2, 0.3]))
    assert torch.equal(made, frames[[0, 0, 1, 2, 2]])


def test_small_pictures_are_refused():
    with pytest.raises(VLFMError, match="12 pixels"):
        estimate(torch.zeros(3, 8, 24), torch.zeros(3, 8, 24))

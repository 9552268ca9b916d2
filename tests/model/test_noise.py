import torch

from vlfm.model.noise import clip_noise


def test_noise_belongs_to_the_clip():
    one = clip_noise("00ff00ff00ff00ff", 0, (4, 8, 8))
    assert torch.equal(one, clip_noise("00ff00ff00ff00ff", 0, (4, 8, 8)))
    assert not torch.equal(one, clip_noise("00ff00ff00ff00fe", 0, (4, 8, 8)))
    assert not torch.equal(one, clip_noise("00ff00ff00ff00ff", 1, (4, 8, 8)))
    assert clip_noise("ffffffffffffffff", 3, (2,)).shape == (2,)

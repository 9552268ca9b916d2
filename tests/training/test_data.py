import itertools
import json
import tarfile

import numpy as np
import pytest
import torch

from tests.model_data import write_shards
from vlfm.errors import VLFMError
from vlfm.training.data import batches, read_moments


def names(made, batch):
    """Which clips a batch holds, told by their coefficients."""
    known = {clip.coefficients.tobytes(): clip.clip_id for clip in made}
    return [known[item.numpy().tobytes()] for item in batch.coefficients]


def test_every_clip_once_an_epoch_in_changing_order(tmp_path, small_config):
    made, tars, _ = write_shards(tmp_path, small_config, clips=6)
    taken = [names(made, batch) for batch in itertools.islice(batches(tars, 6, 3, seed=0), 20)]
    epochs = [tuple(taken[i] + taken[i + 1]) for i in range(0, 20, 2)]
    assert all(sorted(epoch) == sorted(clip.clip_id for clip in made) for epoch in epochs)
    assert len(set(epochs)) > 5


def test_order_depends_on_seed_alone(tmp_path, small_config):
    made, tars, _ = write_shards(tmp_path, small_config)

    def first(seed):
        return [names(made, batch) for batch in itertools.islice(batches(tars, 7, 4, seed), 5)]

    assert first(1) == first(1) != first(2)


@pytest.mark.parametrize("seen", [4, 7, 8, 21, 40])
def test_a_stream_started_later_continues_exactly(tmp_path, small_config, seen):
    made, tars, _ = write_shards(tmp_path, small_config)
    flat = itertools.chain.from_iterable(names(made, batch) for batch in batches(tars, 7, 1, 3))
    expected = list(itertools.islice(flat, seen + 8))[seen:]
    resumed = [names(made, batch) for batch in itertools.islice(batches(tars, 7, 4, 3, seen), 2)]
    assert list(itertools.chain.from_iterable(resumed)) == expected


def test_moments_are_weighted_by_clips(tmp_path, small_config):
    made, _, files = write_shards(tmp_path, small_config, clips=7, shards=2)
    moments = read_moments(files)
    expected = np.mean([np.square(clip.coefficients).mean((0, 1, 2)) for clip in made], axis=0)
    assert moments.clips == 7 and moments.shape == (8, 8, 8)
    assert torch.allclose(moments.mean_square, torch.from_numpy(expected).double(), rtol=1e-5)


def test_shards_of_another_projection_are_refused(tmp_path, small_config):
    _, _, files = write_shards(tmp_path, small_config)
    about = json.loads(files[1].read_text())
    files[1].write_text(json.dumps({**about, "fingerprint": "beef"}))
    with pytest.raises(VLFMError, match=r"00001\.json.*00000\.json.*fingerprint"):
        read_moments(files)


def test_moments_of_another_version_are_refused(tmp_path, small_config):
    _, _, files = write_shards(tmp_path, small_config)
    about = json.loads(files[1].read_text())
    del about["caption_mean_square"]
    files[1].write_text(json.dumps(about))
    with pytest.raises(VLFMError, match=r"00001\.json lacks caption_mean_square"):
        read_moments(files)


def test_a_missing_clip_is_noticed(tmp_path, small_config):
    _, tars, _ = write_shards(tmp_path, small_config)
    with pytest.raises(VLFMError, match="hold 7 clips, their moments say 8"):
        list(itertools.islice(batches(tars, 8, 4, 0), 4))


def test_a_pickled_member_is_refused(tmp_path, small_config):
    _, tars, _ = write_shards(tmp_path, small_config)
    (tmp_path / "evil").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with tarfile.open(tars[0], "a") as tar:
        tar.add(tmp_path / "evil", "ff.pyd")
    with pytest.raises(VLFMError, match=r"ff\.pyd"):
        list(itertools.islice(batches(tars, 8, 4, 0), 4))

import imageio_ffmpeg
import numpy as np
import pytest

from vlfm.errors import VLFMError
from vlfm.storage.pictures import contact_sheet, write_mp4


def moving_square(count=8, side=48):
    frames = np.full((count, side, side, 3), 40, np.uint8)
    for index, frame in enumerate(frames):
        frame[10:30, 2 + 3 * index : 22 + 3 * index] = (200, 90, 30)
    return frames


@pytest.mark.parametrize("fps", [8, 24])
def test_mp4_reads_back(tmp_path, fps):
    frames = moving_square()
    write_mp4(tmp_path / "a.mp4", frames, fps)
    reader = imageio_ffmpeg.read_frames(str(tmp_path / "a.mp4"))
    about = next(reader)
    read = np.stack([np.frombuffer(item, np.uint8).reshape(48, 48, 3) for item in reader])
    assert about["fps"] == fps and len(read) == len(frames)
    assert np.abs(read.astype(int) - frames).mean() < 4
    write_mp4(tmp_path / "b.mp4", frames, fps)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_odd_sides(tmp_path):
    write_mp4(tmp_path / "a.mp4", moving_square(side=47), 12)
    assert next(imageio_ffmpeg.read_frames(str(tmp_path / "a.mp4")))["size"] == (48, 48)


def test_failure_leaves_no_file(tmp_path):
    with pytest.raises(VLFMError, match="ffmpeg could not write"):
        write_mp4(tmp_path / "a.unknown", moving_square(), 12)
    assert list(tmp_path.iterdir()) == []


def test_contact_sheet_holds_every_frame():
    frames = moving_square(count=3)
    sheet = np.asarray(contact_sheet({"true": frames, "network": 255 - frames}, np.array([0.1, 0.2, 0.3]), "a title"))
    for row in (frames, 255 - frames):
        for frame in row:
            windows = np.lib.stride_tricks.sliding_window_view(sheet, frame.shape)[::1, ::1, 0]
            assert (windows == frame).all((-1, -2, -3)).any()

"""UCF-101: lists of files, and captions made of class names."""

import pytest

from tests.data import published
from vlfm.clips.datasets.ucf101 import words
from vlfm.errors import BadClip, VLFMError


def test_ucf(read, write, tmp_path):
    for name, text in (
        ("classInd.txt", published.CLASSES),
        ("trainlist01.txt", published.UCF_TRAIN),
        ("testlist01.txt", published.UCF_TEST),
        ("trainlist02.txt", published.UCF_TEST),
    ):
        write(f"lists/{name}", text)
    clips = ("ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi", "YoYo/v_YoYo_g25_c05.avi")
    for name in (*clips, "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.mp4"):
        write(f"UCF-101/{name}")
    rows = read("ucf101", tmp_path / "lists", tmp_path / "UCF-101")
    assert published.stretches(rows[:2]) == [(str(tmp_path / "UCF-101" / name), None, None, False) for name in clips]
    assert [(row.caption, row.split) for row in rows[:3]] == [
        ("apply eye makeup", "train"),
        ("yo yo", "train"),
        ("apply eye makeup", "test"),
    ]
    assert rows[0].extra == {"class": "ApplyEyeMakeup", "group": "08"}
    assert rows[2].source.endswith("v_ApplyEyeMakeup_g01_c01.mp4"), "somebody has converted it"
    assert rows[3].file == "testlist01.txt"
    with pytest.raises(BadClip, match=r"v_ApplyLipstick_g01_c02.avi is not in `videos`"):
        rows[3].find()


@pytest.mark.parametrize(
    ("label", "caption"),
    [("ApplyEyeMakeup", "apply eye makeup"), ("TaiChi", "tai chi"), ("HandstandPushups", "handstand pushups"),
     ("YoYo", "yo yo"), ("Basketball", "basketball"), ("TVShow2", "tv show 2")],
)  # fmt: skip
def test_class_names_as_captions(label, caption):
    assert words(label) == caption


def test_ucf_lists_that_do_not_fit(read, write, tmp_path):
    classes = write("classInd.txt", published.CLASSES)
    (bad,) = read("ucf101", [classes, write("trainlist01.txt", "Nothing/v_Nothing_g01_c01.avi 7\n")], tmp_path)
    assert "classInd.txt has no class 'Nothing'" in bad.reason
    with pytest.raises(VLFMError, match="let `videos` be the folder"):
        read("ucf101", [classes])
    with pytest.raises(VLFMError, match=r"read with one classInd\.txt"):
        read("ucf101", write("trainlist03.txt", published.UCF_TRAIN), tmp_path)
    with pytest.raises(VLFMError, match=r"mine.txt is no list of UCF-101"):
        read("ucf101", [classes, write("mine.txt", "x")], tmp_path)

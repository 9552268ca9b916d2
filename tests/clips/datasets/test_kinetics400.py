"""Kinetics-400: stretches of YouTube videos, or files of just these."""

from tests.data import published
from vlfm.clips.index_files.rows import Bad


def test_kinetics(read, write, tmp_path):
    path = write("train.csv", published.KINETICS)
    rows = read("kinetics400", path)
    assert published.stretches(rows) == [
        ("youtube:-3B32lodo2M?start=59&end=69", 0.0, 10.0, True),
        ("youtube:_dbcJuKJQNs?start=40&end=50", 0.0, 10.0, True),
        ("youtube:0wR5jVB-WPk?start=417&end=427", 0.0, 10.0, True),
    ]
    assert [row.split for row in rows] == ["test", "train", "train"]
    assert [row.caption for row in rows[:2]] == ["abseiling", "air drumming"]
    assert "CC BY (YouTube)" in rows[1].licence and "uploaders'" in rows[2].licence
    assert rows[1].extra == {"youtube_id": "_dbcJuKJQNs", "time_start": "40", "time_end": "50", "is_cc": "1"}
    # A file of just the clip, one of the whole video under another ending, none.
    cut = write("videos/val/abseiling/-3B32lodo2M_000059_000069.mp4")
    whole = write("videos/_dbcJuKJQNs.webm")
    assert published.stretches(read("kinetics400", path, tmp_path / "videos")) == [
        (str(cut), None, None, False),
        (str(whole), 40.0, 50.0, False),
        ("youtube:0wR5jVB-WPk?start=417&end=427", 0.0, 10.0, True),
    ]
    assert published.stretches(read("kinetics400", path, "https://host/k400/"))[0] == (
        "https://host/k400/-3B32lodo2M_000059_000069.mp4",
        0.0,
        10.0,
        True,
    )


def test_kinetics_rows_that_are_none(read, write):
    text = "label,youtube_id,time_start,time_end,split,is_cc\n"
    text += ",{0},1,2,test,0\nx,{0},2,2,train,0\nx,{0},1\nx,,1,2,train,0\nx,{0},,2,train,0\nx,short,1,2,train,0\n"
    text += "x,{0},1,2,train,0\n"
    rows = read("kinetics400", write("k.csv", text.format("-3B32lodo2M")))
    assert [isinstance(row, Bad) for row in rows] == [True] * 6 + [False]
    reasons = ("caption is empty", "'2' is not before", "3 cells", "youtube_id is empty", "''", "no id of a video")
    for row, reason in zip(rows[:-1], reasons, strict=True):
        assert reason in row.reason

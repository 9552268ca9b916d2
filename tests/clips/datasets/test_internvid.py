"""InternVid: stretches of YouTube videos by times of day."""

import json

from tests.data import published


def test_internvid(read, write, tmp_path):
    path = write("InternVid-10M-flt.jsonl", published.INTERNVID + '{"YoutubeID": "x"}\nno json\n')
    rows = read("internvid", path)
    assert published.stretches(rows[:2]) == [
        ("youtube:HdYoyzCSWyw?start=190.567&end=192.2", 0.0, 1.633, True),
        ("youtube:_VljYs8BhSE?start=0.5&end=3", 0.0, 2.5, True),
    ]
    assert rows[0].columns["UMT_Score"] == 0.397949 and rows[0].licence.startswith("CC BY-NC-SA 4.0")
    assert "no object with YoutubeID" in rows[2].reason and "no JSON" in rows[3].reason and rows[3].line == 4
    cut = write("v/HdYoyzCSWyw_00:03:10.567_00:03:12.200.mp4")
    whole = write("v/_VljYs8BhSE.mp4")
    assert published.stretches(read("internvid", path, tmp_path / "v")[:2]) == [
        (str(cut), 0.0, 1.633, True),
        (str(whole), 0.5, 3.0, True),
    ]


def test_half_a_character_is_a_bad_row(index, write):
    lines = published.INTERNVID.splitlines()
    for old, new in (("woman", r"\ud800woman"), ("HdYoyzCSWyw", r"\udc80dYoyzCSWyw"), ("0.397949", r'"\ud800"')):
        lines.append(lines[0].replace("00:03:10", "00:03:09").replace(old, new))
    plan, ledger, _ = index({"dataset": "internvid", "index": str(write("f.jsonl", "\n".join(lines)))})
    assert {clip.row for clip in plan} == {1, 2}
    bad = {row.row: row.reason for row in ledger if row.status == "bad"}
    assert set(bad) == {3, 4, 5} and "half of a character" in bad[3] and "half of a character" in bad[5]


def test_no_caption_is_none(read, write):
    values = json.loads(published.INTERNVID.splitlines()[0])
    (row,) = read("internvid", write("a.jsonl", json.dumps({**values, "Caption": None})))
    assert "the caption is empty" in row.reason

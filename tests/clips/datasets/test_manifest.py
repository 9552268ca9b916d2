"""What the manifest says of a published clip."""

import json

from tests.data import published
from vlfm.storage.manifest import clip_id


def test_what_the_manifest_says_of_a_published_clip(index, write, tmp_path):
    write("v/celebv_-_a.mp4")
    path = write("OpenVid-1M.csv", published.OPENVID)
    plan, ledger, shards = index({"dataset": "openvid", "index": str(path), "videos": str(tmp_path / "v")})
    assert [(clip.start, clip.end) for clip in plan] == [(n / 2, n / 2 + 0.5) for n in range(5)]
    clip = plan[0]
    assert clip.dataset == "openvid" and clip.licence.startswith("CC BY 4.0") and clip.row == 2
    assert json.loads(clip.extra)["camera motion"] == "static"
    assert clip.clip_id == clip_id(clip.source, 0.0, 0.5) and shards["00000"]["clips"] == 5
    assert ledger[5].reason.startswith("openvid, OpenVid-1M.csv, row 3: -09LwxXTs_0_6_0to149.mp4 is neither")


def test_the_same_clip_in_two_data_sets_is_told(index, write, tmp_path):
    one, two = published.kinetics(write, "aa", 2), published.kinetics(write, "aa", 3)
    other = tmp_path / "again.csv"
    (tmp_path / "aa.csv").rename(other)
    published.kinetics(write, "aa", 2)
    _, ledger, _ = index(
        {"dataset": "kinetics400", "index": one}, {"dataset": "kinetics400", "index": str(other)}, duration=10.0
    )
    assert two == one
    bad = [row.reason for row in ledger if row.status == "bad"]
    assert len(bad) == 2 and "kinetics400, again.csv, row 2: " in bad[0] and "same window as aa.csv, row 2" in bad[0]

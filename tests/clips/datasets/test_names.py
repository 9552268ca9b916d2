"""Data sets by their names, and which files are their index."""

import pytest

from vlfm import config
from vlfm.clips.datasets import data_set, index_files, names
from vlfm.errors import VLFMError


def test_every_module_is_a_data_set():
    known = "csv folder internvid kinetics400 miradata openvid pixabay ucf101 youtube8m"
    assert set(known.split()) <= set(names())
    for name in names():
        module = data_set(name)
        assert "Terms: " in module.__doc__ and module.FILES and callable(module.read), name
        assert isinstance(module.LICENCE, str) and set(module.CAPTIONS) <= set(module.COLUMNS)
        assert module.LICENCE or name in ("csv", "folder")


def test_a_data_set_that_there_is_not(write):
    with pytest.raises(VLFMError, match=r"names the data set 'openvit'; there are csv, folder, .*openvid"):
        index_files(config.DataSet(dataset="openvit", index="x"))
    with pytest.raises(VLFMError, match=r"nowhere.csv: no such file or folder; correct `index` of openvid"):
        index_files(config.DataSet(dataset="openvid", index="nowhere.csv"))
    write("empty/x.mp4")
    with pytest.raises(VLFMError, match=r"holds no index file of internvid \(\*.jsonl\)"):
        index_files(config.DataSet(dataset="internvid", index=str(write("empty/y.mp4").parent)))


def test_index_files_are_a_path_a_folder_a_pattern_or_a_list(write, tmp_path):
    for name in ("b/train0002.tfrecord", "b/train0001.tfrecord", "b/vocabulary.csv", "c/x.tfrecord"):
        write(name)

    def found(*paths):
        entry = config.DataSet(dataset="youtube8m", index=[str(tmp_path / path) for path in paths])
        return [str(path.relative_to(tmp_path)) for path in index_files(entry)]

    assert found("b") == ["b/vocabulary.csv", "b/train0001.tfrecord", "b/train0002.tfrecord"]
    assert found("b/train*.tfrecord", "b/vocabulary.csv", "b") == [
        "b/train0001.tfrecord",
        "b/train0002.tfrecord",
        "b/vocabulary.csv",
    ]

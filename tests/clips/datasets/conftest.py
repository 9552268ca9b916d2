"""A data set's index file as rows, and as a manifest."""

import pytest

from vlfm import config
from vlfm.clips.datasets import caption_column, data_set, index_files
from vlfm.clips.index.build import build_index
from vlfm.clips.index_files.rows import Request
from vlfm.clips.index_files.videos import Videos
from vlfm.storage.files import read_json
from vlfm.storage.ledger import read_ledger
from vlfm.storage.manifest import read_manifest


@pytest.fixture
def write(tmp_path):
    """`write(name, text)` → the path of a new file."""

    def write(name, text=""):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


@pytest.fixture
def read(tmp_path):
    """`read(dataset, index, …)` → its rows."""

    def read(dataset, index, videos=None, **more):
        paths = [str(path) for path in index] if isinstance(index, list) else str(index)
        entry = config.DataSet(dataset=dataset, index=paths, videos=videos and str(videos), **more)
        request = Request(
            tuple(index_files(entry)), Videos(entry.videos), caption_column(entry), tmp_path / "cache", 5.0
        )
        return list(data_set(dataset).read(request))

    return read


@pytest.fixture
def index(settings, tmp_path):
    """`index(*entries, **settings)` → manifest, ledger, shards."""

    def index(*entries, **changes):
        out = tmp_path / "results"
        listed = [config.DataSet(**entry) for entry in entries]
        files = [out / "manifest.parquet", out / "ledger.parquet", out / "shards.json"]
        build_index(settings(index=listed, **changes), *files)
        return read_manifest(files[0]), read_ledger(files[1]), read_json(files[2])

    return index

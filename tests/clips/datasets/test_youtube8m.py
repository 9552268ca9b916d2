"""YouTube-8M: records of TensorFlow, and true ids asked of a server."""

import http.server
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data import published
from vlfm.clips.index_files import pseudo_ids, tfrecord
from vlfm.errors import VLFMError


class TrueIds(http.server.BaseHTTPRequestHandler):
    """Answers as the data set's server does; `server.ids` has what is known, `server.asked` what was asked."""

    def do_GET(self):
        self.server.asked.append(self.path)
        name = self.path.rpartition("/")[2].removesuffix(".js")
        known = self.server.ids.get(name)
        if known is None or self.path != f"/2/j/i/{name[:2]}/{name}.js":
            self.send_error(404)
            return
        data = known if isinstance(known, bytes) else f'i("{name}","{known}");'.encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), TrueIds)
    server.ids, server.asked = {"nXSc": "0sf943sWZls", "UL00": "UzXQaOLQVCU", "odd0": b"<html>"}, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(pseudo_ids, "SERVER", f"http://127.0.0.1:{server.server_port}/2/j/i")
    yield server
    server.shutdown()
    server.server_close()


def youtube8m(write, tmp_path):
    write("yt8m/vocabulary.csv", published.VOCABULARY)
    records = [(b"nXSc", [0, 1]), (b"gone", [1]), (b"none", []), (b"news", [99]), (b"odd0", [0])]
    published.write_records(tmp_path / "yt8m/train0093.tfrecord", [published.example(*pair) for pair in records])
    published.write_records(tmp_path / "yt8m/validate17.tfrecord", [published.example(b"UL00", [12])])
    return {"dataset": "youtube8m", "index": str(tmp_path / "yt8m")}


def test_youtube8m(index, write, tmp_path, server):
    entry = youtube8m(write, tmp_path)
    plan, ledger, _ = index(entry, duration=5.0)
    assert [(clip.source, clip.start, clip.end, clip.caption, clip.split) for clip in plan] == [
        ("youtube:0sf943sWZls?start=55&end=65", 0.0, 5.0, "Game, Video game", "train"),
        ("youtube:0sf943sWZls?start=55&end=65", 5.0, 10.0, "Game, Video game", "train"),
        ("youtube:UzXQaOLQVCU?start=55&end=65", 0.0, 5.0, "/m/07v_b", "test"),
        ("youtube:UzXQaOLQVCU?start=55&end=65", 5.0, 10.0, "/m/07v_b", "test"),
    ]
    assert plan[0].extra == '{"id":"nXSc","labels":[0,1]}' and plan[0].row == 1
    bad = [row.reason for row in ledger if row.status == "bad"]
    for reason, expected in zip(bad, ("tells no video", "no labels", "no label 99", "and no true id"), strict=True):
        assert reason.startswith("youtube8m, train0093.tfrecord, row ") and expected in reason
    asked = len(server.asked)
    assert asked == 4, "no row without a caption is asked for"
    assert index(entry, duration=5.0)[0] == plan and server.asked[asked:] == ["/2/j/i/od/odd0.js"], "the rest is known"


def test_true_ids_are_asked_of_wanted_rows_alone(index, write, tmp_path, server):
    entry = youtube8m(write, tmp_path)
    plan, _, _ = index({**entry, "where": {"id": ["nXSc"]}}, duration=10.0)
    assert len(plan) == 1 and server.asked == ["/2/j/i/nX/nXSc.js"]


def test_youtube8m_from_files_by_either_id(index, write, tmp_path, server, video):
    entry = youtube8m(write, tmp_path)
    (tmp_path / "v").mkdir()
    for name in ("nXSc", "UzXQaOLQVCU"):
        (tmp_path / "v" / f"{name}.mp4").symlink_to(video("carphone_pristine"))
    plan, _, _ = index({**entry, "videos": str(tmp_path / "v"), "where": {"id": ["nXSc", "UL00"]}}, duration=1.0)
    assert {clip.source.rpartition("/")[2] for clip in plan} == {"nXSc.mp4", "UzXQaOLQVCU.mp4"}
    assert len(plan) == 8 and server.asked == ["/2/j/i/UL/UL00.js"]


def test_without_a_network_the_index_stops_soon(index, write, tmp_path, monkeypatch):
    monkeypatch.setattr(pseudo_ids, "SERVER", "http://127.0.0.1:9/2/j/i")
    write("yt8m/vocabulary.csv", published.VOCABULARY)
    records = [published.example(b"%04d" % number, [0]) for number in range(9)]
    published.write_records(tmp_path / "yt8m/train.tfrecord", records)
    with pytest.raises(VLFMError, match=r"cannot be asked for true ids .*run again where there is a network"):
        index({"dataset": "youtube8m", "index": str(tmp_path / "yt8m")}, duration=5.0)


@settings(max_examples=40)
@given(st.binary(min_size=4, max_size=4), st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5))
def test_records_are_read_as_they_were_written(tmp_path_factory, name, labels):
    path = tmp_path_factory.getbasetemp() / "x.tfrecord"
    published.write_records(path, [published.example(name, labels)] * 2)
    features = {"id": [name], "labels": labels} if labels else {"id": [name], "labels": []}
    assert list(tfrecord.read_features(path, ("id", "labels"))) == [(1, features), (2, features)]


@pytest.mark.parametrize("damage", ["text", "length", "data", "cut"])
def test_a_record_file_that_is_damaged(tmp_path, damage):
    path = tmp_path / "x.tfrecord"
    published.write_records(path, [published.example(b"abcd", [1])] * 2)
    data = bytearray(path.read_bytes())
    half = len(data) // 2
    if damage == "text":
        data = b"these are no records\n" * 9
    elif damage == "cut":
        data = data[:-7]
    else:
        data[half + (1 if damage == "length" else 100)] ^= 1
    path.write_bytes(data)
    with pytest.raises(VLFMError, match="is no TFRecord file" if damage == "text" else "is damaged at record 2"):
        list(tfrecord.read_records(path))


@settings(max_examples=40)
@given(st.binary(max_size=60))
def test_any_bytes_are_features_or_refused(data):
    try:
        found = tfrecord._features(data, ("id",))
    except (ValueError, IndexError):
        return
    assert isinstance(found, dict)

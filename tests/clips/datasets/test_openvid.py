"""OpenVid-1M: clips in a folder, in archives at hand, and in archives over the network."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data import published
from vlfm.clips.datasets.openvid import HOME
from vlfm.errors import BadClip, VLFMError


def test_openvid_from_a_folder_of_clips(read, write, tmp_path):
    path = write("OpenVid-1M.csv", published.OPENVID)
    write("clips/sub/celebv_-_a.mp4")
    write("clips/-09LwxXTs_0_6_0to149.mp4")
    first, second, third = read("openvid", path, tmp_path / "clips")
    assert published.stretches([first, second]) == [
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


def test_openvid_over_the_network_by_a_parquet_of_archives(read, write, tmp_path):
    path = write("OpenVid-1M.csv", published.OPENVID)
    table = pa.table({"video": ["third.mp4", "celebv_-_a.mp4"], "zip": ["a.zip", None], "part_id": [None, 7]})
    pq.write_table(table, tmp_path / "listing.parquet")
    first, _, third = read("openvid", [path, tmp_path / "listing.parquet"])
    assert (
        third.source == f"zip:{HOME}/a.zip!third.mp4" and first.source == f"zip:{HOME}/OpenVid_part7.zip!celebv_-_a.mp4"
    )
    pq.write_table(pa.table({"video": ["third.mp4"], "part_id": ["x"]}), tmp_path / "listing.parquet")
    with pytest.raises(VLFMError, match="is no listing of OpenVid"):
        read("openvid", [path, tmp_path / "listing.parquet"])

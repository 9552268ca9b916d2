"""YouTube's videos through the real yt-dlp, from a local server in place of YouTube's."""

import numpy as np
import psutil
import pytest

from tests.conftest import ffmpeg
from vlfm.clips.download import youtube
from vlfm.clips.index.build import build_index
from vlfm.clips.video_files import FFmpegFrames, probe
from vlfm.errors import BadClip, VLFMError
from vlfm.storage.manifest import read_manifest

ID = "abcdefghijk"
RATE = 30000 / 1001  # frames a second of the film
FRAMES = 240
BITS, BLOCK = 9, 16  # of a frame's number, drawn as black and white squares


@pytest.fixture(scope="module")
def film(video, tmp_path_factory):
    """A real film with the number of each frame drawn into it, and few key frames, as YouTube's have."""
    folder = tmp_path_factory.mktemp("film")
    source = video("bigbuckbunny")
    pictures = [frame.copy() for _, frame in FFmpegFrames(source, probe(source, 30), width=320)]
    with open(folder / "raw", "wb") as raw:
        for number in range(FRAMES):
            picture = pictures[number % len(pictures)].copy()
            for bit in range(BITS):
                picture[:BLOCK, bit * BLOCK : (bit + 1) * BLOCK] = 255 * (number >> bit & 1)
            raw.write(picture.tobytes())
    height, width = pictures[0].shape[:2]
    layout = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", "30000/1001")
    ffmpeg(
        *layout,
        "-i",
        folder / "raw",
        *"-c:v libx264 -preset veryfast -pix_fmt yuv420p -g 150".split(),
        folder / "f.mp4",
    )
    return (folder / "f.mp4").read_bytes()


def numbers(path):
    """The numbers drawn into a video's frames, and the times they are shown at."""
    found, times = [], []
    for shown, frame in FFmpegFrames(path, probe(path, 30)):
        squares = [frame[4:12, bit * BLOCK + 4 : bit * BLOCK + 12].mean() > 128 for bit in range(BITS)]
        found.append(int(np.dot(squares, 1 << np.arange(BITS))))
        times.append(shown)
    return found, times


@pytest.fixture
def youtube_at(server, monkeypatch):
    monkeypatch.setenv(youtube.MIRROR, f"{server.url}/{{id}}.mp4")
    return server


@pytest.mark.slow
def test_a_whole_video_comes_as_it_is(youtube_at, find, film, tmp_path):
    youtube_at.files[f"/{ID}.mp4"] = film
    path = find(f"youtube:{ID}")
    assert path.read_bytes() == film
    asked = len(youtube_at.asked)
    assert find(f"youtube:{ID}") == path and len(youtube_at.asked) == asked
    assert sorted(file.suffix for file in tmp_path.rglob("*") if file.is_file()) == [".lock", ".video"]


@pytest.mark.parametrize(
    ("query", "first", "last"),
    [
        ("start=1.668333&end=2.669333", 50, 80),  # on frames, as a data set rounds it
        pytest.param("start=5.99&end=6.5", 180, 195, marks=pytest.mark.slow),  # between frames, after a key frame
        pytest.param("end=0.5", 0, 15, marks=pytest.mark.slow),
        pytest.param("start=7.5", 225, 240, marks=pytest.mark.slow),
    ],
)
def test_a_section_begins_with_its_frame(youtube_at, find, film, query, first, last):
    youtube_at.files[f"/{ID}.mp4"] = film
    found, times = numbers(find(f"youtube:{ID}?{query}"))
    assert found[0] == first and abs(len(found) - (last - first)) <= 1
    assert found == list(range(first, first + len(found)))
    assert np.allclose(times, np.arange(len(found)) / RATE, atol=1e-3)


@pytest.mark.slow
def test_the_same_section_has_the_same_bytes(youtube_at, find, film, tmp_path):
    youtube_at.files[f"/{ID}.mp4"] = film
    paths = [find(f"youtube:{ID}?start=2&end=3", tmp_path / name) for name in "ab"]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_the_reason_is_told(youtube_at, find, waits, tmp_path):
    with pytest.raises(BadClip, match=rf"youtube:{ID} cannot be downloaded .*HTTP Error 404"):
        find(f"youtube:{ID}")
    assert waits == [] and [file for file in tmp_path.rglob("*") if file.suffix != ".lock" and file.is_file()] == []


@pytest.mark.slow
def test_a_page_without_a_video(youtube_at, find, waits, monkeypatch):
    monkeypatch.setenv(youtube.MIRROR, f"{youtube_at.url}/{{id}}.html")
    youtube_at.files[f"/{ID}.html"] = b"<html><body>This video is private</body></html>"
    with pytest.raises(BadClip, match=r"cannot be downloaded .*Unsupported URL"):
        find(f"youtube:{ID}")
    assert waits == []


@pytest.mark.slow
def test_a_hiccup_is_tried_again(youtube_at, find, film, waits):
    youtube_at.files[f"/{ID}.mp4"] = film
    youtube_at.faults = [503] * 1
    assert find(f"youtube:{ID}", attempts=3).read_bytes() == film


@pytest.mark.slow
@pytest.mark.parametrize("faults", [["stall"] * 9, [None] + ["stall"] * 9])
def test_nothing_comes(youtube_at, find, film, faults):
    """Neither to yt-dlp nor, once it has found the video, to ffmpeg."""
    youtube_at.files[f"/{ID}.mp4"] = film
    youtube_at.faults = faults
    before = psutil.Process().children(recursive=True)  # a decoder of an earlier test that waits for work
    with pytest.raises(BadClip, match=r"nothing came for 15 s|timed out"):
        find(f"youtube:{ID}?start=1&end=2", timeout=15, attempts=1)
    assert len(youtube_at.asked) >= len(faults) - 8
    left = [child for child in psutil.Process().children(recursive=True) if child not in before]
    assert not [child for child in left if child.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.slow
def test_a_video_that_is_too_large(youtube_at, find, film, tmp_path):
    youtube_at.files[f"/{ID}.mp4"] = film
    with pytest.raises(BadClip, match=r"larger than 0.0001 GB"):
        find(f"youtube:{ID}", largest=1e-4, attempts=1)
    assert sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()) == 0


def test_a_mirror_that_is_none(find, monkeypatch):
    for mirror in ("file:///films/{id}", "https://host/"):
        monkeypatch.setenv(youtube.MIRROR, mirror)
        with pytest.raises(VLFMError, match=r"VLFM_YOUTUBE is .*give an http\(s\) address with \{id\}"):
            find(f"youtube:{ID}")


def test_without_yt_dlp(find, monkeypatch):
    monkeypatch.setattr(youtube.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(VLFMError, match=r"fetched by yt-dlp, which is not installed: pip install 'vlfm\[youtube\]'"):
        find(f"youtube:{ID}")


@pytest.mark.slow
def test_clips_of_a_section_are_those_of_the_video(youtube_at, film, settings, decode, tmp_path):
    youtube_at.files[f"/{ID}.mp4"] = film
    (tmp_path / "film.mp4").write_bytes(film)
    source = f"youtube:{ID}?start=2.002&end=4"
    (tmp_path / "c.csv").write_text(f"source,start,end,caption\n{source},1.001,1.501,a rabbit\n")
    names = [tmp_path / name for name in ("manifest.parquet", "ledger.parquet", "shards.json")]
    build_index(settings(index=str(tmp_path / "c.csv")), *names)
    assert youtube_at.asked == [] and [clip.source for clip in read_manifest(names[0])] == [source]
    ours = decode(source, [1.001])[0][1.001]
    theirs, later = decode(tmp_path / "film.mp4", [3.003, 3.0364])[0].values()
    assert np.allclose(ours.times, theirs.times, atol=1e-4)
    off = [np.abs(ours.frames.astype(float) - other.frames).mean() for other in (theirs, later)]
    assert off[0] < 1.5 and off[0] < 0.5 * off[1]

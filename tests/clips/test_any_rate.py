"""Sources of any frame rate: the right frame at every instant, and one motion gives one path."""

from fractions import Fraction

import imageio_ffmpeg
import numpy as np
import pytest
import torch

from tests.conftest import make_config
from vlfm.clips.decode import decode_shard
from vlfm.clips.shards import read_clips
from vlfm.coefficients.basis import clip_basis
from vlfm.coefficients.project import project_shard
from vlfm.coefficients.shards import read_shard
from vlfm.errors import VLFMError
from vlfm.flow.projection import projection_matrix
from vlfm.latents.store import ClipLatents, LatentStore, write_store
from vlfm.storage.ledger import read_ledger
from vlfm.storage.manifest import Clip, clip_id, write_manifest

SIDE, BLOCK, BITS = 64, 16, 8
RATES = ("3", "10", "15", "24000/1001", "25", "30000/1001", "30", "50")
SECONDS, DURATION, FPS = 8, 2.0, 24  # of a source, T, and frames a second of a clip
STARTS = [0.0, 1.013, 3.5, 5.2]


def brightness(t):
    """What moves: a slow swing, seconds → [0.2, 0.8]."""
    return 0.5 + 0.3 * np.sin(2 * np.pi * 0.4 * np.asarray(t))


STEEPEST = 0.3 * 2 * np.pi * 0.4  # a second


def picture(number, t):
    """The frame's number in blocks, black or white, above a field whose brightness is the motion."""
    frame = np.full((SIDE, SIDE, 3), round(255 * float(brightness(t))), np.uint8)
    for bit in range(BITS):
        row, column = divmod(bit, SIDE // BLOCK)
        area = slice(row * BLOCK, (row + 1) * BLOCK), slice(column * BLOCK, (column + 1) * BLOCK)
        frame[area] = 255 if number >> bit & 1 else 0
    return frame


def number_in(frame):
    middle = BLOCK // 2
    places = [divmod(bit, SIDE // BLOCK) for bit in range(BITS)]
    return sum(
        int(frame[row * BLOCK + middle, column * BLOCK + middle].mean() > 127) << bit
        for bit, (row, column) in enumerate(places)
    )


def motion_in(frames):
    return frames[:, 40:, :, :].mean((1, 2, 3)) / 255


def write(path, rate, numbers, times, *options):
    """A video of these frames, without loss."""
    writer = imageio_ffmpeg.write_frames(
        str(path), (SIDE, SIDE), fps=rate, codec="libx264rgb", pix_fmt_out="rgb24", output_params=["-qp", "0", *options]
    )
    writer.send(None)
    for number, t in zip(numbers, times, strict=True):
        writer.send(picture(number, t).tobytes())
    writer.close()


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Name → file, and the times of its frames in seconds."""
    folder = tmp_path_factory.mktemp("rates")
    made = {}
    for rate in map(Fraction, RATES):
        name = str(rate)
        times = np.arange(int(rate * SECONDS)) / float(rate)
        # Blocks hold eight bits: at 50 frames a second the numbers come round after five seconds.
        write(folder / f"{len(times)}.mkv", rate, np.arange(len(times)) % 256, times)
        made[name] = folder / f"{len(times)}.mkv", times
    base = np.arange(30 * SECONDS)
    kept = base[(base * 37 % 100 < 45) | (base == 0)]  # 13 frames a second on average, unevenly
    chosen = "lt(mod(n*37,100),45)"
    write(folder / "vfr.mkv", Fraction(30), base % 256, base / 30, "-vf", f"select='{chosen}'", "-fps_mode", "vfr")
    made["variable"] = folder / "vfr.mkv", kept / 30
    return made


@pytest.fixture(scope="module")
def clips(videos, settings, tmp_path_factory):
    """Name → the clips of a video by start; all are in one shard."""
    folder = tmp_path_factory.mktemp("shard")
    plan, names = [], {}
    for name, (file, _) in videos.items():
        for start in STARTS:
            clip = clip_id(str(file), start, start + DURATION)
            names[clip] = name
            plan.append(Clip(clip, str(file), start, start + DURATION, "a swing", len(plan) + 2, 0, SIDE, SIDE))
    write_manifest(folder / "manifest.parquet", plan)
    output, ledger = folder / "00000.tar", folder / "ledger.parquet"
    changed = settings(fps=FPS, duration=DURATION, size=SIDE)
    decode_shard(changed, folder / "manifest.parquet", 0, output, ledger, folder / "sources")
    assert {row.reason for row in read_ledger(ledger)} == {""}
    found = {name: {} for name in videos}
    for clip in read_clips(output):
        found[names[clip.clip_id]][clip.info["start"]] = clip
    return found


@pytest.mark.parametrize("name", [*RATES, "variable"])
def test_the_frame_for_every_instant_is_the_right_one(name, videos, clips):
    _, shown = videos[name]
    step = 1 / FPS
    for start, clip in clips[name].items():
        numbers = np.array([number_in(frame) for frame in clip.frames])
        true = np.array([np.abs(shown - moment).argmin() for moment in clip.info["shown"]])
        if name == "variable":
            assert np.array_equal(numbers, np.round(shown[true] * 30) % 256)
        else:
            assert np.array_equal(numbers, true % 256)
        # Clip time counts from the start that was asked for, or from the frame nearest to it.
        origin = start if len(clip.times) < FPS * DURATION else shown[np.abs(shown - start).argmin()]
        assert np.allclose(clip.times, np.minimum(shown[true] - origin + step, DURATION), atol=2e-3)
        inside = np.flatnonzero((shown - origin + step > 0) & (shown - origin + step <= DURATION))
        for instant in np.linspace(step, DURATION, 97):
            best = np.abs(shown[inside] - origin + step - instant).min()
            mine = np.abs(clip.times - instant).min()
            slower = len(inside) <= len(clip.times)
            assert mine <= (best if slower else max(best, 1 / FPS)) + 2e-3


@pytest.mark.parametrize("basis", ["cosine", "legendre"])
def test_one_motion_gives_one_path_at_every_rate(basis, clips, tmp_path):
    """Its path against the motion itself, within twice what least squares on all frames is off; and its coefficients
    against those at 50 frames a second. All rates lie in one store and one shard."""
    order = 12
    config = make_config(flow={"basis": basis, "order": order}, clips={"duration": DURATION, "fps": FPS})
    names, stored = [], []
    for name in clips:
        for start, clip in clips[name].items():
            latents = np.tile(motion_in(clip.frames.astype(np.float64))[:, None, None, None], (1, 1, 2, 2))
            names.append((name, start))
            stored.append(
                ClipLatents(
                    clip_id=f"{len(names):016x}",
                    latents=latents.astype(np.float32),
                    times=clip.times,
                    tokens=np.ones((3, 4), np.float32),
                    mask=np.ones(3, bool),
                    caption="a swing",
                    round_trip=40.0,
                    duration=DURATION,
                )
            )
    write_store(tmp_path / "00000.zarr", stored, "float32", "f00d", {}, fps=FPS, height=SIDE, width=SIDE)
    store = LatentStore(tmp_path / "00000.zarr")
    assert set(store.lengths.values()) >= {6, 20, 30, 48} and store.num_frames == 48 and store.shape == (1, 2, 2)
    for clip, written in zip(store, stored, strict=True):
        assert np.array_equal(clip.times, written.times) and np.array_equal(clip.latents, written.latents)
    project_shard(config, store.path, tmp_path / "00000.tar", tmp_path / "00000.json", tmp_path / "ledger.parquet")
    assert {row.status for row in read_ledger(tmp_path / "ledger.parquet")} == {"ok"}
    paths = {key: clip for key, clip in zip(names, read_shard(tmp_path / "00000.tar"), strict=True)}
    functions = clip_basis(config, DURATION)
    nominal = torch.arange(1, 49) / FPS
    fitted = brightness(nominal.numpy() - 1 / FPS) @ projection_matrix(nominal, functions).numpy()
    own = np.abs(functions.evaluate(nominal).numpy() @ fitted - brightness(nominal.numpy() - 1 / FPS)).max()
    for (name, start), clip in paths.items():
        # Of a source with all N frames a clip begins at the frame nearest to the start, less than half a frame off.
        origin = start if len(clip.times) < 48 else clips[name][start].info["shown"][0]
        times = np.linspace(clip.times[0], clip.times[-1], 97)
        path = clip.coefficients[0, 0, 0] @ functions.evaluate(torch.from_numpy(times)).numpy().T
        error = np.abs(path - brightness(origin - 1 / FPS + times)).max()
        difference = np.sqrt(np.square(clip.coefficients[0, 0, 0] - paths["50", start].coefficients[0, 0, 0]).sum())
        # 8-bit pixels are off by up to 1/510.
        assert error <= (3 * own + 0.02 if name == "3" else 2 * own + 0.004), (name, start)
        shift = 0.0 if start == 0 else STEEPEST * (1 / 24 + 1 / 50) / 2
        assert difference <= (0.03 if name == "3" else 0.002) + shift, (name, start)


def test_too_few_frames_are_told_with_what_to_do(videos, decode):
    with pytest.raises(VLFMError, match=r"row 2: .*2 frames for the window of 0\.5 s .*needs 4 \(clips\.min_frames\)"):
        decode(videos["3"][0], [1.0], fps=FPS, duration=0.5, size=SIDE)
    found, _ = decode(videos["3"][0], [1.0], fps=FPS, duration=1.0, size=SIDE, min_frames=3)
    assert len(found[1.0].frames) == 3


def test_evenly_repeats_what_is_there(videos, clips):
    clip = clips["10"][1.013]
    frames = clip.evenly()
    assert frames.shape == (48, SIDE, SIDE, 3) and len(clip.frames) == 20
    numbers = [number_in(frame) for frame in frames]
    assert sorted(set(numbers)) == [number_in(frame) for frame in clip.frames] and numbers == sorted(numbers)
    full = clips["25"][0.0]
    assert full.evenly() is full.frames

"""Moving digits: the language, what is held out, the pictures, and the files they become."""

import csv
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlfm.clips.decode import decode_shard
from vlfm.clips.index.build import build_index
from vlfm.clips.moving_digits import videos
from vlfm.clips.moving_digits.choice import choose_captions, choose_combinations, choose_handwriting, choose_takes
from vlfm.clips.moving_digits.drawing import GROUND, SIDE, draw_frames, draw_ways, extent, handwriting, longest
from vlfm.clips.moving_digits.language import (
    ATTRIBUTES,
    COLOURS,
    DIRECTIONS,
    SPEEDS,
    WORDS,
    MovingDigit,
    all_digits,
    caption_of,
    parse_caption,
)
from vlfm.clips.moving_digits.videos import draw_take, make_digits
from vlfm.clips.shards import read_clips
from vlfm.errors import VLFMError
from vlfm.storage.files import read_json
from vlfm.storage.ledger import read_ledger
from vlfm.storage.manifest import read_manifest

TIMES = np.arange(12) / 12


@pytest.fixture
def digits(settings):
    """`digits(**change)` → the settings of small clips of moving digits; keys of `clips.digits` and of `clips`."""

    def digits(**change):
        own = settings().digits
        inner = {"clips": 1, "test_clips": 1} | {
            key: change.pop(key) for key in [*change] if key in type(own).model_fields
        }
        base = {"index": "moving-digits", "fps": 12.0, "duration": 1.0, "size": 64, "shard_size": 100}
        return settings(**{**base, **change}, digits=own.model_copy(update=inner))

    return digits


# ----------------------------------------------------------------------------------------- language

moving = st.builds(
    MovingDigit,
    st.integers(0, 9),
    st.sampled_from(sorted(COLOURS)),
    st.sampled_from(sorted(DIRECTIONS)),
    st.sampled_from(sorted(SPEEDS)),
)


@given(st.lists(moving, min_size=1, max_size=3))
def test_a_caption_says_what_is_shown(shown):
    assert parse_caption(caption_of(shown)) == tuple(shown)


@pytest.mark.parametrize(
    "caption",
    ["", "a red two", "a red two moves right", "A red two moves right slowly", "a red two moves right slowly and ",
     "a pink two moves right slowly", "a red ten moves right slowly", "a red two moves right slowly, slowly"],
)  # fmt: skip
def test_what_is_not_of_the_language_is_refused(caption):
    with pytest.raises(ValueError, match="does not tell of moving digits, as in 'a red zero moves right slowly'"):
        parse_caption(caption)


# ----------------------------------------------------------------------------------- what is held out


@pytest.mark.parametrize("seed", range(4))
def test_a_fifth_of_the_combinations_is_held_out_and_every_word_is_trained_on(seed):
    chosen = choose_combinations(seed)
    assert (len(chosen["train"]), len(chosen["test"])) == (256, 64)
    assert sorted(map(str, chosen["train"] + chosen["test"])) == sorted(map(str, all_digits()))
    for one, other in itertools.combinations(ATTRIBUTES, 2):
        for words in {(getattr(digit, one), getattr(digit, other)) for digit in all_digits()}:
            together = [digit for digit in all_digits() if (getattr(digit, one), getattr(digit, other)) == words]
            assert 2 * len(set(together) & set(chosen["train"])) >= len(together)


def test_a_fifth_of_the_handwriting_of_each_digit_is_held_out():
    _, labels = handwriting()
    chosen = choose_handwriting(3)
    for digit in range(10):
        train, test = chosen["train"][digit], chosen["test"][digit]
        assert set(labels[train]) == set(labels[test]) == {digit}
        assert sorted([*train, *test]) == np.flatnonzero(labels == digit).tolist()
        assert len(test) == (len(train) + len(test)) // 5


@pytest.mark.parametrize("count", [1, 2])
def test_test_clips_show_nothing_that_was_trained_on(digits, count):
    takes = choose_takes(digits(count=count, clips=3, test_clips=2).digits, seed=1)
    assert {split: len(some) for split, some in takes.items()} == {"train": 3 * 256, "test": 2 * 64}
    shown = {split: {digit for take in some for digit in take.digits} for split, some in takes.items()}
    assert not shown["train"] & shown["test"]
    hands = {split: {image for take in some for image in take.images} for split, some in takes.items()}
    assert not hands["train"] & hands["test"]
    _, labels = handwriting()
    for take in takes["train"] + takes["test"]:
        assert [digit.digit for digit in take.digits] == labels[list(take.images)].tolist()
        assert len({digit.colour for digit in take.digits}) == len(take.digits) == count
    for attribute in ATTRIBUTES:
        assert {getattr(digit, attribute) for digit in shown["train"]} == {
            getattr(digit, attribute) for digit in all_digits()
        }


def test_every_caption_comes_once_before_any_comes_again(digits):
    takes = choose_takes(digits(clips=2).digits, seed=0)["train"]
    captions = [take.caption for take in takes]
    assert captions[:256] == captions[256:] and len(set(captions)) == 256
    assert len({take.digits[0].digit for take in takes[:30]}) > 5, "the first clips are of no order"
    more = choose_takes(digits(clips=3, test_clips=5).digits, seed=0)["train"]
    assert more[: len(takes)] == takes, "more clips leave those there are as they are"
    assert choose_takes(digits(clips=2).digits, seed=1)["train"] != takes


def test_as_many_pairs_as_are_asked_for(digits):
    captions = choose_captions(digits(count=2, wander=0.5, captions=50).digits, seed=0)
    assert {split: len(set(some)) for split, some in captions.items()} == {"train": 40, "test": 10}
    with pytest.raises(
        VLFMError, match=r"captions asks for 80000 pairs of digits for split train, and there are \d+; lo"
    ):
        choose_captions(digits(count=2, wander=0.5, captions=100_000).digits, seed=0)


def test_a_word_that_no_training_caption_says_is_named(digits):
    with pytest.raises(VLFMError, match=r"no training caption of the moving digits says .*; raise clips.digits.captio"):
        choose_captions(digits(count=2, wander=0.5, captions=4).digits, seed=0)


# ------------------------------------------------------------------------------------------ pictures


@given(
    st.lists(moving, min_size=1, max_size=2),
    st.integers(0, 2**32),
    st.sampled_from([1, 8, 12, 24]),
    st.sampled_from([0, 0.06, 0.5]),
)
def test_digits_move_straight_on_at_their_speed_inside_the_picture(shown, seed, count, wander):
    times = np.arange(count) / count
    ways = draw_ways(shown, times, np.random.default_rng(seed), wander)
    margin = extent(len(shown)) / 2
    assert ways.shape == (len(shown), count, 2)
    assert ways.min() >= margin - 1e-12 and ways.max() <= 1 - margin + 1e-12
    assert np.abs((ways[:, 0] + ways[:, -1]) / 2 - 0.5).max() <= wander + 1e-12
    for digit, way in zip(shown, ways, strict=True):
        moved = SPEEDS[digit.speed] * times[:, None] * np.array(DIRECTIONS[digit.direction])
        assert np.allclose(way - way[0], moved, atol=1e-12)


def test_the_longest_way_still_fits():
    for digit in all_digits():
        ways = draw_ways([digit], np.array([0, longest(1)]), np.random.default_rng(0))
        assert ways.min() >= extent(1) / 2 - 1e-12 and ways.max() <= 1 - extent(1) / 2 + 1e-12


def covered(frames, colour):
    """How much of each pixel the colour covers, by how far it lies from the ground to it: (N, H, W)."""
    towards = np.array(colour, float) - GROUND
    return ((frames - float(GROUND)) @ towards / (towards @ towards)).clip(0, 1)


@pytest.mark.parametrize("digit", all_digits()[5::37], ids=str)
@pytest.mark.parametrize("side", [48, 64])
def test_the_picture_shows_what_is_said(digit, side):
    ink, labels = handwriting()
    image = np.flatnonzero(labels == digit.digit)[7]
    ways = draw_ways([digit], TIMES, np.random.default_rng(1))
    frames = draw_frames([digit], [ink[image]], ways, side)
    assert frames.shape == (12, side, side, 3) and frames.dtype == np.uint8
    # Full ink has the colour, and everything lies between it and the ground.
    cover = covered(frames, COLOURS[digit.colour])
    assert np.abs(frames[cover > 0.999].astype(float) - COLOURS[digit.colour]).max() <= 1
    assert np.abs(frames - (GROUND + cover[..., None] * (np.array(COLOURS[digit.colour]) - GROUND))).max() <= 1.5
    # Where the ink is on the mean, in pixels, moves as far as is said: speed × time.
    rows, columns = np.mgrid[:side, :side]
    weight = cover / cover.sum((1, 2), keepdims=True)
    centre = np.stack([(weight * columns).sum((1, 2)), (weight * rows).sum((1, 2))], -1)
    moved = SPEEDS[digit.speed] * side * TIMES[:, None] * np.array(DIRECTIONS[digit.direction])
    assert np.abs(centre - centre[0] - moved).max() < 0.25


@pytest.mark.parametrize("side", [48, 64])
def test_no_stroke_is_cut_by_the_edge(side):
    """In the corners that a digit can reach there is as much ink of it as whole pixels further inside."""
    ink, _ = handwriting()
    for across, down in itertools.product((extent(1) / 2, 1 - extent(1) / 2), repeat=2):
        corner = np.array([across, down])
        ways = np.stack([corner, corner + np.sign(0.5 - corner) * 8 / side])[None]
        for image in ink[::9]:
            outside, inside = covered(draw_frames([all_digits()[0]], [image], ways, side), COLOURS["red"]).sum((1, 2))
            assert outside == pytest.approx(inside, rel=0.002)


def test_the_later_of_two_digits_lies_on_the_other():
    shown = [MovingDigit(0, "red", "up", "slowly"), MovingDigit(0, "blue", "up", "slowly")]
    ink = [np.ones((8, 8), np.float32)] * 2
    middle = np.full((2, 1, 2), 0.5)
    frames = draw_frames(shown, ink, middle, 64)
    assert frames[0, 32, 32].tolist() == list(COLOURS["blue"])
    assert not (frames == COLOURS["red"]).all(-1).any()


def test_two_digits_are_kept_apart(digits):
    """Nearer than half a digit they hide each other; left to chance two in five pairs come so near."""
    takes = choose_takes(digits(count=2, wander=0.5).digits, seed=0)["train"]
    near = [
        np.linalg.norm(np.subtract(*draw_ways(take.digits, TIMES, np.random.default_rng(take.key))), axis=-1).min()
        for take in takes
    ]
    assert np.mean(np.array(near) < SIDE[2] / 2) < 0.05


# --------------------------------------------------------------------------------------------- files


@pytest.fixture(scope="module")
def drawn(settings, tmp_path_factory):
    """The digits of `digits()`, drawn and indexed: settings, folder."""
    folder = tmp_path_factory.mktemp("drawn")
    own = settings().digits.model_copy(update={"clips": 1, "test_clips": 1})
    clips = settings(index="moving-digits", fps=12.0, duration=1.0, size=64, shard_size=100, digits=own)
    make_digits(clips, 0, folder / "digits" / "digits.csv")
    build_index(clips, folder / "manifest.parquet", folder / "index.parquet", folder / "shards.json")
    return clips, folder


def test_the_csv_is_indexed_like_any_other(drawn):
    clips, folder = drawn
    plan = read_manifest(folder / "manifest.parquet")
    shards = read_json(folder / "shards.json")
    assert [(about["clips"], about["split"]) for about in shards.values()] == [
        (100, "train"),
        (100, "train"),
        (56, "train"),
        (64, "test"),
    ]
    takes = choose_takes(clips.digits, 0)
    assert [(clip.caption, clip.split) for clip in plan] == [
        (take.caption, split) for split in ("train", "test") for take in takes[split]
    ]
    assert len({clip.source for clip in plan}) == 5 + 2 and max(clip.start for clip in plan) == 59
    assert all(row.status == "ok" for row in read_ledger(folder / "index.parquet"))


@pytest.mark.parametrize("shard", [3, *(pytest.param(shard, marks=pytest.mark.slow) for shard in range(3))])
def test_decoded_frames_are_those_that_were_drawn(drawn, shard, tmp_path):
    clips, folder = drawn
    output, ledger = tmp_path / "clips.tar", tmp_path / "ledger.parquet"
    decode_shard(clips, folder / "manifest.parquet", shard, output, ledger, folder / "sources")
    assert all(row.status == "ok" for row in read_ledger(ledger))
    takes = choose_takes(clips.digits, 0)
    shown = takes["test"] if shard == 3 else takes["train"][100 * shard : 100 * (shard + 1)]
    for clip, take in zip(read_clips(output), shown, strict=True):
        frames = draw_take(take, TIMES, 64, 0.06)
        assert clip.caption == take.caption and clip.info["decoder"] == "ffmpeg"
        assert np.allclose(clip.times, TIMES + 1 / 12, atol=1e-9)
        error = np.abs(clip.frames.astype(int) - frames).mean((1, 2, 3))
        assert error.max() < 1, "each frame is that of its instant: the next one is 2 to 4 grey levels off"
        colour = COLOURS[take.digits[0].colour]
        inked = (frames == colour).all(-1)
        assert np.abs(clip.frames[inked].mean(0) - colour).max() < 4, "colours survive the codec, in grey levels"


def test_each_clip_begins_with_a_key_frame(drawn):
    import subprocess

    import imageio_ffmpeg

    source = next((drawn[1] / "digits").glob("*.mp4"))
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-skip_frame",
        "nokey",
        "-i",
        source,
        "-vf",
        "showinfo",
        "-f",
        "null",
        "-",
    ]
    told = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True).stderr
    times = [float(part.split()[0]) for part in told.split("pts_time:")[1:]]
    assert times == list(range(len(times))) and len(times) in (4, 16, 60)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes_and_another_other_files(drawn, digits, tmp_path):
    _, folder = drawn
    for seed, name in ((0, "again"), (1, "other")):
        make_digits(digits(), seed, tmp_path / name / "digits.csv")
    files = {path.name: path.read_bytes() for path in (folder / "digits").iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()} == files and len(files) == 8
    assert {path.name for path in (tmp_path / "other").iterdir()} & files.keys() == {"digits.csv"}


def test_a_killed_drawing_goes_on_with_the_file_it_was_at(digits, tmp_path, monkeypatch):
    real, written = videos.write_mp4, []

    def write(path, *rest, **more):
        if len(written) == 3:
            written.append(path)
            raise KeyboardInterrupt
        written.append(path)
        real(path, *rest, **more)

    monkeypatch.setattr(videos, "write_mp4", write)
    with pytest.raises(KeyboardInterrupt):
        make_digits(digits(size=24), 0, tmp_path / "digits.csv")
    assert not (tmp_path / "digits.csv").exists() and len(list(tmp_path.glob("*.mp4"))) == 3
    make_digits(digits(size=24), 0, tmp_path / "digits.csv")
    assert len(written) == 8 and written[3] == written[4] and len(set(written)) == 7


def test_more_test_clips_leave_training_files_and_what_is_no_longer_listed_goes(digits, tmp_path, capsys):
    names = set()
    for count in (1, 2):
        make_digits(digits(test_clips=count, size=24), 0, tmp_path / "digits.csv")
        with (tmp_path / "digits.csv").open(newline="") as file:
            listed = {row["source"]: row["split"] for row in csv.DictReader(file)}
        assert {path.name for path in tmp_path.glob("*.mp4")} == listed.keys()
        training = {name for name, split in listed.items() if split == "train"}
        assert not names or training == names
        names = training
    assert "removing 1 file of other digits" in capsys.readouterr().err


def test_without_test_clips_all_are_trained_on(digits, tmp_path):
    make_digits(digits(test_clips=0, size=24), 0, tmp_path / "digits.csv")
    with (tmp_path / "digits.csv").open(newline="") as file:
        assert {row["split"] for row in csv.DictReader(file)} == {"train"}


def test_digits_that_are_not_drawn_yet_are_told(digits, tmp_path):
    with pytest.raises(VLFMError, match=r"digits.csv is missing: no moving digits are drawn yet; run `vlfm make-digi"):
        build_index(digits(), tmp_path / "m.parquet", tmp_path / "l.parquet", tmp_path / "s.json")


def test_the_words_are_those_of_ten_digits():
    assert len(WORDS) == 10 and len(all_digits()) == 320

"""A shard of clips → a latent store: what is in it, how it is cut into batches, and how it goes on after a stop."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.data.latents import CHANNELS, FPS, FRAMES, SIZE, small, tree, write_clips, write_decoder
from vlfm.captions.load import caption_encoder_fingerprint, load_caption_encoder
from vlfm.clips.shards import read_clips
from vlfm.decoders.load import load_decoder
from vlfm.errors import FingerprintMismatch, VLFMError
from vlfm.frames import psnr, to_tensor
from vlfm.latents import invert, invert_batch
from vlfm.latents.store import LatentStore
from vlfm.storage import unfinished
from vlfm.storage.ledger import read_ledger
from vlfm.words import plural

pytestmark = pytest.mark.usefixtures("captions_read_once")

COUNT = 5
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    return write_decoder(tmp_path_factory.mktemp("decoder"))


@pytest.fixture(scope="module")
def captions():
    """The caption encoder and its fingerprint: the real ones, loaded once."""
    return load_caption_encoder(small(), CPU), caption_encoder_fingerprint(small())


@pytest.fixture(autouse=True)
def _captions_loaded_once(captions, monkeypatch):
    monkeypatch.setattr(invert, "load_caption_encoder", lambda *_: captions[0])
    monkeypatch.setattr(invert, "caption_encoder_fingerprint", lambda _: captions[1])


@pytest.fixture
def clips(tmp_path):
    return write_clips(tmp_path / "c.tar", COUNT)


@pytest.fixture
def run(decoder, clips, tmp_path):
    def run(name="00000", **inversion):
        output = tmp_path / f"{name}.zarr"
        invert.invert_shard(small(**inversion), clips, decoder, output, tmp_path / f"{name}.parquet", CPU)
        return output

    return run


@pytest.fixture
def asked(monkeypatch):
    """The number of frames and the captions of every call of the decoder's `invert`, and hooks for faults."""
    calls = []

    def load(config, folder, device):
        decoder = load_decoder(config, folder, device)
        original = decoder.invert

        def spy(frames, captions=None):
            calls.append((len(frames), captions))
            return original(frames, captions)

        decoder.invert = spy
        return decoder

    monkeypatch.setattr(invert, "load_decoder", load)
    return calls


def stop_after(monkeypatch, count):
    """The run ends as if it were killed once that many clips are saved."""
    original, saved = unfinished.save, []

    def save(file, tensors):
        original(file, tensors)
        saved.extend([file] if file.stem != "captions" else [])
        if len(saved) == count:
            raise KeyboardInterrupt

    monkeypatch.setattr(unfinished, "save", save)


def test_the_store_holds_what_the_decoder_gives(run, decoder, clips):
    config = small()
    store = LatentStore(run(check=1))
    assert store.shape == (CHANNELS, SIZE // 6, SIZE // 6) and set(store.lengths.values()) == {FRAMES}
    assert (store.duration, store.fps, store.height, store.width) == (FRAMES / FPS, FPS, SIZE, SIZE)
    assert store.about["frames_a_batch"] == [[0, 2 * FRAMES]]
    assert store.fingerprint == invert.latents_fingerprint(config, decoder)
    network, shard = load_decoder(config, decoder, CPU), list(read_clips(clips))
    found = torch.cat(
        [network.invert(to_tensor(np.concatenate([c.frames for c in shard[i : i + 2]]))) for i in range(0, COUNT, 2)]
    ).unflatten(0, (COUNT, FRAMES))
    assert [clip.clip_id for clip in store] == [clip.clip_id for clip in shard]
    for read, clip, latents in zip(store, shard, found, strict=True):
        kept = latents.half().float()
        assert np.array_equal(read.latents, kept.numpy()) and np.array_equal(read.times, clip.times)
        assert read.rounding == pytest.approx(((kept - latents).norm() / latents.norm()).item(), rel=1e-4)
        assert 5e-5 < read.rounding < 5e-4
        score = psnr(network.generate(kept), to_tensor(clip.frames)).mean().item()
        assert read.round_trip == pytest.approx(score, abs=1e-3)
        assert (read.duration, read.caption) == (FRAMES / FPS, clip.caption)


def test_the_store_tells_its_depth(run, decoder, clips, tmp_path):
    stores = {depth: LatentStore(run(str(depth), depth=depth, dtype="float32")) for depth in (0, 0.5, 1)}
    assert [store.about["inversion"]["depth"] for store in stores.values()] == [0, 0.5, 1]
    assert len({store.fingerprint for store in stores.values()}) == 3
    network, clip = load_decoder(small(), decoder, CPU), next(read_clips(clips))
    encoded = network.encode(to_tensor(clip.frames))
    assert np.allclose(stores[0][clip.clip_id].latents, encoded, atol=1e-6)
    for depth in (0.5, 1):
        assert not np.allclose(stores[depth][clip.clip_id].latents, encoded, atol=1e-3)
    with pytest.raises(FingerprintMismatch):
        run("0.5", depth=1)


@pytest.mark.parametrize(
    ("share", "count", "chosen"),
    [(0.05, 5, [0]), (0.05, 20, [0]), (0.05, 21, [0, 20]), (0.4, 5, [0, 2]), (1, 3, [0, 1, 2]), (0.1, 30, [0, 10, 20])],
)
def test_a_share_of_the_clips_is_checked_and_one_at_least(share, count, chosen):
    names = [f"clip {number}" for number in range(count)]
    assert invert_batch.chosen_for_check(names, share) == {names[number] for number in chosen}


@given(st.integers(1, 300), st.floats(1e-3, 1))
def test_as_many_clips_are_checked_as_the_share_says_rounded_up(count, share):
    assert len(invert_batch.chosen_for_check([str(n) for n in range(count)], share)) == math.ceil(
        round(count * share, 9)
    )


@pytest.mark.parametrize("depth", [0, 1])
def test_what_is_checked_decides_nothing_but_the_round_trip(run, depth):
    every, some = (LatentStore(run(f"{check}", check=check, depth=depth)) for check in (1, 0.4))
    assert every.fingerprint == some.fingerprint
    for place, (one, other) in enumerate(zip(every, some, strict=True)):
        assert np.array_equal(one.latents, other.latents)
        if place in (0, 2):
            assert other.round_trip == pytest.approx(one.round_trip, abs=1e-3)
        else:
            assert math.isnan(other.round_trip) and one.round_trip > 0


def test_the_ledger_counts_bytes_and_seconds(run, tmp_path):
    run()
    rows = read_ledger(tmp_path / "00000.parquet")
    assert len(rows) == COUNT and all(row.status == "ok" and row.seconds > 0 for row in rows)
    assert rows[0].bytes == 2 * FRAMES * CHANNELS * (SIZE // 6) ** 2


def test_float32_loses_nothing(run):
    assert [clip.rounding for clip in LatentStore(run(dtype="float32"))] == [0] * COUNT


@pytest.mark.parametrize(
    ("size", "expected"), [(12, [12, 12, 6]), (17, [12, 12, 6]), (6, [6] * 5), (4, [3] * 10), (1, [1] * 30), (99, [30])]
)
def test_batches_are_whole_clips_cut_into_even_parts_that_fit(run, asked, size, expected):
    run(batch_size=size)
    assert [count for count, _ in asked] == expected


def test_captions_go_with_their_frames_only_when_asked_for(run, asked):
    run("one", prompt="caption")
    run("two", prompt="empty")
    first = ["a picture 0"] * FRAMES + ["a picture 1"] * FRAMES
    assert [captions for _, captions in asked] == [first, first, first[:FRAMES], None, None, None]


def test_each_distinct_caption_is_encoded_once(run, captions, monkeypatch):
    encoded, encode = [], captions[0].encode
    monkeypatch.setattr(captions[0], "encode", lambda texts: (encoded.append(list(texts)), encode(texts))[1])
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(patch, 1)
        run()
    store = LatentStore(run())
    assert encoded == [["a picture 0", "a picture 1"]]
    whole = encode(store.captions)
    for clip, tokens, mask in zip(store, whole.tokens, whole.mask, strict=True):
        assert np.array_equal(clip.tokens, tokens.half().float().numpy()) and np.array_equal(clip.mask, mask.numpy())


def test_frames_are_read_when_they_are_needed(run, asked, monkeypatch):
    ahead = []

    def watched(path):
        for number, clip in enumerate(read_clips(path)):
            ahead.append(number - sum(count for count, _ in asked) // FRAMES)
            yield clip

    monkeypatch.setattr(invert, "read_clips", watched)
    run(batch_size=FRAMES)
    assert len(ahead) == COUNT and max(ahead) <= 2


# ---------------------------------------------------------------------------------------- going on


@pytest.mark.parametrize("count", range(1, COUNT + 1))
def test_a_stopped_run_goes_on_with_the_batch_it_was_at(run, asked, monkeypatch, tmp_path, count):
    whole = tree(run("whole"))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(patch, count)
        run()
    assert not (tmp_path / "00000.zarr").exists()
    del asked[:]
    assert tree(run()) == whole
    assert sum(size for size, _ in asked) == (COUNT - count // 2 * 2 if count < COUNT else 0) * FRAMES
    assert not list(tmp_path.glob(".*"))
    assert all(row.seconds > 0 for row in read_ledger(tmp_path / "00000.parquet"))


def test_stopped_while_the_store_is_put_together(run, asked, monkeypatch):
    whole = tree(run("whole"))

    def write(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(invert, "write_store", write)
        run()
    del asked[:]
    assert tree(run()) == whole and asked == []


@pytest.mark.parametrize(
    "other",
    [{"steps": 5}, {"refine": 0}, {"dtype": "float32"}, {"batch_size": 6}, {"precision": "bfloat16"}, {"check": 1}],
)
def test_work_under_other_settings_is_not_used(run, monkeypatch, tmp_path, capsys, other):
    whole = tree(run("whole"))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(patch, 3)
        run(**other)
    (left,) = tmp_path.glob(".*")
    assert tree(run()) == whole
    assert not list(tmp_path.glob(".*")) and f"removing {left}" in capsys.readouterr().err


def test_work_on_other_clips_is_not_used(run, clips, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(patch, 4)
        run()
    write_clips(clips, COUNT, "another picture")
    assert LatentStore(run()).captions[0] == "another picture 0"


def test_a_damaged_piece_is_told(run, monkeypatch, tmp_path):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(patch, 2)
        run()
    piece = next(tmp_path.glob(".00000.zarr.partial-*/*01.safetensors"))
    piece.write_bytes(piece.read_bytes()[:-7])
    with pytest.raises(VLFMError, match=r"01\.safetensors is damaged .*; remove it and run the rule again"):
        run()
    piece.unlink()
    assert len(LatentStore(run())) == COUNT


# ------------------------------------------------------------------------------------------ refusals


def test_settings_that_only_decide_the_speed_are_no_part_of_the_fingerprint(decoder):
    one = invert.latents_fingerprint(small(), decoder)
    assert one == invert.latents_fingerprint(small(batch_size="auto", compile=True), decoder)
    others = [small(steps=5), small(refine=0), small(prompt="caption"), small(precision="auto"), small(dtype="float32")]
    assert len({one, *(invert.latents_fingerprint(config, decoder) for config in others)}) == 6


def test_a_store_of_other_settings_or_clips_is_refused_and_left(run, clips, tmp_path):
    before = tree(run())
    with pytest.raises(FingerprintMismatch, match=r"00000\.zarr was made with other settings"):
        run(steps=5)
    write_clips(clips, 2, frames=3)
    with pytest.raises(FingerprintMismatch, match=r"24×24, 24 a second, in 0\.25 s, now they .* in 0\.125 s"):
        run()
    write_clips(clips, 2, width=2 * SIZE)
    with pytest.raises(FingerprintMismatch, match=r"24×24, .*, now they have frames of 48×24"):
        run()
    assert tree(tmp_path / "00000.zarr") == before and not list(tmp_path.glob(".*"))


def test_length_and_size_are_those_of_the_clips(run, clips):
    write_clips(clips, 2, frames=4, height=12, width=36)
    store = LatentStore(run())
    assert (
        store.shape == (CHANNELS, 2, 6)
        and store.num_frames == 4
        and store.duration == 4 / FPS
        and (store.height, store.width) == (12, 36)
    )


def test_a_shard_of_two_kinds_of_clips_is_refused(run, clips, monkeypatch):
    one = list(read_clips(clips))
    other = list(read_clips(write_clips(clips.with_name("d.tar"), 2, frames=4)))
    monkeypatch.setattr(invert, "read_clips", lambda path: iter([one[0], other[1]]))
    with pytest.raises(VLFMError, match=r"c\.tar: 0+1 has .* in 0\.166667 s, the first clip .* in 0\.25 s"):
        run()


# -------------------------------------------------------------------------------------------- memory


@pytest.fixture
def little_memory(asked, monkeypatch):
    """More than so many frames at once, and the device is out of memory."""
    limit = [FRAMES]
    load = invert.load_decoder

    def limited(config, folder, device):
        decoder = load(config, folder, device)
        original = decoder.invert

        def inverting(frames, captions=None):
            if len(frames) > limit[0]:
                raise torch.OutOfMemoryError(f"CUDA out of memory with {len(frames)} frames.\nMore words.")
            return original(frames, captions)

        decoder.invert = inverting
        return decoder

    monkeypatch.setattr(invert, "load_decoder", limited)
    return limit


def test_auto_goes_on_with_fewer_frames_and_says_so(run, little_memory, asked, monkeypatch, capsys):
    monkeypatch.setattr(invert_batch, "find_batch_size", lambda *_: 4 * FRAMES)
    stores = []
    for name, stop in (("whole", 0), ("killed", 4)):
        little_memory[0] = 2 * FRAMES
        with monkeypatch.context() as patch:
            if stop:
                stop_after(patch, stop)
                with pytest.raises(KeyboardInterrupt):
                    run(name, batch_size="auto")
                patch.undo()
                del asked[:]
        stores.append(run(name, batch_size="auto"))
    assert tree(stores[0]) == tree(stores[1])
    assert [count for count, _ in asked] == [6], "the first batch, and how large it may be, was known"
    assert LatentStore(stores[0]).about["frames_a_batch"] == [[0, 24], [0, 12]]
    assert "24 frames at once do not fit, going on with 12" in capsys.readouterr().err


def test_a_number_of_frames_that_does_not_fit_is_an_error(run, little_memory):
    little_memory[0] = 3
    with pytest.raises(VLFMError, match=r"6 frames at once do not fit cpu \(CUDA out of memory with 6 frames\.\); set"):
        run(batch_size=6)
    little_memory[0] = 0
    with pytest.raises(VLFMError, match=r"1 frame does not fit cpu .*set clips\.size to less"):
        run(batch_size="auto")


def test_auto_finds_a_size_on_this_machine(run, capsys):
    store = LatentStore(run(batch_size="auto"))
    ((start, frames),) = store.about["frames_a_batch"]
    assert start == 0 and 1 <= frames <= COUNT * FRAMES
    assert f"inversion.batch_size auto: {plural(frames, 'frame')} at once" in capsys.readouterr().out


@pytest.mark.parametrize(("count", "frames"), [(1, 1), (1, 5), (2, 4)])
def test_trials_take_no_more_frames_than_twice_the_shard_s(decoder, tmp_path, asked, count, frames):
    clips = write_clips(tmp_path / "few.tar", count, frames=frames)
    invert.invert_shard(small(batch_size="auto"), clips, decoder, tmp_path / "s.zarr", tmp_path / "s.parquet", CPU)
    ((_, size),) = LatentStore(tmp_path / "s.zarr").about["frames_a_batch"]
    total = count * frames
    assert total <= sum(seen for seen, _ in asked) <= 3 * total and size <= max(1, total // 3)
    if total < 6:
        assert [seen for seen, _ in asked] == [1] * total, "the work itself, nothing before it"

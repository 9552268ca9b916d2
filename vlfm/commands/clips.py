"""From index files to decoded clips."""

import os
from pathlib import Path

from vlfm.commands.options import PLAN, Commands, add_path, read_config
from vlfm.errors import VLFMError


def add(commands: Commands) -> None:
    """Declare them."""
    commands.add(
        "make-digits",
        _make_digits,
        "draw the clips of moving digits, where clips.index asks for them",
        output="results/clips/digits/digits.csv",
    )
    commands.add(
        "index",
        _index,
        "read the index files, cut long rows, plan the shards",
        manifest="results/clips/manifest.parquet",
        ledger="results/clips/index.ledger.parquet",
        plan=PLAN,
    )
    decode = commands.add(
        "decode",
        _decode,
        "download and decode one shard of clips",
        manifest="results/clips/manifest.parquet",
        sources="results/clips/sources",
    )
    decode.add_argument("--shard", required=True, help="its number in the plan")
    add_path(decode, "output")
    add_path(decode, "ledger")
    plan = commands.add(
        "plan",
        _plan,
        "what a run will take, by what a smaller one took: jobs, files, bytes and time of each stage",
        plan=PLAN,
        measured="results",
    )
    plan.add_argument("--clips", type=int, help="how many there will be, in place of those of the plan")
    plan.add_argument("--cores", type=int, default=os.cpu_count(), help="CPU cores of all machines (default: of this)")
    plan.add_argument("--gpus", type=int, default=0, help="GPUs of all machines (default 0)")
    split = commands.add("split", _split, "make a CSV of windows from videos, to be captioned")
    split.add_argument("videos", nargs="+", type=Path, help="video files or folders of them")
    split.add_argument("-o", "--output", type=Path, required=True)


def _make_digits(arguments):
    from vlfm.clips.moving_digits.videos import make_digits

    config = read_config(arguments)
    make_digits(config.clips, config.seed, arguments.output)


def _index(arguments):
    from vlfm.clips.index.build import build_index

    config = read_config(arguments)
    build_index(config.clips, arguments.manifest, arguments.ledger, arguments.plan)


def _plan(arguments):
    from vlfm.forecast import forecast, planned, table

    for name in ("clips", "cores", "gpus"):
        if (value := getattr(arguments, name)) is not None and value < (name != "gpus"):
            raise VLFMError(f"--{name} is {value}: give a number from {int(name != 'gpus')} up")
    config = read_config(arguments)
    shards = planned(arguments.plan, arguments.clips, config.clips.shard_size)
    print(table(forecast(config, shards, arguments.measured, arguments.cores, arguments.gpus)))


def _decode(arguments):
    from vlfm.clips.decode import decode_shard

    config = read_config(arguments)
    decode_shard(
        config.clips,
        arguments.manifest,
        int(arguments.shard),
        arguments.output,
        arguments.ledger,
        arguments.sources,
    )


def _split(arguments):
    from vlfm.clips.index.split_videos import split_video

    split_video(arguments.videos, arguments.output, read_config(arguments).clips)

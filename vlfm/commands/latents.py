"""From decoded clips to latents and coefficients."""

from vlfm.commands.options import PLAN, Commands, add_path, plan_training_shards, read_config, start_device
from vlfm.errors import VLFMError


def add(commands: Commands) -> None:
    """Declare them."""
    commands.add(
        "prepare-decoder",
        _prepare_decoder,
        "train or find the visual decoder",
        device=True,
        clips="results/clips",
        plan=PLAN,
        output="results/decoder",
    )
    invert = commands.add(
        "invert", _invert, "invert one shard of clips to latents", device=True, decoder="results/decoder"
    )
    for name in ("clips", "output", "ledger"):
        add_path(invert, name)
    take = commands.add("take", _take, "take a part of the run that latents_from names", output="results")
    take.add_argument("part", choices=("plan", "decoder", "clips", "latents"))
    take.add_argument("--shard", help="of clips and latents: its number in the plan")
    caption = commands.add("caption", _caption, "caption the clips of one shard that have no caption", device=True)
    for name in ("clips", "output", "ledger"):
        add_path(caption, name)
    commands.add(
        "empty-caption",
        _empty_caption,
        "embed the empty caption, for dropout and guidance",
        device=True,
        output="results/captions/empty.safetensors",
    )
    project = commands.add("project", _project, "project one shard of latents on the basis of flow.basis", device=True)
    for name in ("latents", "output", "moments", "ledger"):
        add_path(project, name)


def _caption(arguments):
    from vlfm.captions.captioner import Captioner, caption_shard

    clips = read_config(arguments).clips
    if clips.captioner is None:
        raise VLFMError("clips.captioner is null: name the model that captions clips there")
    captioner = Captioner(clips.captioner, start_device(arguments))
    caption_shard(captioner, arguments.clips, arguments.output, arguments.ledger, clips.max_bad)


def _prepare_decoder(arguments):
    from vlfm.decoders.prepare import prepare_decoder

    shards = [arguments.clips / f"{shard}.tar" for shard in plan_training_shards(arguments)]
    prepare_decoder(read_config(arguments), shards, arguments.output, start_device(arguments))


def _invert(arguments):
    from vlfm.latents.invert import invert_shard

    invert_shard(
        read_config(arguments),
        arguments.clips,
        arguments.decoder,
        arguments.output,
        arguments.ledger,
        start_device(arguments),
    )


def _take(arguments):
    from vlfm.latents.reused import OtherRun

    run, part, shard, output = OtherRun(read_config(arguments)), arguments.part, arguments.shard, arguments.output
    if part in ("clips", "latents") and shard is None:
        raise VLFMError(f"which shard of {part}? give --shard 00000, for example")
    if part == "plan":
        run.take_plan(output / "clips" / "manifest.parquet", output / "clips" / "shards.json")
    elif part == "decoder":
        run.take_decoder(output / "decoder")
    elif part == "clips":
        run.take_clips(shard, output / "clips" / f"{shard}.tar")
    else:
        run.take_latents(shard, output / "decoder", output / "latents" / f"{shard}.zarr")


def _empty_caption(arguments):
    from vlfm.captions.encoders import write_empty_caption
    from vlfm.captions.load import load_caption_encoder

    write_empty_caption(arguments.output, load_caption_encoder(read_config(arguments), start_device(arguments)))


def _project(arguments):
    from vlfm.coefficients.project import project_shard

    start_device(arguments)
    project_shard(read_config(arguments), arguments.latents, arguments.output, arguments.moments, arguments.ledger)

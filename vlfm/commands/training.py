"""The model, trained on coefficients."""

from vlfm.commands.options import PLAN, Commands, plan_training_shards, rank, read_config, start_device


def add(commands: Commands) -> None:
    """Declare them."""
    train = commands.add(
        "train",
        _train,
        "train the flow model on coefficient shards",
        device=True,
        coefficients="results/coefficients",
        plan=PLAN,
        decoder="results/decoder",
        output="results/model",
        checkpoints="results/checkpoints",
        metrics="results/model/metrics.csv",
        empty_caption="results/captions/empty.safetensors",
    )
    train.add_argument("--processes", type=int, help="on each machine, one a GPU; default training.processes")
    train.add_argument("--nodes", type=int, help="of this Slurm job, to train on; default training.nodes")
    train.set_defaults(gpus=_processes)


def _processes(arguments) -> int:
    return arguments.processes or read_config(arguments).training.processes


def _train(arguments):
    from vlfm.training.launch import launch, launched
    from vlfm.training.nodes import launch_on_nodes, meeting

    config = read_config(arguments)
    nodes, processes = arguments.nodes or config.training.nodes, _processes(arguments)
    if not launched():
        if nodes > 1 and meeting() is None:
            return launch_on_nodes(arguments.command_line, nodes)
        if nodes * processes > 1:
            return launch(arguments.command_line, processes, arguments.threads, meeting())

    from vlfm.captions.encoders import read_empty_caption
    from vlfm.storage.files import write_bytes
    from vlfm.training.loop import train
    from vlfm.training.objective import Objective

    names = plan_training_shards(arguments)
    dropout = config.training.caption_dropout > 0
    device = start_device(arguments, config.training.deterministic)
    decoder = arguments.decoder if (arguments.decoder / "decoder.json").exists() else None
    if decoder is None and rank() == 0:
        print(f"no visual decoder in {arguments.decoder}: the model will be a network alone, no pipeline")
    train(
        config,
        [arguments.coefficients / f"{name}.tar" for name in names],
        [arguments.coefficients / f"{name}.json" for name in names],
        arguments.output,
        arguments.checkpoints,
        arguments.metrics,
        device,
        Objective(config, read_empty_caption(arguments.empty_caption) if dropout else None),
        _preview(arguments, config, decoder, names, device),
        decoder,
    )
    kept = arguments.output / "metrics.csv"
    if rank() == 0 and arguments.metrics.resolve() != kept.resolve():
        write_bytes(kept, arguments.metrics.read_bytes())


def _preview(arguments, config, decoder, names, device):
    """What shows the first few captions while training; None if nothing is to be shown."""
    if decoder is None or not config.training.preview_every or rank():
        return None
    from vlfm.coefficients.shards import read_shard
    from vlfm.training.data import read_moments
    from vlfm.training.preview import make_preview

    observed = read_moments([arguments.coefficients / f"{name}.json" for name in names]).observed
    captions = dict.fromkeys(clip.caption for clip in read_shard(arguments.coefficients / f"{names[0]}.tar"))
    return make_preview(config, decoder, list(captions)[:4], arguments.output / "previews", device, observed)

"""What a finished run is worth, and the pages that say so."""

from pathlib import Path

from vlfm.commands.options import (
    PLAN,
    Commands,
    plan_shards,
    plan_splits,
    plan_training_shards,
    read_config,
    start_device,
)
from vlfm.errors import VLFMError
from vlfm.experiments.names import EXPERIMENTS, ON_REQUEST


def add(commands: Commands) -> None:
    """Declare them."""
    commands.add(
        "evaluate",
        _evaluate,
        "render clips from their captions and score every stage",
        device=True,
        results="results",
        plan=PLAN,
        output="results/eval/psnr.csv",
        videos="results/eval/videos",
    )
    commands.add(
        "fit-judges",
        _fit_judges,
        "fit what judges generated clips to the training clips",
        device=True,
        clips="results/clips",
        plan=PLAN,
        output="results/judges",
    )
    commands.add(
        "evaluate-generation",
        _evaluate_generation,
        "generate videos from captions, held-out ones first, and judge them",
        device=True,
        results="results",
        plan=PLAN,
        output="results/eval",
    )
    experiment = commands.add(
        "experiment",
        _experiment,
        "run one of the paper's experiments on a finished run",
        device=True,
        results="results",
        plan=PLAN,
        output="results/eval",
    )
    experiment.add_argument("name", choices=(*EXPERIMENTS, *ON_REQUEST), help="which")
    experiment.add_argument(
        "--part",
        help="one part of an experiment that trains. ablation: a head; baselines: `prepare`, then VARIANT-SEED; depth: "
        "`prepare`, then a depth. Without --part, gather what the parts gave",
    )
    commands.add(
        "theory",
        _theory,
        "check the paper's lemmas on the run, as a page",
        device=True,
        results="results",
        plan=PLAN,
        output="results/theory",
    )
    report = commands.add(
        "report",
        _report,
        "write the self-contained report page",
        results="results",
        output="results/report/index.html",
    )
    report.add_argument(
        "--picture",
        type=Path,
        help="write a picture of a few clips instead, for a README: .png, or .webp of captions' videos, which moves",
    )
    ledger = commands.add("ledger", _ledger, "say what happened to every clip, stage by stage", results="results")
    ledger.add_argument("--bad", action="store_true", help="list the bad clips with their reasons")


def _run(arguments, trains: bool = False):
    """The finished run that the arguments name; `trains`: on a device set up as `vlfm train` does."""
    from vlfm.finished_run import Run

    config, splits = read_config(arguments), plan_splits(arguments)
    device = start_device(arguments, config.training.deterministic or not trains)
    return Run(config, arguments.results, list(splits), device, splits)


def _evaluate(arguments):
    from vlfm.evaluation.evaluate import evaluate

    splits = plan_splits(arguments)
    evaluate(
        read_config(arguments),
        list(splits),
        arguments.results,
        arguments.output,
        arguments.videos,
        start_device(arguments),
        splits,
    )


def _fit_judges(arguments):
    from vlfm.evaluation.generation.fit_judges import fit_judges
    from vlfm.storage.files import read_json

    plan = read_json(arguments.plan)
    counts = {shard: plan[shard]["clips"] for shard in plan_training_shards(arguments)}
    fit_judges(read_config(arguments), counts, arguments.clips, arguments.output, start_device(arguments))


def _evaluate_generation(arguments):
    from vlfm.evaluation.generation.evaluate import evaluate_generation

    evaluate_generation(_run(arguments), arguments.output)


def _experiment(arguments):
    import importlib

    run = _run(arguments, trains=arguments.part is not None)
    experiment = importlib.import_module(f"vlfm.experiments.{arguments.name}")
    if arguments.part is None:
        return experiment.run(run, arguments.output)
    if not hasattr(experiment, "run_part"):
        raise VLFMError(f"{arguments.name} has no parts; leave --part out")
    experiment.run_part(run, arguments.output, arguments.part)


def _theory(arguments):
    from vlfm.theory.write import write_theory

    write_theory(
        read_config(arguments), plan_shards(arguments), arguments.results, arguments.output, start_device(arguments)
    )


def _report(arguments):
    if arguments.picture:
        from vlfm.report.picture import write_picture

        return write_picture(arguments.results, arguments.picture, read_config(arguments).clips.fps)

    from vlfm.report.write import write_report

    write_report(read_config(arguments), arguments.results, arguments.output)


def _ledger(arguments):
    from vlfm.report.clip_ledger import print_ledger

    print_ledger(arguments.results, arguments.bad)

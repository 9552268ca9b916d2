"""The command line: one subcommand per stage, each of which the workflow calls and which also runs by itself.

Nothing heavy is imported until a subcommand needs it: `vlfm --help` is instant.
"""

import argparse
import contextlib
import os
import sys
import traceback
from pathlib import Path

from vlfm import __version__
from vlfm.errors import Stopped, VLFMError


class _Copy:
    """A text stream that also writes to a log; what it says about being a terminal is the original's."""

    def __init__(self, stream, log):
        self._stream, self._log = stream, log

    def write(self, text: str) -> int:
        self._log.write(text)
        self._log.flush()
        return self._stream.write(text)

    def __getattr__(self, name):
        return getattr(self._stream, name)


@contextlib.contextmanager
def _copied_to(path: Path | None):
    """Copy everything printed, tracebacks included, to a file. Progress bars go to the terminal alone."""
    if path is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as log:
        stdout, stderr = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = _Copy(stdout, log), _Copy(stderr, log)
        try:
            yield
        except Exception:
            log.write(traceback.format_exc())
            raise
        finally:
            sys.stdout, sys.stderr = stdout, stderr


def _config(arguments: argparse.Namespace):
    from vlfm import config

    return config.load(*(arguments.config or ["results/config.yaml"]))


def _device(arguments: argparse.Namespace):
    import torch

    torch.set_num_threads(arguments.threads)
    # The same sums in the same order, on a GPU too where it has such kernels.
    torch.use_deterministic_algorithms(True, warn_only=True)
    # A debugging aid that comes with the line above and costs a pass over every new tensor.
    torch.utils.deterministic.fill_uninitialized_memory = False
    if arguments.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(arguments.device)


def _rank() -> int:
    """This process's number among those that train together; 0 where it is alone."""
    return int(os.environ.get("RANK", "0"))


def _shards(arguments: argparse.Namespace) -> list[str]:
    from vlfm.storage.files import read_json

    return sorted(read_json(arguments.plan))


def _splits(arguments: argparse.Namespace) -> dict[str, str]:
    """Shard → split, of the whole plan."""
    from vlfm.splits import splits_of
    from vlfm.storage.files import read_json

    return splits_of(read_json(arguments.plan))


def _training_shards(arguments: argparse.Namespace) -> list[str]:
    from vlfm.splits import training_shards
    from vlfm.storage.files import read_json

    return training_shards(read_json(arguments.plan), arguments.plan)


def _make_digits(arguments):
    from vlfm.clips.moving_digits.videos import make_digits

    config = _config(arguments)
    make_digits(config.clips, config.seed, arguments.output)


def _index(arguments):
    from vlfm.clips.index import build_index

    config = _config(arguments)
    build_index(config.clips, arguments.manifest, arguments.ledger, arguments.plan)


def _decode(arguments):
    from vlfm.clips.decode import decode_shard

    config = _config(arguments)
    decode_shard(
        config.clips,
        arguments.manifest,
        int(arguments.shard),
        arguments.output,
        arguments.ledger,
        arguments.sources,
    )


def _split(arguments):
    from vlfm.clips.split_videos import split_video

    split_video(arguments.videos, arguments.output, _config(arguments).clips)


def _prepare_decoder(arguments):
    from vlfm.decoders.prepare import prepare_decoder

    shards = [arguments.clips / f"{shard}.tar" for shard in _training_shards(arguments)]
    prepare_decoder(_config(arguments), shards, arguments.output, _device(arguments))


def _invert(arguments):
    from vlfm.latents.invert import invert_shard

    invert_shard(
        _config(arguments),
        arguments.clips,
        arguments.decoder,
        arguments.output,
        arguments.ledger,
        _device(arguments),
    )


def _empty_caption(arguments):
    from vlfm.captions.encoders import write_empty_caption
    from vlfm.captions.load import load_caption_encoder

    write_empty_caption(arguments.output, load_caption_encoder(_config(arguments), _device(arguments)))


def _project(arguments):
    from vlfm.coefficients.project import project_shard

    _device(arguments)
    project_shard(_config(arguments), arguments.latents, arguments.output, arguments.moments, arguments.ledger)


def _train(arguments):
    from vlfm.training.launch import launch, launched

    config = _config(arguments)
    processes = arguments.processes or config.training.processes
    if processes > 1 and not launched():
        return launch(arguments.command_line, processes, arguments.threads)

    from vlfm.captions.encoders import read_empty_caption
    from vlfm.training.loop import train
    from vlfm.training.objective import Objective

    names = _training_shards(arguments)
    dropout = config.training.caption_dropout > 0
    device = _device(arguments)
    decoder = arguments.decoder if (arguments.decoder / "decoder.json").exists() else None
    if decoder is None and _rank() == 0:
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


def _preview(arguments, config, decoder, names, device):
    """What shows the first few captions while training; None if nothing is to be shown."""
    if decoder is None or not config.training.preview_every or _rank():
        return None
    from vlfm.coefficients.shards import read_shard
    from vlfm.training.data import read_moments
    from vlfm.training.preview import make_preview

    observed = read_moments([arguments.coefficients / f"{name}.json" for name in names]).observed
    captions = dict.fromkeys(clip.caption for clip in read_shard(arguments.coefficients / f"{names[0]}.tar"))
    return make_preview(config, decoder, list(captions)[:4], arguments.output / "previews", device, observed)


def _evaluate(arguments):
    from vlfm.evaluation.evaluate import evaluate

    splits = _splits(arguments)
    evaluate(
        _config(arguments),
        list(splits),
        arguments.results,
        arguments.output,
        arguments.videos,
        _device(arguments),
        splits,
    )


def _fit_judges(arguments):
    from vlfm.evaluation.generation.judges import fit_judges
    from vlfm.storage.files import read_json

    plan = read_json(arguments.plan)
    counts = {shard: plan[shard]["clips"] for shard in _training_shards(arguments)}
    fit_judges(_config(arguments), counts, arguments.clips, arguments.output, _device(arguments))


def _evaluate_generation(arguments):
    from vlfm.evaluation.generation.evaluate import evaluate_generation
    from vlfm.run import Run

    splits = _splits(arguments)
    run = Run(_config(arguments), arguments.results, list(splits), _device(arguments), splits)
    evaluate_generation(run, arguments.output)


def _report(arguments):
    if arguments.picture:
        from vlfm.report.picture import write_picture

        return write_picture(arguments.results, arguments.picture, _config(arguments).clips.fps)

    from vlfm.report.write import write_report

    write_report(_config(arguments), arguments.results, arguments.output)


def _theory(arguments):
    from vlfm.theory.write import write_theory

    write_theory(_config(arguments), _shards(arguments), arguments.results, arguments.output, _device(arguments))


def _best(arguments, in_latents: str) -> str:
    return "motion" if arguments.decoder == "pixels" else in_latents


def _options(arguments):
    from vlfm.video.convert import Options
    from vlfm.video.resample import PathSettings

    return Options(
        path=PathSettings(arguments.path or _best(arguments, "hybrid"), arguments.window, arguments.order),
        decoder=arguments.decoder,
        detail=not arguments.drop_detail,
        quality=arguments.quality,
        shot_threshold=arguments.shot_threshold,
        crf=arguments.crf,
        keep_damaged=arguments.keep_damaged,
    )


def _interpolate(arguments):
    from vlfm.video.convert import interpolate

    device = _device(arguments)
    interpolate(arguments.video, arguments.output, arguments.fps, _options(arguments), device, arguments.threads)


def _extrapolate(arguments):
    from vlfm.video.convert import extrapolate

    model = None
    if (arguments.model is None) != (arguments.caption is None):
        raise VLFMError("--model and --caption belong together: the model shows what the caption says; '' is a caption")
    device = _device(arguments)
    if arguments.model is not None:
        from vlfm.video.continuation import ModelSettings

        model = ModelSettings(arguments.model, arguments.caption, arguments.guidance, arguments.seed)
    extrapolate(
        arguments.video,
        arguments.output,
        arguments.seconds,
        arguments.tail or _best(arguments, "hold"),
        _options(arguments),
        device,
        arguments.fps,
        arguments.threads,
        model,
    )


def _generate(arguments):
    from vlfm.generate import generate, plan_outputs, read_captions

    captions = read_captions(arguments.caption, arguments.captions)
    folder = arguments.captions is not None or len(captions) > 1
    generate(
        captions,
        plan_outputs(captions, arguments.output, folder, f".{arguments.format}"),
        arguments.model,
        lambda: _device(arguments),
        fps=arguments.fps,
        seconds=arguments.seconds,
        size=(arguments.height, arguments.width),
        steps=arguments.steps,
        guidance=arguments.guidance,
        seed=arguments.seed,
    )


def _experiment(arguments):
    import importlib

    from vlfm.run import Run

    splits = _splits(arguments)
    run = Run(_config(arguments), arguments.results, list(splits), _device(arguments), splits)
    experiment = importlib.import_module(f"vlfm.experiments.{arguments.name}")
    if arguments.part is None:
        return experiment.run(run, arguments.output)
    if not hasattr(experiment, "run_part"):
        raise VLFMError(f"{arguments.name} has no parts; leave --part out")
    experiment.run_part(run, arguments.output, arguments.part)


def _ledger(arguments):
    from vlfm.report.clip_ledger import print_ledger

    print_ledger(arguments.results, arguments.bad)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vlfm", description="Video Latent Flow Matching: clips → latents → paths → a caption-to-video model."
    )
    parser.add_argument("--version", action="version", version=f"vlfm {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run, text: str, device: bool = False, config: bool = True) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        if config:
            sub.add_argument(
                "--config",
                type=Path,
                action="append",
                help="a complete configuration (default results/config.yaml); given again, a file of keys that change",
            )
        sub.add_argument("--log", type=Path, help="also write messages to this file")
        if device:
            threads = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count())
            sub.add_argument("--threads", type=int, default=threads, help="CPU threads (OMP_NUM_THREADS, or all)")
            sub.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, …")
        return sub

    def paths(sub: argparse.ArgumentParser, **defaults: str) -> None:
        for name, default in defaults.items():
            option = "--" + name.replace("_", "-")
            sub.add_argument(option, type=Path, default=Path(default), help=f"default {default}")

    plan = "results/clips/shards.json"
    sub = command("make-digits", _make_digits, "draw the clips of moving digits, where clips.index asks for them")
    paths(sub, output="results/clips/digits/digits.csv")
    sub = command("index", _index, "read the CSV of clips, cut long rows, plan the shards")
    paths(sub, manifest="results/clips/manifest.parquet", ledger="results/clips/index.ledger.parquet", plan=plan)
    sub = command("decode", _decode, "download and decode one shard of clips")
    sub.add_argument("--shard", required=True, help="its number in the plan")
    paths(sub, manifest="results/clips/manifest.parquet", sources="results/clips/sources")
    sub.add_argument("--output", type=Path, required=True)
    sub.add_argument("--ledger", type=Path, required=True)
    sub = command("split", _split, "make a CSV of windows from videos, to be captioned")
    sub.add_argument("videos", nargs="+", type=Path, help="video files or folders of them")
    sub.add_argument("-o", "--output", type=Path, required=True)
    sub = command("prepare-decoder", _prepare_decoder, "train or find the visual decoder", device=True)
    paths(sub, clips="results/clips", plan=plan, output="results/decoder")
    sub = command("invert", _invert, "invert one shard of clips to latents", device=True)
    paths(sub, decoder="results/decoder")
    for name in ("clips", "output", "ledger"):
        sub.add_argument(f"--{name}", type=Path, required=True)
    sub = command("empty-caption", _empty_caption, "embed the empty caption, for dropout and guidance", device=True)
    paths(sub, output="results/captions/empty.safetensors")
    sub = command("project", _project, "project one shard of latents on Legendre polynomials", device=True)
    for name in ("latents", "output", "moments", "ledger"):
        sub.add_argument(f"--{name}", type=Path, required=True)
    sub = command("train", _train, "train the flow model on coefficient shards", device=True)
    sub.add_argument("--processes", type=int, help="on this machine, one a GPU; default training.processes")
    paths(
        sub,
        coefficients="results/coefficients",
        plan=plan,
        decoder="results/decoder",
        output="results/model",
        checkpoints="results/checkpoints",
        metrics="results/model/metrics.csv",
        empty_caption="results/captions/empty.safetensors",
    )
    sub = command("evaluate", _evaluate, "render clips from their captions and score every stage", device=True)
    paths(sub, results="results", plan=plan, output="results/eval/psnr.csv", videos="results/eval/videos")
    sub = command("fit-judges", _fit_judges, "fit what judges generated clips to the training clips", device=True)
    paths(sub, clips="results/clips", plan=plan, output="results/judges")
    sub = command(
        "evaluate-generation", _evaluate_generation, "make videos of captions, held-out ones first, and judge them",
        device=True,
    )  # fmt: skip
    paths(sub, results="results", plan=plan, output="results/eval")
    sub = command("report", _report, "write the self-contained report page")
    paths(sub, results="results", output="results/report/index.html")
    sub.add_argument("--picture", type=Path, help="write this PNG of a few clips instead, for a README")
    sub = command("theory", _theory, "check the paper's lemmas on the run, as a page", device=True)
    paths(sub, results="results", plan=plan, output="results/theory")
    whole_video = (
        "Works on any video of any length, at its own size; nothing has to be trained. Frames of the input that fall "
        "on an instant of the output stay as they are, the others lie on paths through those around them, never "
        "across a cut. Sound is copied as it is. The output appears when it is whole."
    )

    def paths_through_video(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("video", help="a file, or package:NAME/PATH")
        sub.add_argument("-o", "--output", type=Path, required=True, help=".mp4, .m4v, .mov or .mkv (H.264)")
        sub.add_argument(
            "--path",
            choices=["motion", "hybrid", "polynomial", "linear"],
            help="motion: along the motion between frames, the best measured (default on pixels); at fixed places: "
            "hybrid, polynomial plus interpolated residual (default in latents), polynomial, the paper's, linear",
        )
        sub.add_argument("--order", type=int, default=5, help="number of polynomials (default 5)")
        sub.add_argument("--window", type=int, default=8, help="frames a path runs through (default 8)")
        sub.add_argument(
            "--decoder",
            default="pixels",
            help="what paths run through: pixels (default; the sharpest and fastest), fitted: the latents of a patch "
            "autoencoder fitted on the video, or a folder: results/decoder, or a diffusers autoencoder's",
        )
        sub.add_argument(
            "--drop-detail", action="store_true", help="show what the decoder alone gives, without what it drops"
        )
        sub.add_argument("--quality", type=float, default=40.0, help="of the fitted autoencoder, dB (default 40)")
        sub.add_argument("--shot-threshold", type=float, default=27.0, help="of cuts; 0: there are none (default 27)")
        sub.add_argument("--crf", type=float, default=16.0, help="x264 quality, 0 lossless … 51 (default 16)")
        sub.add_argument("--keep-damaged", action="store_true", help="go on where the input is damaged")

    sub = command("interpolate", _interpolate, "give a video another frame rate", device=True, config=False)
    sub.description = f"Give a video another frame rate. {whole_video}"
    paths_through_video(sub)
    sub.add_argument("--fps", required=True, help="frames a second: 48, 29.97, 60000/1001, or 2x the input's")
    sub = command("extrapolate", _extrapolate, "let a video go on after its end", device=True, config=False)
    sub.description = f"Let a video go on after its end. {whole_video}"
    paths_through_video(sub)
    sub.add_argument("--seconds", type=float, required=True, help="how long it goes on after its last frame")
    sub.add_argument(
        "--tail",
        choices=["motion", "hold", "linear", "refit", "polynomial"],
        help="motion: everything goes on as it last moved and comes to rest (default on pixels); at fixed places: "
        "hold, the last frame stays (default in latents), linear, along the end slope, refit, along a line through the "
        "last window, polynomial, the paper's, refused where it explodes",
    )
    sub.add_argument("--fps", help="frames a second; default the input's own")
    sub.add_argument(
        "--model",
        type=Path,
        help="go on by a trained model, results/model for example, from the last frame: it sees the middle of the "
        "picture at the size it was trained at, so it goes on softer than the film; --tail goes on around it. After "
        "one clip's length it goes on from what it made, and errors add up",
    )
    sub.add_argument("--caption", help="with --model: what happens after the video's end")
    sub.add_argument("--guidance", type=float, default=1.0, help="with --model, as for `vlfm generate`")
    sub.add_argument("--seed", type=int, default=0, help="with --model, as for `vlfm generate`")
    sub = command("generate", _generate, "make videos of captions with a trained model", device=True, config=False)
    sub.add_argument("caption", nargs="*", help="what the video is to show; several make several videos")
    sub.add_argument("--captions", type=Path, metavar="FILE", help="captions, one a line, beside those given here")
    sub.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        help=".mp4, .m4v, .mov, .mkv, .gif, or .png for all frames on one sheet; for several captions, or those of a "
        "file, a folder of videos 0001-the-caption.mp4",
    )
    sub.add_argument(
        "--format", choices=["mp4", "mov", "mkv", "gif", "png"], default="mp4", help="of the files in a folder"
    )
    sub.add_argument("--model", type=Path, default=Path("results/model"), help="default results/model")
    sub.add_argument(
        "--fps",
        help="frames a second: 16, 29.97, 60000/1001, or 2x the model's clips'; default theirs. Any costs the same",
    )
    sub.add_argument(
        "--seconds",
        type=float,
        help="length; default the longest that the model was trained on. Between such lengths the video is the "
        "beginning of the next longer one's; beyond the longest it is refused, and `vlfm extrapolate` goes on",
    )
    for side in ("height", "width"):
        sub.add_argument(f"--{side}", type=int, help="of the picture, pixels; default that of the training's clips")
    sub.add_argument(
        "--steps",
        type=int,
        help="network evaluations a video: 1 for the average of what a caption stands for, 8 to draw one of several "
        "clips; for the head velocity, solver steps a frame. Default what the model's evaluation.steps says",
    )
    sub.add_argument(
        "--guidance",
        type=float,
        help="above 1 needs a model trained with training.caption_dropout; default what its evaluation.guidance says",
    )
    sub.add_argument("--seed", type=int, default=0, help="the same gives the same video, another another (default 0)")
    sub = command("experiment", _experiment, "run one of the paper's experiments on a finished run", device=True)
    names = ("interpolation", "extrapolation", "order", "ledger", "ablation", "speed", "baselines", "depth")
    sub.add_argument("name", choices=names, help="which")
    sub.add_argument(
        "--part",
        help="of an experiment that trains: ablation, a head; baselines, `prepare` and then VARIANT-SEED; depth, "
        "`prepare` and then a depth. Without it, gather what the parts gave",
    )
    paths(sub, results="results", plan=plan, output="results/eval")
    sub = command("ledger", _ledger, "say what happened to every clip, stage by stage")
    paths(sub, results="results")
    sub.add_argument("--bad", action="store_true", help="list the bad clips with their reasons")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand; a `VLFMError` becomes one message and exit status 1, or 143 where a signal asked to stop."""
    arguments = _parser().parse_args(argv)
    arguments.command_line = sys.argv[1:] if argv is None else argv
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    who, log = arguments.command, arguments.log
    if rank := _rank():
        who, log = f"{who}, process {rank}", log and log.with_suffix(f".{rank}{log.suffix}")
    with _copied_to(log):
        try:
            return arguments.run(arguments) or 0
        except VLFMError as error:
            print(f"vlfm {who}: {error}", file=sys.stderr)
            return 143 if isinstance(error, Stopped) else 1


if __name__ == "__main__":
    sys.exit(main())

"""Videos: given another frame rate, or a longer end, or generated from captions."""

import argparse
from pathlib import Path

from vlfm.commands.options import Commands, start_device
from vlfm.errors import VLFMError

WHOLE_VIDEO = (
    "Works on any video of any length, at its own size; nothing has to be trained. Frames of the input that fall "
    "on an instant of the output stay as they are (not with --path projected or --drop-detail), the others lie on "
    "paths through those around them, never across a cut. Sound is copied as it is. The output appears when it is "
    "whole."
)


def add(commands: Commands) -> None:
    """Declare them."""
    _add_interpolate(commands)
    _add_extrapolate(commands)
    _add_generate(commands)


def _add_interpolate(commands: Commands) -> None:
    sub = commands.add("interpolate", _interpolate, "give a video another frame rate", device=True, config=False)
    sub.description = f"Give a video another frame rate. {WHOLE_VIDEO}"
    _add_path_options(sub)
    sub.add_argument("--fps", required=True, help="frames a second: 48, 29.97, 60000/1001, or 2x the input's")


def _interpolate(arguments):
    from vlfm.video.convert import interpolate

    device = start_device(arguments)
    interpolate(arguments.video, arguments.output, arguments.fps, _options(arguments), device, arguments.threads)


def _add_extrapolate(commands: Commands) -> None:
    sub = commands.add("extrapolate", _extrapolate, "let a video go on after its end", device=True, config=False)
    sub.description = f"Let a video go on after its end. {WHOLE_VIDEO}"
    _add_path_options(sub)
    sub.add_argument("--seconds", type=float, required=True, help="how long it goes on after its last frame")
    sub.add_argument(
        "--tail",
        choices=["motion", "hold", "linear", "refit", "continued"],
        help="motion: everything goes on as it last moved and comes to rest (default on pixels); at fixed places: "
        "hold: the last frame stays (default in latents); linear: along the end slope; refit: along a line through the "
        "last window; continued: cosines play backwards, Legendre polynomials (the paper's) "
        "are refused where they explode",
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
    sub.add_argument("--guidance", type=float, help="with --model, as for `vlfm generate`")
    sub.add_argument("--seed", type=int, default=0, help="with --model, as for `vlfm generate`")


def _extrapolate(arguments):
    from vlfm.video.convert import extrapolate

    model = None
    if (arguments.model is None) != (arguments.caption is None):
        raise VLFMError("--model and --caption belong together: the model shows what the caption says; '' is a caption")
    device = start_device(arguments)
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


def _add_path_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("video", help="a file, or package:NAME/PATH")
    sub.add_argument("-o", "--output", type=Path, required=True, help=".mp4, .m4v, .mov or .mkv (H.264)")
    sub.add_argument(
        "--path",
        choices=["motion", "hybrid", "projected", "linear"],
        help="motion: along the motion between frames, the best measured (default on pixels); at fixed places: "
        "hybrid, a projected path plus interpolated residual (default in latents), projected, smooth and not exact, "
        "linear",
    )
    sub.add_argument("--order", type=int, default=5, help="number of basis functions (default 5)")
    sub.add_argument(
        "--basis",
        choices=["cosine", "legendre"],
        default="cosine",
        help="of the path (default cosine; the paper's is legendre)",
    )
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


def _options(arguments):
    from vlfm.video.convert import Options
    from vlfm.video.resample import PathSettings

    return Options(
        path=PathSettings(
            arguments.path or _best(arguments, "hybrid"), arguments.window, arguments.order, arguments.basis
        ),
        decoder=arguments.decoder,
        detail=not arguments.drop_detail,
        quality=arguments.quality,
        shot_threshold=arguments.shot_threshold,
        crf=arguments.crf,
        keep_damaged=arguments.keep_damaged,
    )


def _best(arguments, in_latents: str) -> str:
    return "motion" if arguments.decoder == "pixels" else in_latents


def _add_generate(commands: Commands) -> None:
    sub = commands.add(
        "generate", _generate, "generate videos from captions with a trained model", device=True, config=False
    )
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
        help="frames a second: 16, 29.97, 60000/1001, or 2x the model's clips'; default theirs. At any rate "
        "the head coefficients is evaluated equally often",
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
        help="of sampling, a network evaluation each, two with guidance: 1 for the average of what a caption stands "
        "for, 4 or more to draw one of several clips; for the head velocity, solver steps a frame. Default: the "
        "model's evaluation.steps, or for velocity its evaluation.solver_steps",
    )
    sub.add_argument(
        "--guidance",
        type=float,
        help="above 1 needs a model trained with training.caption_dropout; default what its evaluation.guidance says",
    )
    sub.add_argument("--seed", type=int, default=0, help="the same seed gives the same video (default 0)")


def _generate(arguments):
    from vlfm.generate import generate, plan_outputs, read_captions

    captions = read_captions(arguments.caption, arguments.captions)
    folder = arguments.captions is not None or len(captions) > 1
    generate(
        captions,
        plan_outputs(captions, arguments.output, folder, f".{arguments.format}"),
        arguments.model,
        lambda: start_device(arguments),
        fps=arguments.fps,
        seconds=arguments.seconds,
        size=(arguments.height, arguments.width),
        steps=arguments.steps,
        guidance=arguments.guidance,
        seed=arguments.seed,
    )

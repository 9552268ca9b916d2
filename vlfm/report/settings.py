"""A run's settings in words."""

from vlfm import config as configs
from vlfm.decoders.inversion_depth import walked_steps
from vlfm.flow.names import FUNCTIONS
from vlfm.splits import TEST
from vlfm.words import plural


def settings_in_words(
    config: configs.Config, decoder: dict, training: dict, splits: dict[str, str]
) -> list[tuple[str, str]]:
    """What a run was told, a sentence a stage.

    Args:
        decoder, training: what its decoder and its training say of themselves. splits: of its clips.
    """
    clips, flow, model, train = config.clips, config.flow, config.model, config.training
    lengths = " and ".join(f"{duration:g}" for duration in clips.durations)
    sizes = " and ".join(f"{width}×{height}" for height, width in clips.sizes)
    if config.decoder.name == "embedded":
        predictor = " and a small noise predictor, both" if config.predictor_steps else ""
        kind = "an autoencoder of lapped patches" if config.decoder.embedded.autoencoder.steps else "patches"
        visual = f"{kind}{predictor} trained on the clips"
        if "held_out_psnr" in decoder:
            visual += f"; {decoder['held_out_psnr']:.2f} dB on frames held out of its training"
    else:
        visual = f"{config.decoder.name}, {config.decoder.model}"
    held_out = f", and {plural(list(splits.values()).count(TEST), 'clip')} held out" if splits else ""
    skipped = f", {training['skipped']} of them skipped" if training.get("skipped") else ""
    side = model.convolution
    convolution = f", a {side}×{side} convolution before each" if side else ""
    adaln = " and adaLN" if model.caption_in_adaln else ""
    return [
        (
            "data",
            f"{plural(training['clips'], 'clip')} of {lengths} s at {clips.fps:g} frames a second, {sizes} pixels"
            f"{held_out}: {clips.data}",
        ),
        ("visual decoder", f"{visual}."),
        ("inversion", f"{_inversion(config)}."),
        (
            "path",
            f"{flow.order} {FUNCTIONS[flow.basis]} ({flow.projection}); schedule {flow.schedule}, "
            f"σ ≥ {flow.sigma_min:g}.",
        ),
        (
            "network",
            f"a DiT of {plural(model.layers, 'layer')} and width {model.heads * model.head_dim}, patch {model.patch}"
            f"{convolution}; captions embedded by {config.text.encoder}, told by cross-attention{adaln}; it predicts "
            f"{model.head}.",
        ),
        (
            "training",
            f"{plural(training['steps'], 'step')}{skipped} of {plural(train.batch_size, 'clip')} with "
            f"{train.optimizer}, learning rate {train.learning_rate:g}; {train.pure_noise:.0%} of a batch at t = 0, "
            f"{train.lead_in:.0%} in the lead-in.",
        ),
        ("rendering", f"{evaluations_in_words(config)} a clip, guidance {config.evaluation.guidance:g}."),
    ]


def _inversion(config: configs.Config) -> str:
    """How pictures become the latents that the path runs through, and how deep in noise these are."""
    settings, flow = config.inversion, config.decoder.name == "rectified-flow"
    if config.decoder.name == "autoencoder" or not settings.depth:
        return "none: the path runs through the autoencoder's latents"
    steps = plural(settings.steps, "step")
    if settings.depth < 1 and flow:
        steps = f"to σ = {settings.depth:g}, in the steps of a walk of {steps}"
    elif settings.depth < 1:
        steps = f"to depth {settings.depth:g}, the first {walked_steps(settings.steps, settings.depth)} of {steps}"
    else:
        steps = f"to noise (depth 1), {steps}"
    refined = plural(settings.refine, "fixed-point refinement")
    return f"{'the flow backwards' if flow else 'DDIM'} {steps}, {refined} a step"


# ------------------------------------------------------------------------------------------- scores


def evaluations_in_words(config: configs.Config) -> str:
    """How often the network is evaluated for one clip, as far as the settings alone say it."""
    if config.model.head != "coefficients":
        return "several network evaluations"
    a_step = 1 if config.evaluation.guidance == 1 else 2
    return plural(config.evaluation.steps * a_step, "network evaluation")

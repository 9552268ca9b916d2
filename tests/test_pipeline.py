import dataclasses
import json
import shutil

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import SMALL, make_config, merge
from tests.data import tiny_models
from tests.data.latents import write_decoder
from tests.data.pipeline import captions_of, model_of
from vlfm.captions.load import load_caption_encoder
from vlfm.decoders.prepare import prepare_decoder
from vlfm.errors import FingerprintMismatch, VLFMError
from vlfm.model.flow_model import FlowModel
from vlfm.model.training_captions import TRAINING_CAPTIONS
from vlfm.pipeline import UnlikeCaptionWarning, VLFMPipeline, write_pipeline
from vlfm.storage.files import read_json, write_json
from vlfm.training.preview import make_preview

pytestmark = pytest.mark.usefixtures("captions_read_once")

PROMPT = "a dog jumps"


@pytest.fixture(scope="module")
def config():
    return make_config(**merge(SMALL, {"clips": {"size": 24, "duration": [0.25, 0.5]}}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, config):
    """As `vlfm train` leaves it, with an embedded decoder and MiniLM."""
    folder = tmp_path_factory.mktemp("run")
    write_decoder(folder / "decoder")
    empty = load_caption_encoder(config, torch.device("cpu")).encode([""])
    model = model_of(config, 8, 4, 384, (empty.tokens[0], empty.mask[0]))
    write_pipeline(folder / "model", model, config, folder / "decoder")
    shutil.rmtree(folder / "decoder")  # the model's folder is enough
    return folder / "model"


@pytest.fixture(scope="module")
def pipeline(folder):
    return VLFMPipeline.from_pretrained(folder)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_every_output_is_the_same_video(pipeline):
    made = {kind: pipeline(PROMPT, generator=seeded(), output_type=kind) for kind in ("np", "pt", "pil", "latent")}
    assert made["np"].frames.shape == (1, 12, 24, 24, 3) and made["pt"].frames.shape == (1, 12, 3, 24, 24)
    assert made["latent"].frames.shape == (1, 12, 8, 4, 4)
    assert made["np"].frames.min() >= 0 and made["np"].frames.max() <= 1 and made["np"].frames.std() > 0.01
    assert np.array_equal(made["pt"].frames.movedim(2, -1).numpy(), made["np"].frames)
    assert np.array_equal(np.stack(made["pil"].frames[0]), (made["np"].frames[0] * 255).round().astype(np.uint8))
    again = pipeline.decoder.generate(made["latent"].frames[0]) / 2 + 0.5
    assert torch.allclose(again, made["pt"].frames[0], atol=1e-5)


def test_the_generator_decides_and_neighbours_do_not(pipeline):
    def latents(prompt, **settings):
        return pipeline(prompt, output_type="latent", **settings).frames

    both = latents([PROMPT, "waves"], generator=[seeded(1), seeded(2)])
    assert torch.equal(both, latents([PROMPT, "waves"], generator=[seeded(1), seeded(2)]))
    assert torch.allclose(both[1:], latents("waves", generator=seeded(2)), atol=1e-4)
    assert not torch.allclose(both[1:], latents("waves", generator=seeded(3)), atol=1e-2)
    assert not torch.allclose(both[1:], latents("a dog", generator=seeded(2)), atol=1e-2)


@pytest.mark.parametrize(
    "asked, times, fps",
    [
        ({}, np.arange(1, 13) / 24, 24),
        ({"fps": 8}, [0.125, 0.25, 0.375, 0.5], 8),
        ({"num_frames": 5}, [0.1, 0.2, 0.3, 0.4, 0.5], 10),
        ({"fps": 12, "duration": 0.25}, [1 / 12, 2 / 12, 3 / 12], 12),
        ({"num_frames": 2, "duration": 0.25}, [0.125, 0.25], 8),
        ({"num_frames": 2, "duration": 0.4}, [0.2, 0.4], 5),
    ],
)
def test_any_number_of_frames(pipeline, asked, times, fps):
    output = pipeline(PROMPT, generator=seeded(), output_type="latent", **asked)
    assert np.allclose(output.times, times) and output.fps == fps
    assert output.frames.shape[1] == len(times)


def test_a_shorter_video_is_the_beginning_of_a_longer_one(pipeline):
    """0.4 s is no length of the training: the first 0.4 s of 0.5; 0.2 s are those of 0.25."""
    for asked, whole in ((0.4, 0.5), (0.2, 0.25)):
        short, long = (
            pipeline(PROMPT, fps=10, duration=each, generator=seeded(), output_type="latent") for each in (asked, whole)
        )
        assert short.frames.shape[1] == round(10 * asked) and np.allclose(short.times, long.times[: len(short.times)])
        assert torch.allclose(short.frames, long.frames[:, : len(short.times)], atol=1e-6)


def test_beyond_what_was_observed_the_first_and_last_picture_hold(folder):
    pipeline = VLFMPipeline.from_pretrained(folder)
    pipeline.flow.observed = {max(pipeline.flow.durations): (0.3, 0.8)}
    video = pipeline(PROMPT, num_frames=10, generator=seeded(), output_type="pt").frames[0]
    assert torch.equal(video[0], video[1]) and torch.equal(video[7], video[9])
    assert not torch.equal(video[2], video[3]) and not torch.equal(video[6], video[7])


def test_what_was_observed_is_kept(folder, tmp_path):
    model = FlowModel.from_pretrained(folder)
    assert set(model.observed.values()) == {(0.0, 1.0)}
    observed = {duration: (0.1, 1 - duration / 10) for duration in model.durations}
    model.observed = observed
    model.save_pretrained(tmp_path)
    assert len(observed) > 1 and FlowModel.from_pretrained(tmp_path).observed == observed
    about = read_json(tmp_path / "flow.json")
    write_json(tmp_path / "flow.json", {**about, "observed": [0.1, 0.9]})  # one for all lengths, as once
    assert set(FlowModel.from_pretrained(tmp_path).observed.values()) == {(0.1, 0.9)}


def test_steps_and_guidance_reach_the_network(pipeline):
    pipeline(PROMPT, output_type="latent")
    assert pipeline.evaluations == 1
    pipeline(PROMPT, num_inference_steps=8, guidance_scale=3.0, output_type="latent")
    assert pipeline.evaluations == 16


def test_a_model_is_sampled_as_it_was_evaluated_unless_asked_otherwise(folder):
    pipeline = VLFMPipeline.from_pretrained(folder)
    sampling = pipeline.config.evaluation.model_copy(update={"steps": 3, "guidance": 2.0})
    pipeline.config = pipeline.config.model_copy(update={"evaluation": sampling})
    pipeline(PROMPT, output_type="latent")
    assert pipeline.evaluations == 6
    pipeline(PROMPT, num_inference_steps=1, guidance_scale=1.0, output_type="latent")
    assert pipeline.evaluations == 1


def test_frames_of_another_size(pipeline):
    assert pipeline(PROMPT, num_frames=1, height=24, width=48).frames.shape == (1, 1, 24, 48, 3)


@pytest.mark.parametrize(
    "asked, message",
    [
        ({"fps": 24, "num_frames": 12}, "num_frames or fps"),
        ({"fps": 1}, "no frame at 1"),
        ({"num_frames": 0}, "whole number from 1"),
        ({"fps": float("inf")}, "no frame at inf"),
        ({"duration": 2.0}, r"up to 0\.5 s and makes none of 2 s; .*vlfm extrapolate"),
        ({"duration": 0}, r"makes none of 0 s"),
        ({"num_inference_steps": 0}, "num_inference_steps must be a whole number"),
        ({"prompt": [PROMPT] * 3, "generator": [seeded(), seeded()]}, "2 generators for 3 prompts"),
        ({"height": 25}, "multiples"),
        ({"height": 18, "width": 18}, "2×2 at once"),
        ({"output_type": "gif"}, "np, pil, pt, latent"),
        ({"prompt": []}, "no prompt"),
    ],
)
def test_what_is_not_to_be_had(pipeline, asked, message):
    with pytest.raises(VLFMError, match=message):
        pipeline(**{"prompt": PROMPT, **asked})


@pytest.mark.parametrize(("depth", "predictor", "walked"), [(0.5, True, 2), (0.0, True, 0), (0.0, False, 0)], ids=str)
def test_pictures_are_made_from_the_depth_of_the_training(tmp_path, config, depth, predictor, walked):
    steps = {} if predictor else {"decoder": {"embedded": {"steps": 0}}}
    config = make_config(**merge(config.model_dump(), {"inversion": {"depth": depth}, **steps}))
    decoder = write_decoder(tmp_path / "decoder", predictor=predictor)
    write_pipeline(tmp_path / "model", model_of(config, 8, 4, 384), config, decoder)
    VLFMPipeline.from_pretrained(tmp_path / "model").save_pretrained(tmp_path / "again", full=True)
    shutil.rmtree(tmp_path / "model")
    pipeline = VLFMPipeline.from_pretrained(tmp_path / "again").to("cpu")
    assert (tmp_path / "again" / "decoder" / "unet").exists() == predictor == (pipeline.decoder.unet is not None)
    evaluated = []
    if predictor:
        pipeline.decoder.unet.register_forward_pre_hook(lambda *_: evaluated.append(1))
    latents, frames = (
        pipeline(PROMPT, num_frames=3, generator=seeded(), output_type=kind).frames[0] for kind in ("latent", "pt")
    )
    assert len(evaluated) == walked and frames.shape == (3, 3, 24, 24)
    if not walked:
        assert torch.equal(frames, (pipeline.decoder.decode(latents) / 2 + 0.5).clamp(0, 1))


@pytest.mark.parametrize("head", ["velocity", "direct"])
def test_other_heads(tmp_path, config, head, folder):
    write_pipeline(tmp_path, model_of(config, 8, 4, 384, head=head), config, folder / "decoder")
    pipeline = VLFMPipeline.from_pretrained(tmp_path)
    assert pipeline(PROMPT, fps=24, output_type="latent").frames.shape == (1, 12, 8, 4, 4)
    assert pipeline.evaluations == {"velocity": 12 * 4 * 2, "direct": 12}[head]
    with pytest.raises(VLFMError, match="caption_dropout"):
        pipeline(PROMPT, guidance_scale=2.0)


def test_saved_again_it_is_the_same(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "copy")
    pipeline.save_pretrained(tmp_path / "whole", full=True)
    first = pipeline(PROMPT, generator=seeded()).frames
    for name in ("copy", "whole"):
        again = VLFMPipeline.from_pretrained(tmp_path / name)
        assert np.array_equal(first, again(PROMPT, generator=seeded()).frames)
    assert not (tmp_path / "copy" / "caption_encoder").exists()
    assert (tmp_path / "whole" / "caption_encoder" / "model.safetensors").exists()


def test_saved_onto_itself_a_whole_model_stays_whole(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "whole", full=True)
    before = read_json(tmp_path / "whole" / "pipeline.json")
    again = VLFMPipeline.from_pretrained(tmp_path / "whole")
    again.save_pretrained(tmp_path / "whole")
    assert read_json(tmp_path / "whole" / "pipeline.json") == before and before["copies"]


@pytest.fixture
def knowing(folder, pipeline, tmp_path):
    """A pipeline that knows the captions of its training."""
    known = captions_of(pipeline.encoder, ["a dog jumps over a wall", "a fat rabbit yawns"])
    write_pipeline(tmp_path / "knowing", pipeline.flow, pipeline.config, folder / "decoder", captions=known)
    return VLFMPipeline.from_pretrained(tmp_path / "knowing")


def test_a_prompt_unlike_the_training_is_told_and_shown(pipeline, knowing):
    asked = [PROMPT, "a man rides\na bike", "a yawning rabbit"]
    with pytest.warns(UnlikeCaptionWarning) as told:
        video = knowing(asked, num_frames=2, generator=seeded())
    (similarity, nearest) = knowing.nearest_captions(asked)[1]
    assert [str(each.message) for each in told] == [
        f'no training caption is like "a man rides a bike" (nearest, similarity {similarity:.2f}: "{nearest}"); '
        "the model may show something else"
    ]
    assert told[0].filename == __file__
    assert np.array_equal(video.frames, pipeline(asked, num_frames=2, generator=seeded()).frames)


def test_nearest_captions(knowing, pipeline):
    (near, dog), (same, rabbit) = knowing.nearest_captions(["a dog leaps across a wall", "a fat rabbit yawns"])
    assert (dog, rabbit) == knowing.captions.captions
    assert 0.7 < near < 0.999 and same == pytest.approx(1, abs=1e-3)
    assert knowing.nearest_captions("a fat rabbit yawns") == [(pytest.approx(same, abs=1e-5), rabbit)]
    with pytest.raises(VLFMError, match=rf"has no {TRAINING_CAPTIONS}.*train again"):
        pipeline.nearest_captions(PROMPT)


@pytest.mark.filterwarnings("error::vlfm.pipeline.UnlikeCaptionWarning")
def test_of_what_nothing_is_said(pipeline, knowing):
    """A model that does not know its captions; the empty caption, where it was learnt for guidance."""
    pipeline("a man rides a bike", num_frames=1, output_type="latent")
    knowing("", num_frames=1, output_type="latent")
    knowing.flow.empty_caption = None
    with pytest.raises(UnlikeCaptionWarning, match='like "" '):
        knowing("", num_frames=1, output_type="latent")


def test_a_sample_of_the_training_is_called_so_and_long_captions_are_cut(knowing):
    knowing.captions = dataclasses.replace(knowing.captions, complete=False)
    with pytest.warns(UnlikeCaptionWarning, match=r'^none of 2 training captions is like "word .{60,90} …" \('):
        knowing("word " * 100, num_frames=1, output_type="latent")


def test_training_captions_are_kept_and_not_left_behind(knowing, pipeline, tmp_path):
    for full in (False, True):
        knowing.save_pretrained(tmp_path / "again", full=full)
        again = VLFMPipeline.from_pretrained(tmp_path / "again")
        assert again.nearest_captions(PROMPT) == knowing.nearest_captions(PROMPT)
    pipeline.save_pretrained(tmp_path / "again")
    assert not (tmp_path / "again" / TRAINING_CAPTIONS).exists()


def test_a_decoder_that_is_not_its_own_is_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "model")
    weights = tmp_path / "model" / "decoder" / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({name: value + 1e-3 for name, value in load_file(weights).items()}, weights)
    with pytest.raises(FingerprintMismatch, match=r"model/decoder.*Copy the folder again"):
        VLFMPipeline.from_pretrained(tmp_path / "model")


def test_another_caption_encoder_is_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "model")
    about = read_json(folder / "pipeline.json")
    write_json(tmp_path / "model" / "pipeline.json", {**about, "caption_encoder": "0" * 16})
    with pytest.raises(FingerprintMismatch, match="caption encoder minilm"):
        VLFMPipeline.from_pretrained(tmp_path / "model")


def test_a_folder_without_its_parts_is_told(folder, tmp_path):
    with pytest.raises(VLFMError, match="no trained model"):
        VLFMPipeline.from_pretrained(tmp_path)
    shutil.copytree(folder, tmp_path / "model")
    (tmp_path / "model" / "pipeline.json").unlink()
    with pytest.raises(VLFMError, match="without its visual decoder"):
        VLFMPipeline.from_pretrained(tmp_path / "model")


@pytest.fixture
def stable_diffusion(tmp_path):
    """A model on a tiny Stable Diffusion, captions through its own text tower; where that model lies."""
    place = tiny_models.stable_diffusion(tmp_path / "sd")
    change = {
        "clips": {"size": 64},
        "decoder": {"name": "stable-diffusion", "model": str(place)},
        "inversion": {"prompt": "caption", "steps": 2, "batch_size": 8},
        "text": {"encoder": "clip", "max_tokens": 16},
    }
    config = make_config(**merge({**SMALL, "text": {}}, change))
    prepare_decoder(config, [], tmp_path / "decoder", torch.device("cpu"))
    model = model_of(config, 4, 8, tiny_models.WIDTH)
    write_pipeline(tmp_path / "model", model, config, tmp_path / "decoder")
    return tmp_path / "model", place


def test_a_decoder_that_was_found_is_a_reference_until_saved_in_full(stable_diffusion, tmp_path):
    folder, place = stable_diffusion
    assert not list((folder / "decoder").rglob("*.safetensors"))
    pipeline = VLFMPipeline.from_pretrained(folder)
    first = pipeline(PROMPT, num_frames=2, generator=seeded()).frames
    assert first.shape == (1, 2, 64, 64, 3)
    pipeline.save_pretrained(tmp_path / "whole", full=True)
    shutil.rmtree(place)
    whole = VLFMPipeline.from_pretrained(tmp_path / "whole")
    assert np.array_equal(first, whole(PROMPT, num_frames=2, generator=seeded()).frames)
    whole.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "decoder" / "model" / "unet").is_dir()
    with pytest.raises(VLFMError, match=r"decoder\.model is .*sd"):
        VLFMPipeline.from_pretrained(folder)


def test_the_prompt_reaches_a_decoder_that_looks_at_captions(stable_diffusion):
    pipeline = VLFMPipeline.from_pretrained(stable_diffusion[0])
    latents = pipeline(PROMPT, num_frames=1, generator=seeded(), output_type="latent").frames[0]
    shown = pipeline(PROMPT, num_frames=1, generator=seeded(), output_type="pt").frames[0]
    captioned, without = (pipeline.decoder.generate(latents, captions) for captions in ([PROMPT], None))
    assert torch.allclose(shown, captioned / 2 + 0.5, atol=1e-5)
    assert not torch.allclose(captioned, without, atol=1e-4)


def test_other_weights_at_the_same_place_are_refused(stable_diffusion):
    folder, place = stable_diffusion
    shutil.rmtree(place)
    tiny_models.stable_diffusion(place, seed=1)
    with pytest.raises(FingerprintMismatch, match="weights of"):
        VLFMPipeline.from_pretrained(folder)


def test_preview_shows_the_network_as_it_is(config, folder, tmp_path):
    model = model_of(config, 8, 4, 384)
    preview = make_preview(config, folder / "decoder", [PROMPT, "waves"], tmp_path, torch.device("cpu"))
    network = model.transformer.train()
    preview(network, 100)
    assert network.training
    torch.nn.init.normal_(network.backbone.proj_out.weight, std=0.5)
    preview(network, 200)
    videos = []
    for step in (100, 200):
        about, *frames = imageio_ffmpeg.read_frames(str(tmp_path / f"step-{step:08d}.mp4"))
        assert about["size"] == (48, 24) and len(frames) == 12
        videos.append(np.stack([np.frombuffer(frame, np.uint8) for frame in frames]))
    assert np.abs(videos[0].astype(int) - videos[1]).mean() > 1


def test_a_preview_that_cannot_be_made_is_tried_again(config, folder, tmp_path):
    preview = make_preview(config, tmp_path / "decoder", [PROMPT], tmp_path, torch.device("cpu"))
    network = model_of(config, 8, 4, 384).transformer
    for step in (1, 2):
        with pytest.raises(VLFMError, match=r"decoder\.json is missing"):
            preview(network, step)
    shutil.copytree(folder / "decoder", tmp_path / "decoder")
    preview(network, 3)
    assert (tmp_path / "step-00000003.mp4").exists()


def test_pipeline_json_is_readable(folder):
    about = json.loads((folder / "pipeline.json").read_text())
    assert about.keys() == {"config", "decoder", "caption_encoder", "copies"}
    assert {path.name for path in folder.iterdir()} == {
        "decoder", "empty_caption.safetensors", "flow.json", "pipeline.json", "transformer",
    }  # fmt: skip

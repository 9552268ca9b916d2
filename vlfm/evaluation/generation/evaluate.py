"""The stage that generates videos from captions, held-out first, and judges them: `results/eval/generation.csv`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vlfm.evaluation.generation import examples, sources
from vlfm.evaluation.generation.copying import TrainingClips
from vlfm.evaluation.generation.fit_judges import load_judges
from vlfm.evaluation.generation.prompts import Prompt, Sample, embeddings_of
from vlfm.evaluation.generation.resumable import Made, Method, Workshop
from vlfm.evaluation.generation.scoring import Reference, score
from vlfm.evaluation.generation.sources import Video
from vlfm.evaluation.generation.training_clips import training_clips
from vlfm.finished_run import Run
from vlfm.splits import LABELS, TEST, TRAIN
from vlfm.spread import spread
from vlfm.storage import unfinished
from vlfm.storage.files import remove_partial, write_json
from vlfm.storage.locks import sole_writer
from vlfm.storage.pictures import write_png
from vlfm.storage.tables import Row, write_table

SETTINGS = (
    "generation",
    "evaluation.steps",
    "evaluation.solver",
    "evaluation.solver_steps",
    "evaluation.guidance",
    "clips.fps",
)
FEW = 2  # videos of each caption at the numbers of steps that are compared
TRUE, DECODED, PROJECTED, GENERATED = "true clips", "through the decoder", "projected", "generated"
NEAREST, AVERAGE = "nearest caption", "average clip"


def evaluate_generation(run: Run, output: Path) -> None:
    """Write `output/generation.csv` and, in `output/generation/`, videos, `sheet.png` and, last, `index.json`.

    Of each split at most `generation.captions` captions are taken, held-out ones first. Rows of each:

    - true clips; through the decoder, the same from their latents; projected, from their coefficients;
    - generated: `generation.seeds` videos of each caption with the settings of `evaluation`, and for comparison the
      first two with each number of steps in `generation.steps`;
    - nearest caption: training clips of the training caption that is nearest, another one for each video (of a training
      caption: its own); average clip: their mean, pixel by pixel.

    Columns: `evaluations` of the network for a clip (with guidance two a step) and `guidance`; how many `captions`
    and `clips`; those of `scoring.score`; `seconds` a clip, of what is generated. An empty cell is a number that means
    nothing: features of few clips, words that are not of moving digits. The same inputs give the same files, but for
    the column `seconds`.

    A killed stage goes on with the 32 videos it was at.

    Args:
        run: with its judges fitted (`fit_judges`).

    Raises:
        VLFMError: if a file of the run is missing or damaged, or guidance is asked of a model that cannot.
    """
    settings, folder = run.config.generation, output / "generation"
    judges = load_judges(run.config, run.results / "judges", run.device)
    sample = Sample(run)
    asked = {split: sample.prompts(split, settings.captions, settings.seeds) for split in (TEST, TRAIN)}
    asked = {split: prompts for split, prompts in asked.items() if prompts}
    identity = run.identity(
        *SETTINGS,
        model=True,
        judges=judges.fingerprint,
        training=sample.training,
        clips=[[prompt.caption, prompt.true] for prompts in asked.values() for prompt in prompts],
    )
    partial = folder / f".partial-{identity}"
    with sole_writer(folder), unfinished.disk_may_be_full(partial):
        partial.mkdir(parents=True, exist_ok=True)
        training = training_clips(sample, partial)
        parts = []
        for split, prompts in asked.items():
            films = spread(prompts, examples.CAPTIONS[split] if len(asked) > 1 else max(examples.CAPTIONS.values()))
            parts.append(_evaluate_split(run, Workshop(judges, folder, partial, split, films), prompts, training))
        rows = [row for part in parts for row in part.rows]
        groups = [group for part in parts for group in part.groups]
        write_table(output / "generation.csv", rows)
        write_png(folder / "sheet.png", examples.sheet([strips for part in parts for strips in part.strips]))
        names = {video["file"] for group in groups for video in group["videos"]}
        for path in folder.glob("*.mp4"):
            if path.name not in names:
                path.unlink()
        write_json(folder / "index.json", {"fingerprint": identity, "groups": groups})
        remove_partial(partial)
    for row in rows:
        print(_told(row))


@dataclass(frozen=True)
class _Part:
    """What there is to say and to show of a split: rows of the table, groups of videos, and strips by their titles."""

    rows: list[Row]
    groups: list[dict]
    strips: list[tuple[str, list[np.ndarray]]]


def _evaluate_split(run: Run, shop: Workshop, prompts: Sequence[Prompt], training: TrainingClips | None) -> _Part:
    settings, evaluation = run.config.generation, run.config.evaluation
    clips = [Video(prompt, number, place) for prompt in prompts for number, place in enumerate(prompt.true)]
    wanted = [Video(prompt, number) for prompt in prompts for number in range(settings.seeds)]
    few = [video for video in wanted if video.number < FEW]
    near = [
        Video(prompt, number, place)
        for prompt in prompts
        for number, place in enumerate(prompt.nearest[: settings.seeds])
    ]
    true = Method("true", sources.true(run), clips, films=1)
    main = Method("generated", sources.generated(run), wanted, run.model, films=examples.VIDEOS)
    truth, made = shop.make(true), shop.make(main)
    captions = tuple(prompt.caption for prompt in prompts)
    reference = Reference(truth.viewed, training, captions, embeddings_of(prompts))

    def row(name: str, made: Made) -> Row:
        evaluations = made.evaluations or None
        return {
            "method": name,
            "split": shop.split,
            "evaluations": evaluations,
            "guidance": evaluations and evaluation.guidance,
            "captions": len(set(made.viewed.captions)),
            "clips": len(made.viewed),
            **score(shop.judges, made.viewed, reference, run.config.seed),
            "seconds": evaluations and made.seconds,
        }

    rows = [
        row(TRUE, truth),
        row(DECODED, shop.make(Method("decoded", sources.decoded(run), clips))),
        row(PROJECTED, shop.make(Method("projected", sources.projected(run), clips))),
        row(GENERATED, made),
    ]
    if run.model.transformer.config.head == "coefficients":
        for steps in settings.steps:
            if steps != evaluation.steps:
                method = Method(f"generated-{steps}", sources.generated(run, steps=steps), few, run.model)
                rows.append(row(GENERATED, shop.make(method)))
            elif settings.seeds > FEW:
                rows.append(row(GENERATED, made.first(FEW)))
    if near:
        averages = [Video(prompt, 0) for prompt in prompts if prompt.nearest]
        rows.append(row(NEAREST, shop.make(Method("nearest", sources.true(run), near))))
        rows.append(row(AVERAGE, shop.make(Method("average", sources.average(run), averages))))
    groups, strips = _films(shop, (true, truth), (main, made))
    return _Part(rows, groups, strips)


def _films(
    shop: Workshop, true: tuple[Method, Made], main: tuple[Method, Made]
) -> tuple[list[dict], list[tuple[str, list[np.ndarray]]]]:
    """The groups of videos in `index.json`, a caption each, and the strips of their frames."""
    groups, strips = [], []
    viewed, numbers = main[1].viewed, main[1].numbers
    for prompt in shop.shown:
        found = [
            (method, number, strip)
            for method, made in (true, main)
            for (caption, number), strip in sorted(made.strips.items())
            if caption == prompt.caption
        ]
        videos = [
            {
                "label": f"video {number + 1}" if method is main[0] else "true",
                "file": shop.film(method, prompt, number),
                "fps": prompt.store.fps,
            }
            for method, number, _ in found
        ]
        mine = np.array([caption == prompt.caption for caption in viewed.captions]) & (numbers < examples.VIDEOS)
        note = examples.note(viewed.right[mine])
        groups.append({"split": shop.split, "title": prompt.caption, "videos": videos, "note": note})
        strips.append((prompt.caption, [strip for _, _, strip in found]))
    return groups, strips


def _told(row: Row) -> str:
    """A row in a line."""
    evaluations = f", {row['evaluations']} evaluations" if row["evaluations"] else ""
    numbers = ", ".join(
        f"{name} {row[name]:.2f}"
        for name in ("all", "digit", "caption_accuracy", "frechet", "diversity", "copies", "sharpness")
        if row[name] is not None
    )
    return f"{row['method']}{evaluations}, {LABELS[row['split']]}, {row['clips']} clips: {numbers}"

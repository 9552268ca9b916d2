"""What the experiments that train make of captions, judged beside true clips of the same captions."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from vlfm.errors import VLFMError
from vlfm.evaluation.generation import sources
from vlfm.evaluation.generation.copying import TrainingClips
from vlfm.evaluation.generation.fit_judges import load_judges
from vlfm.evaluation.generation.judges import Judges, Viewed
from vlfm.evaluation.generation.prompts import Prompt, Sample, embeddings_of
from vlfm.evaluation.generation.resumable import jobs
from vlfm.evaluation.generation.scoring import COLUMNS, NUMBERS, SHARES, Reference, score
from vlfm.evaluation.generation.sources import Source, Video
from vlfm.evaluation.generation.training_clips import training_clips
from vlfm.evaluation.means import number
from vlfm.experiments.shared.common import write_videos
from vlfm.finished_run import Run
from vlfm.splits import SPLITS
from vlfm.spread import spread
from vlfm.storage.tables import Row

EACH = 4  # videos of a caption, and true clips of it
METRICS = (*SHARES, *NUMBERS)


@dataclass(frozen=True)
class Headline:
    """The score that says most, and what it is."""

    name: str
    title: str


def headline(rows: Sequence[Row]) -> Headline:
    """Of rows of scores: whether every word of the caption is seen, where a judge reads them; else whether the clip's
    own caption is nearest to it.

    Raises:
        VLFMError: if captions do not differ, so that there is neither.
    """
    named = {"all": "every word of the caption right", "caption_accuracy": "the clip's own caption nearest"}
    for name, title in named.items():
        if any(row[name] is not None for row in rows):
            return Headline(name, title)
    raise VLFMError(
        "all clips have one caption: there is nothing to tell of what was learnt; give captions that differ"
    )


def ordered(row: Row, first: Sequence[str]) -> Row:
    """A row that was kept as JSON, its columns as a reader wants them: these first, then the scores."""
    return {name: row[name] for name in (*first, *COLUMNS)}


class Jury:
    """The judges of a run, with the captions that all variants are asked for.

    Args:
        run: as it was trained, whatever the variants change.

    Raises:
        VLFMError: if its judges were not fitted.
    """

    def __init__(self, run: Run):
        self.run = run
        self.judges: Judges = load_judges(run.config, run.results / "judges", run.device)
        self._sample = Sample(run)
        limit = run.config.generation.captions
        self._prompts = {split: self._sample.prompts(split, limit, EACH) for split in SPLITS}
        self._references: dict[str, Reference] = {}

    @property
    def splits(self) -> tuple[str, ...]:
        """Those that have captions, held-out ones last."""
        return tuple(split for split, prompts in self._prompts.items() if prompts)

    @property
    def shown(self) -> list[Prompt]:
        """The captions whose videos are kept, of the last split."""
        return spread(self._prompts[self.splits[-1]], self.run.config.experiments.videos)

    def row(self, split: str, source: Source) -> Row:
        """The scores of what a source makes of a split's captions, four videos of each; see `scoring.score`."""
        asked = [Video(prompt, count) for prompt in self._prompts[split] for count in range(EACH)]
        return self._row(split, asked, source)

    def untrained(self) -> list[Row]:
        """The same of what takes no training: the true clips, those of the nearest training caption, their averages."""
        rows = []
        for split in self.splits:
            prompts = self._prompts[split]
            own = [Video(prompt, 0, place) for prompt in prompts for place in prompt.true]
            near = [Video(prompt, 0, place) for prompt in prompts for place in spread(prompt.nearest, EACH)]
            means = [Video(prompt, 0) for prompt in prompts if prompt.nearest]
            for variant, asked, source in (
                ("true clips", own, sources.true(self.run)),
                ("nearest caption", near, sources.true(self.run)),
                ("average clip", means, sources.average(self.run)),
            ):
                if asked:
                    rows.append({"variant": variant, "split": split, **self._row(split, asked, source)})
        return rows

    def videos(self, folder: Path, label: str, source: Source, prefix: str = "") -> list[dict]:
        """Write a source's first video of each caption that is shown to `folder`; entries for `index.json`.

        Args:
            prefix: what leads to the folder from that of the experiment.
        """
        entries = []
        for place, prompt in enumerate(self.shown):
            (frames,) = source([Video(prompt, 0, prompt.true[0])])
            entry = write_videos(folder, f"{place}", prompt.caption, {label: frames}, prompt.store.fps)
            entry["videos"] = [{**video, "file": prefix + video["file"]} for video in entry["videos"]]
            entries.append(entry)
        return entries

    def true_videos(self, folder: Path) -> list[dict]:
        """The same of the true clips."""
        return self.videos(folder, "true", sources.true(self.run))

    def _row(self, split: str, asked: Sequence[Video], source: Source) -> Row:
        scores = score(self.judges, self._viewed(asked, source), self._reference(split), self.run.config.seed)
        return {name: None if value is None else number(value) for name, value in scores.items()}

    def _viewed(self, asked: Sequence[Video], source: Source) -> Viewed:
        parts = []
        for videos in jobs(asked):
            parts.append(self.judges.view(source(videos), [video.prompt.caption for video in videos]))
        return Viewed.joined(parts)

    def _reference(self, split: str) -> Reference:
        if split not in self._references:
            prompts = self._prompts[split]
            own = [Video(prompt, 0, place) for prompt in prompts for place in prompt.true]
            self._references[split] = Reference(
                self._viewed(own, sources.true(self.run)),
                self._training,
                tuple(prompt.caption for prompt in prompts),
                embeddings_of(prompts),
            )
        return self._references[split]

    @cached_property
    def _training(self) -> TrainingClips | None:
        """The training clips that may have been copied."""
        return training_clips(self._sample)


def side_by_side(entries: Sequence[Sequence[dict]]) -> list[dict]:
    """Groups of videos for `index.json`: of each caption all that several calls of `Jury.videos` gave."""
    return [
        {"title": group[0]["title"], "videos": [video for entry in group for video in entry["videos"]]}
        for group in zip(*entries, strict=True)
    ]

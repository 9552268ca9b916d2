"""Videos made and judged job by job, so that a stage that is killed goes on after the jobs that are done."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from itertools import groupby
from math import prod
from pathlib import Path

import numpy as np
import torch

from vlfm.evaluation.generation.examples import strip
from vlfm.evaluation.generation.judges import Judges, Viewed
from vlfm.evaluation.generation.prompts import Prompt
from vlfm.evaluation.generation.sources import Source, Video
from vlfm.model.flow_model import FlowModel
from vlfm.progress import Stopwatch, progress
from vlfm.splits import LABELS
from vlfm.storage import unfinished
from vlfm.storage.pictures import write_mp4

AT_ONCE, BYTES = 32, 2**28  # videos of a job, at most, and bytes of their frames
ARRAYS = tuple(each.name for each in fields(Viewed) if each.name != "captions")


@dataclass(frozen=True)
class Method:
    """One way to clips, and what it is asked for.

    Attributes:
        key: names its files.
        source: makes the videos.
        videos: in the order in which they are made.
        model: the network that makes them, where one does.
        films: how many videos of each caption that is shown are kept as files.
    """

    key: str
    source: Source
    videos: Sequence[Video]
    model: FlowModel | None = None
    films: int = 0


@dataclass(frozen=True)
class Made:
    """What became of a method's videos, in their order.

    Attributes:
        viewed: what judges saw of them.
        numbers: (B,), which of its caption's videos each is.
        seconds: a video, spent on making it.
        evaluations: of the network, a video; 0 where there is none. A guided one counts twice.
        strips: caption and number → a few frames, of the videos that are kept.
    """

    viewed: Viewed
    numbers: np.ndarray
    seconds: float
    evaluations: int
    strips: dict[tuple[str, int], np.ndarray] = field(default_factory=dict)

    def first(self, count: int) -> "Made":
        """The first `count` videos of each caption."""
        few = self.numbers < count
        return Made(self.viewed.rows(few), self.numbers[few], self.seconds, self.evaluations)


@dataclass(frozen=True)
class Workshop:
    """Where videos of one split are made.

    Attributes:
        judges: look at them.
        folder: of the files that are kept.
        partial: of the jobs that are done.
        split: of the captions.
        shown: the captions of which videos are kept.
    """

    judges: Judges
    folder: Path
    partial: Path
    split: str
    shown: Sequence[Prompt]

    def make(self, method: Method) -> Made:
        """The method's videos, made now or before the stage was killed; at least one."""
        parts, numbers, seconds, evaluations, strips = [], [], 0.0, 0, {}
        bar = progress(total=len(method.videos), what=f"{LABELS[self.split]}: {method.key}", unit="video")
        for place, videos in enumerate(jobs(method.videos)):
            path = self.partial / f"{self.split}-{method.key}-{place:04d}.safetensors"
            if not path.exists():
                unfinished.save(path, self._do(method, videos))
            piece = unfinished.load(path, *ARRAYS, "seconds", "evaluations")
            arrays = {name: piece[name].numpy() for name in ARRAYS}
            parts.append(Viewed(tuple(video.prompt.caption for video in videos), **arrays))
            numbers += [video.number for video in videos]
            seconds += float(piece["seconds"])
            evaluations = int(piece["evaluations"])
            for index, video in enumerate(videos):
                if f"strip.{index}" in piece:
                    strips[video.prompt.caption, video.number] = piece[f"strip.{index}"].numpy()
            bar.update(len(videos))
        bar.close()
        return Made(Viewed.joined(parts), np.array(numbers), seconds / len(numbers), evaluations, strips)

    def film(self, method: Method, prompt: Prompt, number: int) -> str:
        """The name of a video's file."""
        return f"{self.split}{self.shown.index(prompt):02d}_{method.key}_{number}.mp4"

    def _do(self, method: Method, videos: Sequence[Video]) -> dict[str, torch.Tensor]:
        watch = Stopwatch()
        clips = method.source(videos)
        seconds = watch.seconds
        viewed = self.judges.view(clips, [video.prompt.caption for video in videos])
        done = {name: torch.from_numpy(getattr(viewed, name)) for name in ARRAYS}
        done["seconds"] = torch.tensor(seconds, dtype=torch.float64)
        done["evaluations"] = torch.tensor(method.model.evaluations if method.model else 0)
        for index, (video, clip) in enumerate(zip(videos, clips, strict=True)):
            if video.number < method.films and video.prompt in self.shown:
                write_mp4(self.folder / self.film(method, video.prompt, video.number), clip, video.prompt.store.fps)
                done[f"strip.{index}"] = torch.from_numpy(strip(clip))
        return done


def jobs(videos: Sequence[Video]) -> Iterator[list[Video]]:
    """Batches of as many videos as may be made at once, all alike and, where they are clips of the run, of one shard.

    Videos of one shard come together, in whatever order they are given; shards come in the order they are first met.
    """
    shards = {shard: index for index, shard in enumerate(dict.fromkeys(_shard(video) for video in videos))}
    kinds = {kind: index for index, kind in enumerate(dict.fromkeys(video.prompt.kind for video in videos))}

    def alike(video: Video) -> tuple[int, int]:
        return shards[_shard(video)], kinds[video.prompt.kind]

    for _, members in groupby(sorted(videos, key=alike), alike):
        same = list(members)
        _, frames, _, height, width = same[0].prompt.kind
        count = max(1, min(AT_ONCE, BYTES // (3 * prod((frames, height, width)))))
        for start in range(0, len(same), count):
            yield same[start : start + count]


def _shard(video: Video) -> str:
    return video.place[0] if video.place else ""

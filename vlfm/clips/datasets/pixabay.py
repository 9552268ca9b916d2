"""The Pixabay videos of Open-Sora-Plan, with its captions (https://arxiv.org/abs/2412.00131).

Terms: the captions are MIT, the videos have the licence of Pixabay.

Index: the JSON lists of Open-Sora-Plan (`video_pixabay_65f_601513.json`, …): objects with `path`, `cap` (text, or a
list of which the first is taken) and, for a part of a video, `frame_idx` ("start:end") or `cut` ([start, end]), in
frames. Frames are turned into seconds by `fps`, or by the file's own frame rate where the list tells none. `crop` is
kept in the manifest and not applied. A video is looked for in `videos`, also as `…_resize1080p.mp4`, the name that
half of the copies have.
"""

from collections.abc import Iterator
from typing import Any

from vlfm.clips.index_files.json_files import read_list
from vlfm.clips.index_files.rows import Bad, Request, Row, missing, one_line
from vlfm.errors import BadClip, VLFMError

FILES = ("*pixabay*.json",)
LICENCE = "MIT; videos: Pixabay Content License"
COLUMNS = ("path", "cap", "frame_idx", "cut", "crop", "fps", "num_frames", "aesthetic", "motion", "size", "duration",
           "width", "height", "seconds")  # fmt: skip
CAPTIONS = ()


def read(request: Request) -> Iterator[Row | Bad]:
    """The rows of the lists, a row's line being its place in its list, from 1.

    Raises:
        VLFMError: no `videos`, or a file that is no JSON list.
    """
    if not request.videos:
        raise VLFMError("the lists of Open-Sora-Plan name files: let `videos` be the folder or the address of them")
    for path in request.files:
        for line, values in read_list(path):
            name = str(values.get("path", "")) if isinstance(values, dict) else ""
            try:
                if not isinstance(values, dict) or not name:
                    raise BadClip("the entry is no object with a path")
                yield _row(request, line, path.name, name, values)
            except BadClip as error:
                yield Bad(line, name, str(error), path.name)


def _row(request: Request, line: int, file: str, name: str, values: dict[str, Any]) -> Row:
    caption = values.get("cap")
    if isinstance(caption, list):
        caption = caption[0] if caption else ""
    text = one_line(str(caption or ""), name, request.captioned)
    stem, dot, ending = name.rpartition(".")
    source = request.videos.find(name, f"{stem}_resize1080p{dot}{ending}")
    frames = _frames(name, values)
    fps = _number(values.get("fps"))
    start = end = None
    if frames and fps:
        start, end = (round(frame / fps, 6) for frame in frames)
    size = values.get("resolution") if isinstance(values.get("resolution"), dict) else {}
    width, height = _number(size.get("width")), _number(size.get("height"))
    length = end - start if end is not None else _number(values.get("duration"))
    more = {"seconds": length, "width": width, "height": height}
    return Row(
        line,
        source or name,
        start,
        end,
        text,
        file=file,
        key=f"{name}:{frames[0]}:{frames[1]}" if frames else name,
        licence=LICENCE,
        columns={**values, **{column: value for column, value in more.items() if value}},
        extra={column: value for column, value in values.items() if column != "cap"},
        shown=(width, height) if width and height else None,
        frames=None if fps else frames,
        one_shot=end is not None and request.videos.remote,
        find=None if source else missing(f"{name} is not in `videos`; fetch it, or leave the entry out"),
    )


def _frames(name: str, values: dict[str, Any]) -> tuple[int, int] | None:
    """(first, last + 1), or None for the whole video."""
    given = values.get("frame_idx", values.get("cut"))
    if given is None:
        return None
    try:
        first, last = given.split(":") if isinstance(given, str) else given
        first, last = int(first), int(last)
    except (TypeError, ValueError):
        raise BadClip(f"{name}: its frames are {given!r}; they are first:last or [first, last]") from None
    if not 0 <= first < last:
        raise BadClip(f"{name}: frame {first} is not before frame {last}")
    return first, last


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and value > 0 else None

"""Short files made of real videos, and what ffmpeg says of a file."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ffmpeg
from vlfm.video.source import open_source


@dataclass(frozen=True)
class Facts:
    """times: (K,) seconds; frames: uint8 (K, H, W, 3); duration: the container's, seconds; stream: its line."""

    times: np.ndarray
    frames: np.ndarray
    duration: float
    stream: str


@pytest.fixture(scope="session")
def facts():
    def read(path: Path) -> Facts:
        frames = list(open_source(path).frames())
        text = ffmpeg("-i", path, check=False)
        length = re.search(r"Duration: (\d+):(\d+):([\d.]+)", text)
        return Facts(
            np.array([shown for shown, _ in frames]),
            np.stack([frame for _, frame in frames]),
            int(length[1]) * 3600 + int(length[2]) * 60 + float(length[3]),
            re.search(r"Stream #0:\d+.*Video:.*", text)[0],
        )

    return read


@pytest.fixture(scope="session")
def short(make):
    """24 frames of a real clip, 176×144, 29.97 a second, no sound."""
    return make("short.mp4", "-frames:v", "24", "-crf", "10")


@pytest.fixture(scope="session")
def sounding(make):
    """A second of a film, 160×90, 25 frames a second, with its sound."""
    return make(
        *("sounding.mp4", "-t", "1", "-vf", "scale=160:-2", "-crf", "10", "-c:a", "aac", "-ac", "2"),
        source="bigbuckbunny",
    )


def sound(path: Path) -> list[tuple[float, str]]:
    """The audio packets of a file: time in seconds after the first packet of the file, and content."""
    text = ffmpeg("-v", "error", "-copyts", "-i", path, "-map", "0:a", "-c", "copy", "-f", "framemd5", "-")
    base = [int(part) for part in re.search(r"#tb 0: (\d+)/(\d+)", text).groups()]
    rows = [line.split(",") for line in text.splitlines() if not line.startswith("#")]
    return [(int(row[2]) * base[0] / base[1], row[5].strip()) for row in rows]


def first_picture(path: Path) -> float:
    """The container's time of its first frame, seconds."""
    text = ffmpeg("-copyts", "-i", path, "-map", "0:v", "-vf", "showinfo", "-frames:v", "1", "-f", "null", "-")
    return float(re.search(r"n:\s*0 pts:.*pts_time:(\S+)", text)[1])

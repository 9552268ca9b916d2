"""A generated scene of moving shapes, exact at any instant: the truth at frame rates that no camera gives.

Everything is a formula in time and place: shapes circle, cross the picture, turn and cover one another before a
textured background that drifts. Lengths are in units of the picture's shorter side, so that every size shows the
same scene. An instant is an instant: there is no motion blur.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vlfm.errors import VLFMError
from vlfm.storage.pictures import write_mp4

KINDS = ("disc", "rectangle")
MARGIN = 0.35  # how far outside the picture a crossing shape turns round: beyond its own radius


@dataclass(frozen=True)
class Shape:
    """A disc or a rectangle and its motion.

    Attributes:
        kind: `disc` or `rectangle`.
        half: half its sides (the radius twice, for a disc).
        centre: (x, y) of its circle, or where it is at t = 0 when it crosses.
        radius: of the circle its centre runs on; 0 for a shape that crosses the picture.
        speed: radians a second on the circle.
        velocity: (x, y) a second of a shape that crosses; it comes back on the other side.
        phase, spin: its angle at t = 0, radians, and radians a second.
        colours: (2, 3) of its stripes, 0 … 1.
        stripes: their number across a unit of length.
    """

    kind: str
    half: tuple[float, float]
    centre: tuple[float, float]
    radius: float
    speed: float
    velocity: tuple[float, float]
    phase: float
    spin: float
    colours: np.ndarray
    stripes: float

    def place(self, t: float, extent: tuple[float, float]) -> tuple[float, float]:
        """(x, y) of its centre at t; `extent` is (width, height) of the picture."""
        turn = self.phase + self.speed * t
        place = []
        for centre, velocity, side, circle in zip(
            self.centre, self.velocity, extent, (np.cos(turn), np.sin(turn)), strict=True
        ):
            at = centre * side + velocity * t + self.radius * circle
            # Wrapped where nobody sees it.
            place.append(at if self.radius else (at + MARGIN) % (side + 2 * MARGIN) - MARGIN)
        return place[0], place[1]


@dataclass(frozen=True)
class Scene:
    """Shapes, the later ones in front, and the waves that make the background's texture.

    Attributes:
        shapes: from back to front.
        waves: (W, 2) radians a unit of length. shifts: (W,). amplitudes: (W, 3). drift: (x, y) a second.
    """

    shapes: tuple[Shape, ...]
    waves: np.ndarray
    shifts: np.ndarray
    amplitudes: np.ndarray
    drift: tuple[float, float]

    def frames(self, times: np.ndarray, size: int | tuple[int, int]) -> np.ndarray:
        """The picture at `times` (K,), seconds, in any order: uint8 (K, H, W, 3).

        Args:
            size: pixels: the side of a square, or (H, W). Edges are as soft as one pixel.

        Raises:
            VLFMError: for times that are not finite, or sides below 1.
        """
        times = np.asarray(times, dtype=np.float64)
        height, width = (size, size) if isinstance(size, int) else size
        if times.ndim != 1 or not np.isfinite(times).all():
            raise VLFMError("the times of a scene must be a flat list of finite seconds")
        if min(height, width) < 1:
            raise VLFMError(f"a scene needs sides of at least 1 pixel; they are {width}×{height}")
        pixel = 1 / min(height, width)
        x, y = (np.arange(width) + 0.5) * pixel, (np.arange(height) + 0.5) * pixel
        frames = np.empty((len(times), height, width, 3), np.uint8)
        for frame, t in zip(frames, times, strict=True):
            frame[:] = (self._picture(float(t), x, y, pixel) * 255).round().clip(0, 255)
        return frames

    def write(
        self, path: Path | str, fps: float, seconds: float, size: int | tuple[int, int], start: float = 0.0
    ) -> None:
        """Write it as a video, atomically: frames at `start + j / fps`, j = 0, 1, … below `seconds`."""
        times = start + np.arange(max(1, round(seconds * fps))) / fps
        write_mp4(path, self.frames(times, size), fps)

    def _picture(self, t: float, x: np.ndarray, y: np.ndarray, pixel: float) -> np.ndarray:
        picture = self._background(x - self.drift[0] * t, y - self.drift[1] * t)
        extent = (len(x) * pixel, len(y) * pixel)
        for shape in self.shapes:
            across, down = shape.place(t, extent)
            angle = shape.phase + shape.spin * t
            # In the shape's own frame; a shape covers little of the picture, so only its box is painted.
            reach = float(np.hypot(*shape.half)) + pixel
            columns = slice(*np.searchsorted(x, (across - reach, across + reach)))
            rows = slice(*np.searchsorted(y, (down - reach, down + reach)))
            dx, dy = (x[columns] - across)[None, :], (y[rows] - down)[:, None]
            u = dx * np.cos(angle) + dy * np.sin(angle)
            v = dy * np.cos(angle) - dx * np.sin(angle)
            if shape.kind == "disc":
                outside = np.hypot(u, v) - shape.half[0]
            else:
                # The distance to the nearer edge; off a corner it is a little short.
                outside = np.maximum(np.abs(u) - shape.half[0], np.abs(v) - shape.half[1])
            cover = np.clip(0.5 - outside / pixel, 0, 1)[..., None]
            share = (0.5 + 0.5 * np.sin(2 * np.pi * shape.stripes * u))[..., None]
            colour = shape.colours[0] * share + shape.colours[1] * (1 - share)
            picture[rows, columns] += cover * (colour - picture[rows, columns])
        return picture

    def _background(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        # cos(a + b) of two vectors is two outer products: no trigonometry per pixel.
        along, down = x[:, None] * self.waves[:, 0], y[:, None] * self.waves[:, 1] + self.shifts
        rows = np.concatenate([np.cos(down), -np.sin(down)], 1)
        columns = np.concatenate([np.cos(along), np.sin(along)], 1)
        strength = np.concatenate([self.amplitudes, self.amplitudes])
        return 0.5 + np.stack([(rows * strength[:, c]) @ columns.T for c in range(3)], -1)


def scene(seed: int = 0, shapes: int = 6) -> Scene:
    """A scene of `shapes` moving shapes; the same seed gives the same scene.

    Discs and rectangles take turns; every second one circles the middle, so that shapes cover one another, the
    others cross the picture in a straight line.

    Raises:
        VLFMError: for fewer than 0 shapes.
    """
    if shapes < 0:
        raise VLFMError(f"a scene holds 0 shapes or more; asked for {shapes}")
    random = np.random.default_rng(seed)
    made = []
    for index in range(shapes):
        circles = index % 2 == 0
        heading = random.uniform(0, 2 * np.pi)
        pace = random.uniform(0.3, 0.7)
        half = random.uniform(0.08, 0.16, 2)
        kind = KINDS[index // 2 % 2]
        made.append(
            Shape(
                kind=kind,
                half=(float(half[0]), float(half[0] if kind == "disc" else half[1])),
                centre=tuple(random.uniform(0.4, 0.6, 2) if circles else random.uniform(0, 1, 2)),
                radius=float(random.uniform(0.15, 0.35)) if circles else 0.0,
                speed=float(random.choice([-1, 1]) * random.uniform(1, 3)) if circles else 0.0,
                velocity=(0.0, 0.0) if circles else (float(pace * np.cos(heading)), float(pace * np.sin(heading))),
                phase=float(random.uniform(0, 2 * np.pi)),
                spin=float(random.uniform(-3, 3)),
                colours=random.uniform(0.05, 0.95, (2, 3)),
                stripes=float(random.uniform(3, 8)),
            )
        )
    count = 24
    lengths = 2 * np.pi * np.exp(random.uniform(np.log(1), np.log(12), count))
    headings = random.uniform(0, 2 * np.pi, count)
    waves = lengths[:, None] * np.stack([np.cos(headings), np.sin(headings)], 1)
    # As in photographs, amplitude falls with frequency.
    amplitudes = random.normal(size=(count, 3)) / lengths[:, None]
    amplitudes *= 0.15 / np.sqrt((amplitudes**2).sum(0) / 2).mean()
    drift = random.uniform(-0.05, 0.05, 2)
    return Scene(
        tuple(made), waves, random.uniform(0, 2 * np.pi, count), amplitudes, (float(drift[0]), float(drift[1]))
    )

"""Drawing of the synthetic sample: shapes, a canvas that keeps instance masks, polygons of masks.

A *sprite* is a list of parts, back to front, in metres: x to the right, y up, the ground at 0.
A part is ``(points, colour)``; a part without a colour belongs to the mask only (the inside of a
bicycle's wheel). The canvas draws with supersampling; a mask pixel is set where at least half of
it is covered by the visible part of the object.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

Colour = tuple[float, float, float]
Points = npt.NDArray[np.float64]
Part = tuple[Points, Colour | None]
Sprite = list[Part]
Mask = npt.NDArray[np.bool_]

SUPERSAMPLING = 3
HEIGHT = 144  # of every picture, in the units that scenes are drawn in
MIN_VISIBLE_SHARE = 0.3  # our choice: an object less visible than this is not annotated
MIN_VISIBLE_PIXELS = 24
_ANGLES = np.linspace(0, 2 * np.pi, 28, endpoint=False)
_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)


def mix(a: Colour, b: Colour, t: float) -> Colour:
    """Colour on the way from ``a`` (t = 0) to ``b`` (t = 1)."""
    return (a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t, a[2] + (b[2] - a[2]) * t)


def dark(colour: Colour, t: float = 0.25) -> Colour:
    """The colour in shade."""
    return mix(colour, (20.0, 22.0, 40.0), t)


def light(colour: Colour, t: float = 0.25) -> Colour:
    """The colour in light."""
    return mix(colour, (255.0, 250.0, 235.0), t)


def pick(rng: np.random.Generator, colours: list[Colour], jitter: float = 12.0) -> Colour:
    """One of the colours, varied a little."""
    red, green, blue = colours[int(rng.integers(len(colours)))] + rng.normal(0, jitter / 2, 3)
    return (float(np.clip(red, 0, 255)), float(np.clip(green, 0, 255)), float(np.clip(blue, 0, 255)))


def polygon(*points: tuple[float, float]) -> Points:
    """Points (n, 2) of a polygon."""
    return np.array(points, dtype=np.float64)


def rectangle(x0: float, y0: float, x1: float, y1: float) -> Points:
    """Points of an upright rectangle."""
    return polygon((x0, y0), (x1, y0), (x1, y1), (x0, y1))


def ellipse(x: float, y: float, rx: float, ry: float | None = None) -> Points:
    """Points of an ellipse (a disc without ``ry``)."""
    return _CIRCLE * (rx, rx if ry is None else ry) + (x, y)


def rounded(x0: float, y0: float, x1: float, y1: float, r: float) -> Points:
    """Points of a rectangle with rounded corners."""
    corners = [(x1 - r, y1 - r), (x0 + r, y1 - r), (x0 + r, y0 + r), (x1 - r, y0 + r)]
    angles = np.linspace(0, np.pi / 2, 5)
    arcs = []
    for quarter, (x, y) in enumerate(corners):
        turn = angles + quarter * np.pi / 2
        arcs.append(np.stack([x + r * np.cos(turn), y + r * np.sin(turn)], axis=1))
    return np.concatenate(arcs)


def ring(x: float, y: float, r: float, width: float) -> Points:
    """Points of a ring: the outer circle and, backwards, the inner one."""
    outer, inner = ellipse(x, y, r), ellipse(x, y, r - width)
    return np.concatenate([outer, outer[:1], inner[:1], inner[::-1]])


def stroke(x0: float, y0: float, x1: float, y1: float, width: float, end: float | None = None) -> Points:
    """Points of a line of a width, with round ends; ``end``: width at (x1, y1), else the same."""
    angle = np.arctan2(y1 - y0, x1 - x0)
    half = np.linspace(-np.pi / 2, np.pi / 2, 6)
    r0, r1 = width / 2, (width if end is None else end) / 2
    head = np.stack([x1 + r1 * np.cos(angle + half), y1 + r1 * np.sin(angle + half)], axis=1)
    tail = np.stack([x0 - r0 * np.cos(angle + half), y0 - r0 * np.sin(angle + half)], axis=1)
    return np.concatenate([head, tail])


def sprite_points(sprite: Sprite) -> Points:
    """All points of a sprite, (n, 2)."""
    return np.concatenate([points for points, _ in sprite])


@dataclass
class _Placed:
    category: str
    parts: Sprite
    depth: float
    shadow: float


@dataclass(frozen=True)
class Instance:
    """A visible object: class name and mask, bool (height, width)."""

    category: str
    mask: Mask


class Canvas:
    """A picture that grows back to front: background at once, objects by depth at the end.

    All coordinates are in units of 1/144 of the picture's height, x to the right, y down, so that
    scenes look alike at every size.
    """

    def __init__(self, rng: np.random.Generator, size: tuple[int, int]) -> None:
        self.rng = rng
        self._size = size
        self._unit = SUPERSAMPLING * size[1] / HEIGHT  # drawn pixels per unit
        self.width, self.height = size[0] * HEIGHT / size[1], float(HEIGHT)
        self._image = Image.new("RGB", (size[0] * SUPERSAMPLING, size[1] * SUPERSAMPLING))
        self._draw = ImageDraw.Draw(self._image)
        self._ids = Image.new("L", self._image.size)
        self._objects: list[_Placed] = []
        self.fog: tuple[Colour, float] = ((200.0, 210.0, 220.0), 0.0)  # colour, share at the horizon
        self.gain: Colour = (1.0, 1.0, 1.0)
        self.grain = 3.0

    def paint(self, points: Points, colour: Colour, alpha: float = 1.0) -> None:
        """Fill a polygon of the background."""
        if alpha >= 1:
            self._draw.polygon(self._flat(points), fill=_rgb(colour))
            return
        box, mask = self._local_mask([points], int(255 * alpha))
        self._image.paste(_rgb(colour), box, mask)

    def gradient(self, y0: float, y1: float, top: Colour, bottom: Colour) -> None:
        """Fill the rows y0..y1 over the whole width with a vertical gradient."""
        first, last = round(y0 * self._unit), round(y1 * self._unit)
        if last <= first:
            return
        share = np.linspace(0, 1, last - first)[:, None, None]
        column = np.array(top) * (1 - share) + np.array(bottom) * share
        band = Image.fromarray(np.clip(column, 0, 255).astype(np.uint8))
        self._image.paste(
            band.resize((self._image.width, last - first), Image.Resampling.NEAREST), (0, first)
        )

    def glow(self, x: float, y: float, radius: float, colour: Colour, alpha: float) -> None:
        """A soft spot of light or shade."""
        size = max(int(radius * 2 * self._unit), 2)
        spot = _SPOT.resize((size, size), Image.Resampling.BILINEAR).point(lambda v: int(v * alpha))
        corner = (int((x - radius) * self._unit), int((y - radius) * self._unit))
        self._image.paste(_rgb(colour), corner, spot)

    def place(
        self,
        category: str,
        sprite: Sprite,
        x: float,
        y: float,
        scale: float,
        *,
        flip: bool = False,
        tilt: float = 0.0,
        distance: float = 0.0,
        shadow: float = 0.3,
        depth: float | None = None,
    ) -> None:
        """Stand an object on (x, y); what stands lower in the picture covers what stands higher.

        Args:
            category: class name, or "" for something that covers but is not annotated.
            scale: units per metre.
            flip: mirror left and right.
            tilt: turn, in radians.
            distance: 0 (near) to 1 (at the horizon), how much of the fog it takes.
            shadow: darkness of the shadow on the ground, 0 for none.
            depth: order of drawing, else y.
        """
        turn = np.array([[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]])
        to_pixels = np.array([-scale if flip else scale, -scale])
        haze = self.fog[1] * min(max(distance, 0.0), 1.0)
        parts: Sprite = [
            (points @ turn.T * to_pixels + (x, y), None if c is None else mix(c, self.fog[0], haze))
            for points, c in sprite
        ]
        self._objects.append(_Placed(category, parts, y if depth is None else depth, shadow))

    def finish(self) -> tuple[npt.NDArray[np.uint8], list[Instance]]:
        """The picture, uint8 (height, width, 3), and its annotated objects, back to front."""
        full_area = []
        objects = sorted(self._objects, key=lambda placed: placed.depth)[:255]
        for number, placed in enumerate(objects, start=1):
            full_area.append(self._stand(placed, number))
        instances = []
        for number, placed in enumerate(objects, start=1):
            own = self._ids.point([255 if value == number else 0 for value in range(256)])
            mask = np.asarray(own.reduce(SUPERSAMPLING)) >= 128
            visible = int(mask.sum())
            if placed.category and visible >= max(
                MIN_VISIBLE_PIXELS, MIN_VISIBLE_SHARE * full_area[number - 1]
            ):
                instances.append(Instance(placed.category, mask))
        return self._finished_picture(), instances

    def _stand(self, placed: _Placed, number: int) -> float:
        """Draw one object into picture and id map; its whole area in pixels, seen or not."""
        shapes = [points for points, _ in placed.parts]
        if placed.shadow:
            every = np.concatenate(shapes)
            (x0, _), (x1, y1) = every.min(axis=0), every.max(axis=0)
            half = (x1 - x0) / 2
            self.paint(ellipse((x0 + x1) / 2, y1, half * 1.1, half * 0.16 + 0.8), (18, 20, 38), placed.shadow)
        for points, colour in placed.parts:
            if colour is not None:
                self._draw.polygon(self._flat(points), fill=_rgb(colour))
        box, mask = self._local_mask(shapes, 255)
        self._ids.paste(number, box, mask)
        return mask.histogram()[255] / SUPERSAMPLING**2

    def _local_mask(self, shapes: list[Points], value: int) -> tuple[tuple[int, int], Image.Image]:
        every = np.concatenate(shapes) * self._unit
        low, high = np.floor(every.min(axis=0)).astype(int), np.ceil(every.max(axis=0)).astype(int)
        mask = Image.new("L", (int(high[0] - low[0]) + 1, int(high[1] - low[1]) + 1))
        draw = ImageDraw.Draw(mask)
        for points in shapes:
            draw.polygon(((points * self._unit) - low).ravel().tolist(), fill=value)
        return (int(low[0]), int(low[1])), mask

    def _flat(self, points: Points) -> list[float]:
        flat: list[float] = (points * self._unit).ravel().tolist()
        return flat

    def _finished_picture(self) -> npt.NDArray[np.uint8]:
        """Reduce, colour the light, darken the corners, add texture and grain."""
        picture = np.asarray(self._image.reduce(SUPERSAMPLING), dtype=np.float32)
        y, x = np.mgrid[-1 : 1 : self._size[1] * 1j, -1 : 1 : self._size[0] * 1j].astype(np.float32)
        shade = 1.03 - 0.13 * (x**2 + y**2) / 2
        coarse = self.rng.normal(0, 1, (9, 12)).astype(np.float32)
        cloud = Image.fromarray(coarse).resize(self._size, Image.Resampling.BICUBIC)
        shade = shade * (1 + 0.02 * np.asarray(cloud))
        noise = self.rng.normal(0, self.grain, (self._size[1], self._size[0], 1)).astype(np.float32)
        picture = picture * (shade[..., None] * np.array(self.gain, dtype=np.float32)) + noise
        return np.clip(picture, 0, 255).astype(np.uint8)


def _rgb(colour: Colour) -> tuple[int, int, int]:
    red, green, blue = (int(min(max(value, 0), 255)) for value in colour)
    return red, green, blue


def _spot() -> Image.Image:
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    return Image.fromarray((np.clip(1 - np.hypot(x, y), 0, 1) ** 1.5 * 255).astype(np.uint8))


_SPOT: Any = _spot()

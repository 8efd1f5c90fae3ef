"""Scenes of the synthetic sample: one function per domain paints a background and stands objects.

``focus`` is the class that this picture must show near and unhidden, so that even a few pictures
of a domain show every class.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from nds_plugin.datasets.sample import nature, sprites, things
from nds_plugin.datasets.sample.backdrop import Sprites, clouds, spread
from nds_plugin.datasets.sample.canvas import (
    Canvas,
    Colour,
    dark,
    ellipse,
    light,
    mix,
    pick,
    polygon,
    rectangle,
)

_HOUSES: list[Colour] = [(222, 178, 140), (206, 120, 96), (236, 216, 178), (168, 178, 176), (214, 150, 110),
                         (190, 196, 206)]  # fmt: skip
_FRONTS: list[Colour] = [(168, 152, 140), (176, 122, 104), (140, 146, 156), (198, 178, 150), (150, 134, 130)]
_Projection = Callable[[float, float, float], tuple[float, float]]


def street(canvas: Canvas, focus: str) -> None:
    """A road into the depth between two rows of houses, by day or by night."""
    rng, width, height = canvas.rng, canvas.width, canvas.height
    horizon, camera = height * rng.uniform(0.36, 0.46), rng.uniform(2.0, 2.7)
    middle, zoom = width * rng.uniform(0.38, 0.62), height * 0.75
    sky = pick(rng, [(112, 172, 222), (140, 190, 226), (164, 196, 216), (168, 174, 190), (196, 160, 150)])
    night = bool(rng.random() < 0.45)
    if night:  # then the road is lit and the sky is dark: "light is up" is no rule that fits all domains
        sky = pick(rng, [(24, 30, 62), (40, 36, 70), (30, 44, 72)])
    canvas.fog = (light(sky, 0.12), 0.55) if night else ((206, 220, 230), 0.55)
    canvas.gradient(0, horizon + 2, sky, light(sky, 0.15 if night else 0.6))
    clouds(canvas, horizon, light(sky, 0.1) if night else (250, 250, 250), int(rng.integers(1, 5)))
    road = (
        pick(rng, [(150, 142, 136), (158, 154, 146)])
        if night
        else pick(rng, [(112, 114, 122), (124, 120, 118), (98, 104, 116), (78, 82, 96)])
    )
    canvas.gradient(horizon, height, dark(road, 0.35) if night else light(road, 0.35), road)

    def at(x: float, up: float, z: float) -> tuple[float, float]:
        return middle + zoom * x / z, horizon + zoom * (camera - up) / z

    half = rng.uniform(3.6, 4.6)
    pavement = pick(rng, [(190, 182, 170), (176, 176, 174)])
    for side in (-1, 1):
        edge, wall = side * half, side * (half + 2.4)
        canvas.paint(polygon(at(edge, 0, 2), at(edge, 0, 90), at(wall, 0, 90), at(wall, 0, 2)), pavement)
        canvas.paint(
            polygon(at(edge, 0, 2), at(edge, 0, 90), at(edge * 1.05, 0, 90), at(edge * 1.05, 0, 2)),
            light(pavement, 0.5),
        )
        far = 90.0
        for near in (58, 40, 28, 20, 14, 9.5, 6, 2.5):
            _house(canvas, at, wall, near, far, night)
            far = near
    for z in np.arange(3, 60, 4.5):
        canvas.paint(
            polygon(at(-0.1, 0, z), at(-0.1, 0, z + 2), at(0.1, 0, z + 2), at(0.1, 0, z)), (236, 232, 214)
        )
    make: Sprites = {"car": partial(sprites.car, front=0.55, lights=night),
                     "bus": partial(sprites.bus, front=0.8, lights=night),
                     "person": sprites.person, "bicycle": sprites.bicycle}  # fmt: skip
    others = ["car", "car", "person", "person", "bicycle", "bus"]
    spread(canvas, focus, others, int(rng.integers(3, 8)), horizon, camera, make, farthest=0.12)


def _house(canvas: Canvas, at: _Projection, wall: float, near: float, far: float, night: bool) -> None:
    rng = canvas.rng
    front = pick(rng, _HOUSES)
    haze = min(far / 90, 1) * 0.5
    tall = rng.uniform(5.5, 11)
    front = dark(front, (0.5 if night else 0.0) + (0.0 if wall < 0 else 0.14))
    front = mix(front, canvas.fog[0], haze)

    def panel(x0: float, y0: float, z0: float, x1: float, y1: float, z1: float, colour: Colour) -> None:
        canvas.paint(polygon(at(x0, y0, z0), at(x1, y1, z0), at(x1, y1, z1), at(x0, y0, z1)), colour)

    panel(wall, 0, near, wall, tall, far, front)
    roof = mix(dark((150, 78, 64), 0.55 if night else 0.0), canvas.fog[0], haze)
    panel(wall, tall, near, wall * 1.2, tall + 1.5, far, roof)
    pane = mix((246, 206, 128) if night and rng.random() < 0.6 else (92, 112, 134), front, 0.15 + haze * 0.5)
    columns = max(int((far - near) / 2.6), 1) if far < 40 else 0
    for column in range(columns):
        z0 = near + (far - near) * (column + 0.25) / columns
        z1 = near + (far - near) * (column + 0.72) / columns
        for up in np.arange(1.2, tall - 1.2, 2.6):
            panel(wall, up, z0, wall, up + 1.4, z1, pane)


def city(canvas: Canvas, focus: str) -> None:
    """A road across the picture before tall fronts, in the rain, most often at night."""
    rng, width, height = canvas.rng, canvas.width, canvas.height
    horizon, camera = height * rng.uniform(0.34, 0.44), rng.uniform(2.4, 3.2)
    night = bool(rng.random() < 0.7)
    if night:
        sky = pick(rng, [(30, 36, 70), (46, 40, 78), (36, 50, 80)])
        glow = pick(rng, [(96, 76, 104), (70, 78, 110)])
    else:
        sky = pick(rng, [(142, 168, 196), (162, 178, 196)])
        glow = pick(rng, [(236, 214, 196), (208, 218, 228)])
    canvas.fog, canvas.gain, canvas.grain = (mix(sky, glow, 0.4), 0.45), (0.97, 0.98, 1.02), 3.5
    kerb = horizon + (height - horizon) * 0.22
    canvas.gradient(0, kerb, sky, glow)
    for tone, low, high in ((0.5, 0.3, 0.8), (0.12, 0.08, 0.5)):
        x = rng.uniform(-20, 0)
        while x < width:
            wide, top = rng.uniform(18, 44), horizon * (1 - rng.uniform(low, high))
            _tower(canvas, x, top, x + wide, kerb - 2, mix(pick(rng, _FRONTS), canvas.fog[0], tone))
            x += wide + rng.uniform(-3, 3 if tone > 0.2 else 14)
    pavement = pick(rng, [(168, 164, 162), (156, 158, 164)])
    canvas.gradient(kerb - 8, kerb, pavement, dark(pavement, 0.1))
    road = (
        pick(rng, [(146, 140, 144), (134, 138, 150)])
        if night
        else pick(rng, [(88, 92, 104), (100, 100, 106)])
    )
    canvas.gradient(kerb, height, dark(road, 0.2) if night else light(road, 0.1), road)
    canvas.paint(rectangle(0, kerb, width, kerb + 1), light(pavement, 0.4))
    lane = kerb + (height - kerb) * 0.45
    for x in np.arange(rng.uniform(-20, 0), width, 26):
        canvas.paint(rectangle(x, lane, x + 13, lane + 1.2), (206, 204, 196), 0.8)
    for _ in range(int(rng.integers(3, 8))):  # reflections on the wet road
        x, colour = rng.uniform(0, width), pick(rng, [(255, 206, 130), (236, 96, 80), (150, 190, 230)])
        canvas.paint(
            ellipse(x, rng.uniform(kerb + 8, height), rng.uniform(2, 5), rng.uniform(5, 16)), colour, 0.14
        )
    make: Sprites = {"car": partial(sprites.car, front=0.3, lights=True),
                     "bus": partial(sprites.bus, front=0.3, lights=True),
                     "person": lambda rng: sprites.person(rng, 0.35), "bicycle": sprites.bicycle}  # fmt: skip
    others = ["car", "car", "person", "person", "bicycle", "bus"]
    spread(canvas, focus, others, int(rng.integers(3, 8)), horizon, camera, make, shadow=0.4)


def _tower(canvas: Canvas, x0: float, y0: float, x1: float, y1: float, front: Colour) -> None:
    rng = canvas.rng
    canvas.paint(rectangle(x0, y0, x1, y1), front)
    canvas.paint(rectangle(x1 - (x1 - x0) * 0.2, y0, x1, y1), dark(front, 0.2))
    step, warm = rng.uniform(4, 7), pick(rng, [(255, 214, 136), (250, 196, 110), (222, 226, 220)])
    for y in np.arange(y0 + 3, y1 - 7, step):
        for x in np.arange(x0 + 2, x1 - 3.5, step * 0.9):
            lit = rng.random() < 0.3
            canvas.paint(rectangle(x, y, x + step * 0.45, y + step * 0.55), warm if lit else dark(front, 0.3))


def room(canvas: Canvas, focus: str) -> None:
    """A room with a papered wall, a window or pictures, a wooden floor and a rug."""
    rng, width, height = canvas.rng, canvas.width, canvas.height
    skirting, horizon = height * rng.uniform(0.5, 0.6), height * 0.2
    wall = pick(rng, [(226, 214, 190), (176, 190, 178), (206, 176, 160), (160, 172, 190), (220, 196, 140)])
    floor = pick(rng, [(158, 112, 76), (128, 90, 66), (186, 144, 102)])
    canvas.gradient(0, skirting, light(wall, 0.12), wall)
    for x in np.arange(rng.uniform(0, 8), width, rng.uniform(9, 18)):
        canvas.paint(rectangle(x, 0, x + 3, skirting), dark(wall, 0.07) if rng.random() < 0.9 else wall, 0.5)
    _wall_things(canvas, skirting)
    canvas.gradient(skirting, height, dark(floor, 0.22), light(floor, 0.08))
    for board in np.arange(-1.5, 2.6, 0.16):
        x = width * (board - 0.5)
        line = polygon(
            (width / 2 + x * 0.55, skirting),
            (width / 2 + x * 1.5, height),
            (width / 2 + x * 1.5 + 1.4, height),
        )
        canvas.paint(line, dark(floor, 0.4), 0.6)
    canvas.paint(rectangle(0, skirting - 4, width, skirting), light(wall, 0.6))
    if rng.random() < 0.7:
        rug, x, y = pick(rng, sprites.CLOTHES), rng.uniform(0.3, 0.7) * width, height * rng.uniform(0.78, 0.9)
        for share, tone in ((1.0, dark(rug, 0.2)), (0.86, light(rug, 0.3)), (0.74, rug)):
            canvas.paint(ellipse(x, y, width * 0.3 * share, height * 0.11 * share), tone, 0.9)
    make = {"person": sprites.person, "chair": things.chair, "table": things.table, "lamp": things.lamp}
    others = ["chair", "chair", "table", "lamp", "person"]
    nearest_wall = (skirting + 3 - horizon) / (height - horizon)
    count, camera = int(rng.integers(2, 6)), rng.uniform(1.9, 2.3)
    spread(canvas, focus, others, count, horizon, camera, make, farthest=nearest_wall)


def _wall_things(canvas: Canvas, skirting: float) -> None:
    rng, width = canvas.rng, canvas.width
    x, y, w, h = rng.uniform(0.06, 0.28) * width, skirting * 0.14, rng.uniform(34, 56), skirting * 0.58
    if rng.random() < 0.6:
        canvas.paint(rectangle(x - 3, y - 3, x + w + 3, y + h + 3), (246, 242, 232))
        outside = pick(rng, [(150, 200, 230), (190, 214, 224), (246, 206, 160)])
        canvas.paint(rectangle(x, y, x + w, y + h), outside)
        canvas.paint(rectangle(x, y + h * 0.7, x + w, y + h), pick(rng, nature.LEAVES))
        canvas.paint(rectangle(x + w / 2 - 1, y, x + w / 2 + 1, y + h), (246, 242, 232))
        cloth = pick(rng, sprites.CLOTHES)
        for side in (x - 8, x + w - 4):
            canvas.paint(rectangle(side, y - 5, side + 12, y + h + 14), cloth)
            canvas.paint(rectangle(side + 4, y - 5, side + 6, y + h + 14), dark(cloth, 0.2))
    for px in width * rng.permutation([0.66, 0.79, 0.92])[: int(rng.integers(1, 4))]:
        py, r = rng.uniform(0.2, 0.5) * skirting, rng.uniform(6, 11)
        canvas.paint(rectangle(px - r, py - r * 0.8, px + r, py + r * 0.8), pick(rng, things.WOOD))
        canvas.paint(
            rectangle(px - r + 2, py - r * 0.8 + 2, px + r - 2, py + r * 0.8 - 2), pick(rng, sprites.CLOTHES)
        )

"""Scenes of the synthetic sample: one function per domain paints a background and stands objects.

``focus`` is the class that this picture must show near and unhidden, so that even a few pictures
of a domain show every class.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from nds_plugin.datasets import sample_nature as nature
from nds_plugin.datasets import sample_sprites as sprites
from nds_plugin.datasets import sample_things as things
from nds_plugin.datasets.sample_canvas import (
    Canvas,
    Colour,
    Sprite,
    dark,
    ellipse,
    light,
    mix,
    pick,
    polygon,
    rectangle,
    sprite_points,
)

_Choice = Callable[[str], Sprite]
_Projection = Callable[[float, float, float], tuple[float, float]]


def clouds(canvas: Canvas, horizon: float, colour: Colour, count: int) -> None:
    rng = canvas.rng
    for _ in range(count):
        x, y, r = rng.uniform(0, canvas.width), rng.uniform(0.08, 0.62) * horizon, rng.uniform(5, 12)
        for _ in range(5):
            bump = ellipse(x + rng.uniform(-2, 2) * r, y + rng.uniform(-0.25, 0.25) * r, r, r * 0.42)
            canvas.paint(bump, colour, 0.55)


def ridge(canvas: Canvas, base: float, height: float, colour: Colour, rough: float = 0.35) -> None:
    """A range of hills across the picture; ``rough``: 0 soft, 1 jagged."""
    x = np.linspace(0, canvas.width, 49)
    wave = sum(
        np.sin(x / canvas.width * np.pi * f + canvas.rng.uniform(0, 6)) * (1 / f if f < 5 else rough / f)
        for f in (1.5, 3, 7, 13)
    )
    y = base - height * (0.5 + 0.45 * np.asarray(wave))
    canvas.paint(np.concatenate([np.stack([x, y], 1), [(canvas.width, base + 30), (0, base + 30)]]), colour)


def tufts(canvas: Canvas, horizon: float, colours: list[Colour], count: int, long: float) -> None:
    """Strokes of grass, sand or pebbles that grow towards the viewer."""
    rng = canvas.rng
    for _ in range(count):
        near = rng.random() ** 0.7
        x, y = rng.uniform(0, canvas.width), horizon + 2 + near * (canvas.height - horizon)
        r = 0.4 + 2.2 * near
        canvas.paint(ellipse(x, y, r * long, r * 0.5), pick(rng, colours), 0.5)


def spread(
    canvas: Canvas, focus: str, others: list[str], count: int, horizon: float, camera: float, make: _Choice,
    nearest: float = 0.96, farthest: float = 0.2, shadow: float = 0.3,
) -> None:  # fmt: skip
    """Stand the focus and ``count`` others on a plane seen from ``camera`` metres above it.

    Each takes, of five random places, the one where it overlaps least with those before it.
    """
    rng = canvas.rng
    taken: list[tuple[float, float]] = []
    depth = canvas.height - horizon
    for number in range(count + 1):
        category = focus if number == 0 else others[int(rng.integers(len(others)))]
        sprite = make(category)
        half = float(np.abs(sprite_points(sprite)[:, 0]).max())
        near = rng.uniform(0.5, 0.85) if number == 0 else rng.uniform(farthest**0.7, nearest) ** (1 / 0.7)
        near = min(
            near, max(0.45 * canvas.width * camera / (half * depth), farthest)
        )  # fits into the picture
        reach = near * depth / camera * half
        low, high = (0.2, 0.8) if number == 0 else (0.02, 0.98)
        x = min(
            (float(value) for value in rng.uniform(low, high, 5) * canvas.width),
            key=lambda x: sum(max(0.0, reach + r - abs(x - c)) for c, r in taken),
        )
        taken.append((x, reach))
        canvas.place(
            category, sprite, x, horizon + near * depth, near * depth / camera,
            flip=bool(rng.random() < 0.5), tilt=float(rng.normal(0, 0.02)), distance=1 - near, shadow=shadow,
        )  # fmt: skip


def street(canvas: Canvas, focus: str) -> None:
    """A road into the depth between two rows of houses, by day."""
    rng, width, height = canvas.rng, canvas.width, canvas.height
    horizon, camera = height * rng.uniform(0.36, 0.46), rng.uniform(2.0, 2.7)
    middle, zoom = width * rng.uniform(0.38, 0.62), height * 0.75
    sky = pick(rng, [(112, 172, 222), (140, 190, 226), (164, 196, 216), (168, 174, 190), (196, 160, 150)])
    canvas.fog = ((206, 220, 230), 0.55)
    canvas.gradient(0, horizon + 2, sky, light(sky, 0.6))
    clouds(canvas, horizon, (250, 250, 250), int(rng.integers(1, 5)))
    road = pick(rng, [(112, 114, 122), (124, 120, 118), (98, 104, 116), (78, 82, 96)])
    canvas.gradient(horizon, height, light(road, 0.35), road)

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
            _house(canvas, at, wall, near, far)
            far = near
    for z in np.arange(3, 60, 4.5):
        canvas.paint(
            polygon(at(-0.1, 0, z), at(-0.1, 0, z + 2), at(0.1, 0, z + 2), at(0.1, 0, z)), (236, 232, 214)
        )
    make = {"car": lambda: sprites.car(rng, 0.55), "bus": lambda: sprites.bus(rng, 0.8),
            "person": lambda: sprites.person(rng), "bicycle": lambda: sprites.bicycle(rng)}  # fmt: skip
    others = ["car", "car", "person", "person", "bicycle", "bus"]
    spread(
        canvas, focus, others, int(rng.integers(3, 8)), horizon, camera, lambda c: make[c](), farthest=0.12
    )


def _house(canvas: Canvas, at: _Projection, wall: float, near: float, far: float) -> None:
    rng = canvas.rng
    front = pick(
        rng,
        [(222, 178, 140), (206, 120, 96), (236, 216, 178), (168, 178, 176), (214, 150, 110), (190, 196, 206)],
    )
    haze = min(far / 90, 1) * 0.5
    tall = rng.uniform(5.5, 11)
    front = mix(front if wall < 0 else dark(front, 0.14), canvas.fog[0], haze)
    canvas.paint(
        polygon(at(wall, 0, near), at(wall, tall, near), at(wall, tall, far), at(wall, 0, far)), front
    )
    roof = mix((150, 78, 64), canvas.fog[0], haze)
    canvas.paint(
        polygon(
            at(wall, tall, near),
            at(wall * 1.2, tall + 1.5, near),
            at(wall * 1.2, tall + 1.5, far),
            at(wall, tall, far),
        ),
        roof,
    )
    pane = mix((92, 112, 134), front, 0.15 + haze * 0.5)
    columns = max(int((far - near) / 2.6), 1) if far < 40 else 0
    for column in range(columns):
        z0 = near + (far - near) * (column + 0.25) / columns
        z1 = near + (far - near) * (column + 0.72) / columns
        for up in np.arange(1.2, tall - 1.2, 2.6):
            canvas.paint(
                polygon(at(wall, up, z0), at(wall, up + 1.4, z0), at(wall, up + 1.4, z1), at(wall, up, z1)),
                pane,
            )


def city(canvas: Canvas, focus: str) -> None:
    """A road across the picture before tall fronts, on a wet evening with lit windows."""
    rng, width, height = canvas.rng, canvas.width, canvas.height
    horizon, camera = height * rng.uniform(0.34, 0.44), rng.uniform(2.4, 3.2)
    sky = pick(rng, [(112, 130, 170), (140, 130, 164), (134, 152, 176), (160, 168, 182)])
    glow = pick(rng, [(240, 176, 140), (214, 190, 188), (198, 204, 214)])
    canvas.fog, canvas.gain, canvas.grain = (mix(sky, glow, 0.4), 0.45), (0.96, 0.96, 1.05), 3.5
    kerb = horizon + (height - horizon) * 0.22
    canvas.gradient(0, horizon, sky, glow)
    for tone, low, high in ((0.5, 0.3, 0.8), (0.12, 0.08, 0.5)):
        x = rng.uniform(-20, 0)
        while x < width:
            wide, top = rng.uniform(18, 44), horizon * (1 - rng.uniform(low, high))
            front = mix(
                pick(rng, [(96, 98, 118), (128, 104, 108), (84, 98, 118), (140, 122, 120), (110, 92, 96)]),
                canvas.fog[0],
                tone,
            )
            _tower(canvas, x, top, x + wide, kerb - 2, front)
            x += wide + rng.uniform(-3, 3 if tone > 0.2 else 14)
    pavement = pick(rng, [(140, 138, 146), (126, 130, 142)])
    canvas.gradient(kerb - 8, kerb, pavement, dark(pavement, 0.1))
    road = pick(rng, [(78, 82, 98), (92, 92, 100)])
    canvas.gradient(kerb, height, light(road, 0.1), dark(road, 0.15))
    canvas.paint(rectangle(0, kerb, width, kerb + 1), light(pavement, 0.4))
    lane = kerb + (height - kerb) * 0.45
    for x in np.arange(rng.uniform(-20, 0), width, 26):
        canvas.paint(rectangle(x, lane, x + 13, lane + 1.2), (206, 204, 196), 0.8)
    for _ in range(int(rng.integers(3, 8))):  # reflections on the wet road
        x, colour = rng.uniform(0, width), pick(rng, [(255, 206, 130), (236, 96, 80), (150, 190, 230)])
        canvas.paint(
            ellipse(x, rng.uniform(kerb + 8, height), rng.uniform(2, 5), rng.uniform(5, 16)), colour, 0.14
        )
    make = {"car": lambda: sprites.car(rng, 0.3, True), "bus": lambda: sprites.bus(rng, 0.3, True),
            "person": lambda: sprites.person(rng, 0.35), "bicycle": lambda: sprites.bicycle(rng)}  # fmt: skip
    others = ["car", "car", "person", "person", "bicycle", "bus"]
    spread(
        canvas,
        focus,
        others,
        int(rng.integers(3, 8)),
        horizon,
        camera,
        lambda c: make[c](),
        farthest=0.2,
        shadow=0.4,
    )


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
    spread(canvas, focus, others, count, horizon, camera, lambda c: make[c](rng), farthest=nearest_wall)


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

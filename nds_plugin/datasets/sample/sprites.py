"""Sprites of the synthetic sample that live in streets: people and vehicles. Sizes in metres."""

from __future__ import annotations

import numpy as np

from nds_plugin.datasets.sample.canvas import (
    Colour,
    Sprite,
    dark,
    ellipse,
    light,
    mix,
    pick,
    polygon,
    rectangle,
    ring,
    rounded,
    stroke,
)

BLACK: Colour = (34, 36, 44)
GLASS: Colour = (120, 152, 172)
CLOTHES: list[Colour] = [
    (196, 62, 58), (58, 92, 158), (232, 178, 72), (70, 130, 98), (240, 236, 226), (110, 74, 128),
    (222, 120, 92), (84, 88, 98), (120, 178, 196),
]  # fmt: skip
TROUSERS: list[Colour] = [(54, 66, 98), (72, 68, 66), (150, 126, 96), (40, 42, 52), (104, 116, 130)]
SKIN: list[Colour] = [(244, 206, 176), (224, 172, 134), (176, 122, 86), (118, 80, 58)]
HAIR: list[Colour] = [(52, 38, 32), (96, 62, 40), (196, 154, 88), (60, 58, 62), (170, 168, 166)]
PAINT: list[Colour] = [
    (200, 52, 48), (46, 92, 162), (238, 236, 230), (64, 66, 74), (166, 172, 178), (234, 184, 60),
    (58, 128, 110), (128, 44, 62),
]  # fmt: skip
BUS_PAINT: list[Colour] = [(206, 58, 46), (238, 190, 56), (60, 120, 168), (92, 156, 92)]


def person(rng: np.random.Generator, umbrella: float = 0.0) -> Sprite:
    """Somebody who stands or walks, 1.55 to 1.85 m; ``umbrella``: probability of one."""
    shirt, trousers = pick(rng, CLOTHES), pick(rng, TROUSERS)
    skin, hair = pick(rng, SKIN, 8), pick(rng, HAIR, 8)
    tall, stride, build = rng.uniform(0.9, 1.05), rng.uniform(0.02, 0.2), rng.uniform(0.85, 1.2)
    half = 0.17 * build
    parts: Sprite = []
    swing = rng.uniform(0.05, 0.25)
    parts.append((stroke(-half * 0.9, 1.36, -half - swing, 0.92, 0.1, 0.08), dark(shirt, 0.2)))
    for side, tone in ((-1, dark(trousers, 0.2)), (1, trousers)):
        parts.append((stroke(side * 0.07, 0.85, side * (0.06 + stride), 0.08, 0.18 * build, 0.11), tone))
        foot = side * (0.06 + stride)
        parts.append((rounded(foot - 0.07, 0.0, foot + 0.13, 0.09, 0.04), BLACK))
    if rng.random() < 0.3:  # a skirt or a coat
        long = rng.uniform(0.4, 0.65)
        hem = half * rng.uniform(1.2, 1.6)
        coat = shirt if rng.random() < 0.5 else pick(rng, CLOTHES)
        parts.append((polygon((-half, 1.0), (half, 1.0), (hem, long), (-hem, long)), coat))
    parts.append((rounded(-half, 0.8, half, 1.46, 0.09), shirt))
    parts.append((rounded(half * 0.3, 0.82, half, 1.42, 0.08), dark(shirt, 0.12)))
    if rng.random() < 0.25:
        parts.append((rounded(-half - 0.13, 0.95, -half + 0.06, 1.4, 0.06), pick(rng, CLOTHES)))
    parts.append((rectangle(-0.05, 1.42, 0.05, 1.52), dark(skin, 0.2)))
    parts.append((ellipse(0.02, 1.62, 0.115, 0.135), skin))
    parts.append((ellipse(-0.02, 1.68, 0.125, 0.09), hair))
    if rng.random() < 0.3:
        parts.append((ellipse(-0.07, 1.58, 0.075, 0.14), hair))
    if rng.random() < umbrella:
        cloth = pick(rng, CLOTHES)
        parts.append((stroke(0.3, 1.1, 0.26, 2.0, 0.035), BLACK))
        top = ellipse(0.22, 1.88, 0.62, 0.4)
        parts.append((np.array([p for p in top if p[1] >= 1.87]), cloth))
        inner = ellipse(0.22, 1.88, 0.25, 0.4)
        parts.append((np.array([p for p in inner if p[1] >= 1.87]), light(cloth, 0.2)))
        parts.append((stroke(half * 0.8, 1.34, 0.3, 1.15, 0.1, 0.08), light(shirt, 0.08)))
    else:
        parts.append((stroke(half * 0.9, 1.36, half + swing, 0.9, 0.1, 0.08), light(shirt, 0.08)))
        parts.append((ellipse(half + swing, 0.87, 0.05), skin))
    return [(points * tall, colour) for points, colour in parts]


def _wheel(x: float, r: float) -> Sprite:
    return [
        (ellipse(x, r, r), BLACK),
        (ellipse(x, r, r * 0.55), (168, 172, 178)),
        (ellipse(x, r, r * 0.2), BLACK),
    ]


def car(rng: np.random.Generator, front: float = 0.5, lights: bool = False) -> Sprite:
    """A car of 3.6 to 4.6 m; ``front``: probability of being seen from the front or the back."""
    paint = pick(rng, PAINT)
    return _car_front(rng, paint, lights) if rng.random() < front else _car_side(rng, paint, lights)


def _car_side(rng: np.random.Generator, paint: Colour, lights: bool) -> Sprite:
    half, high = rng.uniform(1.8, 2.3), rng.uniform(1.35, 1.7)
    belt = rng.uniform(0.82, 0.95)
    nose, tail = rng.uniform(0.35, 0.55), rng.uniform(0.0, 0.25)  # bonnet and boot, share of the length
    front, back = half - 2 * half * nose * 0.75, -half + 2 * half * tail * 0.75
    roof_front, roof_back = front - 0.45, back + 0.25
    cabin = polygon((back, belt), (roof_back, high), (roof_front, high), (front, belt))
    glass = mix(GLASS, (40, 52, 66), 0.35)
    inner = polygon(
        (back + 0.2, belt),
        (roof_back + 0.12, high - 0.12),
        (roof_front - 0.06, high - 0.12),
        (front - 0.14, belt),
    )
    middle, up = (front + back) / 2, high - 0.12
    shine = polygon((middle - 0.2, belt), (middle + 0.3, up), (middle + 0.55, up), (middle, belt))
    return [
        (cabin, dark(paint, 0.1)),
        (inner, glass),
        (shine, light(glass, 0.25)),
        (rectangle(middle - 0.06, belt, middle + 0.06, high - 0.1), dark(paint, 0.1)),
        (rounded(-half, 0.26, half, belt + 0.04, 0.22), paint),
        (rounded(-half, 0.26, half, 0.5, 0.12), dark(paint, 0.3)),
        (rectangle(-half + 0.1, belt - 0.06, half - 0.25, belt), light(paint, 0.35)),
        (ellipse(half - 0.12, 0.68, 0.12, 0.09), (255, 240, 178) if lights else (236, 234, 214)),
        (ellipse(-half + 0.08, 0.7, 0.09, 0.1), (232, 50, 40) if lights else (170, 40, 40)),
        *_wheel(half * 0.62, 0.33),
        *_wheel(-half * 0.62, 0.33),
    ]  # fmt: skip


def _car_front(rng: np.random.Generator, paint: Colour, lights: bool) -> Sprite:
    half, high = rng.uniform(0.85, 0.97), rng.uniform(1.38, 1.7)
    belt, top = rng.uniform(0.85, 0.95), rng.uniform(0.62, 0.76)
    away = rng.random() < 0.5
    lamp: Colour = (226, 48, 40) if away else ((255, 244, 196) if lights else (238, 238, 226))
    glass = mix(GLASS, (40, 52, 66), rng.uniform(0.2, 0.5))
    up, out = high - 0.1, top - 0.08
    pane = polygon((-half + 0.14, belt), (-out, up), (out, up), (half - 0.14, belt))
    parts: Sprite = [
        (rounded(-half + 0.05, 0.0, -half + 0.3, 0.4, 0.05), BLACK),
        (rounded(half - 0.3, 0.0, half - 0.05, 0.4, 0.05), BLACK),
        (polygon((-half, belt), (-top, high), (top, high), (half, belt)), dark(paint, 0.08)),
        (pane, glass),
        (polygon((-0.3, belt), (0.0, high - 0.1), (0.25, high - 0.1), (0.0, belt)), light(glass, 0.25)),
        (rounded(-half, 0.22, half, belt + 0.04, 0.16), paint),
        (rounded(-half, 0.2, half, 0.42, 0.08), dark(paint, 0.35)),
        (rounded(-half + 0.06, 0.6, -half + 0.38, 0.78, 0.07), lamp),
        (rounded(half - 0.38, 0.6, half - 0.06, 0.78, 0.07), lamp),
        (rounded(-0.22, 0.34, 0.22, 0.46, 0.02), (240, 240, 232)),
    ]  # fmt: skip
    if not away:
        parts.append((rounded(-0.42, 0.54, 0.42, 0.74, 0.06), dark(paint, 0.6)))
    return parts


def bus(rng: np.random.Generator, front: float = 0.5, lights: bool = False) -> Sprite:
    """A bus of 7 to 10 m; ``front``: probability of being seen from the front or the back."""
    paint = pick(rng, BUS_PAINT)
    glass: Colour = (248, 216, 140) if lights else mix(GLASS, (60, 76, 92), 0.3)
    if rng.random() < front:
        return _bus_front(rng, paint, glass, lights)
    half, high = rng.uniform(3.4, 4.8), rng.uniform(2.8, 3.2)
    parts: Sprite = [
        (rounded(-half, 0.32, half, high, 0.3), paint),
        (rounded(-half, 0.32, half, 0.95, 0.15), dark(paint, 0.3)),
        (rectangle(-half + 0.05, 0.98, half - 0.05, 1.12), (244, 242, 232)),
        (rectangle(-half + 0.3, high - 0.3, half - 0.3, high - 0.18), light(paint, 0.3)),
    ]
    panes = int(rng.integers(4, 7))
    step = (2 * half - 1.6) / panes
    for pane in range(panes):
        x = -half + 0.3 + pane * step
        parts.append((rounded(x, 1.35, x + step * 0.86, high - 0.42, 0.1), glass))
    parts.append((rounded(half - 1.15, 0.45, half - 0.35, high - 0.42, 0.08), dark(glass, 0.25)))
    parts.append((ellipse(half - 0.12, 0.75, 0.13, 0.12), (255, 240, 190)))
    return parts + _wheel(half * 0.62, 0.48) + _wheel(-half * 0.58, 0.48)


def _bus_front(rng: np.random.Generator, paint: Colour, glass: Colour, lights: bool) -> Sprite:
    half, high = rng.uniform(1.2, 1.35), rng.uniform(2.8, 3.2)
    sign: Colour = (255, 190, 60) if lights else (60, 62, 70)
    return [
        (rounded(-half + 0.08, 0.0, -half + 0.4, 0.5, 0.05), BLACK),
        (rounded(half - 0.4, 0.0, half - 0.08, 0.5, 0.05), BLACK),
        (rounded(-half, 0.25, half, high, 0.22), paint),
        (rounded(-half + 0.12, 1.2, half - 0.12, high - 0.5, 0.12), mix(glass, (60, 76, 92), 0.4)),
        (polygon((-0.7, 1.25), (-0.2, high - 0.52), (0.25, high - 0.52), (-0.2, 1.25)), light(glass, 0.2)),
        (rounded(-half * 0.7, high - 0.42, half * 0.7, high - 0.14, 0.06), sign),
        (rectangle(-half, 0.92, half, 1.06), (244, 242, 232)),
        (rounded(-half, 0.25, half, 0.55, 0.1), dark(paint, 0.35)),
        (ellipse(-half + 0.3, 0.74, 0.16, 0.13), (255, 244, 205)),
        (ellipse(half - 0.3, 0.74, 0.16, 0.13), (255, 244, 205)),
    ]


def bicycle(rng: np.random.Generator) -> Sprite:
    """A bicycle of 1.7 m from the side. The mask holds the wheels' insides, as in COCO."""
    paint = pick(rng, [c for c in CLOTHES if sum(c) < 620])
    r, x = rng.uniform(0.31, 0.36), rng.uniform(0.5, 0.58)
    seat, bars, thick = rng.uniform(0.9, 1.02), rng.uniform(0.98, 1.12), 0.075
    crank, neck = (-0.03, r * 0.85), (x - 0.14, bars - 0.18)
    saddle = (-x * 0.42, seat)
    frame = [(saddle, crank), (crank, neck), ((-x, r), crank), ((saddle[0] + 0.03, seat - 0.14), neck),
             ((saddle[0] + 0.03, seat - 0.14), (-x, r)), ((x, r), (neck[0] - 0.03, bars))]  # fmt: skip
    parts: Sprite = [(ellipse(side * x, r, r), None) for side in (-1, 1)]
    parts.append((polygon((-x, r), crank, neck, (saddle[0], seat - 0.14)), None))
    for side in (-1, 1):
        parts.append((ring(side * x, r, r, 0.065), BLACK))
        parts.append((ellipse(side * x, r, 0.05), (150, 150, 155)))
    parts += [(stroke(*a, *b, thick), paint) for a, b in frame]
    parts.append((stroke(saddle[0] - 0.13, seat + 0.02, saddle[0] + 0.13, seat + 0.02, 0.09), BLACK))
    parts.append((stroke(neck[0] - 0.02, bars, neck[0] + 0.16, bars + 0.04, 0.07), BLACK))
    parts.append((ellipse(*crank, 0.09), (90, 90, 96)))
    if rng.random() < 0.35:
        parts.append((rounded(x - 0.06, bars - 0.26, x + 0.26, bars - 0.02, 0.05), (168, 120, 74)))
    return parts

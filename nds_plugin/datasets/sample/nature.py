"""Sprites of the synthetic sample that live outdoors: animals and plants. Sizes in metres."""

from __future__ import annotations

import numpy as np

from nds_plugin.datasets.sample.canvas import (
    Colour,
    Points,
    Sprite,
    dark,
    ellipse,
    light,
    pick,
    polygon,
    rectangle,
    rounded,
    stroke,
)
from nds_plugin.datasets.sample.sprites import BLACK, CLOTHES

LEAVES: list[Colour] = [(84, 140, 72), (58, 116, 74), (122, 158, 70), (70, 128, 92)]
SNOWY: list[Colour] = [(150, 168, 166), (112, 140, 138), (186, 196, 202)]
AUTUMN: list[Colour] = [(208, 126, 48), (188, 84, 46), (222, 168, 66), (150, 116, 58)]


def _legs(
    rng: np.random.Generator, xs: tuple[float, float], top: float, width: float, coat: Colour
) -> Sprite:
    parts: Sprite = []
    for x in xs:
        for near in (False, True):
            step = rng.uniform(-0.1, 0.1) * top
            shift = 0.09 * top * (1 if near else -1)
            tone = coat if near else dark(coat, 0.3)
            parts.append((stroke(x + shift, top, x + shift + step, width * 0.4, width, width * 0.7), tone))
    return parts


def cow(rng: np.random.Generator) -> Sprite:
    """A cow of 2.3 m."""
    coat = pick(rng, [(236, 228, 214), (128, 78, 50), (70, 54, 50), (188, 138, 92)])
    patch: Colour = (58, 46, 44) if sum(coat) > 560 else light(coat, 0.65)
    grazing = rng.random() < 0.35
    hx, hy = (1.25, 0.55) if grazing else (1.22, 1.42)
    parts = _legs(rng, (-0.72, 0.62), 0.7, 0.2, dark(coat, 0.08))
    parts.append((stroke(-0.98, 1.2, -1.08, 0.6, 0.06), dark(coat, 0.3)))
    parts.append((rounded(-1.0, 0.62, 0.92, 1.4, 0.32), coat))
    parts.append((ellipse(-0.1, 0.72, 0.75, 0.18), dark(coat, 0.12)))
    for _ in range(int(rng.integers(1, 4)) if rng.random() < 0.7 else 0):
        x, y = rng.uniform(-0.7, 0.6), rng.uniform(0.95, 1.15)
        parts.append((ellipse(x, y, rng.uniform(0.14, 0.3), rng.uniform(0.12, 0.2)), patch))
    parts.append((stroke(0.72, 1.12, hx - 0.1, hy, 0.48, 0.3), coat))
    parts.append((stroke(hx - 0.12, hy + 0.05, hx + 0.22, hy - 0.18, 0.3, 0.22), coat))
    parts.append((ellipse(hx + 0.24, hy - 0.2, 0.11, 0.1), (214, 164, 150)))
    parts.append((stroke(hx - 0.18, hy + 0.18, hx - 0.3, hy + 0.28, 0.08), (228, 216, 188)))
    parts.append((stroke(hx - 0.12, hy + 0.14, hx - 0.32, hy + 0.1, 0.11), dark(coat, 0.2)))
    return parts


_WOOL = ((-0.42, 0.6, 0.2), (-0.2, 0.74, 0.24), (0.1, 0.76, 0.24), (0.36, 0.68, 0.22), (-0.1, 0.48, 0.26),
         (0.22, 0.5, 0.24), (-0.34, 0.48, 0.2))  # fmt: skip


def sheep(rng: np.random.Generator) -> Sprite:
    """A sheep of 1.2 m."""
    wool = pick(rng, [(240, 234, 220), (226, 214, 194), (206, 196, 184), (110, 96, 88)], 8)
    face: Colour = (62, 54, 54) if rng.random() < 0.6 else light(wool, 0.2)
    head = (0.6, 0.38) if rng.random() < 0.35 else (0.62, 0.82)
    parts = _legs(rng, (-0.32, 0.3), 0.36, 0.1, face)
    for x, y, r in _WOOL:
        parts.append((ellipse(x, y, r * rng.uniform(0.9, 1.1)), dark(wool, 0.14) if y < 0.55 else wool))
    parts.append((ellipse(0.02, 0.62, 0.4, 0.2), wool))
    parts.append((stroke(head[0] - 0.1, head[1], head[0] + 0.08, head[1] - 0.12, 0.2, 0.15), face))
    parts.append(
        (stroke(head[0] - 0.14, head[1] + 0.05, head[0] - 0.26, head[1] - 0.02, 0.08), dark(face, 0.2))
    )
    parts.append((ellipse(head[0] - 0.14, head[1] + 0.09, 0.1, 0.07), wool))
    return parts


def horse(rng: np.random.Generator) -> Sprite:
    """A horse of 2.4 m."""
    coat = pick(rng, [(126, 76, 46), (74, 50, 42), (196, 148, 96), (214, 208, 200), (58, 54, 58)])
    mane = dark(coat, 0.55) if rng.random() < 0.7 else light(coat, 0.5)
    parts = _legs(rng, (-0.68, 0.52), 0.95, 0.19, coat)
    parts.append((stroke(-0.92, 1.4, -1.14, 0.66, 0.16, 0.22), mane))
    parts.append((ellipse(-0.6, 1.26, 0.36, 0.34), coat))
    parts.append((ellipse(0.45, 1.24, 0.34, 0.33), coat))
    parts.append((rounded(-0.7, 0.98, 0.6, 1.5, 0.2), coat))
    parts.append((ellipse(-0.05, 1.0, 0.6, 0.1), dark(coat, 0.15)))
    if rng.random() < 0.35:
        parts.append((stroke(0.52, 1.3, 1.0, 0.7, 0.42, 0.24), coat))
        parts.append((stroke(0.98, 0.74, 1.3, 0.4, 0.24, 0.17), coat))
        parts.append((stroke(0.5, 1.52, 0.94, 0.9, 0.14, 0.1), mane))
    else:
        parts.append((stroke(0.52, 1.34, 0.9, 1.95, 0.44, 0.26), coat))
        parts.append((stroke(0.9, 1.98, 1.24, 1.7, 0.25, 0.17), coat))
        parts.append((stroke(0.42, 1.6, 0.78, 2.08, 0.16, 0.12), mane))
        parts.append((polygon((0.8, 2.06), (0.86, 2.26), (0.94, 2.08)), coat))
    return parts


def camel(rng: np.random.Generator) -> Sprite:
    """A camel of 2.8 m with one hump or two."""
    coat = pick(rng, [(184, 134, 84), (150, 104, 66), (208, 168, 118), (124, 88, 62)])
    parts = _legs(rng, (-0.75, 0.62), 1.1, 0.2, coat)
    parts.append((stroke(-1.05, 1.4, -1.15, 0.9, 0.07), dark(coat, 0.3)))
    humps = ((-0.1, 0.5),) if rng.random() < 0.5 else ((-0.5, 0.34), (0.3, 0.34))
    for x, half in humps:
        parts.append((ellipse(x, 1.6, half, rng.uniform(0.42, 0.55)), dark(coat, 0.08)))
    parts.append((rounded(-1.08, 1.05, 0.88, 1.65, 0.29), coat))
    parts.append((ellipse(-0.1, 1.12, 0.8, 0.12), dark(coat, 0.18)))
    if rng.random() < 0.4:
        cloth = pick(rng, CLOTHES)
        parts.append((rounded(-0.5, 1.2, 0.3, 1.8, 0.12), cloth))
        parts.append((rectangle(-0.5, 1.28, 0.3, 1.4), light(cloth, 0.5)))
    parts.append((stroke(0.72, 1.34, 1.12, 1.2, 0.4, 0.27), coat))
    parts.append((stroke(1.12, 1.2, 1.32, 2.05, 0.29, 0.2), coat))
    parts.append((stroke(1.28, 2.1, 1.62, 1.98, 0.24, 0.17), coat))
    parts.append((ellipse(1.24, 2.22, 0.05, 0.08), dark(coat, 0.2)))
    return parts


def bird(rng: np.random.Generator, flying: bool) -> Sprite:
    """A gull; larger than life (1.1 m) so that it is more than a few pixels."""
    white, wing = pick(rng, [(248, 248, 244)], 6), pick(rng, [(168, 176, 186), (126, 134, 146)])
    if flying:
        up, out = rng.uniform(0.15, 0.5), rng.uniform(0.6, 0.8)
        parts: Sprite = [
            (
                polygon((-0.1, 0.02), (s * out * 0.55, up), (s * out, up * 0.75), (s * 0.14, -0.1)),
                wing if s > 0 else dark(wing, 0.2),
            )
            for s in (-1, 1)
        ]
        parts.append((stroke(-0.26, -0.04, 0.2, 0.0, 0.14, 0.18), white))
        parts.append((polygon((0.26, 0.04), (0.42, -0.02), (0.26, -0.06)), (236, 160, 50)))
        return parts
    return [
        (stroke(-0.02, 0.2, -0.02, 0.0, 0.05), (236, 160, 50)),
        (stroke(0.08, 0.2, 0.08, 0.0, 0.05), (236, 160, 50)),
        (stroke(-0.34, 0.3, 0.16, 0.36, 0.14, 0.36), white),
        (stroke(-0.48, 0.28, 0.06, 0.4, 0.06, 0.22), wing),
        (ellipse(0.26, 0.58, 0.14), white),
        (stroke(0.14, 0.4, 0.25, 0.55, 0.24, 0.2), white),
        (polygon((0.36, 0.62), (0.54, 0.55), (0.36, 0.52)), (236, 160, 50)),
        (ellipse(0.3, 0.62, 0.03), BLACK),
    ]


def tree(rng: np.random.Generator, colours: list[Colour] | None = None) -> Sprite:
    """A tree of 3.5 to 7 m: broad-leaved or a fir."""
    leaf = pick(rng, colours or LEAVES)
    bark = pick(rng, [(110, 80, 58), (92, 74, 62)])
    high = rng.uniform(3.5, 7.0)
    if rng.random() < 0.3:
        parts: Sprite = [(rectangle(-0.16, 0, 0.16, high * 0.3), bark)]
        for storey in range(3):
            low, up = high * (0.16 + storey * 0.22), high * (0.58 + storey * 0.21)
            half = high * (0.27 - storey * 0.06)
            parts.append((polygon((-half, low), (0, up), (half, low)), dark(leaf, 0.2 - storey * 0.06)))
            parts.append((polygon((-half, low), (0, up), (-half * 0.2, low)), light(leaf, 0.06)))
        return parts
    parts = [(stroke(0, 0.1, rng.uniform(-0.2, 0.2), high * 0.6, 0.42, 0.22), bark)]
    crown = [(rng.uniform(-0.2, 0.2) * high, rng.uniform(0.5, 0.8) * high) for _ in range(7)]
    for tone, shift in ((dark(leaf, 0.28), -0.04), (leaf, 0.0), (light(leaf, 0.2), 0.05)):
        for x, y in crown:
            r = high * (0.2 - abs(shift) * 1.6) * (0.9 + 0.2 * np.sin(x * 9 + y))
            parts.append((ellipse(x - shift * high, y + shift * high, r, r * 0.9), tone))
    return parts


def cactus(rng: np.random.Generator) -> Sprite:
    """A columnar cactus of 1.8 to 3.6 m."""
    green = pick(rng, [(78, 132, 84), (98, 146, 86), (62, 112, 86)])
    high, width = rng.uniform(1.8, 3.6), rng.uniform(0.36, 0.5)
    trunk: list[Points] = []
    arms = int(rng.integers(1, 4))
    for arm in range(arms):
        side = -1 if arm % 2 == 0 else 1
        low, out = high * rng.uniform(0.3, 0.55), rng.uniform(0.5, 0.75)
        up = min(low + high * rng.uniform(0.25, 0.4), high * 0.95)
        trunk += [
            stroke(0, low, side * out, low, width * 0.7),
            stroke(side * out, low, side * out, up, width * 0.7),
        ]
    parts: Sprite = [(points, dark(green, 0.12)) for points in trunk]
    parts.append((stroke(0, 0.12, 0, high - width / 2, width), green))
    for x in (-0.12, 0.02, 0.14):
        parts.append(
            (stroke(x, 0.2, x, high - width * 0.7, 0.035), light(green, 0.3) if x < 0 else dark(green, 0.25))
        )
    if rng.random() < 0.5:
        parts.append((ellipse(0.02, high, 0.13, 0.1), (232, 110, 130)))
    return parts

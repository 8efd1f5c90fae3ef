"""Sprites of the synthetic sample that people made: tents, boats, furniture (in metres) and things
on a shelf (in decimetres)."""

from __future__ import annotations

import numpy as np

from nds_plugin.datasets.sample.canvas import (
    Colour,
    Sprite,
    dark,
    ellipse,
    light,
    pick,
    polygon,
    rectangle,
    ring,
    rounded,
    stroke,
)
from nds_plugin.datasets.sample.nature import LEAVES
from nds_plugin.datasets.sample.sprites import BLACK, CLOTHES

WOOD: list[Colour] = [(150, 100, 62), (112, 72, 46), (188, 142, 96), (86, 60, 48)]


def tent(rng: np.random.Generator) -> Sprite:
    """A tent of 3 to 4.4 m."""
    cloth = pick(rng, [(232, 222, 196), (188, 74, 60), (66, 110, 128), (216, 160, 70)])
    half, high = rng.uniform(1.5, 2.2), rng.uniform(1.8, 2.5)
    peak = rng.uniform(-0.3, 0.3)
    stripe = light(cloth, 0.45)
    return [
        (stroke(peak, high - 0.1, peak, high + 0.35, 0.07), (96, 70, 52)),
        (polygon((peak, high + 0.34), (peak + 0.42, high + 0.24), (peak, high + 0.12)), pick(rng, CLOTHES)),
        (polygon((-half, 0), (peak, high), (half, 0)), cloth),
        (polygon((half * 0.35, 0), (peak, high), (half, 0)), dark(cloth, 0.2)),
        (polygon((-half * 0.72, 0), (peak, high), (-half * 0.5, 0)), stripe),
        (polygon((-0.38, 0), (peak * 0.6, high * 0.62), (0.3, 0)), dark(cloth, 0.65)),
    ]


def boat(rng: np.random.Generator) -> Sprite:
    """A sailing, fishing or rowing boat of 3 to 8 m."""
    hull = pick(
        rng, [(240, 238, 230), (176, 56, 52), (50, 84, 128), (62, 118, 110), (226, 172, 70), (92, 66, 54)]
    )
    kind = rng.random()
    half = rng.uniform(2.4, 3.6) if kind < 0.75 else rng.uniform(1.4, 1.9)
    deck = 0.75 if kind < 0.75 else 0.45
    body = polygon((-half, deck), (-half * 0.78, 0), (half * 0.7, 0), (half * 1.08, deck * 1.25))
    band = polygon(
        (-half * 0.86, deck * 0.35), (-half * 0.78, 0), (half * 0.7, 0), (half * 0.82, deck * 0.35)
    )
    parts: Sprite = []
    if kind < 0.4:
        mast = rng.uniform(5, 7.5)
        sail = pick(rng, [(250, 246, 234), (250, 246, 234), (214, 96, 70), (238, 200, 120)])
        parts.append((rectangle(-0.07, deck * 0.8, 0.07, mast), (120, 92, 70)))
        parts.append((polygon((-0.2, mast * 0.96), (-half * 0.85, deck + 0.5), (-0.2, deck + 0.35)), sail))
        parts.append(
            (polygon((-0.2, mast * 0.5), (-half * 0.5, deck + 0.44), (-0.2, deck + 0.35)), dark(sail, 0.12))
        )
        parts.append(
            (polygon((0.2, mast * 0.86), (half * 0.95, deck + 0.4), (0.2, deck + 0.35)), light(sail, 0.2))
        )
    elif kind < 0.75:
        roof, back = rng.uniform(1.9, 2.5), -half * rng.uniform(0.1, 0.5)
        parts.append((rectangle(back + half * 0.8, deck, back + half * 0.85, roof + 1.2), (110, 86, 68)))
        parts.append((rounded(back, deck * 0.8, back + half * 0.8, roof, 0.1), (244, 240, 230)))
        parts.append(
            (rectangle(back - 0.12, roof - 0.08, back + half * 0.8 + 0.15, roof + 0.1), dark(hull, 0.1))
        )
        for pane in range(3):
            x = back + half * (0.08 + 0.24 * pane)
            parts.append((rounded(x, roof - 0.75, x + half * 0.17, roof - 0.25, 0.06), (92, 128, 150)))
    else:
        parts.append((stroke(-0.3, deck, 0.9, -0.05, 0.07), (190, 150, 104)))
    rail = polygon(
        (-half, deck), (half * 1.08, deck * 1.25), (half * 1.05, deck * 1.1), (-half * 0.97, deck * 0.85)
    )
    return [*parts, (body, hull), (band, dark(hull, 0.4)), (rail, light(hull, 0.5))]


def table(rng: np.random.Generator) -> Sprite:
    """A table of 1.1 to 1.8 m: square with four legs, or round with one."""
    wood = pick(rng, WOOD)
    half, high = rng.uniform(0.55, 0.9), rng.uniform(0.68, 0.78)
    if rng.random() < 0.35:
        return [
            (ellipse(0, 0.04, half * 0.45, 0.07), dark(wood, 0.35)),
            (rectangle(-0.06, 0.04, 0.06, high), dark(wood, 0.25)),
            (ellipse(0, high - 0.05, half, 0.16), dark(wood, 0.2)),
            (ellipse(0, high, half, 0.16), light(wood, 0.15)),
        ]
    legs: Sprite = [
        (rectangle(x - 0.04, 0.1, x + 0.04, high), dark(wood, 0.4)) for x in (-half + 0.16, half - 0.16)
    ]
    legs += [
        (rectangle(x - 0.045, 0.0, x + 0.045, high - 0.1), dark(wood, 0.15))
        for x in (-half + 0.05, half - 0.05)
    ]
    top = polygon(
        (-half, high - 0.06), (-half + 0.14, high + 0.14), (half - 0.14, high + 0.14), (half, high - 0.06)
    )
    return [
        *legs,
        (top, light(wood, 0.15)),
        (rectangle(-half, high - 0.13, half, high - 0.05), dark(wood, 0.1)),
    ]


def chair(rng: np.random.Generator) -> Sprite:
    """A chair or an armchair."""
    if rng.random() < 0.35:
        cloth = pick(rng, CLOTHES)
        return [
            (rectangle(-0.36, 0, -0.3, 0.2), BLACK), (rectangle(0.3, 0, 0.36, 0.2), BLACK),
            (rounded(-0.36, 0.3, 0.36, 0.98, 0.14), dark(cloth, 0.12)),
            (rounded(-0.34, 0.14, 0.34, 0.5, 0.08), light(cloth, 0.12)),
            (rounded(-0.48, 0.1, -0.28, 0.64, 0.09), cloth),
            (rounded(0.28, 0.1, 0.48, 0.64, 0.09), dark(cloth, 0.2)),
        ]  # fmt: skip
    wood, seat, high = pick(rng, WOOD), rng.uniform(0.44, 0.5), rng.uniform(0.88, 1.05)
    parts: Sprite = [(rectangle(x - 0.03, 0.08, x + 0.03, seat), dark(wood, 0.4)) for x in (-0.14, 0.2)]
    parts.append((polygon((-0.24, seat), (-0.3, high), (-0.23, high), (-0.16, seat)), wood))
    if rng.random() < 0.6:
        parts.append(
            (polygon((-0.22, seat + 0.1), (-0.28, high), (0.12, high), (0.14, seat + 0.1)), light(wood, 0.1))
        )
    parts.append(
        (
            polygon((-0.26, seat - 0.05), (-0.2, seat + 0.07), (0.26, seat + 0.07), (0.24, seat - 0.05)),
            light(wood, 0.2),
        )
    )
    parts += [(rectangle(x - 0.035, 0.0, x + 0.035, seat - 0.03), wood) for x in (-0.22, 0.21)]
    return parts


def lamp(rng: np.random.Generator) -> Sprite:
    """A floor lamp of 1.4 to 1.7 m."""
    shade = pick(rng, [(250, 226, 170), (238, 200, 150), (226, 120, 92), (150, 190, 180)])
    high, wide = rng.uniform(1.4, 1.7), rng.uniform(0.22, 0.32)
    low, bright = high - 0.36, light(shade, 0.5)
    return [
        (ellipse(0, 0.04, 0.18, 0.05), BLACK),
        (rectangle(-0.025, 0.04, 0.025, high - 0.2), (90, 80, 76)),
        (polygon((-wide, high - 0.36), (-wide * 0.6, high), (wide * 0.6, high), (wide, high - 0.36)), shade),
        (polygon((-wide * 0.4, low), (-wide * 0.2, high), (wide * 0.25, high), (wide * 0.4, low)), bright),
    ]


def bottle(rng: np.random.Generator) -> Sprite:
    """A bottle of 2.2 to 3.2 dm."""
    glass = pick(rng, [(56, 104, 72), (116, 70, 42), (70, 112, 150), (196, 208, 204), (140, 52, 60)])
    high, half = rng.uniform(2.2, 3.2), rng.uniform(0.34, 0.46)
    shoulder = high * rng.uniform(0.58, 0.68)
    return [
        (rounded(-half, 0, half, shoulder, 0.12), glass),
        (
            polygon(
                (-half, shoulder - 0.12),
                (-0.15, shoulder + 0.35),
                (0.15, shoulder + 0.35),
                (half, shoulder - 0.12),
            ),
            glass,
        ),
        (rectangle(-0.15, shoulder + 0.2, 0.15, high), glass),
        (rounded(-0.18, high - 0.3, 0.18, high, 0.05), dark(glass, 0.5)),
        (
            rectangle(-half, shoulder * 0.28, half, shoulder * 0.75),
            pick(rng, [(240, 232, 212), (222, 190, 120)]),
        ),
        (rectangle(-half * 0.7, 0.1, -half * 0.5, shoulder - 0.1), light(glass, 0.4)),
    ]


def cup(rng: np.random.Generator) -> Sprite:
    """A cup of about 1 dm with its handle."""
    clay = pick(rng, CLOTHES)
    high, half = rng.uniform(0.85, 1.2), rng.uniform(0.42, 0.58)
    foot = half * rng.uniform(0.6, 0.95)
    return [
        (ellipse(half, high * 0.52, high * 0.27), None),
        (ring(half, high * 0.52, high * 0.29, 0.12), dark(clay, 0.15)),
        (polygon((-half, high), (-foot, 0), (foot, 0), (half, high)), clay),
        (polygon((half * 0.3, high), (foot * 0.3, 0), (foot, 0), (half, high)), dark(clay, 0.15)),
        (rectangle(-half * 0.9, high * 0.5, half * 0.9, high * 0.62), light(clay, 0.45)),
        (ellipse(0, high, half, 0.1), dark(clay, 0.5)),
    ]


def vase(rng: np.random.Generator) -> Sprite:
    """A vase of 1.5 dm with flowers or leaves."""
    clay = pick(rng, [(214, 120, 84), (90, 132, 160), (232, 224, 208), (120, 96, 132), (70, 120, 108)])
    half, high = rng.uniform(0.5, 0.7), rng.uniform(1.2, 1.6)
    leaf = pick(rng, LEAVES)
    bloom = pick(rng, [(236, 110, 120), (246, 200, 84), (246, 240, 228), (168, 120, 190)])
    parts: Sprite = []
    for x in np.linspace(-0.75, 0.75, int(rng.integers(4, 7))):
        top = high + rng.uniform(0.6, 1.3) - abs(x) * 0.4
        parts.append((stroke(x * 0.2, high - 0.1, x, top, 0.09, 0.07), dark(leaf, 0.2)))
        parts.append((ellipse(x * 0.75 + 0.08, high + (top - high) * 0.55, 0.24, 0.13), leaf))
        parts.append((ellipse(x, top, rng.uniform(0.17, 0.26)), bloom))
        parts.append((ellipse(x, top, 0.08), (250, 226, 140)))
    parts.append((ellipse(0, high * 0.42, half, high * 0.44), clay))
    parts.append(
        (
            polygon(
                (-half * 0.5, high), (-half * 0.36, high * 0.7), (half * 0.36, high * 0.7), (half * 0.5, high)
            ),
            clay,
        )
    )
    parts.append((rectangle(-half * 0.5, 0, half * 0.5, high * 0.12), dark(clay, 0.2)))
    parts.append((ellipse(-half * 0.4, high * 0.5, half * 0.16, high * 0.2), light(clay, 0.45)))
    return parts


def book(rng: np.random.Generator) -> Sprite:
    """A book or two, standing, 1.7 to 2.5 dm."""
    parts: Sprite = []
    x = 0.0
    for _ in range(int(rng.integers(1, 3))):
        cover, high, wide = pick(rng, CLOTHES), rng.uniform(1.7, 2.5), rng.uniform(0.35, 0.6)
        parts.append((rectangle(x, 0, x + wide, high), cover))
        parts.append((rectangle(x + wide * 0.8, 0, x + wide, high), dark(cover, 0.2)))
        parts.append((rectangle(x, high * 0.72, x + wide, high * 0.8), light(cover, 0.5)))
        parts.append((rectangle(x + wide * 0.35, high * 0.2, x + wide * 0.6, high * 0.6), light(cover, 0.35)))
        x += wide
    return [(points - (x / 2, 0), colour) for points, colour in parts]

"""What several scenes of the synthetic sample share: clouds, hills, ground, and standing objects on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from nds_plugin.datasets.sample.canvas import Canvas, Colour, Sprite, ellipse, pick, sprite_points

Sprites = Mapping[str, Callable[[np.random.Generator], Sprite]]


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
    canvas: Canvas, focus: str, others: list[str], count: int, horizon: float, camera: float, make: Sprites,
    farthest: float = 0.2, shadow: float = 0.3,
) -> None:  # fmt: skip
    """Stand the focus and ``count`` others on a plane seen from ``camera`` metres above it.

    Each takes, of five random places, the one where it overlaps least with those before it.
    """
    rng = canvas.rng
    taken: list[tuple[float, float]] = []
    depth = canvas.height - horizon
    for number in range(count + 1):
        category = focus if number == 0 else others[int(rng.integers(len(others)))]
        sprite = make[category](rng)
        half = float(np.abs(sprite_points(sprite)[:, 0]).max())
        near = rng.uniform(0.5, 0.85) if number == 0 else rng.uniform(farthest**0.7, 0.96) ** (1 / 0.7)
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

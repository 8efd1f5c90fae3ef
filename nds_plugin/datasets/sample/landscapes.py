"""Scenes of the synthetic sample without houses around: country, sea, desert, and a shelf."""

from __future__ import annotations

from functools import partial

import numpy as np

from nds_plugin.datasets.sample import nature, sprites, things
from nds_plugin.datasets.sample.backdrop import Sprites, clouds, ridge, spread, tufts
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


def meadow(canvas: Canvas, focus: str) -> None:
    """A meadow before hills, in summer or under snow."""
    rng, height = canvas.rng, canvas.height
    horizon = height * rng.uniform(0.34, 0.5)
    sky = pick(rng, [(120, 184, 232), (96, 164, 220), (160, 206, 232), (186, 198, 210)])
    grass = pick(rng, [(108, 168, 74), (132, 178, 80), (86, 152, 84), (150, 160, 84)])
    winter = bool(rng.random() < 0.45)
    if winter:  # the ground is lighter than the sky: "light is up" is no rule that fits all domains
        sky = pick(rng, [(96, 116, 148), (112, 122, 144)])
        grass = pick(rng, [(222, 228, 236), (232, 232, 236)])
    canvas.fog = ((150, 162, 182) if winter else (196, 222, 226), 0.4)
    canvas.gradient(0, horizon + 2, sky, light(sky, 0.2 if winter else 0.65))
    clouds(canvas, horizon, light(sky, 0.2) if winter else (255, 255, 255), int(rng.integers(2, 6)))
    ridge(canvas, horizon, rng.uniform(14, 30), mix(grass, (150, 190, 210), 0.65))
    ridge(canvas, horizon + 2, rng.uniform(6, 14), mix(grass, (150, 190, 190), 0.35))
    canvas.gradient(horizon, height, light(grass, 0.22), dark(grass, 0.12))
    tufts(canvas, horizon, [light(grass, 0.2), dark(grass, 0.15), dark(grass, 0.05)], 90, 2.0)
    flowers: list[Colour] = [(250, 230, 90), (250, 250, 244), (232, 110, 130)]
    tufts(canvas, horizon + 20, [(120, 116, 100)] if winter else flowers, 24, 0.5)
    _fence(canvas, horizon + rng.uniform(6, 14), (176, 146, 112))
    _animals(canvas, focus, horizon, nature.SNOWY if winter else nature.LEAVES)


def farm(canvas: Canvas, focus: str) -> None:
    """Misty fields with a barn and a low sun, in autumn or, most often, under snow."""
    rng, width, height = canvas.rng, canvas.width, canvas.height
    horizon = height * rng.uniform(0.38, 0.52)
    sky = pick(rng, [(150, 188, 216), (172, 198, 216), (190, 200, 208)])
    field = pick(rng, [(122, 152, 80), (148, 156, 78), (112, 138, 84)])
    winter = bool(rng.random() < 0.7)
    if winter:
        sky = pick(rng, [(92, 104, 136), (116, 110, 134)])
        field = pick(rng, [(214, 216, 222), (222, 218, 216)])
    canvas.fog, canvas.gain = ((158, 162, 176) if winter else (214, 216, 208), 0.5), (1.0, 0.98, 0.94)
    canvas.gradient(
        0, horizon + 2, mix(sky, (140, 160, 190), 0.0 if winter else 0.4), light(sky, 0.15 if winter else 0.4)
    )
    canvas.glow(rng.uniform(0, width), horizon * 0.7, 46, (255, 240, 200), 0.3 if winter else 0.8)
    ridge(canvas, horizon, rng.uniform(10, 22), mix(field, canvas.fog[0], 0.6), 0.9)
    x, wide = rng.uniform(0.1, 0.8) * width, rng.uniform(24, 40)
    barn = mix(pick(rng, [(150, 60, 48), (120, 100, 84)]), canvas.fog[0], 0.25)
    canvas.paint(rectangle(x, horizon - wide * 0.45, x + wide, horizon + 2), barn)
    eaves, gable = horizon - wide * 0.42, horizon - wide * 0.8
    canvas.paint(
        polygon((x - 3, eaves), (x + wide * 0.2, gable), (x + wide * 0.8, gable), (x + wide + 3, eaves)),
        dark(barn, 0.35),
    )
    canvas.paint(
        rectangle(x + wide * 0.4, horizon - wide * 0.26, x + wide * 0.62, horizon + 2), dark(barn, 0.5)
    )
    canvas.gradient(horizon, height, light(field, 0.3), dark(field, 0.15))
    for row in np.linspace(-3, 4, 26):  # furrows run to the horizon
        foot = width * row
        line = polygon((width * (0.5 + (row - 0.5) * 0.15), horizon), (foot, height), (foot + 5, height))
        canvas.paint(line, dark(field, 0.22), 0.2)
    _fence(canvas, horizon + rng.uniform(6, 14), (140, 112, 88))
    tufts(canvas, horizon, [*nature.AUTUMN, dark(field, 0.2)], 60, 1.3)
    _animals(canvas, focus, horizon, nature.SNOWY if winter else nature.AUTUMN)


def _fence(canvas: Canvas, y: float, wood: Colour) -> None:
    for rail in (0, 3):
        canvas.paint(rectangle(0, y - 7 + rail, canvas.width, y - 6 + rail), wood)
    for x in np.arange(canvas.rng.uniform(0, 14), canvas.width, 16):
        canvas.paint(rectangle(x, y - 9, x + 1.6, y), dark(wood, 0.15))


def _animals(canvas: Canvas, focus: str, horizon: float, leaves: list[Colour]) -> None:
    rng = canvas.rng
    tree = partial(nature.tree, colours=leaves)
    make: Sprites = {"cow": nature.cow, "sheep": nature.sheep, "horse": nature.horse, "tree": tree,
                     "person": sprites.person}  # fmt: skip
    herd = ("cow", "sheep", "horse")[int(rng.integers(3))]
    others = [herd, herd, "cow", "sheep", "horse", "tree", "person"]
    if focus != "tree":  # a near tree would hide too much
        others.remove("tree")
        for _ in range(int(rng.integers(0, 4))):
            near = rng.uniform(0.04, 0.22)
            y = horizon + near * (canvas.height - horizon)
            scale = (y - horizon) / 2.4 + 3
            canvas.place("tree", tree(rng), rng.uniform(0, canvas.width), y, scale, distance=1 - near)
    if focus == "tree":
        others.remove("tree")
    camera = rng.uniform(1.9, 2.6) if focus != "tree" else 4.5
    spread(canvas, focus, others, int(rng.integers(2, 6)), horizon, camera, make, farthest=0.06)


def harbour(canvas: Canvas, focus: str) -> None:
    """The sea with boats and gulls, seen from a pier."""
    rng, width, height = canvas.rng, canvas.width, canvas.height
    horizon, pier = height * rng.uniform(0.3, 0.44), height * rng.uniform(0.82, 0.88)
    sky = pick(rng, [(246, 206, 190), (180, 206, 222), (238, 220, 196), (206, 196, 222)])
    sea = pick(rng, [(44, 110, 140), (62, 132, 146), (40, 92, 130)])
    canvas.fog = (light(sky, 0.2), 0.5)
    canvas.gradient(0, horizon, mix(sky, (120, 160, 206), 0.55), light(sky, 0.3))
    canvas.glow(rng.uniform(0, width), horizon * 0.8, 40, (255, 246, 220), 0.7)
    clouds(canvas, horizon, light(sky, 0.5), int(rng.integers(0, 4)))
    ridge(canvas, horizon + 1, rng.uniform(4, 14), mix(sea, sky, 0.6))
    x = rng.uniform(0.05, 0.95) * width
    if rng.random() < 0.6:  # a lighthouse
        canvas.paint(
            polygon((x - 3, horizon), (x - 2, horizon - 22), (x + 2, horizon - 22), (x + 3, horizon)),
            (240, 234, 226),
        )
        canvas.paint(rectangle(x - 2.6, horizon - 15, x + 2.6, horizon - 9), (196, 74, 66))
        canvas.paint(rectangle(x - 2, horizon - 26, x + 2, horizon - 22), (120, 70, 66))
    canvas.gradient(horizon, height, mix(sea, sky, 0.45), dark(sea, 0.1))
    tufts(canvas, horizon, [light(sea, 0.35), light(sea, 0.2), dark(sea, 0.15)], 130, 4.5)
    wood = pick(rng, [(150, 116, 86), (128, 104, 88)])
    canvas.paint(rectangle(0, pier, width, height), wood)
    for plank in np.arange(rng.uniform(-10, 0), width, 11):
        canvas.paint(
            polygon(
                (plank, pier), (plank * 1.15 - 14, height), (plank * 1.15 - 13, height), (plank + 1, pier)
            ),
            dark(wood, 0.4),
        )
    canvas.paint(rectangle(0, pier, width, pier + 2), light(wood, 0.35))
    for number in range(int(rng.integers(1, 5)) + (focus == "boat")):
        near = 0.55 if focus == "boat" and number == 0 else rng.uniform(0.08, 0.7)
        y = horizon + near * (pier - horizon)
        scale = 2.2 + near * rng.uniform(7, 11)
        x, flip = rng.uniform(0.15, 0.85) * width, bool(rng.random() < 0.5)
        sway = float(rng.normal(0, 0.03))
        canvas.place("boat", things.boat(rng), x, y, scale, flip=flip, tilt=sway, distance=1 - near)
    for _ in range(int(rng.integers(0, 4)) + (focus == "bird")):
        flying = bool(rng.random() < 0.6)
        x = rng.uniform(0.05, 0.95) * width
        y = rng.uniform(0.1, 0.6) * pier if flying else rng.uniform(pier + 5, height - 4)
        sprite, scale, flip = nature.bird(rng, flying), rng.uniform(11, 24), bool(rng.random() < 0.5)
        sway, shadow = float(rng.normal(0, 0.1)), 0.0 if flying else 0.3
        canvas.place("bird", sprite, x, y, scale, flip=flip, tilt=sway, shadow=shadow, depth=height + y)
    for _ in range(int(rng.integers(0, 3)) + (focus == "person")):
        y = rng.uniform(pier + 6, height - 3)
        x, scale, flip = rng.uniform(0.06, 0.94) * width, rng.uniform(26, 38), bool(rng.random() < 0.5)
        canvas.place("person", sprites.person(rng), x, y, scale, flip=flip, depth=height + y)


def desert(canvas: Canvas, focus: str) -> None:
    """Dunes under a hot sky."""
    rng, width, height = canvas.rng, canvas.width, canvas.height
    horizon = height * rng.uniform(0.36, 0.5)
    sky = pick(rng, [(244, 190, 120), (120, 190, 206), (236, 160, 128)])
    sand = pick(rng, [(226, 170, 104), (214, 142, 86), (236, 194, 132)])
    canvas.fog = ((246, 214, 170), 0.45)
    canvas.gradient(0, horizon + 2, sky, light(sky, 0.6))
    sun = (rng.uniform(0.1, 0.9) * width, horizon * rng.uniform(0.25, 0.7))
    canvas.glow(*sun, 40, (255, 244, 206), 0.7)
    canvas.paint(ellipse(*sun, 7), (255, 248, 220))
    ridge(canvas, horizon, rng.uniform(12, 26), mix(sand, sky, 0.55), 0.0 if rng.random() < 0.6 else 1.6)
    canvas.gradient(horizon, height, light(sand, 0.2), dark(sand, 0.08))
    for step in (0.12, 0.4):
        ridge(canvas, horizon + step * (height - horizon), 10, mix(sand, dark(sand, 0.2), step), 0.0)
    tufts(canvas, horizon, [light(sand, 0.3), dark(sand, 0.12), dark(sand, 0.2)], 70, 3.2)
    make = {"camel": nature.camel, "cactus": nature.cactus, "tent": things.tent, "person": sprites.person}
    others = ["camel", "camel", "cactus", "tent", "person"]
    spread(canvas, focus, others, int(rng.integers(3, 7)), horizon, rng.uniform(2.6, 3.4), make)


def shelf(canvas: Canvas, focus: str) -> None:
    """Boards on a wall with bottles, cups, vases and books."""
    rng, width, height = canvas.rng, canvas.width, canvas.height
    wall = pick(rng, [(60, 84, 98), (92, 74, 92), (70, 96, 84), (112, 86, 72)])
    wood = pick(rng, things.WOOD)
    canvas.gradient(0, height, light(wall, 0.25), dark(wall, 0.1))
    tile = rng.uniform(14, 22)
    for y in np.arange(0, height, tile):
        canvas.paint(rectangle(0, y, width, y + 0.8), dark(wall, 0.25), 0.6)
    for x in np.arange(rng.uniform(0, 14), width, tile * 1.6):
        canvas.paint(rectangle(x, 0, x + 0.8, height), dark(wall, 0.25), 0.6)
    make = {"bottle": things.bottle, "cup": things.cup, "vase": things.vase, "book": things.book}
    boards = int(rng.integers(2, 4))
    gap = height / boards
    must = int(rng.integers(boards))
    for board in range(boards):
        y = (board + 1) * gap - rng.uniform(5, 9)
        canvas.paint(rectangle(0, y, width, y + 5), light(wood, 0.12))
        canvas.paint(rectangle(0, y + 3, width, y + 5), dark(wood, 0.25))
        canvas.paint(rectangle(0, y + 5, width, y + 8), (20, 20, 34), 0.25)
        scale = gap / rng.uniform(3.4, 4.2)
        x, number = rng.uniform(4, 30), 0
        while x < width - 10:
            name = list(make)[int(rng.integers(4))] if (board, number) != (must, 0) else focus
            wide = {"bottle": 0.9, "cup": 1.3, "vase": 1.8, "book": 1.1}[name] * scale
            canvas.place(
                name, make[name](rng), x + wide / 2, y + 1, scale, flip=bool(rng.random() < 0.5), shadow=0.25
            )
            x, number = x + wide * rng.uniform(0.85, 1.1) + rng.exponential(14), number + 1

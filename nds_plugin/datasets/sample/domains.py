"""The domains of the synthetic sample, and the drawing of one picture."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nds_plugin.datasets.sample import landscapes, scenes
from nds_plugin.datasets.sample.canvas import MIN_VISIBLE_PIXELS, Canvas, Instance
from nds_plugin.errors import NDSError

SIZE = (192, 144)
_ATTEMPTS = 20


@dataclass(frozen=True)
class Domain:
    """A kind of scene.

    Attributes:
        role: "source" (pretrain on it) or "client" (the target; in no source).
        classes: names of the annotated classes.
        draw: paints one scene on a canvas, with an object of the given class near and in view.
    """

    name: str
    role: str
    classes: tuple[str, ...]
    description: str
    draw: Callable[[Canvas, str], None]


_TRAFFIC = ("car", "bus", "person", "bicycle")
_CATTLE = ("cow", "sheep", "horse", "tree", "person")

DOMAINS: dict[str, Domain] = {
    domain.name: domain
    for domain in (
        Domain("street", "source", _TRAFFIC, "a road into the depth, by day or night", scenes.street),
        Domain("room", "source", ("person", "chair", "table", "lamp"), "a furnished room", scenes.room),
        Domain("meadow", "source", _CATTLE, "animals on a meadow, in summer or snow", landscapes.meadow),
        Domain("harbour", "source", ("boat", "bird", "person"), "boats off a pier", landscapes.harbour),
        Domain(
            "desert", "source", ("camel", "cactus", "tent", "person"), "camels in dunes", landscapes.desert
        ),
        Domain("shelf", "source", ("bottle", "cup", "vase", "book"), "things on a shelf", landscapes.shelf),
        Domain("city", "client", _TRAFFIC, "a road across, in the rain, mostly by night", scenes.city),
        Domain("farm", "client", _CATTLE, "animals on misty fields, mostly in snow", landscapes.farm),
    )
}
_NAMES = sorted({name for domain in DOMAINS.values() for name in domain.classes})
CATEGORY_IDS: dict[str, int] = {name: number for number, name in enumerate(_NAMES, start=1)}


def draw_image(
    domain: Domain, number: int, seed: int = 0, size: tuple[int, int] = SIZE
) -> tuple[npt.NDArray[np.uint8], list[Instance]]:
    """Draw picture ``number`` of a domain: uint8 (height, width, 3) and its visible objects.

    A picture in which the class whose turn it is came out hidden is drawn again with the next key.
    """
    focus = domain.classes[number % len(domain.classes)]
    for attempt in range(_ATTEMPTS):
        entropy = [seed, zlib.crc32(domain.name.encode()), number, attempt]
        canvas = Canvas(np.random.Generator(np.random.PCG64(entropy)), size)
        domain.draw(canvas, focus)
        picture, instances = canvas.finish()
        if any(instance.category == focus for instance in instances):
            return picture, instances
    raise NDSError(
        f"synthetic sample: no {focus} of at least {MIN_VISIBLE_PIXELS} pixels in {_ATTEMPTS} drawings of "
        f"{domain.name!r} at {size[0]} x {size[1]} pixels: choose a larger size."
    )

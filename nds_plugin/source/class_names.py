"""Which class of a source is which class of a target: by name.

Equal names go together first. What is left is compared after dropping case, spaces and punctuation
("Dining Table", "dining_table" and "diningtable" are one), then through a small table of synonyms.
That is between two lists only: names that one list keeps apart (pm1.5 and pm15) are never one class.
*Loose* pairs, where the source's class is merely the nearest thing (rider from person), are used on
request only and are reported as such. Both tables are our choice.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

NAME, SPELLING, SYNONYM, LOOSE = "name", "spelling", "synonym", "loose"
_NAMES = 1 << 16  # whose forms are remembered: names are compared pair by pair

# Each row names one thing; the vocabularies are COCO, PASCAL VOC, LVIS, OpenImages,
# Cityscapes, CamVid and ModaNet.
SYNONYMS: tuple[tuple[str, ...], ...] = (
    ("person", "pedestrian", "people", "human"),
    ("bicyclist", "cyclist"),
    ("bicycle", "bike", "cycle", "pedal cycle"),
    ("motorcycle", "motorbike", "motor bike", "motobike"),
    ("car", "automobile", "car (automobile)"),
    ("bus", "bus (vehicle)"),
    ("truck", "lorry"),
    ("train", "train (railroad vehicle)"),
    ("tram", "streetcar"),
    ("airplane", "aeroplane", "plane"),
    ("traffic light", "traffic lights", "traffic signal"),
    ("tv", "tv monitor", "television", "television set"),
    ("couch", "sofa"),
    ("dining table", "kitchen & dining room table"),
    ("potted plant", "flower pot plant"),
    ("cell phone", "mobile phone", "cellular telephone", "smartphone"),
    ("remote", "remote control"),
    ("mouse", "computer mouse"),
    ("keyboard", "computer keyboard"),
    ("microwave", "microwave oven"),
    ("refrigerator", "fridge"),
    ("hair drier", "hair dryer", "hairdryer"),
    ("donut", "doughnut"),
    ("sports ball", "ball"),
    ("wine glass", "wineglass"),
    ("footwear", "shoes", "shoe"),
    ("pants", "trousers"),
    ("outer", "outerwear"),
    ("headwear", "headgear"),
    ("t-shirt", "tee shirt"),
)

# target class: source classes that may stand in for it, the best one first
LOOSE_PAIRS: dict[str, tuple[str, ...]] = {
    "rider": ("bicyclist", "motorcyclist", "person"),
    "bicyclist": ("rider", "person"),
    "person": ("man", "woman", "rider", "bicyclist"),
    "car": ("taxi", "van", "vehicle"),
    "truck": ("van", "vehicle"),
    "bus": ("vehicle",),
    "vehicle": ("car", "truck"),
    "train": ("tram",),
    "tram": ("train", "bus"),
    "potted plant": ("houseplant", "plant"),
    "bag": ("handbag", "purse", "backpack"),
    "handbag": ("bag", "purse"),
    "purse": ("handbag", "bag"),
    "footwear": ("sneakers", "sandals", "heels", "boots"),
    "boots": ("footwear",),
    "headwear": ("hat", "cap"),
    "hat": ("headwear",),
    "outer": ("coat", "jacket", "blazer"),
    "coat": ("outer", "jacket"),
    "jacket": ("outer", "coat"),
    "scarf & tie": ("scarf", "tie"),
    "scarf": ("scarf & tie",),
    "tie": ("scarf & tie",),
    "pants": ("jeans", "leggings", "ripped pants"),
    "jeans": ("pants",),
    "top": ("shirt", "blouse", "t-shirt", "valid top", "cropped top"),
    "shirt": ("top", "blouse"),
    "blouse": ("top", "shirt"),
    "t-shirt": ("top", "shirt"),
    "sunglasses": ("glasses",),
}


@dataclass(frozen=True)
class ClassMatch:
    """The source class that initialises a target class, and why.

    ``how`` is "name" (equal), "spelling" (equal but for case, spaces and punctuation), "synonym",
    "loose", or "none" with ``source`` None.
    """

    target: str
    source: str | None
    how: str


@functools.lru_cache(maxsize=_NAMES)
def normalise(name: str) -> str:
    """Lower case, letters and digits only: "TV-Monitor" and "tv monitor" become "tvmonitor"."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    return "".join(character for character in folded if character.isalnum()) or folded


_CANONICAL = {normalise(name): normalise(row[0]) for row in SYNONYMS for name in row}
_LOOSE = {normalise(target): tuple(map(normalise, sources)) for target, sources in LOOSE_PAIRS.items()}


@functools.lru_cache(maxsize=_NAMES)
def canonical(name: str) -> str:
    """The normalised first name of the row of synonyms that holds ``name``, or its own."""
    normal = normalise(name)
    return _CANONICAL.get(normal, normal)


def match_classes(
    source_classes: Sequence[str], target_classes: Sequence[str], *, loose: bool = False
) -> list[ClassMatch]:
    """For every target class, the source class that is the same thing.

    An equal name is preferred to one with the same normalised name, that to a synonym, that to a
    loose stand-in; among equals the first source class wins. One source class may serve several
    targets, but a name that the targets have themselves never serves another one by case or
    punctuation alone.

    Args:
        source_classes: names that the checkpoint was trained on.
        target_classes: names of the model to initialise.
        loose: whether a near thing may stand in (``LOOSE_PAIRS``).

    Returns:
        One :class:`ClassMatch` per target class, in the order of ``target_classes``.
    """
    equal = set(source_classes)
    own = equal.intersection(target_classes)
    others = [name for name in source_classes if name not in own]
    by_name = _first_of(others, map(normalise, others))
    by_meaning: dict[str, list[str]] = {}
    for name in source_classes:
        by_meaning.setdefault(canonical(name), []).append(name)
    found = []
    for target in target_classes:
        if target in equal:
            found.append(ClassMatch(target, target, NAME))
        elif normalise(target) in by_name:
            found.append(ClassMatch(target, by_name[normalise(target)], SPELLING))
        else:
            found.append(_by_meaning(target, by_meaning, loose))
    return found


def _first_of(names: Iterable[str], keys: Iterable[str]) -> dict[str, str]:
    table: dict[str, str] = {}
    for name, key in zip(names, keys):
        table.setdefault(key, name)
    return table


def _by_meaning(target: str, by_meaning: dict[str, list[str]], loose: bool) -> ClassMatch:
    meaning = canonical(target)
    for source in by_meaning.get(meaning, ()):
        if normalise(source) != normalise(target):
            return ClassMatch(target, source, SYNONYM)
    if loose:
        for stand_in in _LOOSE.get(meaning, ()):
            if _CANONICAL.get(stand_in, stand_in) in by_meaning:
                return ClassMatch(target, by_meaning[_CANONICAL.get(stand_in, stand_in)][0], LOOSE)
    return ClassMatch(target, None, "none")

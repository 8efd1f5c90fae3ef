"""Which class of a source is which class of a target: by name.

Names are compared after dropping case, spaces and punctuation ("Dining Table", "dining_table"
and "diningtable" are one), then through a small table of synonyms. *Loose* pairs, where the
source's class is merely the nearest thing (rider from person), are used on request only and
are reported as such. Both tables are our choice.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

EXACT, SYNONYM, LOOSE = "name", "synonym", "loose"

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

    ``how`` is "name" (equal but for case and punctuation), "synonym", "loose", or "none" with
    ``source`` None.
    """

    target: str
    source: str | None
    how: str


def normalise(name: str) -> str:
    """Lower case, letters and digits only: "TV-Monitor" and "tv monitor" become "tvmonitor"."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    return "".join(character for character in folded if character.isalnum()) or folded


_CANONICAL = {normalise(name): normalise(row[0]) for row in SYNONYMS for name in row}
_LOOSE = {normalise(target): tuple(map(normalise, sources)) for target, sources in LOOSE_PAIRS.items()}


def canonical(name: str) -> str:
    """The normalised first name of the row of synonyms that holds ``name``, or its own."""
    normal = normalise(name)
    return _CANONICAL.get(normal, normal)


def match_classes(
    source_classes: Sequence[str], target_classes: Sequence[str], *, loose: bool = False
) -> list[ClassMatch]:
    """For every target class, the source class that is the same thing.

    A class with the same normalised name is preferred to a synonym, that to a loose stand-in;
    among equals the first source class wins. One source class may serve several targets.

    Args:
        source_classes: names that the checkpoint was trained on.
        target_classes: names of the model to initialise.
        loose: whether a near thing may stand in (``LOOSE_PAIRS``).

    Returns:
        One :class:`ClassMatch` per target class, in the order of ``target_classes``.
    """
    by_name = _first_of(source_classes, map(normalise, source_classes))
    by_meaning = _first_of(source_classes, map(canonical, source_classes))
    return [_match(target, by_name, by_meaning, loose) for target in target_classes]


def _first_of(names: Iterable[str], keys: Iterable[str]) -> dict[str, str]:
    table: dict[str, str] = {}
    for name, key in zip(names, keys):
        table.setdefault(key, name)
    return table


def _match(target: str, by_name: dict[str, str], by_meaning: dict[str, str], loose: bool) -> ClassMatch:
    if normalise(target) in by_name:
        return ClassMatch(target, by_name[normalise(target)], EXACT)
    meaning = canonical(target)
    if meaning in by_meaning:
        return ClassMatch(target, by_meaning[meaning], SYNONYM)
    if loose:
        for stand_in in _LOOSE.get(meaning, ()):
            if _CANONICAL.get(stand_in, stand_in) in by_meaning:
                source = by_meaning[_CANONICAL.get(stand_in, stand_in)]
                return ClassMatch(target, source, LOOSE)
    return ClassMatch(target, None, "none")

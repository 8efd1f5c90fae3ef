"""Cityscapes in small, in the provider's layout and naming: polygons, and the id images that
cityscapesscripts' own conversion draws of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 96, 192
LABELS = ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")


def _blob(rng: np.random.Generator, radius: float) -> list[list[int]]:
    """Corners of a star-shaped outline, whole numbers; may leave the image."""
    x, y = rng.uniform(0, WIDTH), rng.uniform(0, HEIGHT)
    angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(5, 12))))
    lengths = radius * rng.uniform(0.6, 1.0, len(angles))
    points = np.stack([x + lengths * np.cos(angles), y + lengths * np.sin(angles)], axis=1)
    return [[int(a), int(b)] for a, b in points.round()]


def scene(seed: int) -> list[dict[str, Any]]:
    """Objects, later ones in front: all classes, groups, what is left out, hidden and cut in two."""
    rng = np.random.Generator(np.random.PCG64(seed))
    whole = [[0, 0], [WIDTH - 1, 0], [WIDTH - 1, HEIGHT - 1], [0, HEIGHT - 1]]
    hidden = [[70, 40], [80, 40], [80, 50], [70, 50]]
    found = [
        {"label": "road", "polygon": whole},
        {"label": "truck", "polygon": hidden},
        {
            "label": "car",
            "polygon": [[x + (5 if x > 75 else -5), y + (5 if y > 45 else -5)] for x, y in hidden],
        },
        {"label": "bus", "polygon": [[10, 60], [60, 60], [60, 85], [10, 85]]},
        {"label": "pole", "polygon": [[30, 50], [34, 50], [34, 90], [30, 90]]},  # cuts the bus in two
    ]
    names = [*LABELS, "cargroup", "persongroup", "caravan", "license plate", "building", *LABELS, "cargroup"]
    for name in names:
        found.append({"label": name, "polygon": _blob(rng, float(rng.uniform(8, 20)))})
    found.append({"label": "car", "polygon": _blob(rng, 15), "deleted": 1})
    return found


def write_frame(root: Path, split: str, stem: str, objects: list[dict[str, Any]]) -> None:
    """One image with its polygons and its id image."""
    from cityscapesscripts.helpers.annotation import Annotation
    from cityscapesscripts.preparation.json2instanceImg import createInstanceImage

    city = stem.split("_")[0]
    image = root / "cityscapes" / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png"
    labels = root / "cityscapes" / "gtFine" / split / city / f"{stem}_gtFine_polygons.json"
    for path in (image, labels):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT)).save(image)
    document = {"imgHeight": HEIGHT, "imgWidth": WIDTH, "objects": objects}
    labels.write_text(json.dumps(document))
    annotation = Annotation()
    annotation.fromJsonFile(str(labels))
    values = np.asarray(createInstanceImage(annotation, "ids")).astype(np.uint16)
    Image.fromarray(values).save(instance_png(labels))  # 16 bits, as published


def instance_png(labels: Path) -> Path:
    """The id image beside a file of polygons."""
    return labels.with_name(labels.name.replace("polygons.json", "instanceIds.png"))


def write_tree(root: Path, split: str = "train", count: int = 3) -> list[str]:
    """Frames of two cities, the last one without any object of the classes; their ids in order."""
    stems = [f"{('aachen', 'zürich')[i % 2]}_{i:06d}_000019" for i in range(count)]
    for i, stem in enumerate(stems):
        write_frame(root, split, stem, scene(i) if i + 1 < count else [])
    return sorted(stems)

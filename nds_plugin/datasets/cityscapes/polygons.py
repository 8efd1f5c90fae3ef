"""The objects of Cityscapes' ``*_polygons.json``, each without what lies in front of it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nds_plugin.datasets.label_images import check_size
from nds_plugin.errors import NDSError
from nds_plugin.extras import needed_for

_HALF = 0.5  # pixel
_THIN = 0.4  # pixel; our choice


@dataclass(frozen=True)
class PolygonObject:
    """What is visible of an object.

    Attributes:
        name: of its class.
        is_group: of several that nobody told apart.
        polygons: outlines, x, y, ... in pixel coordinates; holes are left out, as COCO has none.
        area: square pixels, without the holes.
        bbox: x, y, width, height.
    """

    name: str
    is_group: bool
    polygons: list[list[float]]
    area: float
    bbox: tuple[float, float, float, float]


def read_polygons(
    path: str | os.PathLike[str], classes: Sequence[str], size: tuple[int, int]
) -> list[PolygonObject]:
    """The objects of some classes, in the file's order.

    Objects lie one upon the other, later ones in front: of each, what the later ones cover is cut
    away. The corners are whole numbers, pixels that belong to the object: half a pixel is added all
    around, and the image's edge cuts off what leaves it. Objects of which nothing is seen are left out.

    Args:
        size: height and width of the image.

    Raises:
        NDSError: shapely is not installed; the file is missing, cut short or of another form; it is
            of an image of another size.
    """
    shapely = _shapely()
    document = _load(path)
    check_size((document["imgHeight"], document["imgWidth"]), size, path, "Cityscapes")
    seen = shapely.box(0, 0, size[1], size[0])
    names, shapes = [], []
    for item in document["objects"]:
        label = _label(item["label"], path)
        if not item.get("deleted") and label is not None:
            names.append(label)
            shapes.append(_shape(shapely, item["polygon"]))
    tree = shapely.STRtree(shapes)
    found = []
    for i, (name, is_group) in enumerate(names):
        if name not in classes:
            continue
        front = tree.query(shapes[i], predicate="intersects")
        front = shapely.union_all([shapes[j] for j in front.tolist() if j > i])
        visible = shapes[i].intersection(seen).difference(front)
        pieces = [
            part for part in shapely.get_parts(visible) if part.geom_type == "Polygon" and part.area > 0
        ]
        if pieces:
            found.append(_object(name, is_group, pieces))
    return found


def _shapely() -> Any:
    with needed_for("reading polygons of Cityscapes"):
        import shapely
    return shapely


def _load(path: str | os.PathLike[str]) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            document: dict[str, Any] = json.load(file)
        for item in document["objects"]:
            points = np.asarray(item["polygon"], dtype=np.float64)
            if (
                not isinstance(item["label"], str)
                or points.shape != (len(points), 2)
                or not np.isfinite(points).all()
            ):
                raise ValueError("an object is not a label and points")
        sides = document["imgHeight"], document["imgWidth"]
        if not all(isinstance(side, int) for side in sides):
            raise ValueError("the image's size is not in whole numbers")
    except OSError as error:
        raise NDSError(f"Cityscapes: cannot read {path}: {error.strerror}.") from None
    except KeyError as error:
        raise NDSError(f"Cityscapes: {path} is no annotation of polygons: it lacks {error}.") from None
    except (ValueError, TypeError, RecursionError) as error:
        raise NDSError(
            f"Cityscapes: {path} is not a whole file of polygons ({error}): get it again."
        ) from None
    return document


def _label(name: str, path: str | os.PathLike[str]) -> tuple[str, bool] | None:
    """Class and whether it is a group; None for what is drawn into no image (a number plate)."""
    from cityscapesscripts.helpers.labels import name2label

    is_group = name not in name2label and name.endswith("group")
    known = name2label.get(name[: -len("group")] if is_group else name)
    if known is None:
        raise NDSError(f"Cityscapes: {path} has an object of the unknown class {name!r}.")
    return (known.name, is_group) if known.id >= 0 else None


def _shape(shapely: Any, points: Any) -> Any:
    corners = np.asarray(points, dtype=np.float64).reshape(-1, 2) + _HALF
    if len(corners) < 3:
        shape = shapely.MultiPoint(corners).convex_hull  # a line or a pixel
    else:
        shape = shapely.make_valid(shapely.Polygon(corners))  # outlines may cross themselves
    return shapely.buffer(shape, _HALF, join_style="mitre", mitre_limit=2.0)


def _object(name: str, is_group: bool, pieces: list[Any]) -> PolygonObject:
    outlines = [np.asarray(part.exterior.coords)[:-1] for part in pieces]  # the first point is repeated
    corners = np.concatenate(outlines)
    low, high = corners.min(axis=0), corners.max(axis=0)
    return PolygonObject(
        name,
        is_group,
        [outline.ravel().tolist() for outline in outlines],
        float(sum(part.area for part in pieces)),
        (float(low[0]), float(low[1]), float(high[0] - low[0]), float(high[1] - low[1])),
    )

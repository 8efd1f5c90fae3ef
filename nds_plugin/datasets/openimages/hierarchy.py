"""The class hierarchy of OpenImages, and boxes given to all the classes that theirs is a kind of."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nds_plugin.datasets.openimages.csv import BoxRows, Classes
from nds_plugin.errors import NDSError


@dataclass(frozen=True)
class Hierarchy:
    """What is a kind of what, by the provider's codes.

    Attributes:
        root: code of the whole, which is no class ("/m/0bl9f", entity).
        parents: of each code those directly above it, in the file's order; the root has none.
    """

    root: str
    parents: dict[str, tuple[str, ...]]

    def ancestors(self, label: str) -> list[str]:
        """All classes that a class is a kind of, nearest first, without the root.

        Raises:
            NDSError: a class that the hierarchy does not have.
        """
        if label not in self.parents:
            raise NDSError(f"the class hierarchy has no {label!r}.")
        found: dict[str, None] = {}
        level = list(self.parents[label])
        while level:
            found.update(dict.fromkeys(code for code in level if code != self.root))
            level = [above for code in level for above in self.parents[code] if above not in found]
        return list(found)


def read_hierarchy(path: Path) -> Hierarchy:
    """Read ``bbox_labels_600_hierarchy.json``: kinds ("Subcategory"), not parts ("Part").

    Raises:
        NDSError: missing, no JSON, or no hierarchy.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NDSError(f"class hierarchy not found: {path}.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise NDSError(f"{path} is not complete JSON ({error}): get it again.") from None
    parents: dict[str, tuple[str, ...]] = {}
    try:
        root = str(document["LabelName"])
        _collect(document, None, parents, ())
    except (TypeError, KeyError, RecursionError):
        raise NDSError(
            f"{path} is no class hierarchy of OpenImages: expected objects with 'LabelName' and 'Subcategory'."
        ) from None
    return Hierarchy(root, parents)


def _collect(
    node: dict[str, Any], parent: str | None, parents: dict[str, tuple[str, ...]], above: tuple[str, ...]
) -> None:
    label = str(node["LabelName"])
    if label in above:
        raise KeyError(label)  # a class that is a kind of itself
    known = parents.get(label, ())
    parents[label] = known if parent is None or parent in known else (*known, parent)
    for child in node.get("Subcategory", ()):
        _collect(child, label, parents, (*above, label))


class Expansion:
    """Gives each box a copy for every ancestor of its class, as the challenge's evaluation wants them.

    Args:
        hierarchy: codes that it lacks have no ancestors.
        classes: ancestors that are none of these are left out.
    """

    def __init__(self, hierarchy: Hierarchy, classes: Classes) -> None:
        position = {label: i for i, label in enumerate(classes.labels)}
        kinds = []
        for label in classes.labels:
            above = hierarchy.ancestors(label) if label in hierarchy.parents else []
            kinds.append([position[label], *(position[code] for code in above if code in position)])
        self._counts = np.array([len(kind) for kind in kinds], dtype=np.int64)
        self._starts = np.cumsum(self._counts) - self._counts
        self._flat = np.array([code for kind in kinds for code in kind], dtype=np.int64)

    def rows(self, category: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Which row each copy is of, and its class; a row's own class comes first."""
        counts = self._counts[category]
        ends = np.cumsum(counts)
        rows = np.repeat(np.arange(len(category)), counts)
        within = np.arange(len(rows)) - np.repeat(ends - counts, counts)
        return rows, self._flat[np.repeat(self._starts[category], counts) + within]

    def __call__(self, boxes: BoxRows) -> BoxRows:
        """The boxes with their copies."""
        rows, category = self.rows(boxes.category)
        return boxes.take(rows, category)

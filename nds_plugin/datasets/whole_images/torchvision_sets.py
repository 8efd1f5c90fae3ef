"""Datasets whose published form torchvision reads: which images they hold, of which class.

Only the lists are taken, no image is opened. torchvision keeps them under private names, to which its
subclasses are entitled; the tests compare them with what its public interface gives.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nds_plugin.errors import NDSError
from nds_plugin.extras import needed_for

Rows = tuple[list[Path], list[int], list[str]]


def torchvision_rows(kind: str, root: Path, split: str) -> Rows:
    """Paths of the images, classes from 0, names of the classes that torchvision finds.

    Args:
        kind: "StanfordCars", "OxfordIIITPet" or "Flowers102".
        root: folder that holds ``stanford_cars``, ``oxford-iiit-pet`` or ``flowers-102``.
        split: as torchvision calls it.

    Raises:
        NDSError: torchvision is not installed, or too old, or cannot read the lists.
    """
    with needed_for(f"reading {kind}"):
        from torchvision import datasets
    try:
        rows: Rows = _READERS[kind](datasets, root, split)
        return rows
    except NDSError:
        raise
    # torchvision checks nothing: whatever a wrong list leads to.
    except Exception as error:
        raise NDSError(
            f"torchvision's {kind} cannot read the lists below {root} ({type(error).__name__}: {error}): "
            "are they the provider's? Download them again."
        ) from None


def _stanford_cars(datasets: Any, root: Path, split: str) -> Rows:
    found = datasets.StanfordCars(root, split)
    return [Path(path) for path, _ in found._samples], [label for _, label in found._samples], found.classes


def _oxford_iiit_pet(datasets: Any, root: Path, split: str) -> Rows:
    found = datasets.OxfordIIITPet(root, split)
    return list(found._images), list(found._labels), found.classes


def _flowers_102(datasets: Any, root: Path, split: str) -> Rows:
    if not hasattr(datasets.Flowers102, "classes"):
        raise NDSError(
            "this torchvision is too old to have the names of the 102 flowers: pip install --upgrade torchvision."
        )

    class Flowers102(datasets.Flowers102):  # type: ignore[misc, name-defined, unused-ignore]
        # Its check compares checksums of the two lists, and so refuses any part of the dataset.
        def _check_integrity(self) -> bool:
            return True

    found = Flowers102(root, split)
    return list(found._image_files), list(found._labels), found.classes


_READERS = {
    "StanfordCars": _stanford_cars,
    "OxfordIIITPet": _oxford_iiit_pet,
    "Flowers102": _flowers_102,
}

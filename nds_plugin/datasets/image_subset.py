"""A seeded random subset of a dataset's images, in the dataset's order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from nds_plugin.errors import NDSError
from nds_plugin.files.artifacts import content_hash


def subset_name(base: str, num_images: int, seed: int) -> str:
    """What the dataset is called that such a subset makes."""
    return f"{base}_{num_images}_seed{seed}"


def subset_fingerprint(base: str, num_images: int, seed: int) -> str:
    """Hash of such a subset, by the fingerprint of its base."""
    return content_hash([base, num_images, seed])


def check_draw(base: str, num_images: int, seed: int) -> None:
    """Refuse numbers by which nothing can be drawn."""
    if num_images <= 0 or seed < 0:
        raise NDSError(f"subset of {base!r}: expected images > 0 and seed >= 0, got {num_images} and {seed}.")


def check_subset(name: str, base: str, num_images: int, there: int) -> None:
    """Refuse a subset of more images than its base has."""
    if num_images > there:
        raise NDSError(
            f"dataset {name!r}: expected at most the {there} images of {base!r}, got {num_images}."
        )


def subset_rows(image_ids: Sequence[str], num_images: int, seed: int) -> npt.NDArray[np.int64]:
    """Positions of the images, ascending. With one seed a smaller subset lies within every larger one.

    Args:
        image_ids: of all images, as text; the draw depends on them, not on positions.
        num_images: at most as many as there are.
    """
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(image_ids))
    ranked = sorted(range(len(image_ids)), key=image_ids.__getitem__)
    return np.array(sorted(ranked[rank] for rank in order[:num_images].tolist()), dtype=np.int64)

"""The centroids of a partition: what its first pass hands to the second, a safetensors file on disk."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from nds_plugin.errors import DamagedFileError
from nds_plugin.files.artifacts import atomic_write
from nds_plugin.source import clustering

NO_CENTROID = -1


@dataclass(frozen=True)
class Centroids:
    """What :func:`~nds_plugin.source.partitioning.fit_centroids` finds on a sample of n images.

    Attributes:
        centroids: shape (K, d).
        labels: number of the centroid of each image of the sample, -1 for one that cannot be read, shape (n,).
        of_class: of superclasses, the centroid of each class, -1 for one that the sample lacks; else empty.
        mean, components: of the principal components, shapes (D,) and (d, D); empty where there are none.
    """

    centroids: npt.NDArray[np.floating]
    labels: npt.NDArray[np.int64]
    of_class: npt.NDArray[np.int64]
    mean: npt.NDArray[np.floating]
    components: npt.NDArray[np.floating]

    def assign(
        self,
        features: npt.NDArray[np.floating],
        classes: npt.NDArray[np.integer],
        labels: npt.NDArray[np.int64] | None = None,
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Centroid of each image and the distance to it; a pure function.

        Args:
            features: shape (B, D), NaN for an image that cannot be read: its centroid is -1, its distance NaN.
            classes: label of each, -1 for none, shape (B,); superclasses alone look at it.
            labels: of images of the sample, what the fit has found; they keep it.
        """
        from threadpoolctl import threadpool_limits

        readable = ~np.isnan(features[:, 0])
        points = features[readable]
        if len(self.components):
            with threadpool_limits(1):  # as in the fit
                points = (points - self.mean) @ self.components.T
        if labels is not None:
            number = labels[readable]
        else:
            number = clustering.nearest(points, self.centroids)
            if len(self.of_class):
                own = np.append(self.of_class, NO_CENTROID)[classes[readable]]
                number = np.where(own == NO_CENTROID, number, own)
        found = np.full(len(features), NO_CENTROID, np.int64)
        distance = np.full(len(features), np.nan, np.float32)
        found[readable] = number
        distance[readable] = clustering.distances(points, self.centroids, number)
        return found, distance

    def save(self, path: str | os.PathLike[str], key: str) -> None:
        """Write them; ``key`` is the hash of what they were made from."""
        from safetensors.numpy import save

        tensors = {item.name: np.ascontiguousarray(getattr(self, item.name)) for item in fields(self)}
        with atomic_write(path) as file:
            file.write(save(tensors, {"key": key}))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Centroids:
        """Read them.

        Raises:
            NDSError: missing, or cut short.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            return cls(**load_file(path))
        except (OSError, SafetensorError, TypeError) as error:
            raise DamagedFileError(
                f"{path}: not a complete file of centroids ({error}): make it again."
            ) from None


def has_key(path: str | os.PathLike[str], key: str) -> bool:
    """Whether a safetensors file is there, whole, and made from the inputs that ``key`` is the hash of."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            return bool((file.metadata() or {}).get("key") == key)
    except (OSError, SafetensorError):
        return False

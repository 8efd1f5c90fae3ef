"""A selection laid over the images of a dataset: what a trainer draws from."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nds_plugin.errors import NDSError
from nds_plugin.files.artifacts import array_hash, content_hash
from nds_plugin.selection.streams import (
    AspectGroupedStream,
    IndexStream,
    ProbabilityStream,
    SegmentedStream,
    ShuffledStream,
    WeightedStream,
)
from nds_plugin.selection.weights import available_weights, cluster_sizes


@dataclass(frozen=True)
class PlacedSelection:
    """The selected images of a dataset of N, by their positions there; made by ``Selection.placed``.

    Attributes:
        mode: ``subset`` or ``stream``.
        weights: w over the clusters, shape (K,).
        cluster: of each image, -1 where it is not selected; int32 of shape (N,).
        p: probability of each image, 0 where it is not selected, shape (N,); None where images are drawn
            by their clusters alone.
    """

    mode: str
    weights: npt.NDArray[np.float64]
    cluster: npt.NDArray[np.int32]
    p: npt.NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return int((self.cluster >= 0).sum())

    @functools.cached_property
    def hash(self) -> str:
        """Hash of what is drawn from, and how."""
        p = None if self.p is None else array_hash(self.p)
        return content_hash([self.mode, array_hash(self.weights), array_hash(self.cluster), p])

    def stream(self, seed: int) -> IndexStream:
        """Positions without end: drawn by p (mode stream), or all in shuffled epochs (mode subset)."""
        if self.mode != "stream":
            return ShuffledStream(np.flatnonzero(self.cluster >= 0), seed)
        if self.p is not None:
            return ProbabilityStream(self.p, seed)
        return WeightedStream(self.weights, self.cluster, seed)

    @property
    def shares(self) -> npt.NDArray[np.float64]:
        """Share of each cluster in what will be drawn, shape (K,)."""
        sizes = cluster_sizes(self.cluster, len(self.weights))
        if self.mode == "stream":
            return available_weights(self.weights, sizes)
        return np.asarray(sizes / sizes.sum())

    def reweighted(self, weights: npt.NDArray[np.float64]) -> PlacedSelection:
        """The same images under other cluster weights (those of a later scoring).

        Raises:
            NDSError: a subset, whose images are drawn already, or another number of clusters.
        """
        if self.mode != "stream" or self.p is not None:
            raise NDSError(
                "only a selection of mode stream by clusters can be reweighted; a subset is drawn already."
            )
        if len(weights) != len(self.weights):
            raise NDSError(f"{len(weights)} weights for the {len(self.weights)} clusters of the selection.")
        return dataclasses.replace(self, weights=np.asarray(weights, dtype=np.float64))


def segmented(
    first: IndexStream,
    placed: PlacedSelection | None,
    updates: Sequence[tuple[int, npt.NDArray[np.float64]]],
    seed: int,
    grouping: tuple[npt.NDArray[np.integer], int] | None = None,
) -> SegmentedStream:
    """A stream that goes on by other cluster weights from given positions on.

    Args:
        first: the stream of the beginning.
        placed: what is drawn from later, too; None: nothing can change.
        updates: (first position, cluster weights) of every change.
        seed: of the draw.
        grouping: groups of the images and images of a global batch, see :class:`AspectGroupedStream`.

    Raises:
        NDSError: images that cannot be reweighted, see :meth:`PlacedSelection.reweighted`.
    """
    segments = [(0, first)]
    if placed is not None:
        segments += [(position, placed.reweighted(w).stream(seed)) for position, w in updates]
    if grouping is not None:
        # Inside each segment: what was drawn before an update must not depend on the update.
        segments = [(n, AspectGroupedStream(stream, *grouping, seed)) for n, stream in segments]
    return SegmentedStream(segments)


def draw_scalars(
    drawn: npt.NDArray[np.integer], expected: npt.NDArray[np.float64], unreadable: float
) -> dict[str, float]:
    """What a log tells of a draw: by name, the shares of the clusters, their total variation distance, broken images.

    Args:
        drawn: images of each cluster so far, shape (K,).
        expected: how many the selection says, shape (K,).
        unreadable: images that were replaced.
    """
    shares, wanted = drawn / drawn.sum(), expected / expected.sum()
    scalars = {
        "nds/unreadable_images": float(unreadable),
        "nds/draw_distance": float(0.5 * np.abs(shares - wanted).sum()),
    }
    for k in range(len(shares)):
        scalars[f"nds/drawn/cluster_{k}"] = float(shares[k])
        scalars[f"nds/expected/cluster_{k}"] = float(wanted[k])
    return scalars

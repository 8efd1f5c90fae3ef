"""Clusters of a source described by experts of other sources: how each of them does on the cluster's images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nds_plugin.errors import NDSError
from nds_plugin.experts.scores import METRICS
from nds_plugin.files.artifacts import content_hash, read_json, write_json

KIND = "description"
MAX_NUMBERS = 1 << 24  # of one metric; a stranger's file may say anything
Vectors = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Description:
    """What a provider publishes of the clusters of a source that no expert was trained on.

    Attributes:
        expert_set: hash of the experts that described it.
        experts: the experts' own clusters, ascending, K of them.
        partition: hash of the source's partition.
        images: images looked at in each of its clusters, M of them.
        vectors: per metric of ``METRICS`` a number per cluster and expert, shape (M, K).
    """

    expert_set: str
    experts: list[int]
    partition: str
    images: list[int]
    vectors: dict[str, list[list[float]]]

    @property
    def num_clusters(self) -> int:
        """M."""
        return len(self.images)

    @property
    def hash(self) -> str:
        """Hash of everything in it."""
        return content_hash(asdict(self))

    def of_metric(self, metric: str) -> Vectors:
        """The vectors of one metric, shape (M, K).

        Raises:
            NDSError: it holds none of that metric.
        """
        if metric not in self.vectors:
            raise NDSError(
                f"the description holds no {metric!r}, only {', '.join(self.vectors)}: score the client by one of them."
            )
        return np.asarray(self.vectors[metric], dtype=np.float64)

    def save(self, path: str | os.PathLike[str], key: str | None = None) -> None:
        """Write it as JSON.

        Raises:
            NDSError: a number is not finite.
        """
        for metric, rows in self.vectors.items():
            if not np.isfinite(rows).all():
                raise NDSError(
                    f"the description's {metric} is not finite: an expert gives no number on some cluster; train the experts again."
                )
        write_json(path, KIND, key if key is not None else self.hash, asdict(self))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Description:
        """Read a description.

        Raises:
            NDSError: missing, not a description, or numbers of another shape than its clusters and experts.
        """
        document = read_json(path, KIND)
        kinds = {"expert_set": str, "experts": list, "partition": str, "images": list, "vectors": dict}
        for name, kind in kinds.items():
            if not isinstance(document.get(name), kind):
                raise NDSError(
                    f"{path}: field {name!r} should be a {kind.__name__}: describe the source again."
                )
        found = cls(**{name: document[name] for name in kinds})
        shape = (found.num_clusters, len(found.experts))
        if not found.vectors or not set(found.vectors) <= set(METRICS) or not all(shape):
            raise NDSError(f"{path}: expected vectors of {', '.join(METRICS)}: describe the source again.")
        for metric, rows in found.vectors.items():
            if not _is_table(rows, shape):
                raise NDSError(
                    f"{path}: {metric} should be {shape[0]} lists, one per cluster, of {shape[1]} finite numbers, one "
                    "per expert: describe the source again."
                )
        return found

    def check_matches(self, partition: str) -> None:
        """Refuse a partition that it does not describe.

        Raises:
            NDSError: another partition.
        """
        if self.partition != partition:
            raise NDSError(
                f"the description is of another partition: expected {partition[:12]}, got {self.partition[:12]}; "
                "describe this partition."
            )

    @classmethod
    def join(cls, parts: Sequence[Description], partition: str) -> Description:
        """The description of sources that were described apart, by the same experts.

        Args:
            parts: in the order of their clusters in the joined partition.
            partition: hash of that.

        Raises:
            NDSError: descriptions by different experts.
        """
        first = parts[0]
        if any((part.expert_set, part.experts) != (first.expert_set, first.experts) for part in parts):
            raise NDSError("the sources are described by different experts: describe them by the same.")
        metrics = [name for name in METRICS if all(name in part.vectors for part in parts)]
        vectors = {name: [row for part in parts for row in part.vectors[name]] for name in metrics}
        images = [count for part in parts for count in part.images]
        return cls(first.expert_set, first.experts, partition, images, vectors)


def _is_table(rows: Any, shape: tuple[int, int]) -> bool:
    if not isinstance(rows, list) or len(rows) != shape[0] or shape[0] * shape[1] > MAX_NUMBERS:
        return False
    if not all(isinstance(row, list) and len(row) == shape[1] for row in rows):
        return False
    numbers = (value for row in rows for value in row)
    return all(
        isinstance(value, (int, float)) and not isinstance(value, bool) and np.isfinite(value)
        for value in numbers
    )

"""How many images of which source lie in which cluster: all that weights and tables need of a partition."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nds_plugin.errors import NDSError
from nds_plugin.source.index import SourceIndex
from nds_plugin.source.partition import Partition

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Census:
    """Images by cluster and source.

    Attributes:
        sources: in the order of the index.
        counts: shape (K + 1, S); the last row is that of images of no cluster.
    """

    sources: tuple[str, ...]
    counts: Ints

    @property
    def sizes(self) -> Ints:
        """|S_k|, shape (K,)."""
        return np.asarray(self.counts[:-1].sum(axis=1))

    @property
    def of_sources(self) -> Ints:
        """Images of each source, shape (S,)."""
        return np.asarray(self.counts.sum(axis=0))

    @classmethod
    def of(cls, index: SourceIndex, partition: Partition) -> Census:
        """That of a partition of an index."""
        codes = SourceCodes()
        code = codes.of(index.table.column("source"))
        return cls.count([(partition.cluster, code)], codes)

    @classmethod
    def count(cls, pieces: Iterable[tuple[npt.NDArray[np.int32], Ints]], codes: SourceCodes) -> Census:
        """Count pieces of a source: clusters, and codes of sources, which may grow on the way."""
        counts = np.zeros((1, 0), dtype=np.int64)
        for cluster, code in pieces:
            clusters = max(len(counts) - 1, int(cluster.max(initial=-1)) + 1)
            width = len(codes.names)
            grown = np.zeros((clusters + 1, width), dtype=np.int64)
            grown[: len(counts) - 1, : counts.shape[1]] = counts[:-1]
            grown[-1, : counts.shape[1]] = counts[-1]
            place = np.where(cluster < 0, clusters, cluster).astype(np.int64) * width + code
            counts = grown + np.bincount(place, minlength=grown.size).reshape(grown.shape)
        return cls(tuple(codes.names), counts)

    def payload(self) -> dict[str, Any]:
        """What the head of a partition in parts keeps."""
        return {"sources": list(self.sources), "counts": self.counts.tolist()}

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any], path: str) -> Census:
        """Read back what :meth:`payload` gave.

        Raises:
            NDSError: it is damaged.
        """
        try:
            sources = tuple(str(name) for name in payload["sources"])
            counts = np.asarray(payload["counts"], dtype=np.int64)
        except (KeyError, TypeError, ValueError):
            raise NDSError(f"the census of {path} is damaged: make the partition again.") from None
        if (
            counts.ndim != 2
            or counts.shape[1] != len(sources)
            or len(counts) < 2
            or counts.min(initial=0) < 0
        ):
            raise NDSError(f"the census of {path} is damaged: make the partition again.")
        return cls(sources, counts)


class SourceCodes:
    """Numbers of sources, in the order in which they are met."""

    def __init__(self, names: Sequence[str] = ()) -> None:
        self.names = list(names)

    def of(self, column: pa.Array | pa.ChunkedArray) -> Ints:
        """The number of each row's source."""
        if isinstance(column, pa.ChunkedArray):
            column = column.combine_chunks()
            if isinstance(column, pa.ChunkedArray):  # of pyarrow before 17, where there are no rows
                column = column.chunk(0) if column.num_chunks else pa.array([], pa.string())
        if not pa.types.is_dictionary(column.type):
            column = column.dictionary_encode()
        local = column.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        names = column.dictionary.to_pylist()
        there = np.flatnonzero(np.bincount(local, minlength=len(names)))
        new = [i for i in there.tolist() if names[i] not in self.names]
        for i in sorted(new, key=lambda i: int(np.argmax(local == i))):
            self.names.append(names[i])
        number = np.full(len(names), -1, dtype=np.int64)
        number[there] = [self.names.index(names[i]) for i in there.tolist()]
        return np.asarray(number[local])

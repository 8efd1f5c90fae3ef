"""A manifest: the images of a draw with their links as comma-separated values; of a stream, in the order of its draws."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv

from nds_plugin.files.artifacts import atomic_write
from nds_plugin.selection.drawing import Blocks
from nds_plugin.selection.placed import PlacedSelection
from nds_plugin.selection.select_parts import WholeSelection
from nds_plugin.selection.selection import COLUMNS, Selection
from nds_plugin.selection.streams import ClusterDraws
from nds_plugin.selection.weights import Floats, Ints

_TYPES = {"cluster": pa.int32(), "p": pa.float64()}
_SCHEMA = pa.schema([(name, _TYPES.get(name, pa.string())) for name in COLUMNS])


def write_manifest(path: str | os.PathLike[str], tables: Iterable[pa.Table]) -> None:
    """Write the rows of tables with the columns of a selection, whole or not at all."""
    options = pa.csv.WriteOptions(include_header=False, quoting_style="needed")
    with atomic_write(path) as file, pa.csv.CSVWriter(file, _SCHEMA, write_options=options) as writer:
        file.write((",".join(COLUMNS) + "\n").encode())
        for table in tables:
            writer.write_table(table.select(_SCHEMA.names).cast(_SCHEMA))


def listed(selection: Selection | WholeSelection, draws: int) -> Iterator[pa.Table]:
    """All images of a subset, or the first ``draws`` of a stream, which draws with replacement under the same seed."""
    seed = selection.info["seed"]
    if isinstance(selection, Selection):
        if selection.mode != "stream":
            yield selection.table
            return
        p = selection.column("p").to_numpy() if selection.info["by_image"] else None
        cluster = selection.column("cluster").to_numpy()
        stream = PlacedSelection(selection.mode, selection.weights, cluster, p).stream(seed)
        yield selection.table.take(pa.array(stream.draw(0, draws)))
    elif selection.mode != "stream":
        yield from selection.tables()
    else:
        sizes, blocks = selection.partition.census.sizes, selection.partition.blocks
        yield selection.at(*stream_from_blocks(selection.weights, sizes, blocks, draws, seed))


def stream_from_blocks(
    weights: Floats, sizes: Ints, blocks: Callable[[], Blocks], draws: int, seed: int
) -> tuple[Ints, Ints]:
    """The first ``draws`` of :class:`~nds_plugin.selection.streams.WeightedStream`, of a source that is never in memory.

    Args:
        weights, sizes, blocks, seed: as of :func:`~nds_plugin.selection.drawing.draw_from_blocks`.
        draws: how many; memory grows with them alone.

    Returns:
        Positions in the order of the stream, of which some may be the same, and their clusters, shape (draws,) each.
    """
    cluster, rank = ClusterDraws(weights, sizes, seed).draw(0, draws)
    # One number for cluster and rank: what a block holds of a cluster is then a range of the sorted numbers.
    seen = np.concatenate([[0], np.cumsum(sizes)])[:-1]
    place = seen[cluster] + rank
    order = np.argsort(place, kind="stable")
    wanted, rows = place[order], np.full(draws, -1, dtype=np.int64)
    for start, block in blocks():
        members, counts = _by_cluster(block, len(sizes))
        begins = np.cumsum(counts) - counts
        low, high = np.searchsorted(wanted, seen), np.searchsorted(wanted, seen + counts)
        for k in np.flatnonzero(low < high).tolist():
            within = wanted[low[k] : high[k]] - seen[k]
            rows[order[low[k] : high[k]]] = start + members[begins[k] + within]
        seen = seen + counts
    return rows, cluster


def _by_cluster(block: npt.NDArray[np.integer], num_clusters: int) -> tuple[Ints, Ints]:
    """Positions in a block sorted by cluster, and how many each cluster has; -1 comes last."""
    small = np.uint16 if num_clusters < 2**16 - 1 else np.uint32  # 16 bits sort by radix
    keys = np.where(block < 0, num_clusters, block).astype(small)
    counts = np.bincount(keys, minlength=num_clusters + 1)[:num_clusters]
    return np.argsort(keys, kind="stable"), counts

"""A selection by clusters from a source that does not fit into memory: the same draw, the same file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nds_plugin.experts.scores import Scores
from nds_plugin.files.artifacts import atomic_write, table_metadata
from nds_plugin.files.parts import regrouped
from nds_plugin.images.cost import Cost, keep_seconds
from nds_plugin.selection.config import SelectionConfig
from nds_plugin.selection.drawing import draw_from_blocks, resolve_budget
from nds_plugin.selection.select import Scored, check_scored, selection_info, selector_weights
from nds_plugin.selection.selection import COLUMNS, KIND, Selection
from nds_plugin.selection.weights import Floats, Ints, image_rates
from nds_plugin.source.index import refuse_repeated
from nds_plugin.source.index_parts import IndexParts
from nds_plugin.source.partition_parts import StreamedPartition

_LOOKED_UP = ("source", "image_id", "url", "license", "checksum")
_ROW_GROUP = 1 << 20  # that of Parquet files that are written from memory


def select_from_parts(
    index: IndexParts, partition: StreamedPartition, config: SelectionConfig, scores: Scores | None = None
) -> Selection | WholeSelection:
    """:func:`nds_plugin.selection.select.select` by clusters, with the images' rows on disk or at a URL.

    A subset is drawn in one pass over the clusters; memory grows with the budget, not with the source.

    Raises:
        NDSError: as there.
    """
    partition.check_matches(index)
    check_scored(config.selector, scores, partition.hash)
    sizes = partition.census.sizes
    weights = selector_weights(config.selector, sizes, scores)
    rates = image_rates(weights, sizes)

    def told(images: int) -> dict[str, Any]:
        hashes = (index.hash, partition.hash)
        return selection_info(config, sizes, Scored.of(scores), index.sources, hashes, images)

    if not config.needs_budget:
        return WholeSelection(index, partition, config.mode, weights, rates, told(int(sizes.sum())))
    drawable = int(sizes[weights > 0].sum())
    budget = resolve_budget(drawable, config.count, config.share, whole=int(sizes.sum()))
    rows, cluster = draw_from_blocks(weights, sizes, partition.blocks, budget, config.seed)
    table = pa.concat_tables(_found(index, rows)).combine_chunks()
    refuse_repeated(table, "of the drawn images")
    return Selection(_columns(table, cluster, rates), config.mode, weights, told(budget))


@dataclass(frozen=True)
class WholeSelection:
    """A selection of all images that are in a cluster, such as a stream has it; its rows are made when it is saved.

    Attributes:
        index, partition: the source.
        mode, weights, info: as of :class:`~nds_plugin.selection.selection.Selection`.
        rates: p of an image of each cluster, shape (K,).
    """

    index: IndexParts
    partition: StreamedPartition
    mode: str
    weights: Floats
    rates: Floats
    info: dict[str, Any]

    def __len__(self) -> int:
        return int(self.partition.census.sizes.sum())

    @property
    def sources(self) -> list[str]:
        """Names of the sources, in the order of the index."""
        return list(self.info["sources"])

    def tables(self) -> Iterator[pa.Table]:
        """The rows, a batch after the other."""
        for start, cluster in self.partition.blocks():
            there = np.flatnonzero(cluster >= 0)
            if len(there):
                table = pa.concat_tables(_found(self.index, there + start))
                yield _columns(table, cluster[there], self.rates)

    def at(self, rows: Ints, cluster: Ints) -> pa.Table:
        """The rows of some images of the index in any order, also several times the same, and their clusters."""
        different, places = np.unique(rows, return_inverse=True)
        table = pa.concat_tables(_found(self.index, different)).take(pa.array(places))
        return _columns(table, cluster, self.rates)

    def save(self, path: str | os.PathLike[str], key: str) -> None:
        """Write the selection artefact, the same bytes as from memory; a row group is in memory at a time."""
        payload = {"mode": self.mode, "weights": self.weights.tolist(), **self.info}
        cost = Cost.from_dict(payload["cost"])
        keep_seconds(path, key, cost)
        payload["cost"] = cost.counts
        metadata = table_metadata(KIND, key, payload)
        writer: pq.ParquetWriter | None = None
        with atomic_write(path) as file:
            for table in regrouped(self.tables(), _ROW_GROUP):
                table = table.combine_chunks().replace_schema_metadata(metadata)
                writer = writer or pq.ParquetWriter(file, table.schema, compression="zstd")
                writer.write_table(table, row_group_size=_ROW_GROUP)
            assert writer is not None  # a cluster without an image was refused
            writer.close()


def _found(index: IndexParts, rows: Ints) -> Iterator[pa.Table]:
    """Rows of an index with one dictionary of sources, whatever those of the parts."""
    names = pa.array(index.sources, pa.string())
    for table in index.parts.take(_LOOKED_UP, rows):
        codes = pc.index_in(table.column("source").cast(pa.string()), value_set=names)
        source = pa.DictionaryArray.from_arrays(codes.combine_chunks(), names)
        yield table.set_column(0, "source", pa.chunked_array([source]))


def _columns(table: pa.Table, cluster: npt.NDArray[np.integer], rates: Floats) -> pa.Table:
    columns = {name: table.column(name) for name in _LOOKED_UP}
    columns["cluster"] = pa.array(cluster.astype(np.int32))
    columns["p"] = pa.array(rates[cluster])
    return pa.table({name: columns[name] for name in COLUMNS})

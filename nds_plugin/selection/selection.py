"""A selection: which source images a trainer sees and how often. Selectors make one, trainers read it.

Two modes. A ``subset`` holds the drawn images alone; the trainer goes through them in shuffled
epochs, and they can be handed over as a list. A ``stream`` holds every image that can be drawn,
with its probability; the trainer draws with replacement for as long as it trains.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from nds_plugin.errors import NDSError
from nds_plugin.files.artifacts import read_table, write_table
from nds_plugin.images.cost import Cost, keep_seconds, with_seconds
from nds_plugin.selection.placed import PlacedSelection

KIND = "selection"
COLUMNS = ("source", "image_id", "cluster", "p", "url", "license", "checksum")


@dataclass(frozen=True)
class Selection:
    """Images with their cluster and probability, and how they came to be selected.

    Attributes:
        table: columns source, image_id, cluster, p, url, license, checksum; a row per image. Where
            single images were weighed, the clusters are the source datasets.
        mode: ``subset`` or ``stream``.
        weights: w over the clusters, shape (K,).
        info: selector, seed, budget, temperature, normalisation, z, sizes, whether the selector
            looked at the client's images (``sees_target``), its cost there, its details, and the
            hashes of the index, the partition and the expert set.
    """

    table: pa.Table
    mode: str
    weights: npt.NDArray[np.float64]
    info: dict[str, Any]

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def sources(self) -> list[str]:
        """Names of the sources that were selected from, in the order of the index.

        All of them, drawn or not, so that every draw from a source has the same classes.
        """
        return list(self.info["sources"])

    def column(self, name: str) -> pa.ChunkedArray:
        """One column of the table."""
        return self.table.column(name)

    def placed(
        self, sources: Sequence[str] | pa.Array, image_ids: Sequence[str] | pa.Array
    ) -> PlacedSelection:
        """The selection laid over a dataset of N images, of which some may not be selected.

        Args:
            sources, image_ids: identity of each image, N of them.

        Raises:
            NDSError: none of the images is in the selection.
        """
        rows = self.rows_of(sources, image_ids)
        cluster = np.append(self.column("cluster").to_numpy(), np.int32(-1))[rows].astype(np.int32)
        p = np.append(self.column("p").to_numpy(), 0.0)[rows] if self.info.get("by_image") else None
        return PlacedSelection(self.mode, self.weights, cluster, p)

    def rows_of(
        self, sources: Sequence[str] | pa.Array, image_ids: Sequence[str] | pa.Array
    ) -> npt.NDArray[np.int64]:
        """Row of each image of a dataset in the table, -1 for those that are not in it; shape (N,)."""
        sources, image_ids = _text(sources), _text(image_ids)
        own_sources = self.column("source").cast(pa.string()).combine_chunks()
        own_ids = self.column("image_id").combine_chunks()
        rows = np.full(len(image_ids), -1, dtype=np.int64)
        names = pc.unique(sources).to_pylist()
        for name in names:
            there = np.flatnonzero(pc.equal(sources, name).to_numpy(zero_copy_only=False))
            own = np.flatnonzero(pc.equal(own_sources, name).to_numpy(zero_copy_only=False))
            if len(own) == 0:
                continue
            places = pc.index_in(image_ids.take(pa.array(there)), value_set=own_ids.take(pa.array(own)))
            found = pc.fill_null(places, -1).to_numpy(zero_copy_only=False)
            rows[there] = np.where(found >= 0, own[found], -1)
        if not (rows >= 0).any():
            raise NDSError(
                f"none of the {len(image_ids)} images of the dataset ({', '.join(sorted(names))}) is in "
                f"the selection, which was made from {', '.join(self.sources)}: train on those sources."
            )
        return rows

    def save(self, path: str | os.PathLike[str], key: str) -> None:
        """Write the selection artefact, the same bytes for the same draw; the client's time goes beside it."""
        payload = {"mode": self.mode, "weights": self.weights.tolist(), **self.info}
        if "cost" in payload:
            cost = Cost.from_dict(payload["cost"])
            keep_seconds(path, key, cost)
            payload["cost"] = cost.counts
        write_table(path, KIND, key, self.table, payload)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Selection:
        """Read a selection artefact.

        Raises:
            NDSError: missing, cut short, or not a selection.
        """
        table, header = read_table(path, KIND)
        missing = [name for name in COLUMNS if name not in table.column_names]
        if missing:
            raise NDSError(f"{path}: a selection needs the columns {', '.join(missing)} too: draw it again.")
        weights = np.asarray(header.pop("weights"), dtype=np.float64)
        mode = header.pop("mode")
        info = {name: value for name, value in header.items() if name not in ("kind", "version", "key")}
        if "cost" in info:
            info["cost"] = dataclasses.asdict(with_seconds(path, header["key"], info["cost"]))
        return cls(table, mode, weights, info)


def _text(values: Sequence[str] | pa.Array) -> pa.Array:
    column = values if isinstance(values, pa.Array) else pa.array(values, pa.string())
    return column.cast(pa.string())

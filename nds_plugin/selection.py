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

from nds_plugin import sampling
from nds_plugin.artifacts import read_table, write_table
from nds_plugin.errors import NDSError, unknown_name
from nds_plugin.index import SourceIndex
from nds_plugin.partition import Partition
from nds_plugin.scores import Scores
from nds_plugin.streams import IndexStream, ShuffledStream, WeightedStream

KIND = "selection"
MODES = ("subset", "stream")
SELECTORS = ("nds", "uniform", "full")
COLUMNS = ("source", "image_id", "cluster", "p", "url", "license", "checksum")


@dataclass(frozen=True)
class SelectionConfig:
    """How to select.

    Attributes:
        selector: ``nds`` (by the experts' scores), ``uniform`` (every image alike) or ``full``
            (every image, the whole source).
        mode: ``subset`` or ``stream``.
        count, share: the budget of a subset, as a number of images or as a share of the source.
        temperature, normalisation: T of the softmax and the scaling of z before it.
        seed: of the draw.
    """

    selector: str = "nds"
    mode: str = "subset"
    count: int = 0
    share: float = 0.0
    temperature: float = 0.1
    normalisation: str = "minmax"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.selector not in SELECTORS:
            raise unknown_name("selector", self.selector, SELECTORS)
        if self.mode not in MODES:
            raise unknown_name("selection mode", self.mode, MODES)
        sampling.check_softmax(self.temperature, self.normalisation)

    @property
    def needs_budget(self) -> bool:
        """Whether images are drawn and their number must be given."""
        return self.mode == "subset" and self.selector != "full"


@dataclass(frozen=True)
class Selection:
    """Images with their cluster and probability, and how they came to be selected.

    Attributes:
        table: columns source, image_id, cluster, p, url, license, checksum; a row per image.
        mode: ``subset`` or ``stream``.
        weights: w over the clusters, shape (K,).
        info: selector, seed, budget, temperature, normalisation, z, sizes and the hashes of the
            index, the partition and the expert set.
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

    def clusters_of(
        self, sources: Sequence[str] | pa.Array, image_ids: Sequence[str] | pa.Array
    ) -> npt.NDArray[np.int32]:
        """Cluster of each image of a dataset, -1 for those that are not selected; shape (N,).

        Raises:
            NDSError: none of the images is in the selection.
        """
        sources, image_ids = _text(sources), _text(image_ids)
        own_sources = self.column("source").cast(pa.string()).combine_chunks()
        own_ids, own_clusters = self.column("image_id").combine_chunks(), self.column("cluster").to_numpy()
        found = np.full(len(image_ids), -1, dtype=np.int32)
        names = pc.unique(sources).to_pylist()
        for name in names:
            there = np.flatnonzero(pc.equal(sources, name).to_numpy(zero_copy_only=False))
            own = np.flatnonzero(pc.equal(own_sources, name).to_numpy(zero_copy_only=False))
            if len(own) == 0:
                continue
            places = pc.index_in(image_ids.take(pa.array(there)), value_set=own_ids.take(pa.array(own)))
            rows = pc.fill_null(places, -1).to_numpy(zero_copy_only=False)
            found[there] = np.where(rows >= 0, own_clusters[own[rows]], -1)
        if not (found >= 0).any():
            raise NDSError(
                f"none of the {len(image_ids)} images of the dataset ({', '.join(sorted(names))}) is in "
                f"the selection, which was made from {', '.join(self.sources)}: train on those sources."
            )
        return found

    def stream(self, cluster: npt.NDArray[np.integer], seed: int) -> IndexStream:
        """The stream of positions in a dataset whose images have these clusters (-1: not selected)."""
        if self.mode == "stream":
            return WeightedStream(self.weights, cluster, seed)
        return ShuffledStream(np.flatnonzero(np.asarray(cluster) >= 0), seed)

    def reweighted(self, weights: npt.NDArray[np.float64]) -> Selection:
        """The same images under other cluster weights (those of a later scoring).

        Raises:
            NDSError: a subset, whose images are drawn already, or another number of clusters.
        """
        if self.mode != "stream":
            raise NDSError("only a selection of mode stream can be reweighted; a subset is drawn already.")
        if len(weights) != len(self.weights):
            raise NDSError(f"{len(weights)} weights for the {len(self.weights)} clusters of the selection.")
        return dataclasses.replace(self, weights=np.asarray(weights, dtype=np.float64))

    def save(self, path: str | os.PathLike[str], key: str) -> None:
        """Write the selection artefact."""
        payload = {"mode": self.mode, "weights": self.weights.tolist(), **self.info}
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
        return cls(table, mode, weights, info)


def select(
    index: SourceIndex, partition: Partition, config: SelectionConfig, scores: Scores | None = None
) -> Selection:
    """Select images of a partitioned source.

    Args:
        index, partition: the source and its clusters; they must belong together.
        config: selector, mode, budget, temperature, seed.
        scores: the client's scores; needed by ``nds``, ignored by the others.

    Raises:
        NDSError: what does not fit together, or a bad budget, temperature or score.
    """
    partition.check_matches(index)
    if config.selector == "nds" and scores and scores.partition not in ("", partition.hash):
        raise NDSError(
            f"the scores are of an expert set of another partition: expected {partition.hash[:12]}, got "
            f"{scores.partition[:12]}; score the experts that were trained on this partition."
        )
    sizes = partition.sizes
    weights = selector_weights(config, sizes, scores)
    rows = draw_rows(config, weights, sizes, partition.cluster)
    info = selection_info(config, sizes, scores, index.sources, (index.hash, partition.hash), len(rows))
    return Selection(_rows(index, partition, weights, rows), config.mode, weights, info)


def draw_rows(
    config: SelectionConfig,
    weights: npt.NDArray[np.float64],
    sizes: npt.NDArray[np.int64],
    cluster: npt.NDArray[np.integer],
) -> npt.NDArray[np.int64]:
    """Rows of the index that are selected, ascending.

    Args:
        config: selector, mode, budget and seed.
        weights, sizes: of the clusters, shape (K,).
        cluster: of every image, shape (N,); -1 is never selected.

    Raises:
        NDSError: no budget, or one larger than what can be drawn.
    """
    if config.mode == "stream" or config.selector == "full":
        # In a stream those of weight 0, too: a later scoring may give their cluster one.
        return np.flatnonzero(cluster >= 0)
    budget = sampling.resolve_budget(int(sizes[weights > 0].sum()), config.count, config.share)
    return sampling.draw_subset(weights, cluster, budget, config.seed)


def selection_info(
    config: SelectionConfig,
    sizes: npt.NDArray[np.int64],
    scores: Scores | None,
    sources: Sequence[str],
    hashes: tuple[str, str],
    images: int,
) -> dict[str, Any]:
    """How a selection came to be; ``hashes`` are those of the index and of the partition."""
    by_scores = scores if config.selector == "nds" else None
    return {
        "selector": config.selector,
        "seed": config.seed,
        "budget": images,
        "temperature": config.temperature,
        "normalisation": config.normalisation,
        "metric": by_scores.metric if by_scores else None,
        "z": [float(z) for z in by_scores.z] if by_scores else None,
        "sources": list(sources),
        "sizes": sizes.tolist(),
        "index": hashes[0],
        "partition": hashes[1],
        "expert_set": by_scores.expert_set if by_scores else None,
        "target_images": by_scores.images if by_scores else None,
    }


def selector_weights(
    config: SelectionConfig, sizes: npt.NDArray[np.int64], scores: Scores | None
) -> npt.NDArray[np.float64]:
    """w over the clusters, shape (K,): of the experts' scores, or in proportion to the clusters' sizes."""
    if config.selector != "nds":
        return np.asarray(sizes / sizes.sum(), dtype=np.float64)
    if scores is None:
        raise NDSError("the nds selector needs the client's scores: score the experts first.")
    if list(scores.clusters) != list(range(len(sizes))):
        raise NDSError(
            f"the scores are of clusters {list(scores.clusters)}, the partition has 0 to {len(sizes) - 1}: "
            "score the expert set that belongs to this partition."
        )
    return sampling.available_weights(
        sampling.cluster_weights(scores.z, config.temperature, config.normalisation), sizes
    )


def _rows(
    index: SourceIndex, partition: Partition, weights: npt.NDArray[np.float64], rows: npt.NDArray[np.int64]
) -> pa.Table:
    cluster = partition.cluster[rows]
    p = sampling.image_rates(weights, partition.sizes)[cluster]
    taken = index.table.take(pa.array(rows))
    columns = {name: taken.column(name) for name in ("source", "image_id", "url", "license", "checksum")}
    columns["cluster"] = pa.array(cluster.astype(np.int32))
    columns["p"] = pa.array(p)
    return pa.table({name: columns[name] for name in COLUMNS})


def cluster_table(selection: Selection, index: SourceIndex, partition: Partition) -> list[dict[str, Any]]:
    """One row per cluster, heaviest first: main sources, images, z, w and share of the draw.

    The share of the draw is the expected one of a stream and the drawn one of a subset.
    """
    sources = index.column("source")
    drawn = np.bincount(selection.column("cluster").to_numpy(), minlength=len(selection.weights))
    z = selection.info["z"]
    rows = []
    for k in np.argsort(-selection.weights, kind="stable").tolist():
        names, counts = np.unique(sources[partition.cluster == k].astype(str), return_counts=True)
        order = np.argsort(-counts, kind="stable")[:3]
        main = ", ".join(f"{names[i]} {counts[i] / counts.sum():.0%}" for i in order)
        share = selection.weights[k] if selection.mode == "stream" else drawn[k] / max(1, drawn.sum())
        rows.append(
            {
                "cluster": k,
                "sources": main,
                "images": int(partition.sizes[k]),
                "z": None if z is None else float(z[k]),
                "w": float(selection.weights[k]),
                "share": float(share),
            }
        )
    return rows


def source_shares(selection: Selection, index: SourceIndex) -> list[dict[str, Any]]:
    """Per source: its share of the index and of the selection (by p in a stream, by count in a subset)."""
    names, counts = np.unique(index.column("source").astype(str), return_counts=True)
    chosen = np.asarray(selection.column("source").cast(pa.string()).to_pylist(), dtype=str)
    amount = selection.column("p").to_numpy() if selection.mode == "stream" else np.ones(len(chosen))
    total = float(amount.sum())
    return [
        {
            "source": str(name),
            "index_share": float(count / counts.sum()),
            "draw_share": float(amount[chosen == name].sum() / total),
        }
        for name, count in zip(names, counts)
    ]


def effective_numbers(selection: Selection) -> dict[str, float]:
    """The effective number of clusters and the effective sample size of the weights."""
    sizes = np.asarray(selection.info["sizes"], dtype=np.int64)
    return {
        "effective_clusters": sampling.effective_clusters(selection.weights),
        "effective_sample_size": sampling.effective_sample_size(selection.weights, sizes),
    }


def _text(values: Sequence[str] | pa.Array) -> pa.Array:
    column = values if isinstance(values, pa.Array) else pa.array(values, pa.string())
    return column.cast(pa.string())

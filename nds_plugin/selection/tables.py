"""What is told of a selection: rows per cluster and per source, and effective numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from nds_plugin.selection.selection import Selection
from nds_plugin.selection.weights import effective_clusters, effective_sample_size
from nds_plugin.source.index import SourceIndex
from nds_plugin.source.partition import Partition


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
    of_images = selection.info.get("effective_sample_size")  # kept where single images were weighed
    return {
        "effective_clusters": effective_clusters(selection.weights),
        "effective_sample_size": of_images or effective_sample_size(selection.weights, sizes),
    }

"""What is told of a selection: rows per cluster and per source, and effective numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nds_plugin.selection.select_parts import WholeSelection
from nds_plugin.selection.selection import Selection
from nds_plugin.selection.weights import Floats, Ints, effective_clusters, effective_sample_size
from nds_plugin.source.census import Census, SourceCodes
from nds_plugin.source.index import SourceIndex
from nds_plugin.source.partition import Partition


def cluster_table(selection: Selection, index: SourceIndex, partition: Partition) -> list[dict[str, Any]]:
    """One row per cluster, heaviest first: main sources, images, z, w and share of the draw.

    The share of the draw is the expected one of a stream and the drawn one of a subset.
    """
    census = Census.of(index, partition)
    drawn = drawn_counts(selection, census)[0]
    shares = selection.weights if selection.mode == "stream" else drawn / max(1, drawn.sum())
    return cluster_rows(census, selection.weights, selection.info["z"], shares)


def cluster_rows(
    census: Census, weights: Floats, z: Sequence[float] | None, shares: Floats
) -> list[dict[str, Any]]:
    """:func:`cluster_table` from numbers: w, z and share of the draw of each cluster, shape (K,)."""
    names = sorted(census.sources)
    counts = census.counts[:-1, [census.sources.index(name) for name in names]]
    sizes = census.sizes
    rows = []
    for k in np.argsort(-weights, kind="stable").tolist():
        most = np.argsort(-counts[k], kind="stable")[:3]
        order = [i for i in most if counts[k, i] and (i == most[0] or counts[k, i] >= 0.005 * sizes[k])]
        rows.append(
            {
                "cluster": k,
                "sources": ", ".join(f"{names[i]} {counts[k, i] / sizes[k]:.0%}" for i in order),
                "images": int(sizes[k]),
                "z": None if z is None else float(z[k]),
                "w": float(weights[k]),
                "share": float(shares[k]),
            }
        )
    return rows


def source_shares(selection: Selection, index: SourceIndex) -> list[dict[str, Any]]:
    """Per source: its share of the index and of the selection (by p in a stream, by count in a subset)."""
    codes = SourceCodes()
    counts = np.bincount(codes.of(index.table.column("source")))
    names = list(codes.names)
    chosen = codes.of(selection.column("source"))
    amount = selection.column("p").to_numpy() if selection.mode == "stream" else np.ones(len(chosen))
    return source_rows(names, counts, np.array([amount[chosen == i].sum() for i in range(len(names))]))


def source_rows(names: Sequence[str], counts: Ints, drawn: Floats) -> list[dict[str, Any]]:
    """:func:`source_shares` from numbers: images of each source, and how much of it is drawn, in any unit."""
    rows = [
        {
            "source": str(names[i]),
            "index_share": float(counts[i] / counts.sum()),
            "draw_share": float(drawn[i] / drawn.sum()),
        }
        for i in range(len(names))
    ]
    return sorted(rows, key=lambda row: str(row["source"]))


def drawn_counts(selection: Selection, census: Census) -> tuple[Floats, Floats]:
    """Drawn images of each cluster, shape (K,), and of each source, shape (S,), in the order of the census."""
    clusters = np.bincount(selection.column("cluster").to_numpy(), minlength=len(selection.weights))
    code = SourceCodes(census.sources).of(selection.column("source"))
    sources = np.bincount(code, minlength=len(census.sources))
    return clusters.astype(np.float64), sources.astype(np.float64)


def effective_numbers(selection: Selection | WholeSelection) -> dict[str, float]:
    """The effective number of clusters and the effective sample size of the weights."""
    sizes = np.asarray(selection.info["sizes"], dtype=np.int64)
    of_images = selection.info.get("effective_sample_size")  # kept where single images were weighed
    return {
        "effective_clusters": effective_clusters(selection.weights),
        "effective_sample_size": of_images or effective_sample_size(selection.weights, sizes),
    }

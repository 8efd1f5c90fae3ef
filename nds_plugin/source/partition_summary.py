"""Size and make-up of the clusters of a partition, as rows and as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from nds_plugin.source.census import Census
from nds_plugin.source.index import SourceIndex
from nds_plugin.source.partition import Partition


class ClusterRow(NamedTuple):
    """One cluster in a summary: ``share`` of all clustered images, images ``by_source``."""

    cluster: int
    images: int
    share: float
    by_source: dict[str, int]


def summarise(partition: Partition, index: SourceIndex) -> list[ClusterRow]:
    """Size and make-up of each cluster, sources in falling order of their images."""
    partition.check_matches(index)
    census = Census.of(index, partition)
    clustered = int(census.sizes.sum())
    rows = []
    for k, (size, counts) in enumerate(zip(census.sizes.tolist(), census.counts)):
        falling = [i for i in np.argsort(-counts, kind="stable") if counts[i]]
        by_source = {census.sources[i]: int(counts[i]) for i in falling}
        rows.append(ClusterRow(k, size, size / clustered, by_source))
    return rows


def summary_table(rows: Sequence[ClusterRow], most: int = 4) -> str:
    """The summary as text, with the ``most`` largest sources of each cluster."""
    from tabulate import tabulate

    lines = []
    for row in rows:
        parts = [f"{name} {count / row.images:.0%}" for name, count in list(row.by_source.items())[:most]]
        rest = len(row.by_source) - most
        if rest > 0:
            parts.append(f"{rest} more")
        lines.append([row.cluster, row.images, f"{row.share:.1%}", ", ".join(parts)])
    return tabulate(lines, headers=["cluster", "images", "share", "sources (share of the cluster)"])

"""What a user reads about a selection before training."""

from __future__ import annotations

import logging

from tabulate import tabulate

from nds_plugin.images.cost import Cost
from nds_plugin.selection.selection import Selection
from nds_plugin.selection.tables import cluster_table, effective_numbers, source_shares
from nds_plugin.source.index import SourceIndex
from nds_plugin.source.partition import Partition

logger = logging.getLogger(__name__)


def log_selection(selection: Selection, index: SourceIndex, partition: Partition) -> None:
    """Log what will be drawn: a row per cluster, a row per source, and the effective numbers."""
    numbers = effective_numbers(selection)
    clusters = tabulate(cluster_table(selection, index, partition), headers="keys", floatfmt=".4f")
    shares = tabulate(source_shares(selection, index), headers="keys", floatfmt=".3f")
    seen = ", which looks at the client's images" if selection.info["sees_target"] else ""
    logger.info(
        "Selection by %s%s: %d images, mode %s, %.1f effective clusters of %d, effective sample size %.0f; the "
        "client's cost: %s.\n%s\n\n%s",
        selection.info["selector"],
        seen,
        len(selection),
        selection.mode,
        numbers["effective_clusters"],
        len(selection.weights),
        numbers["effective_sample_size"],
        Cost.from_dict(selection.info["cost"]),
        clusters,
        shares,
    )

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
    """Log what will be drawn: a row per source, the effective sample size, and a row per cluster where these are scored."""
    # Where nothing is scored, the clusters are the sources.
    scored = selection.info["z"] is not None
    tables = [tabulate(source_shares(selection, index), headers="keys", floatfmt=".3f")]
    numbers = effective_numbers(selection)
    facts = [f"{len(selection)} images", f"mode {selection.mode}"]
    if scored:
        tables.insert(0, tabulate(cluster_table(selection, index, partition), headers="keys", floatfmt=".4f"))
        facts.append(f"{numbers['effective_clusters']:.1f} effective clusters of {len(selection.weights)}")
    facts.append(f"effective sample size {numbers['effective_sample_size']:.0f}")
    cost = Cost.from_dict(selection.info["cost"])
    logger.info(
        "Selection by %s%s: %s%s.\n%s",
        selection.info["selector"],
        ", which looks at the client's images" if selection.info["sees_target"] else "",
        ", ".join(facts),
        f"; the client's cost: {cost}" if cost.images else "",
        "\n\n".join(tables),
    )

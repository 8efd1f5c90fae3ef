"""What a user reads about a selection before training."""

from __future__ import annotations

import logging

import numpy as np
from tabulate import tabulate

from nds_plugin.experts.scores import Scores
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


def warn_if_indistinct(scores: Scores) -> None:
    """Say so where the scores differ hardly more than by their errors: min-max stretches such noise, too.

    By the standard deviation over the experts, not their range: the range of pure noise grows with K
    (2.8 standard errors of 8 experts, 4.5 of 50). The factor 1.5 is our choice.
    """
    spread, error = float(np.ptp(scores.z)), float(np.mean(scores.stderr))
    if len(scores.z) > 1 and float(np.std(scores.z, ddof=1)) <= 1.5 * error:
        logger.warning(
            "The scores of the %d experts lie within %.4f of each other, at a standard error of %.4f: they hardly "
            "tell the clusters apart. Score more images (NDS.SCORING.MAX_IMAGES), or cut the source differently "
            "(NDS.PARTITION)%s.",
            len(scores.z),
            spread,
            error,
            ", or try NDS.SCORING.METRIC log_likelihood" if "accuracy" in scores.metric else "",
        )

"""What a user reads about a client's scores."""

from __future__ import annotations

import logging

import numpy as np

from nds_plugin.experts.scores import Scores

logger = logging.getLogger(__name__)


def scores_text(scores: Scores, path: str) -> str:
    """What a client's scoring found, cluster by cluster, and what it cost; ``path`` is where it was written."""
    lines = [
        f"cluster {cluster:4d}: {scores.metric} {z:.4f} +- {stderr:.4f}"
        for cluster, z, stderr in zip(scores.clusters, scores.z, scores.stderr)
    ]
    lines.append(
        f"{scores.images} images scored, {scores.unreadable} unreadable; {scores.cost}; wrote {path}"
    )
    if scores.indistinct:
        lines.append(
            f"{_indistinct(scores)}: a draw by them follows chance. Score more images, or try other experts."
        )
    return "\n".join(lines)


def warn_if_indistinct(scores: Scores) -> None:
    """Say so where the scores differ hardly more than by their errors: min-max stretches such noise, too."""
    if scores.indistinct:
        logger.warning(
            "%s: they hardly tell the clusters apart. Score more images (NDS.SCORING.MAX_IMAGES), or cut the source "
            "differently (NDS.PARTITION)%s.",
            _indistinct(scores),
            ", or try NDS.SCORING.METRIC log_likelihood" if "accuracy" in scores.metric else "",
        )


def _indistinct(scores: Scores) -> str:
    return (
        f"The scores of the {len(scores.z)} experts lie within {float(np.ptp(scores.z)):.4f} of each other, at a standard "
        f"error of {float(np.mean(scores.stderr)):.4f}"
    )

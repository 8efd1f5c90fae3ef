"""Sources without experts: their clusters are weighed by how alike experts of other sources find them and the client."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from nds_plugin.errors import NDSError, unknown_name
from nds_plugin.experts.description import Description
from nds_plugin.experts.scores import SIMILARITY_METRIC, Scores
from nds_plugin.selection.selectors.base import SELECTORS, ClusterSelector, Floats, Ints, Need, Softmax
from nds_plugin.selection.weights import available_weights
from nds_plugin.settings import Settings, setting

SIMILARITIES = ("cosine", "distance")


@dataclass(frozen=True)
class DescribedBy(Settings):
    """By which experts a source is described."""

    what: ClassVar[str] = "snds"

    experts: str = setting(
        "", "folder of the experts that describe the source; they may be of any other", decides=False
    )
    datasets: tuple[str, ...] = setting(
        (),
        "instead of a folder, datasets that the job trains such experts on, by NDS.PARTITION and NDS.EXPERTS",
        names=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.experts and self.datasets:
            raise NDSError("NDS.SNDS.EXPERTS and NDS.SNDS.DATASETS are both set: keep one of them.")


@SELECTORS.register
@dataclass(frozen=True)
class ScalableNDS(ClusterSelector, Softmax):
    """w = softmax(s' / T), s_k how alike the client's z and the vector of cluster k are.

    The aim is that of Scalable NDS (Cao et al., NeurIPS 2021): no expert is trained for a new source.
    """

    similarity: str = setting(
        "cosine",
        "of the client's z and a cluster's vector, both standardised over the source's clusters: cosine, or minus "
        "the distance",
        choices=SIMILARITIES,
    )

    name: ClassVar[str] = "snds"
    label: ClassVar[str] = "Scalable NDS"
    colour: ClassVar[str] = "#c2703d"
    needs: ClassVar[Need] = Need.CLUSTERS | Need.DESCRIPTION
    also: ClassVar[tuple[type[Settings], ...]] = (DescribedBy,)
    what: ClassVar[str] = "snds"

    def cluster_weights(self, z: Floats | None, sizes: Ints) -> Floats:
        """``z`` holds the similarities of the source's clusters; see :func:`similarities`."""
        return available_weights(self.softmax(np.asarray(z)), sizes)


def similarities(z: npt.ArrayLike, vectors: npt.ArrayLike, similarity: str) -> Floats:
    """How alike a client's z and the vectors of a source's clusters are, shape (M,), higher is more alike.

    Each expert's numbers are standardised by their mean and deviation over the clusters, since experts differ
    in how hard their task is. An expert whose numbers are the same for all clusters is left out: it tells nothing of them.

    Args:
        z: of K experts on the client's images, shape (K,).
        vectors: of the same experts on the images of M clusters, shape (M, K).
        similarity: one of ``SIMILARITIES``.

    Raises:
        NDSError: shapes that do not fit, or an unknown similarity.
    """
    table, client = np.asarray(vectors, dtype=np.float64), np.asarray(z, dtype=np.float64)
    if table.ndim != 2 or client.shape != table.shape[1:]:
        raise NDSError(f"expected z of the {table.shape[-1]} experts of the description, got {client.size}.")
    telling = table.std(axis=0) > 1e-12
    table, client = np.ascontiguousarray(table[:, telling]), client[telling]
    mean, deviation = table.mean(axis=0), table.std(axis=0)
    table, client = (table - mean) / deviation, (client - mean) / deviation
    if similarity == "distance":
        return np.asarray(-np.sqrt(np.square(table - client).sum(axis=1) / max(1, len(client))))
    if similarity == "cosine":
        length = np.linalg.norm(table, axis=1) * np.linalg.norm(client)
        return np.asarray(np.divide(table @ client, length, out=np.zeros(len(table)), where=length > 1e-12))
    raise unknown_name("snds similarity", similarity, SIMILARITIES)


def similar_scores(scores: Scores, description: Description, similarity: str) -> Scores:
    """A client's scores of experts as scores of the clusters that these experts describe.

    Their standard errors are not estimated, and are 0.

    Raises:
        NDSError: scores of other experts, or of a metric that the description does not hold.
    """
    scores.check_matches(description.expert_set, description.experts)
    values = similarities(scores.z, description.of_metric(scores.metric), similarity)
    found = {"z": values.tolist(), "stderr": [0.0] * len(values)}
    by = {"metric": scores.metric, "z": list(scores.z), "description": description.hash}
    return dataclasses.replace(
        scores,
        clusters=list(range(len(values))),
        metric=SIMILARITY_METRIC,
        details={SIMILARITY_METRIC: found, "experts": by},
        partition=description.partition,
        **found,
    )

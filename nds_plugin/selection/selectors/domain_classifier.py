"""A domain classifier: importance resampling by the density ratio of target and source features."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from nds_plugin.errors import NDSError
from nds_plugin.selection.selectors.base import SELECTORS, Evidence, Floats, ImageSelector, Need
from nds_plugin.settings import setting
from nds_plugin.source.index import SourceIndex

FIT_IMAGES = 50_000  # source images that one classifier is fitted on; our choice


@SELECTORS.register
@dataclass(frozen=True)
class DomainClassifier(ImageSelector):
    """p(x) in proportion to q_target(x) / q_source(x), the odds of a logistic classifier.

    The classifier tells features of the target's images from those of the source's, both given the
    same mass, so that its odds are the ratio of the two densities. An image is judged by a
    classifier that was fitted without it (folds decided by the images' identities), since one that
    knows it would call it source.
    """

    l2: float = setting(0.01, "strength of the L2 penalty of the classifier", above=0)
    folds: int = setting(
        5, "parts of the source; each is judged by a classifier that did not see it", least=2
    )

    name: ClassVar[str] = "domain_classifier"
    label: ClassVar[str] = "Domain classifier"
    colour: ClassVar[str] = "#b0455a"
    needs: ClassVar[Need] = Need.FEATURES | Need.TARGET
    sees_target: ClassVar[bool] = True
    what: ClassVar[str] = "domain_classifier"

    def weights(self, evidence: Evidence) -> tuple[Floats, dict[str, Any]]:
        """See :class:`~nds_plugin.selection.selectors.base.ImageSelector`."""
        source, target = evidence.features()
        rank = identity_rank(evidence.index)[source.readable]
        if len(rank) < 2:
            raise NDSError(f"domain_classifier: {len(rank)} readable source images; it needs 2 or more.")
        ratio = log_density_ratio(source.usable, target.usable, rank, self.l2, self.folds)
        weights = np.zeros(len(source.readable))
        weights[source.readable] = np.exp(ratio - ratio.max())
        facts = {"least_log_ratio": float(ratio.min()), "most_log_ratio": float(ratio.max())}
        return weights, facts


def log_density_ratio(
    source: npt.NDArray[np.float32],
    target: npt.NDArray[np.float32],
    rank: npt.NDArray[np.int64],
    l2: float,
    folds: int,
) -> Floats:
    """log q_target / q_source at each source image, by classifiers that did not see it; shape (N,).

    Args:
        source, target: features, shapes (N, D) and (n, D).
        rank: a random but fixed order of the source's images, shape (N,): deals the folds.
        l2: regularisation.
        folds: number of classifiers.
    """
    from nds_plugin.images.linear import fit_linear  # needs torch, which knowing the selector does not

    ratio = np.empty(len(source))
    order = np.argsort(rank, kind="stable")
    part = np.empty(len(source), dtype=np.int64)
    part[order] = np.arange(len(source)) % folds
    for fold in np.unique(part):
        others = order[part[order] != fold][:FIT_IMAGES]
        features = np.concatenate([source[others], target])
        domain = np.repeat([0, 1], [len(others), len(target)])
        log_p = fit_linear(features, domain, 2, l2=l2, balanced=True).log_posterior(source[part == fold])
        ratio[part == fold] = log_p[:, 1] - log_p[:, 0]
    return ratio


def identity_rank(index: SourceIndex) -> npt.NDArray[np.int64]:
    """Place of each image in a random order that its identity alone decides, shape (N,)."""
    keys = [
        hashlib.sha256(f"{source}\0{name}".encode()).digest()
        for source, name in zip(index.column("source").tolist(), index.column("image_id").tolist())
    ]
    rank = np.empty(len(keys), dtype=np.int64)
    rank[sorted(range(len(keys)), key=keys.__getitem__)] = np.arange(len(keys))
    return rank

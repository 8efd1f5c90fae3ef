"""Training and scoring of the gate, the one network that stands in for K experts.

NDS's protocol is kept: the images stay with the client and K numbers leave it. z_k is the mean
posterior of cluster k over the client's images, one forward pass an image, where heads take 4 and K networks 4 (K + 1).
"""

from __future__ import annotations

import logging
import os

import numpy as np
import numpy.typing as npt
import torch

from nds_plugin.errors import NDSError
from nds_plugin.experts.scores import GATE_METRIC, SHARE_METRIC, Scores
from nds_plugin.files.artifacts import content_hash
from nds_plugin.images.backbones import FeatureNetwork
from nds_plugin.images.linear import LinearClassifier, fit_linear
from nds_plugin.selection.selectors.base import Features, TargetConfig
from nds_plugin.selection.selectors.domain_classifier import FIT_IMAGES, identity_rank
from nds_plugin.selection.selectors.gate import GateConfig
from nds_plugin.selection.selectors.gate_set import CENTROIDS, KIND, Gate, gate_is_complete, write_gate
from nds_plugin.selection.selectors.histogram import Histogram, centroids, nearest_logits, one_hot
from nds_plugin.selection.selectors.target import target_features
from nds_plugin.source.features import features_key
from nds_plugin.source.index import SourceIndex
from nds_plugin.source.partition import Partition

logger = logging.getLogger(__name__)
_CPU = torch.device("cpu")


def gate_key(
    index: SourceIndex,
    partition: Partition,
    network: FeatureNetwork,
    crop_size: int,
    config: GateConfig | None,
) -> str:
    """Hash of everything a gate is made from; without a config, a gate of centroids."""
    made_by = config.identity() if config else CENTROIDS
    return content_hash([KIND, features_key(index, network, crop_size), partition.hash, made_by])


def train_gate(
    index: SourceIndex,
    partition: Partition,
    network: FeatureNetwork,
    features: Features,
    crop_size: int,
    config: GateConfig | None,
    out_dir: str | os.PathLike[str],
) -> Gate:
    """Make the classifier of clusters from the source's features and write the gate, unless it is there.

    The classes keep the clusters' own frequencies: for a target drawn from the source like the
    source itself, z would be the clusters' shares.

    Args:
        index, partition: the source and its clusters; they must belong together.
        network, features: the network and its features of the index's images, in its order.
        crop_size: side of the crops that the features are of.
        config: how it is fitted; None for nearest centroids, with which there is nothing to fit.
        out_dir: the gate's folder.

    Raises:
        NDSError: what does not belong together.
    """
    partition.check_matches(index)
    if len(features.values) != len(index):
        raise NDSError(f"gate: features of {len(features.values)} images for the {len(index)} of the index.")
    key = gate_key(index, partition, network, crop_size, config)
    if gate_is_complete(out_dir, key):
        logger.info("gate: kept %s", out_dir)
        return Gate.load(out_dir)
    rows = _rows_to_fit(index, partition, features.readable)
    targets = partition.cluster[rows].astype(np.int64)
    if config:
        classifier = fit_linear(features.values[rows], targets, partition.num_clusters, l2=config.l2)
    else:
        classifier = LinearClassifier(*nearest_logits(centroids(features, partition)))
    right = classifier.log_posterior(features.values[rows]).argmax(axis=1) == targets
    logger.info(
        "gate: %d clusters, %d images, training accuracy %.3f",
        partition.num_clusters,
        len(rows),
        right.mean(),
    )
    facts = {
        "crop_size": crop_size, "partition": partition.hash, "index": index.hash, "sources": index.sources,
        "config": config.identity() if config else CENTROIDS, "images": len(rows), "train_accuracy": round(float(right.mean()), 6),
    }  # fmt: skip
    return write_gate(out_dir, key, network, classifier, facts)


def _rows_to_fit(
    index: SourceIndex, partition: Partition, readable: npt.NDArray[np.bool_]
) -> npt.NDArray[np.int64]:
    """Images that the classifier learns from, in an order that their identities decide."""
    rows = np.flatnonzero(readable & (partition.cluster >= 0))
    return np.asarray(rows[np.argsort(identity_rank(index)[rows])[:FIT_IMAGES]])


def score_gate(
    gate: Gate,
    images: SourceIndex | str | os.PathLike[str],
    config: TargetConfig | None = None,
    device: torch.device = _CPU,
) -> Scores:
    """z_k, the mean posterior of cluster k over a client's images, or by centroids their share; the client runs this.

    Args:
        gate: a loaded gate.
        images: a folder or an index.
        config: which images, and how they are read.
        device: where the network runs.

    Returns:
        Scores of metric ``posterior`` or ``share`` that sum to one.

    Raises:
        NDSError: no images, none that can be read, or a gate whose files are not in order.
    """
    config = config or TargetConfig()
    classifier = gate.classifier()
    features = target_features(gate.network(), images, gate.crop_size, config, device)
    if features.values.shape[1] != classifier.weight.shape[1]:
        raise NDSError(
            f"gate {gate.directory}: its classifier takes {classifier.weight.shape[1]} features, its network "
            f"gives {features.values.shape[1]}: make the gate again."
        )
    posterior = np.exp(classifier.log_posterior(features.usable))
    metric, task = GATE_METRIC, "gate"
    if gate.by_centroids:
        posterior = one_hot(posterior.argmax(axis=1), gate.num_clusters)
        metric, task = SHARE_METRIC, Histogram.name
    count = len(posterior)
    stderr = posterior.std(axis=0, ddof=1) / np.sqrt(count) if count > 1 else np.zeros(gate.num_clusters)
    values = {"z": posterior.mean(axis=0).tolist(), "stderr": stderr.tolist()}
    computed = {
        "precision": "fp32", "device": device.type, "crop_size": gate.crop_size,
        "max_images": config.max_images, "seed": config.seed,
    }  # fmt: skip
    return Scores(
        list(range(gate.num_clusters)), values["z"], values["stderr"], metric, count, gate.hash, task,
        int((~features.readable).sum()), {metric: values, "computed": computed},
        gate.manifest["partition"], features.cost,
    )  # fmt: skip

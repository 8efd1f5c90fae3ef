"""Scoring task-supervised experts: one linear layer on frozen features of the client's images."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nds_plugin.errors import NDSError
from nds_plugin.images.linear import fit_linear

Array = npt.NDArray[np.float64]


def cross_validate(features: Array, labels: npt.NDArray[np.int64], folds: int, seed: int) -> Array:
    """How well a linear classifier does on images that it was not trained on.

    Args:
        features: of a frozen expert, shape (n, d).
        labels: shape (n,).
        folds: number of parts; each is predicted by a classifier trained on the others.
        seed: of the parts.

    Returns:
        Shape (n, 2): whether each image's class was predicted (0 or 1) and the log-likelihood
        of its class.

    Raises:
        NDSError: fewer than two images or two classes.
    """
    classes, targets = np.unique(labels, return_inverse=True)
    if len(labels) < 2 or len(classes) < 2:
        raise NDSError(
            f"task-supervised experts need labelled images of at least 2 classes, got {len(labels)} images "
            f"of {len(classes)} classes: use experts of task 'rotation'."
        )
    part = stratified_folds(targets, min(folds, len(labels)), seed)
    result = np.zeros((len(labels), 2))
    for fold in np.unique(part):
        test = part == fold
        classifier = fit_linear(features[~test], targets[~test], len(classes))
        log_p = classifier.log_posterior(features[test])
        rows = np.arange(int(test.sum()))
        result[test, 0] = log_p.argmax(axis=1) == targets[test]
        result[test, 1] = log_p[rows, targets[test]]
    return result


def stratified_folds(targets: npt.NDArray[np.int64], folds: int, seed: int) -> npt.NDArray[np.int64]:
    """Part of each image, shape (n,): every class is dealt out evenly, in a random order."""
    rng = np.random.Generator(np.random.PCG64(seed))
    shuffled = rng.permutation(len(targets))
    by_class = shuffled[np.argsort(targets[shuffled], kind="stable")]
    part = np.empty(len(targets), dtype=np.int64)
    part[by_class] = np.arange(len(targets)) % folds
    return part

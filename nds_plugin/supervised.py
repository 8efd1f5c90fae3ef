"""Scoring task-supervised experts: one linear layer on frozen features of the client's images."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from nds_plugin.errors import NDSError

L2 = 1e-2  # weight of the squared weights beside the mean cross-entropy; our choice
MAX_ITERATIONS = 100
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
        log_p = _fit_and_predict(features[~test], targets[~test], features[test], len(classes))
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


def _fit_and_predict(train: Array, targets: npt.NDArray[np.int64], test: Array, classes: int) -> Array:
    """Log-probabilities (len(test), classes) of a multinomial logistic regression."""
    mean, scale = train.mean(axis=0), train.std(axis=0) + 1e-6
    x, y = torch.from_numpy((train - mean) / scale), torch.from_numpy(targets)
    weight = torch.zeros(classes, train.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=MAX_ITERATIONS, tolerance_grad=1e-7, line_search_fn="strong_wolfe"
    )

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        # The bias is held a little too: a class that is missing here must not get log 0.
        value = F.cross_entropy(F.linear(x, weight, bias), y)
        value = value + L2 * (weight.square().sum() + 1e-2 * bias.square().sum())
        value.backward()
        return value

    optimizer.step(loss)
    with torch.no_grad():
        logits = F.linear(torch.from_numpy((test - mean) / scale), weight, bias)
        return np.asarray(logits.log_softmax(dim=1).numpy())

"""A source with a planted domain: features of two kinds, of which the target has one."""

from __future__ import annotations

import numpy as np

from nds_plugin.images.cost import Cost
from nds_plugin.selection.selectors.base import Evidence, Features
from nds_plugin.source.index import ImageRecord, SourceIndex

DIMENSION = 24


def features(rng: np.random.Generator, count: int, near: bool) -> np.ndarray:
    """Unit vectors around one of two directions, all positive as after a ReLU."""
    centre = np.ones(DIMENSION)
    centre[: DIMENSION // 3] += 1.0 if near else 0.0
    centre[-DIMENSION // 3 :] += 0.0 if near else 1.0
    points = np.abs(centre + rng.normal(0, 0.45, (count, DIMENSION)))
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def evidence(near: int = 60, far: int = 240, target: int = 40, broken: int = 0, seed: int = 0) -> Evidence:
    """Source ``near`` (the planted domain) and ``far``; a target like ``near``.

    The first ``broken`` images of each source and of the target cannot be read.
    """
    rng = np.random.default_rng(seed)
    records = [
        ImageRecord(source, str(i), f"{source}/{i}.jpg", 64, 48, label)
        for label, (source, count) in enumerate((("near", near), ("far", far)))
        for i in range(count)
    ]
    index = SourceIndex.from_records(records, classes=("car", "shoe"))
    values = np.concatenate([features(rng, near, True), features(rng, far, False)])
    readable = np.ones(near + far, dtype=bool)
    readable[:broken] = readable[near : near + broken] = False
    seen = features(rng, target, True)
    visible = np.arange(target) >= broken
    cost = Cost(int(visible.sum()), int(visible.sum()), 0.25)
    values[~readable], seen[~visible] = 0, 0
    return Evidence(index, Features(values, readable), Features(seen, visible, cost))


def permuted(given: Evidence, order: np.ndarray) -> Evidence:
    """The same source in another order."""
    assert given.source is not None
    index = SourceIndex(given.index.table.take(order), given.index.classes)
    return Evidence(index, Features(given.source.values[order], given.source.readable[order]), given.target)

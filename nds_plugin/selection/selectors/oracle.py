"""The oracle: images that a person named as the client's own domain, drawn uniformly. An upper bound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from nds_plugin.errors import NDSError, unknown_name
from nds_plugin.selection.selectors.base import Evidence, Floats


@dataclass(frozen=True)
class Oracle:
    """p(x) is uniform over the images of given source datasets, or whose main class is given.

    Attributes:
        sources: names of source datasets.
        classes: names of classes; an image's class is the one with the largest area in it.
        rest: share of the probability that all other images have together. A small one, such as
            0.001, fills a budget larger than the named domain after nearly all of that is drawn.
    """

    sources: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    rest: float = 0.0

    name: ClassVar[str] = "oracle"
    needs_features: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.sources and not self.classes:
            raise NDSError("the oracle needs source datasets or classes: set NDS.ORACLE.SOURCES or CLASSES.")
        if not 0.0 <= self.rest < 1.0:
            raise NDSError(f"oracle rest must lie in [0, 1), got {self.rest}.")

    def weights(self, evidence: Evidence) -> tuple[Floats, dict[str, Any]]:
        """See :class:`~nds_plugin.selection.selectors.base.ImageSelector`."""
        index = evidence.index
        for what, names, known in (
            ("source of the oracle", self.sources, index.sources),
            ("class of the oracle", self.classes, index.classes),
        ):
            for name in names:
                if name not in known:
                    raise unknown_name(what, name, known)
        positions = [index.classes.index(name) for name in self.classes]
        named = np.isin(index.column("source").astype(str), self.sources)
        named |= np.isin(index.column("label"), positions)
        count = int(named.sum())
        if not count:
            raise NDSError(f"no image of the source has the main class {', '.join(self.classes)}.")
        outside = len(named) - count
        rest = self.rest if outside else 0.0
        weights = np.where(named, (1.0 - rest) / count, rest / max(1, outside))
        return weights, {"named_images": count}

"""The oracle: images that a person named as the client's own domain, drawn uniformly. An upper bound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from nds_plugin.errors import NDSError, unknown_name
from nds_plugin.selection.selectors.base import SELECTORS, Evidence, Floats, ImageSelector
from nds_plugin.settings import setting


@SELECTORS.register
@dataclass(frozen=True)
class Oracle(ImageSelector):
    """p(x) is uniform over the images of given source datasets, or whose main class is given.

    An image's main class is the one with the largest area in it.
    """

    sources: tuple[str, ...] = setting((), "source datasets of the client's own domain", names=True)
    classes: tuple[str, ...] = setting((), "main classes of the client's own domain", names=True)
    rest: float = setting(
        0.0,
        "probability of all other images together; a small one, such as 0.001, fills a budget beyond the domain",
        least=0,
        below=1,
    )

    name: ClassVar[str] = "oracle"
    label: ClassVar[str] = "Oracle"
    colour: ClassVar[str] = "#22303c"
    by_hand: ClassVar[bool] = True
    what: ClassVar[str] = "oracle"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.sources and not self.classes:
            raise NDSError(
                "the oracle needs the source datasets or main classes of the client's own domain: name some by --sources "
                "or --classes (NDS.ORACLE.SOURCES or NDS.ORACLE.CLASSES)."
            )

    def check_sources(self, names: Sequence[str]) -> None:
        """The domain's datasets must be among the source's."""
        for name in self.sources:
            if name not in names:
                raise unknown_name("source of the oracle", name, names)

    def weights(self, evidence: Evidence) -> tuple[Floats, dict[str, Any]]:
        """See :class:`~nds_plugin.selection.selectors.base.ImageSelector`."""
        index = evidence.index
        self.check_sources(index.sources)
        for name in self.classes:
            if name not in index.classes:
                raise unknown_name("class of the oracle", name, index.classes)
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

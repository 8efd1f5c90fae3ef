"""What an image selector is: evidence in, probabilities of the source's images out, with the cost."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from nds_plugin.errors import NDSError
from nds_plugin.images.cost import Cost
from nds_plugin.selection.image_weights import ImageWeights
from nds_plugin.selection.weights import normalise_probabilities
from nds_plugin.source.index import SourceIndex

logger = logging.getLogger(__name__)

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Features:
    """Features of some images and what they cost.

    Attributes:
        values: shape (N, D), L2-normalised; zeros for an image that could not be read.
        readable: shape (N,).
        cost: of making them.
    """

    values: npt.NDArray[np.float32]
    readable: npt.NDArray[np.bool_]
    cost: Cost = field(default_factory=Cost)

    @property
    def usable(self) -> npt.NDArray[np.float32]:
        """Features of the readable images, shape (n, D)."""
        return self.values[self.readable]


@dataclass(frozen=True)
class Evidence:
    """All that an image selector may look at.

    Attributes:
        index: the source, N images.
        source: features of its images, in its order; None for selectors that need none.
        target: features of the client's images by the same network; likewise.
    """

    index: SourceIndex
    source: Features | None = None
    target: Features | None = None

    def features(self) -> tuple[Features, Features]:
        """Of source and target.

        Raises:
            NDSError: they are not there or do not fit together.
        """
        if self.source is None or self.target is None:
            raise NDSError("this selector compares features: give those of the source and of the target.")
        if len(self.source.values) != len(self.index):
            raise NDSError(
                f"features of {len(self.source.values)} images for the {len(self.index)} of the source."
            )
        if self.source.values.shape[1] != self.target.values.shape[1]:
            raise NDSError(
                f"features of the source have {self.source.values.shape[1]} numbers, those of the target "
                f"{self.target.values.shape[1]}: make both by one network."
            )
        return self.source, self.target


class ImageSelector(Protocol):
    """Weighs single images. Implementations are dataclasses whose fields are all their settings."""

    name: ClassVar[str]
    needs_features: ClassVar[bool]

    def weights(self, evidence: Evidence) -> tuple[Floats, dict[str, Any]]:
        """Weights of 0 or more of the source's images, shape (N,), and what else belongs in the record.

        They must not depend on the order of the index but for rounding. An unreadable image gets 0.
        """
        ...


def weigh_images(selector: ImageSelector, evidence: Evidence) -> ImageWeights:
    """Probabilities of the source's images by a selector, with settings and cost.

    Raises:
        NDSError: what the selector cannot work with.
    """
    values, facts = selector.weights(evidence)
    p = normalise_probabilities(values, f"the weights by {selector.name}")
    cost = evidence.target.cost if selector.needs_features and evidence.target is not None else Cost()
    details = {"settings": settings(selector), **facts}
    logger.info(
        "%s: %d of %d images can be drawn; the client's cost: %s", selector.name, (p > 0).sum(), len(p), cost
    )
    identities = evidence.index.table.select(["source", "image_id"])
    return ImageWeights(p, identities, selector.name, selector.needs_features, cost, details)


def settings(selector: ImageSelector) -> dict[str, Any]:
    """All settings of a selector, part of the key of what it makes."""
    return asdict(selector)  # type: ignore[call-overload]

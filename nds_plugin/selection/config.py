"""Names of the selectors, and the settings of a selection."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from nds_plugin.errors import unknown_name
from nds_plugin.selection.weights import check_softmax

MODES = ("subset", "stream")
# Cluster selectors weigh clusters by the K numbers that a client sends (Scores).
CLUSTER_SELECTORS = ("nds", "gate")
# Image selectors weigh single images (ImageWeights); the first two look at the client's images.
IMAGE_SELECTORS = ("knn", "domain_classifier", "oracle")
SELECTORS = (*CLUSTER_SELECTORS, *IMAGE_SELECTORS, "uniform", "full")
SEES_TARGET = ("knn", "domain_classifier")
GATE_DRAWS = ("plain", "softmax")


@dataclass(frozen=True)
class SelectionConfig:
    """How to select.

    Attributes:
        selector: ``nds`` (by the experts' scores), ``gate`` (by the mean posterior of the clusters),
            ``knn``, ``domain_classifier`` or ``oracle`` (by weights of single images), ``uniform``
            (every image alike) or ``full`` (every image, the whole source).
        mode: ``subset`` or ``stream``.
        count, share: the budget of a subset, as a number of images or as a share of the source.
        temperature, normalisation: T of the softmax and the scaling of z before it.
        seed: of the draw.
        gate_draw: weights of ``gate``: z itself (``plain``) or ``softmax`` of z as for ``nds``.
    """

    selector: str = "nds"
    mode: str = "subset"
    count: int = 0
    share: float = 0.0
    temperature: float = 0.1
    normalisation: str = "minmax"
    seed: int = 0
    gate_draw: str = "plain"

    def __post_init__(self) -> None:
        if self.selector not in SELECTORS:
            raise unknown_name("selector", self.selector, SELECTORS)
        if self.mode not in MODES:
            raise unknown_name("selection mode", self.mode, MODES)
        if self.gate_draw not in GATE_DRAWS:
            raise unknown_name("draw of the gate", self.gate_draw, GATE_DRAWS)
        check_softmax(self.temperature, self.normalisation)

    def identity(self) -> dict[str, Any]:
        """What decides a draw: all settings that the selector looks at."""
        values = asdict(self)
        if self.selector != "gate":
            del values["gate_draw"]
        return values

    @property
    def needs_budget(self) -> bool:
        """Whether images are drawn and their number must be given."""
        return self.mode == "subset" and self.selector != "full"

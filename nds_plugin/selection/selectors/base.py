"""What a selector is: numbers of a client or evidence in, weights of clusters or images out."""

from __future__ import annotations

import enum
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt

from nds_plugin.errors import NDSError, unknown_name
from nds_plugin.images.cost import Cost
from nds_plugin.selection.image_weights import ImageWeights
from nds_plugin.selection.weights import (
    NORMALISATION,
    NORMALISATIONS,
    TEMPERATURE,
    cluster_weights,
    normalise_probabilities,
)
from nds_plugin.settings import Settings, setting
from nds_plugin.source.index import SourceIndex
from nds_plugin.source.partition import Partition

logger = logging.getLogger(__name__)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

S = TypeVar("S", bound="Selector")

ENTRY_POINTS = "nds_plugin.selectors"


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
class TargetConfig(Settings):
    """Which of the client's images are looked at, and how they are read."""

    what: ClassVar[str] = "target"

    max_images: int | None = setting(None, "look at only so many images, a random draw", least=1, none=0)
    seed: int = setting(0, "seed of that draw", least=0)
    num_workers: int = setting(2, "processes that read images", least=0, decides=False)


@dataclass(frozen=True)
class Evidence:
    """All that an image selector may look at.

    Attributes:
        index: the source, N images.
        source: features of its images, in its order; None for selectors that need none.
        target: features of the client's images by the same network; likewise.
        partition: of the source; likewise.
    """

    index: SourceIndex
    source: Features | None = None
    target: Features | None = None
    partition: Partition | None = None

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


class Need(enum.Flag):
    """What is made before a selector can weigh."""

    NOTHING = 0
    CLUSTERS = enum.auto()  # the partition of the source
    EXPERTS = enum.auto()  # z of the experts
    GATE = enum.auto()  # z of the gate
    CENTROIDS = enum.auto()  # z by nearest centroid
    DESCRIPTION = enum.auto()  # the source described by other experts, and z of those
    FEATURES = enum.auto()  # features of the source's images
    TARGET = enum.auto()  # features of the client's images, by the same network


@dataclass(frozen=True)
class Selector(Settings):
    """What weighs clusters or images; a frozen dataclass whose fields are all its settings.

    Attributes:
        name: as configs and command lines write it.
        label: in tables and legends.
        colour: of its line in figures.
        needs: what is made before.
        sees_target: whether it looks at the client's images or at features of them, beyond the K numbers
            that leave the client.
        by_hand: whether a person chose the images, so that it is no method but shows what room there is.
        whole: whether it takes all that there is, so that no budget is given.
        also: settings of steps that it alone has; in a config they stand beside its own.
    """

    name: ClassVar[str]
    label: ClassVar[str]
    colour: ClassVar[str] = "#66737f"
    needs: ClassVar[Need] = Need.NOTHING
    sees_target: ClassVar[bool] = False
    by_hand: ClassVar[bool] = False
    whole: ClassVar[bool] = False
    also: ClassVar[tuple[type[Settings], ...]] = ()

    def check_sources(self, names: Sequence[str]) -> None:
        """Refuse settings that name sources other than these; nothing here names any.

        Raises:
            NDSError: a source that is not among them.
        """


class ClusterSelector(Selector):
    """Weighs clusters, by the K numbers that a client sends or by nothing but their sizes."""

    def cluster_weights(self, z: Floats | None, sizes: Ints) -> Floats:
        """w over the clusters, shape (K,), summing to one.

        Args:
            z: what the client sent, shape (K,); None for a selector that needs no scores.
            sizes: |S_k|, shape (K,); an empty cluster gets 0.
        """
        raise NotImplementedError


class ImageSelector(Selector):
    """Weighs single images."""

    def weights(self, evidence: Evidence) -> tuple[Floats, dict[str, Any]]:
        """Weights of 0 or more of the source's images, shape (N,), and what else belongs in the record.

        They must not depend on the order of the index but for rounding. An unreadable image gets 0.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Softmax(Settings):
    """The settings of w = softmax(z' / T), which several selectors share."""

    temperature: float = setting(
        TEMPERATURE,
        "temperature T of the softmax; a higher one draws more evenly",
        above=0,
        config=".TEMPERATURE",
    )
    normalisation: str = setting(
        NORMALISATION,
        "how z is scaled before the softmax: minmax (to 0 ... 1) or none",
        choices=NORMALISATIONS,
        config=".NORMALISATION",
    )

    def softmax(self, z: npt.ArrayLike) -> Floats:
        """See :func:`~nds_plugin.selection.weights.cluster_weights`."""
        return cluster_weights(z, self.temperature, self.normalisation)


class Registry(Mapping[str, type[Selector]]):
    """Selectors by name. An outside package adds its own by ``@SELECTORS.register``."""

    def __init__(self) -> None:
        self._known: dict[str, type[Selector]] = {}

    def register(self, selector: type[S]) -> type[S]:
        """Add a selector; a class decorator.

        Raises:
            NDSError: no name, or one that is taken by another class.
        """
        name = getattr(selector, "name", "")
        if not name or not getattr(selector, "label", ""):
            raise NDSError(f"selector {selector.__qualname__}: give the class a name and a label.")
        known = self._known.get(name)
        if known is not None and known.__qualname__ != selector.__qualname__:
            raise NDSError(
                f"the name {name!r} of selector {selector.__qualname__} is that of {known.__qualname__}."
            )
        self._known[name] = selector
        return selector

    def load_packages(self) -> None:
        """Import the modules that installed packages name under the entry points ``nds_plugin.selectors``.

        Raises:
            NDSError: one that cannot be imported.
        """
        for entry in entry_points(group=ENTRY_POINTS):
            try:
                entry.load()
            except Exception as error:
                raise NDSError(
                    f"the selector {entry.name!r} of the package {entry.dist.name if entry.dist else '?'} cannot be "
                    f"loaded from {entry.value}: {type(error).__name__}: {error}. Mend or uninstall that package."
                ) from error

    def __getitem__(self, name: str) -> type[Selector]:
        if name not in self._known:
            raise unknown_name("selector", name, self._known)
        return self._known[name]

    def __contains__(self, name: object) -> bool:
        return name in self._known

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)


SELECTORS = Registry()


def weigh_images(selector: ImageSelector, evidence: Evidence) -> ImageWeights:
    """Probabilities of the source's images by a selector, with settings and cost.

    Raises:
        NDSError: what the selector cannot work with.
    """
    values, facts = selector.weights(evidence)
    p = normalise_probabilities(values, f"the weights by {selector.name}")
    looks = Need.TARGET in selector.needs
    cost = evidence.target.cost if looks and evidence.target is not None else Cost()
    details = {"settings": selector.identity(), **facts}
    logger.info(
        "%s: %d of %d images can be drawn; the client's cost: %s", selector.name, (p > 0).sum(), len(p), cost
    )
    identities = evidence.index.table.select(["source", "image_id"])
    return ImageWeights(p, identities, selector.name, selector.sees_target, cost, details)

"""What the steps ask of their host: named datasets, and the processes of the job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from nds_plugin.engine.processes import Processes
from nds_plugin.source.index import SourceIndex


@dataclass(frozen=True)
class Boxes:
    """The annotated objects of a dataset, crowds left out.

    Attributes:
        sources, image_ids: identity, as text, of the image that each lies in; M of them.
        xywh: x, y, width, height in pixels of the upright image, shape (M, 4).
        labels: class of each, as a position in the dataset's classes, shape (M,).
    """

    sources: Sequence[str]
    image_ids: Sequence[str]
    xywh: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]


class NamedDataset(Protocol):
    """A dataset of a host. Every method raises an NDSError where its files cannot be read."""

    def index(self) -> SourceIndex:
        """The images; the source is called as the dataset."""
        ...

    def classes(self) -> list[str]:
        """Names of the classes."""
        ...

    def fingerprint(self) -> str:
        """Hash of the annotations: another one means that what was made from them is out of date."""
        ...

    def image_folder(self) -> str:
        """The folder of the images, empty where each names its own."""
        ...

    def boxes(self) -> Boxes:
        """The annotated objects."""
        ...

    def check(self) -> None:
        """Refuse annotations that do not fit their images, as far as only the images' files can tell."""
        ...

    def why_no_object(self) -> str:
        """Why none of the images has an annotated object, where none has; the end of a sentence."""
        ...


class Datasets(Protocol):
    """Datasets by name."""

    def dataset(self, name: str) -> NamedDataset:
        """The dataset of a name; nothing is read yet.

        Raises:
            NDSError: it is not known.
        """
        ...


class Host(Datasets, Processes, Protocol):
    """Who runs the steps: a training framework with its datasets and processes, or a tool with files."""

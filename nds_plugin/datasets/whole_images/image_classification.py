"""A store of whole images as a dataset for training and testing classifiers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nds_plugin.datasets.public import Split
from nds_plugin.errors import NDSError
from nds_plugin.store import AnnotationStore, file_names, open_or_build


class ImageClassification:
    """The images of a store with their classes: a map-style dataset for torch's DataLoader.

    Item n is (path, class from 0), or (loader(path), class) where a loader is given, as
    ``nds_plugin.images.reading.load_image`` or one that transforms, too. May be pickled: it travels as paths.

    Args:
        store: of whole images, as those of Stanford Dogs.
        image_root: folder that the images' file names are relative to.
        loader: makes of a path what the network sees.

    Raises:
        NDSError: the store's images have no class of their own.
    """

    def __init__(
        self,
        store: AnnotationStore,
        image_root: str | os.PathLike[str],
        loader: Callable[[str], Any] | None = None,
    ) -> None:
        if not store.has_labels:
            raise NDSError(
                f"{store.path}: its images have objects, but no class of their own: it is a detection dataset."
            )
        self.classes = store.classes
        self.targets: npt.NDArray[np.int32] = store.column("label")
        self._names = store.text_column("file_name")
        self._store, self._root, self._loader = store, file_names.image_root(store, image_root), loader

    @classmethod
    def of_split(
        cls, split: Split, root: str | os.PathLike[str], loader: Callable[[str], Any] | None = None
    ) -> ImageClassification:
        """A split of the catalogue, its store built first where need be.

        Args:
            root: DETECTRON2_DATASETS.
        """
        folder = Path(root)
        return cls(open_or_build(split.spec(folder)), split.image_root(folder), loader)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._store, self._root, self._loader)

    def __len__(self) -> int:
        return len(self._store)

    def __getitem__(self, position: int) -> tuple[Any, int]:
        if not 0 <= position < len(self):
            raise IndexError(position)
        path = file_names.join_name(self._root, self._names[position].as_py())
        return path if self._loader is None else self._loader(path), int(self.targets[position])

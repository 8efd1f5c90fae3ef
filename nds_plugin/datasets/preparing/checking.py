"""Which of the public datasets are there, whole, and of how many images. Nothing is built or changed."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nds_plugin.command_line import users_mistake
from nds_plugin.datasets.public import MissingFilesError, PublicDataset, Split
from nds_plugin.store import AnnotationStore, file_names
from nds_plugin.store.opening import open_built

logger = logging.getLogger(__name__)

MISSING, DAMAGED, FOUND, BUILT = "not found", "damaged", "found", "built"
SAMPLE = 50  # image files of a built store that are looked for


@dataclass(frozen=True)
class SplitState:
    """What was found of a split.

    Attributes:
        state: MISSING; DAMAGED; FOUND: its files are there, its store is not, or out of date; BUILT.
        images: how many, None where only a store could tell.
        counted: what was counted where there is no store.
        classes: of the store, None where there is none.
        problem: what is missing or damaged, one line; also of images that are not there.
    """

    split: Split
    state: str
    images: int | None = None
    counted: str = ""
    classes: int | None = None
    problem: str = ""

    @property
    def differs(self) -> bool:
        """Whether there are other images than the paper or, where it is silent, the provider counts."""
        expected = self.split.images if self.split.paper_images is None else self.split.paper_images
        return None not in (self.images, expected) and self.images != expected


@dataclass(frozen=True)
class DatasetState:
    """What was found of a dataset; ``looked`` are its folders, there or not."""

    dataset: PublicDataset
    looked: list[Path]
    splits: list[SplitState] = field(default_factory=list)

    @property
    def started(self) -> bool:
        """Whether any of its folders is there."""
        return any(folder.is_dir() for folder in self.looked)

    @property
    def damaged(self) -> bool:
        """Whether something that is there cannot be read."""
        return any(split.state == DAMAGED for split in self.splits)

    @property
    def missing(self) -> bool:
        """Whether no split is there."""
        return all(split.state == MISSING for split in self.splits)

    @property
    def verdict(self) -> str:
        """In two words, for people."""
        states = {split.state for split in self.splits}
        if self.damaged:
            return "damaged"
        if self.missing:
            return "incomplete" if self.started else "not found"
        if MISSING in states:
            return "found in part"
        return "found, stores built" if states == {BUILT} else "found"


def check(chosen: Iterable[tuple[PublicDataset, list[Split]]], root: Path) -> list[DatasetState]:
    """Look for datasets.

    Args:
        chosen: datasets and which of their splits.
        root: DETECTRON2_DATASETS.
    """
    return [
        DatasetState(dataset, _folders(dataset, root), [check_split(split, root) for split in splits])
        for dataset, splits in chosen
    ]


def check_split(split: Split, root: Path) -> SplitState:
    """Look for one split. Bad input and defects of a reader are both told in the state."""
    try:
        spec = split.spec(root)
        store = open_built(spec, spec.inputs())
        if store is not None:
            problem = _missing_images(split, root, store)
            return SplitState(split, BUILT, len(store), "", len(store.classes), problem)
        images, counted = _quick_count(split, root)
        folder = split.image_root(root)
        made = spec.path.parent in folder.parents  # with the store
        problem = "" if made or folder.is_dir() else f"its images are not there: {folder}"
        return SplitState(split, FOUND, images, counted, None, problem)
    except MissingFilesError as error:
        return SplitState(split, MISSING, problem=str(error.missing))
    except Exception as error:
        message = users_mistake(error)
        if message is None:
            logger.exception("%s", split.name)
            message = f"{type(error).__name__}: {error}"
        return SplitState(split, DAMAGED, problem=message)


def _quick_count(split: Split, root: Path) -> tuple[int | None, str]:
    if split.quick_count is not None:
        with contextlib.suppress(FileNotFoundError):  # the folder of images, of which the caller tells
            return split.quick_count(root)
    return None, ""


def _missing_images(split: Split, root: Path, store: AnnotationStore) -> str:
    """A sentence on a few images of a store, drawn evenly, of which some are not there."""
    rows = np.unique(np.linspace(0, len(store) - 1, min(SAMPLE, len(store))).astype(np.int64))
    names, folder = store.text_column("file_name"), Path(file_names.image_root(store, split.image_root(root)))
    # "FILE.npy#ROW" is an image within a file of many.
    paths = [folder / names[int(row)].as_py().partition("#")[0] for row in rows]
    lost = [path for path in paths if not path.is_file()]
    return f"{len(lost)} of {len(rows)} sampled images are not there, first {lost[0]}" if lost else ""


def _folders(dataset: PublicDataset, root: Path) -> list[Path]:
    """The folders at the top of a dataset's tree."""
    tops = [line.strip() for line in dataset.tree.splitlines() if line[:1] not in ("", " ")]
    names = [word.rstrip("/") for line in tops for word in line.split() if "/" in word]
    return [root / name for name in dict.fromkeys(names)]

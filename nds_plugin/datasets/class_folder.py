"""A folder with a folder of images for each class, as a dataset, or the training or test part of it."""

from __future__ import annotations

import fnmatch
import logging
import os
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from nds_plugin.errors import NDSError, few, unknown_name
from nds_plugin.files.artifacts import content_hash
from nds_plugin.files.locations import is_url, local_path
from nds_plugin.source.folder import read_folder
from nds_plugin.source.index import NO_LABEL, SourceIndex

PARTS = ("all", "train", "test")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClassFolder:
    """Images below ``FOLDER/CLASS/``; those that lie in FOLDER itself have no class.

    Attributes:
        name: of the dataset and of the source.
        folder: or the URL of one; variables such as ``$NDS_DATA`` in it stand for their values.
        classes_like: pattern of the names of its classes; the others are left out.
        part: all images, or those of training or test.
        test_every: the test part is every so many-th image of a class, by name, the training part the others.

    Raises:
        NDSError: no such part, or a variable that is not set.
    """

    name: str
    folder: str
    classes_like: str = "*"
    part: str = "all"
    test_every: int = 3
    _cache: list[tuple[SourceIndex, dict[str, str]]] = field(default_factory=list, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.part not in PARTS:
            raise unknown_name(f"part of the folder {self.name!r}", self.part, PARTS)
        if self.test_every < 2:
            raise NDSError(f"folder {self.name!r}: TEST_EVERY must be 2 or more, got {self.test_every}.")

    @property
    def path(self) -> str:
        """The folder.

        Raises:
            NDSError: a variable in it is not set.
        """
        found = os.path.expanduser(os.path.expandvars(self.folder))
        if "$" in found:
            raise NDSError(
                f"folder {self.name!r}: {self.folder} names an environment variable that is not set: set it, or give the "
                "path itself."
            )
        return found

    def index(self) -> SourceIndex:
        """The images, with their classes as labels."""
        return self._read()[0]

    def unreadable(self) -> dict[str, str]:
        """Why images of this part are not in the index, by their paths."""
        return self._read()[1]

    def _read(self) -> tuple[SourceIndex, dict[str, str]]:
        if not self._cache:
            self._cache.append(self._indexed())
        return self._cache[0]

    def _indexed(self) -> tuple[SourceIndex, dict[str, str]]:
        index, unreadable = read_folder(self.path, self.name)
        ids = [str(image_id) for image_id in index.column("image_id")]
        owners = np.array([_class_of(image_id) for image_id in ids], dtype=object)
        kept = np.array([fnmatch.fnmatchcase(owner, self.classes_like) for owner in owners])
        if not kept.any():
            raise NDSError(f"folder {self.name!r}: no class in {self.path} is like {self.classes_like!r}.")
        classes = sorted(set(owners[kept]) - {""})
        self._warn_of_empty(classes)
        position = {owner: i for i, owner in enumerate(classes)}
        of_part = self._of_part([*ids, *unreadable])
        kept &= np.array([image_id in of_part for image_id in ids])
        left_out = {
            path: why
            for path, why in unreadable.items()
            if path in of_part and fnmatch.fnmatchcase(_class_of(path), self.classes_like)
        }
        labels = pa.array([position.get(owner, NO_LABEL) for owner in owners], pa.int32())
        table = index.table.set_column(index.table.column_names.index("label"), "label", labels)
        return SourceIndex(table.filter(pa.array(kept)), classes), left_out

    def _of_part(self, paths: list[str]) -> set[str]:
        """Which images the part has, told by all names, so that a damaged file moves no other one."""
        seen: Counter[str] = Counter()
        found = set()
        for path in sorted(paths):
            owner = _class_of(path)
            seen[owner] += 1
            is_test = seen[owner] % self.test_every == 0
            if self.part == "all" or is_test == (self.part == "test"):
                found.add(path)
        return found

    def _warn_of_empty(self, classes: list[str]) -> None:
        if is_url(self.path):
            return  # object stores have no empty folders
        folders = (entry.name for entry in os.scandir(local_path(self.path)) if entry.is_dir())
        empty = sorted(
            name
            for name in folders
            if name not in classes
            and fnmatch.fnmatchcase(name, self.classes_like)
            and not name.startswith(".")
        )
        if empty and classes:
            logger.warning(
                "folder %r: no image in %d of its folders, which make no class: %s",
                self.name, len(empty), few(empty),
            )  # fmt: skip

    def classes(self) -> list[str]:
        return list(self.index().classes)

    def fingerprint(self) -> str:
        return content_hash(["class folder", self.index().hash])

    def image_folder(self) -> str:
        return self.path

    def check(self) -> None:
        """There are no annotations."""

    def why_no_object(self) -> str:
        return "a folder has no annotations"


def _class_of(image_id: str) -> str:
    first, slash, _ = image_id.partition("/")
    return first if slash else ""

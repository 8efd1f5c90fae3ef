"""Where the files of OpenImages lie below DETECTRON2_DATASETS, under the names that its provider gave them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

FOLDER = "openimages"
HEX = "0123456789abcdef"
_ANNOTATIONS = ("annotations", "metadata", "")
_MASKS = ("masks", "annotations", "")
_CLASSES = tuple(f"{version}class-descriptions-boxable.csv" for version in ("", "oidv6-", "oidv7-"))
# The 300 classes of the challenge of 2019, which are the paper's; else all 350 that have masks.
_MASK_CLASSES = (
    "challenge-2019-classes-description-segmentable.csv",
    "classes-segmentation.txt",
    "oidv7-classes-segmentation.txt",
)
_BOXES = {
    # The newer file has the same boxes and the clicks that they were drawn by.
    "train": ("oidv6-train-annotations-bbox.csv", "train-annotations-bbox.csv"),
    "validation": ("validation-annotations-bbox.csv",),
    "test": ("test-annotations-bbox.csv",),
}
_IMAGES = {
    "train": ("train-images-boxable-with-rotation.csv", "train-images-boxable.csv"),
    "validation": ("validation-images-with-rotation.csv", "validation-images.csv"),
    "test": ("test-images-with-rotation.csv", "test-images.csv"),
}


@dataclass(frozen=True)
class Files:
    """The files of a split; nothing is looked at before it is asked for.

    Attributes:
        root: DETECTRON2_DATASETS.
        split: "train", "validation" or "test".
    """

    root: Path
    split: str

    @property
    def folder(self) -> Path:
        """The dataset's folder, which image names are relative to."""
        return self.root / FOLDER

    @property
    def classes(self) -> Path:
        """The list of the 601 classes."""
        return self._first(_ANNOTATIONS, _CLASSES)

    @property
    def hierarchy(self) -> Path:
        """The class hierarchy."""
        return self._first(_ANNOTATIONS, ("bbox_labels_600_hierarchy.json",))

    @property
    def boxes(self) -> Path:
        """The boxes of the split."""
        return self._first(_ANNOTATIONS, _BOXES[self.split])

    @property
    def images(self) -> Path:
        """The list of the split's images."""
        return self._first(_ANNOTATIONS, _IMAGES[self.split])

    @property
    def masks(self) -> Path:
        """The list of the split's masks."""
        return self._first(_ANNOTATIONS, (f"{self.split}-annotations-object-segmentation.csv",))

    @property
    def mask_classes(self) -> Path | None:
        """The list of the classes that have masks, if there is one."""
        path = self._first(_ANNOTATIONS, _MASK_CLASSES)
        return path if path.is_file() else None

    def _first(self, folders: tuple[str, ...], names: tuple[str, ...]) -> Path:
        """The first that is there; if none is, the first place that was looked at."""
        candidates = [self.folder / folder / name for name in names for folder in folders]
        return next((path for path in candidates if path.is_file()), candidates[0])

    @property
    def usual_pattern(self) -> str:
        """How image files are called where none are there yet."""
        return f"{self.split}/{{id}}.jpg"

    def image_pattern(self) -> str | None:
        """How image files are called, "{id}" and "{first}" (its first digit) to be put in; None: not there.

        The folder is that of the split, or those that the packed files of the training images unpack to.
        """
        if (self.folder / self.split).is_dir():
            return self.usual_pattern
        if any((self.folder / f"{self.split}_{digit}").is_dir() for digit in HEX):
            return f"{self.split}_{{first}}/{{id}}.jpg"
        return None

    def mask_archive(self, digit: str) -> Path:
        """The zip file of masks of images whose id begins with a digit, where it is expected."""
        return self.folder / "masks" / f"{self.split}-masks-{digit}.zip"

    def mask_places(self, digit: str) -> list[Path]:
        """Where masks of images whose id begins with a digit may lie: zip files, else unpacked folders.

        Unpacked, all may lie in one folder, or in one for each split, digit or zip file.
        """
        name = self.mask_archive(digit).stem
        zips = [self.folder / folder / f"{name}.zip" for folder in _MASKS]
        found = [path for path in zips if path.is_file()][:1]
        within = (name, f"{self.split}/{digit}", f"{self.split}/{digit.upper()}", self.split, digit)
        folders = [self.folder / "masks" / inner for inner in (*within, digit.upper(), "")]
        # A folder that holds zip files or further folders only is asked in vain, at little cost.
        return found or [path for path in dict.fromkeys(folders) if path.is_dir()]

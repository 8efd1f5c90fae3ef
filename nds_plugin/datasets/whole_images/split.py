"""Datasets of whole images, one class each: from the provider's lists to a store.

Each reader makes a :class:`Listing`; what is common to all of them happens here: checks, the sizes
in the image files' headers (in threads), the store's columns, the catalogue's split.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from tqdm import tqdm

from nds_plugin.datasets.public import PublicDataset, Split, missing_tree, store_path
from nds_plugin.errors import NDSError
from nds_plugin.images.reading import ImageError, read_header
from nds_plugin.store import Annotations, Images, Inputs, StoreSpec, StoreWriter

logger = logging.getLogger(__name__)

_FORMAT = 1  # raised when other content is read from the same files
THREADS = 8  # the headers' reading waits for the disk, or the network, more than it computes

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Listing:
    """The images of a split, in the provider's order.

    Attributes:
        image_ids: all whole numbers or all text.
        file_names: relative to the split's image root.
        labels: int64 of shape (N,), ids of the classes.
        categories: (id, name) of all classes of the dataset.
        boxes: given the position of an image, its objects as x, y, width, height in pixels; None
            where the provider publishes none. Called from several threads.
    """

    image_ids: npt.NDArray[np.int64] | list[str]
    file_names: list[str]
    labels: npt.NDArray[np.int64]
    categories: list[tuple[int, str]]
    boxes: Callable[[int], Sequence[Box]] | None = None


@dataclass(frozen=True)
class Form:
    """A published form of a split: its files and how they are read.

    Attributes:
        files: lists, relative to DETECTRON2_DATASETS; they decide the content of the store.
        image_root: folder of the images, likewise.
        read: given DETECTRON2_DATASETS, the listing.
        count: given DETECTRON2_DATASETS, the images of the split, without looking at them.
        counted: what ``count`` counts, in words.
        folders: folders of further annotations, known by their subfolders' times of change.
    """

    files: Sequence[str]
    image_root: str
    read: Callable[[Path], Listing]
    count: Callable[[Path], int]
    counted: str
    folders: Sequence[str] = ()


def whole_image_split(
    name: str,
    split: str,
    forms: Sequence[Form],
    dataset: Callable[[], PublicDataset],
    images: int,
    paper_images: int,
    note: str = "",
) -> Split:
    """A split of the catalogue.

    Args:
        forms: the published forms; the first whose lists are all there is read.
        dataset: the dataset that the split is part of, for the error of missing files.
    """
    return Split(
        name=name,
        split=split,
        spec=functools.partial(_spec, name, forms, dataset),
        image_root=functools.partial(_image_root, forms),
        paper_images=paper_images,
        images=images,
        note=note,
        quick_count=functools.partial(_quick_count, forms, dataset),
    )


def _form(forms: Sequence[Form], root: Path) -> Form:
    there = (form for form in forms if all((root / file).is_file() for file in form.files))
    return next(there, forms[0])


def _image_root(forms: Sequence[Form], root: Path) -> Path:
    return root / _form(forms, root).image_root


def _spec(name: str, forms: Sequence[Form], dataset: Callable[[], PublicDataset], root: Path) -> StoreSpec:
    form = _form(forms, root)
    return StoreSpec(
        name=name,
        path=store_path(root, name),
        inputs=functools.partial(_inputs, form, dataset, root),
        read=functools.partial(_read, form, name, root),
    )


def _inputs(form: Form, dataset: Callable[[], PublicDataset], root: Path) -> Inputs:
    for path in (root / name for name in form.files):
        if not path.is_file():
            raise missing_tree(dataset(), root, path)
    for path in (root / name for name in (*form.folders, form.image_root)):
        if not path.is_dir():
            raise missing_tree(dataset(), root, path)
    tree = [path for name in form.folders for path in sorted((root / name).iterdir())]
    files = [root / name for name in form.files]
    return Inputs(files=files, tree=tree, settings=["whole images", _FORMAT, form.image_root], root=root)


def _quick_count(forms: Sequence[Form], dataset: Callable[[], PublicDataset], root: Path) -> tuple[int, str]:
    form = _form(forms, root)
    _inputs(form, dataset, root)
    return form.count(root), form.counted


def _read(
    form: Form, name: str, root: Path, writer: StoreWriter, parts: Path, target: Path
) -> list[tuple[int, str]]:
    del parts, target  # the whole takes seconds
    listing = form.read(root)
    _check(listing, name)
    sizes, boxes = _look_at_images(listing, root / form.image_root, name)
    ids: Any = listing.image_ids
    if isinstance(ids, list):
        ids = pa.array(ids, pa.string())
    order = {number: i for i, number in enumerate(sorted(number for number, _ in listing.categories))}
    writer.add_images(
        Images(
            image_id=ids,
            file_name=pa.array(listing.file_names, pa.string()),
            width=np.ascontiguousarray(sizes[:, 0]),
            height=np.ascontiguousarray(sizes[:, 1]),
            label=np.array([order[number] for number in listing.labels.tolist()], dtype=np.int32),
        )
    )
    owners = np.repeat(np.arange(len(boxes)), [len(found) for found in boxes])
    if len(owners):
        writer.add_annotations(
            Annotations(
                image_id=ids.take(pa.array(owners)) if isinstance(ids, pa.Array) else ids[owners],
                category_id=listing.labels[owners],
                bbox=np.array([box for found in boxes for box in found], dtype=np.float64),
                iscrowd=np.zeros(len(owners), dtype=np.int8),
            )
        )
    return listing.categories


def _check(listing: Listing, name: str) -> None:
    lengths = {len(listing.image_ids), len(listing.file_names), len(listing.labels)}
    assert len(lengths) == 1, lengths
    known = {number for number, _ in listing.categories}
    if len(known) != len(listing.categories):
        raise NDSError(f"{name}: its list of classes names an id twice.")
    for i, label in enumerate(listing.labels.tolist()):
        if label not in known:
            raise NDSError(
                f"{name}: image {listing.file_names[i]!r} is of class {label}, expected one of the "
                f"{len(known)} classes {min(known, default=0)} to {max(known, default=0)}."
            )
        if ".." in Path(listing.file_names[i]).parts or os.path.isabs(listing.file_names[i]):
            raise NDSError(f"{name}: image {listing.file_names[i]!r} lies outside the dataset's folder.")


def _look_at_images(
    listing: Listing, folder: Path, name: str
) -> tuple[npt.NDArray[np.int32], list[Sequence[Box]]]:
    """Sizes, (0, 0) where a header cannot be read, and boxes of all images.

    Raises:
        NDSError: images are missing.
    """

    def look(i: int) -> tuple[tuple[int, int], str, Sequence[Box]]:
        size, problem = _size(folder / listing.file_names[i])
        return size, problem, listing.boxes(i) if listing.boxes else ()

    count = len(listing.file_names)
    with ThreadPoolExecutor(THREADS) as pool:
        looks = pool.map(look, range(count))
        found = list(tqdm(looks, total=count, desc=f"reading {name}", unit="image", disable=None))
    missing = [i for i, (_, problem, _) in enumerate(found) if problem == _MISSING]
    if missing:
        raise NDSError(
            f"{name}: {len(missing)} of {count} images are not there, first {folder / listing.file_names[missing[0]]}: "
            "unpack the provider's archive of images again."
        )
    broken = [i for i, (_, problem, _) in enumerate(found) if problem]
    if broken:
        first = f"{listing.file_names[broken[0]]} ({found[broken[0]][1]})"
        logger.warning(
            "%s: %d of %d images cannot be read, first %s; their sizes are not known.",
            *(name, len(broken), count, first),
        )
    sizes = np.array([size for size, _, _ in found], dtype=np.int32).reshape(-1, 2)
    return sizes, [boxes for _, _, boxes in found]


_MISSING = "missing"


def _size(path: Path) -> tuple[tuple[int, int], str]:
    try:
        return read_header(path).shown, ""
    except ImageError as error:
        return (0, 0), str(error) if path.exists() else _MISSING


def table_of(path: Path, columns: int, what: str) -> list[list[str]]:
    """The lines of a text file as lists of ``columns`` words, the last one up to the end of the line.

    Empty lines and lines that begin with "#" are passed over.

    Raises:
        NDSError: not text in UTF-8, or a line of fewer words.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise NDSError(f"{path} is not a text file in UTF-8 ({error}): download it again.") from None
    except OSError as error:
        raise NDSError(f"cannot read {path}: {error.strerror}.") from None
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        words = line.split(maxsplit=columns - 1)
        if len(words) != columns:
            raise NDSError(f"{path}, line {number}: expected {what}, got {line.strip()[:60]!r}.")
        rows.append([word.strip() for word in words])
    return rows


def whole_number(word: str, path: Path, what: str) -> int:
    """A word as a whole number.

    Raises:
        NDSError: it is none.
    """
    try:
        return int(word)
    except ValueError:
        raise NDSError(f"{path}: {what} must be a whole number, got {word!r}.") from None

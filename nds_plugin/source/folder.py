"""A folder of images as a source, and whether an index's files are there."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path, PurePath

import numpy as np
from tqdm import tqdm

from nds_plugin.errors import NDSError, few
from nds_plugin.files import locations
from nds_plugin.files.locations import is_file, is_url, join, local_path
from nds_plugin.images.packed import file_of
from nds_plugin.images.reading import ImageError, NotAnImageError, read_header
from nds_plugin.source.image_folders import PassedOver, files_below, has_image_ending, no_images
from nds_plugin.source.index import ImageRecord, SourceIndex
from nds_plugin.source.source_names import folder_name

logger = logging.getLogger(__name__)


def index_folder(folder: str | os.PathLike[str], source: str | None = None) -> SourceIndex:
    """Index all images below a folder or a URL; see :func:`read_folder`."""
    return read_folder(folder, source)[0]


def read_folder(
    folder: str | os.PathLike[str], source: str | None = None
) -> tuple[SourceIndex, dict[str, str]]:
    """The index of all images below a folder or a URL, sorted by path, and why others are not in it, by their paths.

    An image is told by its content, whatever its ending. Its id is its path relative to ``folder``,
    with forward slashes. Its size is that of the upright image, from the header. Files whose header
    cannot be read are left out, counted and named in one WARNING; what is no image is counted by kind
    in another line. Hidden files and folders are passed over. At a URL, files whose endings are not those of
    images are passed over unopened.

    Args:
        source: name of the source; default the folder's name, or its parent's if that is "images".

    Raises:
        NDSError: no such folder, or no readable image in it.
    """
    root: str | Path = os.fspath(folder) if is_url(folder) else Path(local_path(folder))
    if isinstance(root, Path) and not root.is_dir():
        kind = "is not a folder" if root.exists() else "does not exist"
        raise NDSError(f"image folder {root} {kind}: name the folder that holds the images.")
    source = source or folder_name(root)
    passed = PassedOver(root)
    paths = _paths_at(root, passed) if isinstance(root, str) else _paths_in(root, passed)
    records: list[ImageRecord] = []
    unreadable: dict[str, str] = {}
    for path in tqdm(paths, desc=f"headers of {source}", unit="file", disable=None):
        try:
            size = read_header(_at(root, path)).shown
        except ImageError as error:
            if isinstance(error, NotAnImageError) and not has_image_ending(path):
                passed.add(path)
            else:
                unreadable[path] = str(error).removeprefix(f"{_at(root, path)}: ").removesuffix(".")
            continue
        records.append(ImageRecord(source, path, _at(root, path), *size))
    images = len(records) + len(unreadable)
    if not images:
        raise no_images(root, passed)
    passed.log(images)
    told = [f"{path} ({why})" for path, why in unreadable.items()]
    if told:
        logger.warning(
            "%d of %d images in %s cannot be read and are left out: %s.",
            len(told),
            images,
            root,
            few(told),
        )
    if not records:
        raise NDSError(f"none of the {images} images in {root} can be read, first: {told[0]}.")
    return SourceIndex.from_records(records), unreadable


def _at(root: str | Path, path: str) -> str:
    return join(root, path) if isinstance(root, str) else str(root / path)


def _paths_in(root: Path, passed: PassedOver) -> list[str]:
    return sorted(PurePath(os.path.relpath(path, root)).as_posix() for path in files_below(root, passed))


def _paths_at(url: str, passed: PassedOver) -> list[str]:
    found = []
    for path in locations.files_below(url):
        hidden = any(part.startswith(".") for part in path.split("/"))
        if has_image_ending(path) and not hidden:
            found.append(path)
        else:
            passed.add(path)
    return found


def image_size(path: str) -> tuple[int, int]:
    """Width and height of an image whose annotations do not say, from the file's header.

    Raises:
        ImageError: it cannot be read.
    """
    try:
        return read_header(path).shown
    except ImageError as error:
        raise ImageError(f"{error} Its annotations give no width and height, so it has to be read.") from None


def check_files(index: SourceIndex, sample: int | None = None) -> list[str]:
    """Names of the index's image files that are missing, in index order.

    Args:
        sample: look at this many images only, drawn evenly; None looks at all of them (by listing
            their folders, which stays quick on network disks).
    """
    names = [str(name) for name in index.column("file_name")]
    if sample is not None and sample < len(names):
        chosen = np.unique(np.linspace(0, len(names) - 1, max(sample, 0)).astype(np.int64))
        return [names[i] for i in chosen if not is_file(file_of(names[i]))]
    files = [os.path.split(file_of(name)) for name in names]
    present = {folder: _listing(folder) for folder in {folder for folder, _ in files}}
    return [name for name, (folder, base) in zip(names, files) if base not in present[folder]]


def file_sizes(names: Iterable[str]) -> list[int]:
    """Bytes of each image file; -1 of one that is missing."""
    files = [file_of(name) for name in names]
    at_urls = {
        folder: locations.listing(folder) for folder in {os.path.split(f)[0] for f in files if is_url(f)}
    }

    def size(file: str) -> int:
        if is_url(file):
            folder, base = os.path.split(file)
            return at_urls[folder].get(base, -1)
        try:
            return os.stat(local_path(file)).st_size
        except OSError:
            return -1

    return [size(file) for file in files]


def _listing(folder: str) -> set[str]:
    if is_url(folder):
        return set(locations.listing(folder))
    try:
        with os.scandir(local_path(folder) or ".") as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except OSError:
        return set()

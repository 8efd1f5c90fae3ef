"""A folder of images as a source, and whether an index's files are there."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path, PurePath

import numpy as np
from PIL import Image
from tqdm import tqdm

from nds_plugin.errors import NDSError
from nds_plugin.images.packed import file_of
from nds_plugin.images.reading import EXTENSIONS, ImageError, image_files
from nds_plugin.source.index import ImageRecord, SourceIndex

logger = logging.getLogger(__name__)

_ORIENTATION = 0x0112
_TURNED = (5, 6, 7, 8)


def index_folder(folder: str | os.PathLike[str], source: str | None = None) -> SourceIndex:
    """Index all images below a folder, sorted by path.

    An image's id is its path relative to ``folder``, with forward slashes. Sizes come from the file
    headers (turned as the EXIF orientation says); nothing is decoded. Files whose header cannot be
    read are left out, counted and named in one WARNING. Hidden files and folders are passed over.

    Args:
        source: name of the source; default the folder's name, or its parent's if that is "images".

    Raises:
        NDSError: no such folder, or no readable image in it.
    """
    root = Path(folder)
    if not root.is_dir():
        kind = "is not a folder" if root.exists() else "does not exist"
        raise NDSError(f"image folder {root} {kind}.")
    source = source or _folder_name(root)
    paths = sorted(_image_files(root))
    if not paths:
        raise NDSError(f"no images in {root} (looked below it for {', '.join(EXTENSIONS)}).")
    records, unreadable = [], []
    for path in tqdm(paths, desc=f"headers of {source}", unit="image", disable=None):
        try:
            width, height = header_size(root / path)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Warning) as error:
            unreadable.append(f"{path} ({str(error) or type(error).__name__})")
            continue
        records.append(ImageRecord(source, path, str(root / path), width, height))
    if unreadable:
        listed = ", ".join(unreadable[:5]) + (", ..." if len(unreadable) > 5 else "")
        count = f"{len(unreadable)} of {len(paths)} images in {root}"
        logger.warning("%s cannot be read and are left out: %s.", count, listed)
    if not records:
        raise NDSError(f"none of the {len(paths)} images in {root} can be read, first: {unreadable[0]}.")
    return SourceIndex.from_records(records)


def _folder_name(root: Path) -> str:
    path = root.absolute()
    return (path.parent.name if path.name == "images" else path.name) or "folder"


def header_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Width and height of an image file as it is shown, from its header alone."""
    with bombs_refused():
        return header_size_in_threads(path)


@contextlib.contextmanager
def bombs_refused() -> Iterator[None]:
    """Images whose header announces more pixels than Pillow takes for harmless are an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def image_size(path: str) -> tuple[int, int]:
    """Width and height of an image whose annotations do not say, from the file's header.

    Raises:
        ImageError: it cannot be read.
    """
    try:
        return header_size(path)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Warning) as error:
        raise ImageError(
            f"{path}: its annotations give no width and height, and the file cannot be read ({error})."
        ) from None


def header_size_in_threads(path: str | os.PathLike[str]) -> tuple[int, int]:
    """:func:`header_size` for threads, which share the filters of warnings: call it in ``bombs_refused``."""
    with Image.open(path) as image:
        width, height = image.size
        # Only where the header already holds it: for PNG, asking would decode the image.
        if image.format in ("JPEG", "MPO") and image.getexif().get(_ORIENTATION) in _TURNED:
            width, height = height, width
    return width, height


def _image_files(root: Path) -> Iterator[str]:
    """Relative paths of the image files."""
    for path in image_files(root):
        yield PurePath(os.path.relpath(path, root)).as_posix()


def check_files(index: SourceIndex, sample: int | None = None) -> list[str]:
    """Names of the index's image files that are missing, in index order.

    Args:
        sample: look at this many images only, drawn evenly; None looks at all of them (by listing
            their folders, which stays quick on network disks).
    """
    names = [str(name) for name in index.column("file_name")]
    if sample is not None and sample < len(names):
        chosen = np.unique(np.linspace(0, len(names) - 1, max(sample, 0)).astype(np.int64))
        return [names[i] for i in chosen if not os.path.isfile(file_of(names[i]))]
    files = [os.path.split(file_of(name)) for name in names]
    present = {folder: _listing(folder) for folder in {folder for folder, _ in files}}
    return [name for name, (folder, base) in zip(names, files) if base not in present[folder]]


def _listing(folder: str) -> set[str]:
    try:
        with os.scandir(folder or ".") as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except OSError:
        return set()

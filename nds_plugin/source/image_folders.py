"""The image files below a folder, told by their content; what is passed over is counted by kind.

A file whose ending is that of an image is one without being opened, which keeps a folder of a million
photographs quick to list; where there is none inside, whoever reads it says so. Of all other files the
content decides.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator

from PIL import Image
from tqdm import tqdm

from nds_plugin.errors import NDSError
from nds_plugin.files.locations import StrPath
from nds_plugin.images.reading import NOT_DECODED, holds_image

logger = logging.getLogger(__name__)

_NAMED_KINDS = 8
_PREFIX = 16  # bytes
_TEXT = re.compile(rb"[-{\[<\d][\t\n\r -~]*")  # text formats of images begin with a letter, "#" or "/"
_LONGEST_ENDING = 10  # characters; more is part of a name that has a dot


class PassedOver:
    """The files of a folder that are no images, by kind: their endings, mostly."""

    def __init__(self, folder: StrPath) -> None:
        self.folder = folder
        self.kinds: Counter[str] = Counter()
        self.hidden_folders = 0

    def add(self, name: str) -> None:
        """Count a file."""
        ending = os.path.splitext(name)[1].lower()
        if os.path.basename(name).startswith("."):
            self.kinds["hidden"] += 1
        elif len(ending) > 1:
            shown = len(ending) <= _LONGEST_ENDING and ending.isprintable()
            self.kinds[ending if shown else "with other endings"] += 1
        else:
            self.kinds["without an ending"] += 1

    def __str__(self) -> str:
        """As in "6 .txt, 2 without an ending"; empty if there are none."""
        kinds = sorted(self.kinds.items(), key=lambda item: (-item[1], item[0]))
        named = [f"{count} {kind}" for kind, count in kinds[:_NAMED_KINDS]]
        if rest := sum(count for _, count in kinds[_NAMED_KINDS:]):
            named.append(f"{rest} of other kinds")
        return ", ".join(named)

    def log(self, images: int) -> None:
        """Say what was passed over beside some images, in one line."""
        count = sum(self.kinds.values())
        parts = [f"{count} of {count + images} files"] if count else []
        if self.hidden_folders:
            parts.append(f"{self.hidden_folders} hidden folder{'s' if self.hidden_folders > 1 else ''}")
        if parts:
            kinds = f": {self}" if count else ""
            logger.info("passed over %s in %s%s.", " and ".join(parts), self.folder, kinds)


def list_images(folder: StrPath) -> list[str]:
    """Paths of the image files in a folder and all below it, sorted; links to folders are followed.

    Hidden files and folders are passed over; what else is no image is counted in one line of the log.

    Raises:
        NDSError: no such folder, or no image file in it.
    """
    if not os.path.isdir(folder):
        raise NDSError(f"{folder}: no such folder: name the folder that holds the images.")
    passed, found = PassedOver(folder), []
    for path in files_below(folder, passed):
        if has_image_ending(path) or holds_image(path):
            found.append(path)
        else:
            passed.add(path)
    if not found:
        raise no_images(folder, passed)
    passed.log(len(found))
    return sorted(found)


def no_images(folder: StrPath, passed: PassedOver) -> NDSError:
    """The error for a folder without an image."""
    there = f"its files are {passed}" if passed.kinds else "it holds no file"
    return NDSError(
        f"{folder}: no image in this folder or below it ({there}); expected files that Pillow reads."
    )


def files_below(folder: StrPath, passed: PassedOver) -> Iterator[str]:
    """Paths of the files below a folder that may be images; links to folders are followed, each folder once.

    Passed over are those that are certainly none: hidden ones, text, and what is no regular file (a pipe, say).

    Raises:
        NDSError: the name of one is not UTF-8.
    """
    with tqdm(desc="looking for images", unit="file", disable=None, delay=2) as bar:
        for directory, name in _walk(folder, passed):
            bar.update()
            path = os.path.join(directory, name)
            if _is_special(path):
                passed.kinds["not a regular file"] += 1
            elif has_image_ending(name):
                yield _encodable(path)
            elif not os.path.exists(path):
                passed.kinds["not a regular file"] += 1
            elif _holds_text(path):
                passed.add(name)
            else:
                yield _encodable(path)


def _is_special(path: str) -> bool:
    """Whether something is there that is no regular file; opening a pipe would wait for ever."""
    try:
        return not stat.S_ISREG(os.stat(path).st_mode)
    except OSError:  # a broken link: who opens it says so
        return False


def _encodable(path: str) -> str:
    """The path itself, if an index and an artefact can hold it."""
    try:
        path.encode()
    except UnicodeEncodeError:
        shown = path.encode(errors="backslashreplace").decode()
        raise NDSError(
            f"{shown}: the name of this file is not UTF-8, so that no index can hold it: rename it."
        ) from None
    return path


def _walk(folder: StrPath, passed: PassedOver) -> Iterator[tuple[str, str]]:
    """Folder and name of all that is not hidden."""
    seen: set[str] = set()  # a link may lead back to a folder above
    for directory, below, names in os.walk(folder, followlinks=True):
        passed.hidden_folders += sum(name.startswith(".") for name in below)
        below[:] = sorted(name for name in below if not name.startswith("."))
        if os.path.realpath(directory) in seen:
            below.clear()
            continue
        seen.add(os.path.realpath(directory))
        for name in names:
            if name.startswith("."):
                passed.add(name)
            else:
                yield directory, name


def _holds_text(path: str) -> bool:
    """Whether a file begins as JSON, XML or a table of numbers does, and no format of Pillow's does.

    Labels lie beside the images of large sources, one file for each. Asking Pillow takes ten times as long.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            start = file.read(_PREFIX)
    except OSError:
        return False
    return _TEXT.fullmatch(start) is not None


def has_image_ending(name: str) -> bool:
    """Whether a file's name ends as those of a format that Pillow decodes."""
    return os.path.splitext(name)[1].lower() in _image_endings()


@functools.cache
def _image_endings() -> frozenset[str]:
    formats = Image.registered_extensions()  # which also loads all of Pillow's readers
    return frozenset(
        ending
        for ending, kind in formats.items()
        if ending and kind in Image.OPEN and kind not in NOT_DECODED  # SPIDER files may have none
    )

"""Sizes of very many images from the headers of their files: in parallel, in parts that survive an interruption."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nds_plugin.datasets.seen_files import SeenFiles, sample
from nds_plugin.images.reading import ImageError, read_header
from nds_plugin.store.parts import Unit, map_parts, unit_key

logger = logging.getLogger(__name__)

_UNIT = 5000  # images of a part
_THERE, _MISSING, _BROKEN = 0, 1, 2


@dataclass(frozen=True)
class Headers:
    """Of each image; shape (N,) each.

    Attributes:
        width, height: int32, as the image is shown; 0 where the file is not there or cannot be read.
        orientation: int8, EXIF orientation, 1 where there is none.
    """

    width: npt.NDArray[np.int32]
    height: npt.NDArray[np.int32]
    orientation: npt.NDArray[np.int8]

    @classmethod
    def unknown(cls, images: int) -> Headers:
        """Of images that are not there."""
        return cls(np.zeros(images, np.int32), np.zeros(images, np.int32), np.ones(images, np.int8))

    def take(self, rows: npt.NDArray[np.int64]) -> Headers:
        """Of some images."""
        return Headers(self.width[rows], self.height[rows], self.orientation[rows])

    def slice(self, start: int, stop: int) -> Headers:
        """Of some images in a row."""
        return Headers(self.width[start:stop], self.height[start:stop], self.orientation[start:stop])


def read_headers(
    names: Iterable[pa.Array], root: Path, parts: Path, where: str, seen: SeenFiles, total: int | None = None
) -> Headers:
    """Read the headers of images.

    Args:
        names: file names relative to ``root``, in pieces.
        parts: folder of finished parts; see :func:`map_parts`.
        where: the dataset, for messages.
        seen: is told of some of the files.
        total: number of names, for the progress bar.
    """
    tables = list(map_parts(_units(names, root), _read, parts, f"headers of {where}", total))
    whole = pa.concat_tables(tables) if tables else _table(pa.array([], pa.string()), [], [], [], [])
    status = whole.column("status").to_numpy()
    for kind, what in ((_THERE, ""), (_MISSING, "not there"), (_BROKEN, "not readable")):
        rows = np.flatnonzero(status == kind)
        some = whole.column("name").take(pa.array(sample(rows))).to_pylist()
        (seen.add_missing if kind == _MISSING else seen.add_read)(some)
        if kind != _THERE and len(rows):
            logger.warning(
                "%s: %d of %d image files are %s (first: %s): their sizes are looked up when they are used.",
                *(where, len(rows), len(status), what, some[0]),
            )
    width, height, orientation = (
        whole.column(name).to_numpy() for name in ("width", "height", "orientation")
    )
    return Headers(width, height, orientation)


def _units(names: Iterable[pa.Array], root: Path) -> Iterator[Unit[tuple[str, pa.Array]]]:
    for piece in names:
        for start in range(0, len(piece), _UNIT):
            # Taken, not sliced: a slice would travel to its process with all of the piece.
            part = piece.take(pa.array(np.arange(start, min(start + _UNIT, len(piece)))))
            content = memoryview(part.buffers()[2] or b"")
            yield Unit(unit_key("headers", os.fspath(root), content), (os.fspath(root), part), len(part))


def _read(argument: tuple[str, pa.Array]) -> pa.Table:
    root, names = argument
    width, height, orientation, status = [], [], [], []
    for name in names.to_pylist():
        path = os.path.join(root, name)
        try:
            header = read_header(path)
        except ImageError:
            status.append(_BROKEN if os.path.exists(path) else _MISSING)
            size, turned = (0, 0), 1
        else:
            status.append(_THERE)
            size, turned = header.shown, header.orientation
        width.append(size[0])
        height.append(size[1])
        orientation.append(turned)
    return _table(names, width, height, orientation, status)


def _table(
    names: pa.Array, width: list[int], height: list[int], orientation: list[int], status: list[int]
) -> pa.Table:
    return pa.table(
        {
            "name": names,
            "width": pa.array(width, pa.int32()),
            "height": pa.array(height, pa.int32()),
            "orientation": pa.array(orientation, pa.int8()),
            "status": pa.array(status, pa.int8()),
        }
    )

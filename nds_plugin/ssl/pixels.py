"""Images as rows of memory-mapped arrays, so that training never waits for decoding.

Images that are packed already (Downsampled ImageNet) are read where they lie; photographs are decoded once,
those of the selection alone, into one array of squares.
"""

from __future__ import annotations

import concurrent.futures
import functools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from tqdm import tqdm

from nds_plugin.errors import NDSError
from nds_plugin.images.crop_geometry import resize_size
from nds_plugin.images.packed import packed_size, split_name, write_packed
from nds_plugin.images.reading import ImageError, load_image
from nds_plugin.selection.streams import redraw

KIND = "pixels"
_AT_ONCE = 512  # images that are decoded before they are written


class MappedRows:
    """Images as rows of arrays, uint8 of shape (H, W, 3), all of one size.

    Args:
        files: the arrays.
        file_of, row_of: of each image, shape (N,).
    """

    def __init__(
        self, files: Sequence[str], file_of: npt.NDArray[np.integer], row_of: npt.NDArray[np.integer]
    ) -> None:
        self.files = list(files)
        self._file_of = np.asarray(file_of, dtype=np.int32)
        self._row_of = np.asarray(row_of, dtype=np.int64)

    @classmethod
    def of_file(cls, path: Path, row_of: npt.NDArray[np.integer]) -> MappedRows:
        """Rows of a single array."""
        return cls([str(path)], np.zeros(len(row_of), dtype=np.int32), row_of)

    def __len__(self) -> int:
        return len(self._row_of)

    def rows(self, indices: npt.NDArray[np.integer]) -> torch.Tensor:
        """Several images, shape (len(indices), H, W, 3)."""
        file_of, row_of = self._file_of[indices], self._row_of[indices]
        if len(self.files) == 1:
            return torch.from_numpy(self._arrays[0][row_of])
        out = np.empty((len(indices), *self._arrays[0].shape[1:]), dtype=np.uint8)
        for number in np.unique(file_of):
            here = np.flatnonzero(file_of == number)
            out[here] = self._arrays[number][row_of[here]]
        return torch.from_numpy(out)

    @functools.cached_property
    def _arrays(self) -> list[npt.NDArray[np.uint8]]:
        return [np.load(file, mmap_mode="r", allow_pickle=False) for file in self.files]

    def __getstate__(self) -> dict[str, object]:
        """For loader workers, which map the files themselves."""
        return {name: value for name, value in self.__dict__.items() if name != "_arrays"}


def check_packed(names: Iterable[str], size: int) -> None:
    """Refuse images that are packed in another size than that of the network's input.

    Raises:
        NDSError: they are.
    """
    for file in dict.fromkeys(found[0] for name in names if (found := split_name(name))):
        width, height = packed_size(file)
        if (width, height) != (size, size):
            raise NDSError(
                f"the source's images are {width} x {height} pixels ({file}), but PRETRAIN.SIZE is {size}: set "
                f"PRETRAIN.SIZE {width}, or take the source of the other size."
            )


def packed_rows(names: Sequence[str]) -> MappedRows | None:
    """The rows of images that are packed already; None where one is not."""
    pairs = [found for name in names if (found := split_name(name))]
    if not pairs or len(pairs) < len(names):
        return None
    files = list(dict.fromkeys(file for file, _ in pairs))
    number = {file: i for i, file in enumerate(files)}
    return MappedRows(
        files,
        np.array([number[file] for file, _ in pairs], dtype=np.int32),
        np.array([row for _, row in pairs], dtype=np.int64),
    )


def square(name: str, side: int) -> npt.NDArray[np.uint8]:
    """The central square of an image, scaled to ``side`` pixels.

    Raises:
        ImageError: it cannot be read.
    """
    image = load_image(name, side)
    edge = min(image.size)
    left, top = (image.width - edge) / 2, (image.height - edge) / 2
    box = (left, top, left + edge, top + edge)
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR, box=box, reducing_gap=3.0))


def stored_side(size: int) -> int:
    """Side of the squares that crops of ``size`` pixels are taken of."""
    return resize_size(size)


def decode(names: Sequence[str], side: int, path: Path, what: str) -> dict[int, str]:
    """Decode images into an array; one that cannot be read is left black. Why, by its place.

    Args:
        names: of the images. side: of the squares. path: of the array. what: the images, for messages.
    """
    unreadable: dict[int, str] = {}

    def one(place: int) -> npt.NDArray[np.uint8]:
        try:
            return square(names[place], side)
        except ImageError as error:
            unreadable[place] = str(error)
            return np.zeros((side, side, 3), dtype=np.uint8)

    def pieces() -> Iterator[npt.NDArray[np.uint8]]:
        with (
            concurrent.futures.ThreadPoolExecutor() as pool,
            tqdm(total=len(names), desc=f"decoding {what}", unit="image", disable=None) as bar,
        ):
            for start in range(0, len(names), _AT_ONCE):
                places = range(start, min(start + _AT_ONCE, len(names)))
                yield np.stack(list(pool.map(one, places)))
                bar.update(len(places))

    write_packed(path, (len(names), side, side, 3), pieces())
    return unreadable


def is_whole(path: Path, shape: tuple[int, int, int, int]) -> bool:
    """Whether a file is an array of images of this shape."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return False
    return isinstance(array, np.ndarray) and array.dtype == np.uint8 and array.shape == shape


def is_readable(name: str, side: int) -> bool:
    """Whether an image can be decoded."""
    try:
        square(name, side)
    except ImageError:
        return False
    return True


def replaced(
    count: int, unreadable: Sequence[int], cluster: npt.NDArray[np.integer], seed: int
) -> npt.NDArray[np.int64]:
    """The row that each of ``count`` images is read from: its own, or for an unreadable one another's of its cluster."""
    rows = np.arange(count)
    good = np.ones(count, dtype=bool)
    good[list(unreadable)] = False
    for place in unreadable:
        members = np.flatnonzero(good & (cluster == cluster[place]))
        members = members if len(members) else np.flatnonzero(good)
        rows[place] = redraw(members, seed, place, 0)
    return rows

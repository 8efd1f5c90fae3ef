"""The files of Downsampled ImageNet: where the batches are, and what is in one.

A batch is a pickle (``train_data_batch_3``, ``val_data``) or an archive of numpy
(``train_data_batch_3.npz``) with ``data``, uint8 of shape (images, 3 * size * size), planes of red,
green and blue one after the other, and ``labels``, 1 to 1000. Batches lie in folders or in the zip
files as they are downloaded; those are read in place.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from nds_plugin.datasets.zip_files import unpacking
from nds_plugin.errors import NDSError
from nds_plugin.files.pickles import read_arrays

CLASSES = 1000
TRAIN_BATCHES = 10
_PLACE = r"Imagenet{size}_{split}(_part\d)?(_npz)?(\.zip)?"
_MEMBER = {"train": re.compile(r"train_data_batch_(\d+)(\.npz)?"), "val": re.compile(r"val_data()(\.npz)?")}


@dataclass(frozen=True)
class BatchFile:
    """Where a batch lies.

    Attributes:
        number: 1 to 10; 0 for the one of validation.
        path: the file, or the zip file that it is in.
        member: its name in the zip file, empty if it is in none.
    """

    number: int
    path: Path
    member: str = ""

    @property
    def name(self) -> str:
        """Name without ending, for example ``train_data_batch_3``."""
        return Path(self.member or self.path.name).name.removesuffix(".npz")

    @property
    def where(self) -> str:
        """What it is called in messages."""
        return f"{self.path}!{self.member}" if self.member else str(self.path)

    def open(self) -> IO[bytes]:
        """Open it for reading; may be sought in.

        Raises:
            NDSError: see :func:`unpacking`.
        """
        if not self.member:
            return open(self.path, "rb")
        with zipfile.ZipFile(self.path) as archive, unpacking(self.where):
            return archive.open(self.member)


@dataclass(frozen=True)
class Batch:
    """What is in a batch.

    Attributes:
        data: uint8 of shape (images, 3 * size * size).
        labels: int32 of shape (images,), 0 to 999.
    """

    data: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int32]

    def images(self, size: int, step: int = 4096) -> Iterator[npt.NDArray[np.uint8]]:
        """The images, some at a time, of shape (step, size, size, 3)."""
        for start in range(0, len(self.data), step):
            part = self.data[start : start + step]
            yield part.reshape(len(part), 3, size, size).transpose(0, 2, 3, 1)


def find_batches(folder: Path, size: int, split: str) -> list[BatchFile]:
    """The batches of a split that are there, in the order of their numbers.

    Where a batch is there several times, a folder comes before a zip file and a pickle before an npz.

    Raises:
        NDSError: a zip file is damaged.
    """
    place = re.compile(_PLACE.format(size=size, split=split))
    places = sorted(path for path in folder.glob("*") if place.fullmatch(path.name))
    found: dict[int, BatchFile] = {}
    for path in sorted(places, key=lambda path: (path.is_file(), "_npz" in path.name, path.name)):
        for batch in _batches_in(path, split):
            found.setdefault(batch.number, batch)
    return [found[number] for number in sorted(found)]


def _batches_in(place: Path, split: str) -> Iterator[BatchFile]:
    if place.is_dir():
        members = [(path.name, path, "") for path in sorted(place.rglob("*")) if path.is_file()]
    elif place.suffix == ".zip":
        members = [(Path(name).name, place, name) for name in sorted(_listing(place))]
    else:
        return
    for name, path, member in members:
        match = _MEMBER[split].fullmatch(name)
        if match is not None:
            yield BatchFile(int(match[1] or 0), path, member)


def _listing(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, OSError) as error:
        raise NDSError(
            f"{path} is not a whole zip file ({error}): it was cut short or damaged, get it again."
        ) from None


def read_batch(batch: BatchFile, size: int) -> Batch:
    """Read a batch; nothing that it may carry is executed.

    Raises:
        NDSError: missing, damaged, no such batch, or of another size; labels that are none.
    """
    content = _read_npz(batch) if Path(batch.member or batch.path).suffix == ".npz" else _read_pickle(batch)
    missing = [key for key in ("data", "labels") if key not in content]
    if missing:
        raise NDSError(
            f"{batch.where} is no batch of Downsampled ImageNet: it lacks {', '.join(map(repr, missing))}, "
            f"it has {', '.join(sorted(map(repr, content))) or 'nothing'}."
        )
    data, labels = content["data"], _labels(content["labels"], batch)
    if not (isinstance(data, np.ndarray) and data.dtype == np.uint8 and data.ndim == 2):
        raise NDSError(
            f"{batch.where}: 'data' must be a table of bytes, one image in a row, got {_kind(data)}."
        )
    if data.shape[1] != 3 * size * size:
        side = round((data.shape[1] / 3) ** 0.5)
        raise NDSError(
            f"{batch.where}: expected images of {size} x {size}, that is {3 * size * size} bytes, got "
            f"{data.shape[1]} bytes (as of {side} x {side}): it lies in the wrong folder."
        )
    if len(labels) != len(data):
        raise NDSError(f"{batch.where}: {len(data)} images but {len(labels)} labels: get it again.")
    return Batch(data, labels)


def _read_npz(batch: BatchFile) -> dict[str, Any]:
    try:
        with batch.open() as file, np.load(file, allow_pickle=False) as archive:
            return {key: archive[key] for key in ("data", "labels") if key in archive}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise _damaged(batch, error) from None


def _read_pickle(batch: BatchFile) -> dict[str, Any]:
    try:
        content = read_arrays(batch.open, batch.where)
    except zipfile.BadZipFile as error:
        raise _damaged(batch, error) from None
    if not isinstance(content, dict):
        raise NDSError(
            f"{batch.where} is no batch of Downsampled ImageNet: expected a dict, got {_kind(content)}."
        )
    # Keys of a pickle of Python 2 that was read and written again as bytes.
    return {k.decode("latin1") if isinstance(k, bytes) else str(k): v for k, v in content.items()}


def _damaged(batch: BatchFile, error: Exception) -> NDSError:
    return NDSError(
        f"{batch.where} is not a whole batch ({error}): it was cut short or damaged, get it again."
    )


def _labels(given: Any, batch: BatchFile) -> npt.NDArray[np.int32]:
    labels = np.asarray(given) if isinstance(given, (list, tuple, np.ndarray)) else np.zeros(0)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise NDSError(f"{batch.where}: 'labels' must be a list of whole numbers, got {_kind(given)}.")
    outside = np.flatnonzero((labels < 1) | (labels > CLASSES))
    if len(outside):
        raise NDSError(
            f"{batch.where}: {len(outside)} labels are not in 1 to {CLASSES}, first labels[{int(outside[0])}] = "
            f"{int(labels[outside[0]])}."
        )
    return (labels - 1).astype(np.int32)


def _kind(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} of shape {value.shape}"
    return f"a {type(value).__name__}"

"""The PNG masks of OpenImages as run lengths.

A mask is as large as the picture was that its annotator saw, which mostly is not the size of the image
file (the provider's answer to that is to resize). Where the image's size is known the mask is resized to
it, each pixel taking its nearest; otherwise it keeps its own size.
"""

from __future__ import annotations

import functools
import io
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nds_plugin.datasets.zip_files import unpacking
from nds_plugin.errors import NDSError
from nds_plugin.images.reading import ImageError, load_stored, turned
from nds_plugin.store import rle

THERE, MISSING, EMPTY = 0, 1, 2  # what became of a mask


@dataclass(frozen=True)
class MaskJob:
    """Some masks to be made into run lengths.

    Attributes:
        places: zip file or folders that they are in.
        names: of the PNG files.
        size: height and width of each one's image as it is shown, 0 where not known; int32 (N, 2).
        orientation: EXIF orientation of each one's image file, int8.
    """

    places: tuple[Path, ...]
    names: pa.Array
    size: npt.NDArray[np.int32]
    orientation: npt.NDArray[np.int8]


def run_lengths(job: MaskJob) -> pa.Table:
    """Run lengths of some masks: columns ``rle``, ``height``, ``width`` and ``status``, a row each.

    Raises:
        NDSError: an archive or a PNG is damaged.
    """
    codes, sizes, status = [], [], []
    for name, size, orientation in zip(job.names.to_pylist(), job.size.tolist(), job.orientation.tolist()):
        data = _find(job.places, name)
        mask = None if data is None else _decode(data, orientation, job.places, name)
        if mask is not None:
            mask = rle.nearest(mask, tuple(size) if all(size) else mask.shape)
        kept = mask is not None and bool(mask.any())
        codes.append(rle.encode(mask) if mask is not None and kept else b"")
        sizes.append(mask.shape if mask is not None and kept else (0, 0))
        status.append(MISSING if mask is None else THERE if kept else EMPTY)
    return pa.table(
        {
            "rle": pa.array(codes, pa.binary()),
            "height": pa.array([height for height, _ in sizes], pa.int32()),
            "width": pa.array([width for _, width in sizes], pa.int32()),
            "status": pa.array(status, pa.int8()),
        }
    )


class MaskArchive:
    """A zip file of masks: opened once, its members found by name whatever folder they are in.

    Raises:
        NDSError: it is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError) as error:
            raise NDSError(
                f"{path} is not a whole zip file ({error}): it was cut short or damaged, get it again."
            ) from None
        self._members = {name.rsplit("/", 1)[-1]: name for name in self._archive.namelist()}

    def read(self, name: str) -> bytes | None:
        """The bytes of a member, None if there is no such."""
        member = self._members.get(name)
        if member is None:
            return None
        with unpacking(f"{self.path}!{member}"):
            return self._archive.read(member)

    def close(self) -> None:
        """Let go of the file."""
        self._archive.close()


@functools.lru_cache(maxsize=1)
def _archive(path: Path, changed: int) -> MaskArchive:
    # The parts of one archive follow each other, so each process reads its contents about once.
    del changed
    return MaskArchive(path)


def _find(places: tuple[Path, ...], name: str) -> bytes | None:
    for place in places:
        try:
            if place.suffix == ".zip":
                data = _archive(place, place.stat().st_mtime_ns).read(name)
            else:
                with open(place / name, "rb") as file:
                    data = file.read()
        except FileNotFoundError:
            continue
        except (OSError, zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise _damaged(places, name, str(error) or type(error).__name__) from None
        if data is not None:
            return data
    return None


def _decode(data: bytes, orientation: int, places: tuple[Path, ...], name: str) -> rle.Mask:
    """The pixels of an object: those that are not 0, of 1, 8 or 16 bits or colours."""
    try:
        image = turned(load_stored(io.BytesIO(data), name), orientation)
    except ImageError as error:
        raise _damaged(places, name, str(error).removeprefix(f"{name}: ").rstrip(".")) from None
    plain = image.mode in ("1", "L") or image.mode.startswith("I")
    pixels = np.asarray(image if plain else image.convert("L"))
    return pixels if pixels.dtype == bool else pixels != 0


def _damaged(places: tuple[Path, ...], name: str, cause: str) -> NDSError:
    where = ", ".join(map(str, places))
    return NDSError(
        f"{where}: the mask {name} is no whole PNG ({cause}): it was cut short or damaged, get it again."
    )

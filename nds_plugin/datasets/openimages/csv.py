"""The CSV files of OpenImages, read by Arrow some megabytes at a time.

https://storage.googleapis.com/openimages/web/download_v6.html describes them. No row ever becomes
Python objects; a file is never held whole.
"""

from __future__ import annotations

import binascii
import csv
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv
from tqdm import tqdm

from nds_plugin.errors import NDSError
from nds_plugin.store import schema

_BLOCK = 4 << 20  # bytes that Arrow reads at a time
_FLAGS = {
    "IsOccluded": schema.OCCLUDED,
    "IsTruncated": schema.TRUNCATED,
    "IsGroupOf": schema.GROUP_OF,
    "IsDepiction": schema.DEPICTION,
    "IsInside": schema.INSIDE,
}
_IMAGE = ("ImageID", "OriginalURL", "License", "Author", "OriginalMD5")
_MD5 = re.compile(r"[A-Za-z0-9+/]{22}==")
_CORNERS = ("XMin", "XMax", "YMin", "YMax")


@dataclass(frozen=True)
class Classes:
    """Classes in the order of their file; category ids count from 1.

    Attributes:
        labels: the provider's codes, as "/m/011k07". names: to read.
    """

    labels: tuple[str, ...]
    names: tuple[str, ...]

    def categories(self) -> list[tuple[int, str]]:
        """(category id, name) of each."""
        return list(enumerate(self.names, start=1))

    def positions(self, column: pa.Array) -> npt.NDArray[np.int64]:
        """Position of each code of a column, -1 where it is none of these classes."""
        if pa.types.is_dictionary(column.type):
            of_value = self.positions(column.dictionary)
            return of_value[column.indices.to_numpy(zero_copy_only=False)]
        found = pc.index_in(column, value_set=pa.array(self.labels, pa.string()))
        return pc.fill_null(found, -1).to_numpy(zero_copy_only=False).astype(np.int64)

    def only(self, labels: Collection[str]) -> Classes:
        """Those of some codes, in the order of these classes."""
        kept = [(label, name) for label, name in zip(self.labels, self.names) if label in labels]
        return Classes(tuple(label for label, _ in kept), tuple(name for _, name in kept))


def read_classes(path: Path) -> Classes:
    """``class-descriptions-boxable.csv``: rows of code and name; a heading is passed over.

    Raises:
        NDSError: cannot be read, no classes, a row without a name, or a code twice.
    """
    rows = _small_csv(path)
    short = [number for number, row in enumerate(rows, start=1) if len(row) < 2]
    if short:
        raise NDSError(
            f"{path}, line {short[0]}: expected 'LABEL,NAME', got {','.join(rows[short[0] - 1])!r}."
        )
    labels = [row[0] for row in rows]
    twice = [label for label in dict.fromkeys(labels) if labels.count(label) > 1]
    if twice:
        raise NDSError(f"{path}: {len(twice)} classes occur more than once, first {twice[0]!r}.")
    return Classes(tuple(labels), tuple(row[1] for row in rows))


def read_labels(path: Path) -> set[str]:
    """The codes of a list of classes, one in each line, with whatever follows after a comma."""
    return {row[0] for row in _small_csv(path)}


def _small_csv(path: Path) -> list[list[str]]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise NDSError(f"{path} cannot be read as a list of classes ({error}): get it again.") from None
    # The seventh version came with a heading, those before without.
    rows = rows[1:] if rows and rows[0][0] in ("LabelName", "id") else rows
    if not rows:
        raise NDSError(f"{path} lists no classes: get it again.")
    return rows


def stream_csv(path: Path, columns: Mapping[str, pa.DataType]) -> Iterator[pa.RecordBatch]:
    """Some columns of a CSV file, piece by piece, with a progress bar.

    Raises:
        NDSError: missing, empty, cut short, a column that is not there, or a value of another kind.
    """
    present = _heading(path)
    twice = [name for name in columns if present.count(name) > 1]
    if twice:
        raise NDSError(f"{path} has the column {twice[0]} more than once: get it again.")
    lacking = [name for name in columns if name not in present]
    if lacking:
        raise NDSError(
            f"{path} lacks the columns {', '.join(lacking)}; it has {', '.join(present[:20])}: is it another file?"
        )
    read = arrow_csv.ReadOptions(block_size=_BLOCK)
    # Titles are free text of photographers: quoted, with commas and, now and then, line ends.
    parse = arrow_csv.ParseOptions(newlines_in_values="Title" in present)
    convert = arrow_csv.ConvertOptions(
        column_types=dict(columns), include_columns=list(columns), strings_can_be_null=False
    )
    size = path.stat().st_size
    try:
        with (
            pa.OSFile(str(path)) as file,
            arrow_csv.open_csv(file, read, parse, convert) as reader,
            tqdm(total=size, unit="B", unit_scale=True, desc=path.name, disable=None, delay=2) as bar,
        ):
            rows = 0
            for batch in reader:
                _check_numbers(batch, path, rows)
                rows += len(batch)
                yield batch
                bar.update(file.tell() - bar.n)
    except (pa.ArrowInvalid, pa.ArrowKeyError, OSError) as error:
        cause = " ".join(str(error).split())[:200]
        raise NDSError(f"{path} is cut short or damaged ({cause}): get it again.") from None


def _check_numbers(batch: pa.RecordBatch, path: Path, before: int) -> None:
    """Refuse numbers that are empty or none ("NA", "nan").

    Args:
        before: rows of the file before the batch.
    """
    for name, column in zip(batch.schema.names, batch.columns):
        valid = column.is_valid()
        if pa.types.is_floating(column.type):
            valid = pc.and_(valid, pc.fill_null(pc.is_finite(column), False))
        bad = np.flatnonzero(~valid.to_numpy(zero_copy_only=False))
        if len(bad):
            raise NDSError(
                f"{path}: {len(bad)} of the rows from line {before + 2} on have no number in {name}, first line "
                f"{before + 2 + int(bad[0])}: repair the file or get it again."
            )


def _heading(path: Path) -> list[str]:
    try:
        with open(path, "rb") as file:  # the heading alone is decoded here
            row = next(csv.reader([file.readline().decode("utf-8-sig")]), [])
    except FileNotFoundError:
        raise NDSError(f"annotation file not found: {path}.") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise NDSError(f"{path} is not a CSV file ({error}): get it again.") from None
    if not row:
        raise NDSError(f"{path} is empty ({path.stat().st_size} bytes): get it again.")
    return row


@dataclass(frozen=True)
class ImageRows:
    """Some images of a list of images; ``checksum`` is "md5:" and hexadecimal digits, or empty."""

    image_id: pa.Array
    url: pa.Array
    license: pa.Array
    author: pa.Array
    checksum: pa.Array

    def __len__(self) -> int:
        return len(self.image_id)


def read_image_ids(path: Path) -> Iterator[pa.Array]:
    """The ids of a list of images."""
    for batch in stream_csv(path, {"ImageID": pa.string()}):
        yield batch.column(0)


def read_images(path: Path) -> Iterator[ImageRows]:
    """A list of images (``train-images-boxable-with-rotation.csv``).

    Raises:
        NDSError: see :func:`stream_csv`; an MD5 that is none.
    """
    for batch in stream_csv(path, dict.fromkeys(_IMAGE, pa.string())):
        ids, url, licence, author, md5 = (batch.column(name) for name in _IMAGE)
        yield ImageRows(ids, url, licence, author, _checksums(md5, ids, path))


def _checksums(column: pa.Array, ids: pa.Array, path: Path) -> pa.Array:
    """MD5 in base64, as published, as "md5:" and hexadecimal digits, as md5sum prints them."""
    given = pc.not_equal(column, "").to_numpy(zero_copy_only=False)
    text = column.filter(pa.array(given)).to_pylist()
    # All at once: with its two characters of padding made into data, a checksum is six groups of four.
    joined = "".join(part[:22] + "AA" for part in text)
    try:
        data = binascii.a2b_base64(joined)
    except (binascii.Error, ValueError):
        data = b""
    if len(data) != 18 * len(text) or len(joined) != 24 * len(text):
        rows = np.flatnonzero(given).tolist()
        row = next((i for i, part in zip(rows, text) if not _MD5.fullmatch(part)), rows[0])
        raise NDSError(
            f"{path}: OriginalMD5 of image {ids[row].as_py()!r} is no MD5 in base64: {column[row].as_py()!r}."
        )
    digits = np.frombuffer(data, np.uint8).reshape(-1, 18)[:, :16].tobytes().hex()
    found = np.full(len(column), "", dtype=object)
    found[given] = ["md5:" + digits[i : i + 32] for i in range(0, len(digits), 32)]
    return pa.array(found, pa.string())


@dataclass(frozen=True)
class BoxRows:
    """Some boxes.

    Attributes:
        image_id: text. category: position in the classes, int64.
        corners: XMin, XMax, YMin, YMax in shares of the image's sides; float64 of shape (N, 4).
        flags: uint8, bits of ``nds_plugin.store.schema``.
    """

    image_id: pa.Array
    category: npt.NDArray[np.int64]
    corners: npt.NDArray[np.float64]
    flags: npt.NDArray[np.uint8]

    def take(self, rows: npt.NDArray[np.int64], category: npt.NDArray[np.int64] | None = None) -> BoxRows:
        """Some of them, with other classes if need be."""
        classes = self.category[rows] if category is None else category
        return BoxRows(self.image_id.take(pa.array(rows)), classes, self.corners[rows], self.flags[rows])

    @classmethod
    def joined(cls, parts: Sequence[BoxRows]) -> BoxRows:
        """Several pieces as one."""
        return cls(
            pa.concat_arrays([part.image_id for part in parts]),
            np.concatenate([part.category for part in parts]),
            np.concatenate([part.corners for part in parts]),
            np.concatenate([part.flags for part in parts]),
        )


def read_boxes(path: Path, classes: Classes) -> Iterator[BoxRows]:
    """The boxes of ``train-annotations-bbox.csv`` and its likes.

    Raises:
        NDSError: see :func:`stream_csv`; a box of a class that is not listed.
    """
    kinds = {
        "ImageID": pa.string(),
        "LabelName": pa.dictionary(pa.int32(), pa.string()),
        **dict.fromkeys(_CORNERS, pa.float64()),
        **dict.fromkeys(_FLAGS, pa.int8()),
    }
    for batch in stream_csv(path, kinds):
        labels = batch.column("LabelName")
        category = classes.positions(labels)
        if (category < 0).any():
            row = int(np.flatnonzero(category < 0)[0])
            raise NDSError(
                f"{path}: {int((category < 0).sum())} boxes are of no class that class-descriptions-boxable.csv "
                f"lists, first {labels[row].as_py()!r} of image {batch.column('ImageID')[row].as_py()!r}."
            )
        corners = np.stack([batch.column(name).to_numpy() for name in _CORNERS], axis=1)
        flags = np.zeros(len(batch), dtype=np.uint8)
        for name, bit in _FLAGS.items():
            # 1 is yes, 0 no, -1 not known.
            flags |= np.where(batch.column(name).to_numpy() == 1, np.uint8(bit), np.uint8(0))
        yield BoxRows(batch.column("ImageID"), category, corners, flags)

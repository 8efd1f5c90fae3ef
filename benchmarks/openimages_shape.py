"""Annotation files of OpenImages' shape: its columns and its counts, made-up content.

    python benchmarks/openimages_shape.py --output /tmp/shape

writes ``OUTPUT/openimages/annotations`` with the files that OpenImages V6 publishes for training:
1,743,042 images and 14,610,229 boxes of 601 classes, about 3 GB. ``--images`` scales both down.
Nothing is a Python object for each row: columns are made by numpy and written by Arrow.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv
from tqdm import tqdm

IMAGES = 1_743_042
BOXES = 14_610_229
CLASSES = 601
_STEP = 200_000  # rows made at a time
_CLICKS = tuple(f"XClick{i}{axis}" for axis in "XY" for i in (1, 2, 3, 4))


def write_openimages(root: Path, images: int = IMAGES, boxes: int | None = None, seed: int = 0) -> Path:
    """Write the training files below ``root``, as below DETECTRON2_DATASETS.

    Args:
        root: gets ``openimages/annotations``.
        images, boxes: how many; boxes in OpenImages' ratio by default.
        seed: same seed, same bytes.

    Returns:
        The folder of the files.
    """
    boxes = boxes if boxes is not None else round(images * BOXES / IMAGES)
    folder = root / "openimages" / "annotations"
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.Generator(np.random.PCG64(seed))
    ids = np.unique(rng.integers(0, 2**64, size=images + 16, dtype=np.uint64))[:images]
    mids = [f"/m/0{i:05x}" for i in range(CLASSES)]
    lines = [f"{mid},Class {i}\n" for i, mid in enumerate(mids)]
    (folder / "class-descriptions-boxable.csv").write_text("".join(lines), encoding="utf-8")
    of_images, of_boxes = _image_rows(rng.permutation(ids), rng), _box_rows(ids, boxes, pa.array(mids), rng)
    # Titles hold quotes and commas; nothing else in the published files is quoted.
    _write(folder / "train-images-boxable-with-rotation.csv", of_images, len(ids), "needed")
    _write(folder / "oidv6-train-annotations-bbox.csv", of_boxes, boxes, "none")
    return folder


def _write(path: Path, tables: Iterator[pa.Table], rows: int, quoting: str) -> None:
    options = csv.WriteOptions(quoting_style=quoting)
    first = next(tables)
    bar = tqdm(itertools.chain([first], tables), total=-(-rows // _STEP), desc=path.name, disable=None)
    with csv.CSVWriter(path, first.schema, write_options=options) as writer:
        for table in bar:
            writer.write_table(table)


def _hex(numbers: npt.NDArray[np.uint64], digits: int = 16) -> pa.Array:
    """Numbers as text of so many hexadecimal digits."""
    text = numbers.astype(">u8").tobytes().hex().encode()
    characters = np.frombuffer(text, np.uint8).reshape(len(numbers), 16)[:, 16 - digits :]
    offsets = np.arange(0, digits * (len(numbers) + 1), digits, dtype=np.int32)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(characters))]
    return pa.Array.from_buffers(pa.string(), len(numbers), buffers)


def _join(*parts: Any) -> pa.Array:
    """Texts, numbers and constants put together row by row."""
    cast = [part.cast(pa.string()) if isinstance(part, pa.Array) else part for part in parts]
    return pc.binary_join_element_wise(*cast, "")


def _image_rows(ids: npt.NDArray[np.uint64], rng: np.random.Generator) -> Iterator[pa.Table]:
    for start in range(0, len(ids), _STEP):
        part = ids[start : start + _STEP]
        rows = len(part)
        photo = pa.array(rng.integers(10**8, 10**10, rows))
        user = _hex(rng.integers(0, 2**63, rows).astype(np.uint64), 8)
        secret = _hex(rng.integers(0, 2**63, rows).astype(np.uint64), 10)
        farm = pa.array(rng.integers(1, 9, rows))
        md5 = _join(_hex(rng.integers(0, 2**63, rows).astype(np.uint64), 11), secret, "A==")
        yield pa.table(
            {
                "ImageID": _hex(part),
                "Subset": pa.array(["train"]).take(pa.array(np.zeros(rows, np.int64))),
                "OriginalURL": _join(
                    "https://farm", farm, ".staticflickr.com/65535/", photo, "_", secret, "_o.jpg"
                ),
                "OriginalLandingURL": _join("https://www.flickr.com/photos/", user, "/", photo),
                "License": _join("https://creativecommons.org/licenses/by/2.0", pa.array([""] * rows), "/"),
                "AuthorProfileURL": _join("https://www.flickr.com/people/", user, "/"),
                "Author": _join("Author ", user),
                "Title": _join('A "title", ', photo),
                "OriginalSize": pa.array(rng.integers(10**5, 10**7, rows)),
                "OriginalMD5": md5,
                "Thumbnail300KURL": _join(
                    "https://c", farm, ".staticflickr.com/", photo, "_", secret, "_z.jpg"
                ),
                "Rotation": pa.array(rng.choice([0.0, 90.0, 180.0, 270.0], rows, p=[0.97, 0.01, 0.01, 0.01])),
            }
        )


def _box_rows(
    ids: npt.NDArray[np.uint64], boxes: int, mids: pa.Array, rng: np.random.Generator
) -> Iterator[pa.Table]:
    # Every image has a box, the others are spread unevenly, as in the published file.
    shares = rng.exponential(size=len(ids))
    extra = rng.multinomial(boxes - len(ids), shares / shares.sum()) if boxes > len(ids) else 0
    owners = np.repeat(np.arange(len(ids), dtype=np.int32), 1 + extra)[:boxes]
    for start in range(0, boxes, _STEP):
        part = owners[start : start + _STEP]
        rows = len(part)
        low = rng.random((rows, 2)) * 0.8
        high = low + (1 - low) * (0.05 + 0.95 * rng.random((rows, 2)))
        flags = rng.random((rows, 5)) < (0.3, 0.3, 0.06, 0.05, 0.001)
        names = ("IsOccluded", "IsTruncated", "IsGroupOf", "IsDepiction", "IsInside")
        # Classes are used unevenly, too: half of the boxes are of a few.
        classes = np.minimum((rng.exponential(size=rows) * 60).astype(np.int64), len(mids) - 1)
        yield pa.table(
            {
                "ImageID": _hex(ids[part]),
                "Source": pa.array(["xclick"]).take(pa.array(np.zeros(rows, np.int64))),
                "LabelName": mids.take(pa.array(classes)),
                "Confidence": pa.array(np.ones(rows, np.int8)),
                "XMin": np.round(low[:, 0], 6),
                "XMax": np.round(high[:, 0], 6),
                "YMin": np.round(low[:, 1], 6),
                "YMax": np.round(high[:, 1], 6),
                **{name: pa.array(flags[:, i].astype(np.int8)) for i, name in enumerate(names)},
                **{name: np.round(rng.random(rows), 6) for name in _CLICKS},
            }
        )


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="gets openimages/annotations")
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    write_openimages(args.output, args.images, seed=args.seed)


if __name__ == "__main__":
    main()

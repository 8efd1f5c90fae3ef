"""Downsampled ImageNet (Chrabaszcz et al., 2017), 32 x 32 and 64 x 64, as an image source.

Its images are no files: they are rows of pickled batches. Once, each batch is written as an array that
is memory-mapped (:mod:`nds_plugin.images.packed`); an image's file name is ``train_data_batch_3.npy#1234``,
which all of the partition, the experts and the pretraining read like any other.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nds_plugin.datasets.imagenet.batches import CLASSES, TRAIN_BATCHES, BatchFile, find_batches, read_batch
from nds_plugin.datasets.public import PublicDataset, Split, missing_tree, store_path
from nds_plugin.errors import NDSError
from nds_plugin.images.packed import write_packed
from nds_plugin.store import Images, Inputs, StoreSpec, StoreWriter
from nds_plugin.store.file_names import OWN_IMAGES, own_images
from nds_plugin.store.parts import Unit, default_processes, map_parts, unit_key

FOLDER = "downsampled_imagenet"
READER = 1  # of what the reader makes of the same files; a store of another one is made again
SIZES = (32, 64)
IMAGES = {"train": 1_281_167, "val": 50_000}
_MEMORY = 4 << 30  # bytes that the batches being converted at a time may take; our choice

TREE = """\
downsampled_imagenet/
  map_clsloc.txt                           names of the classes (optional)
  Imagenet32_train/train_data_batch_1 ... train_data_batch_10
  Imagenet32_val/val_data
  Imagenet64_train_part1/, _part2/         the same for 64 x 64 (or one Imagenet64_train/)
  Imagenet64_val/val_data
  or the npz form, Imagenet32_train_npz/train_data_batch_1.npz ..., or the zip files, not unpacked"""


def _batches(root: Path, size: int, split: str) -> list[BatchFile]:
    """All batches of a split; the error that shows the tree where one is missing."""
    found = {batch.number: batch for batch in find_batches(root / FOLDER, size, split)}
    expected = range(1, TRAIN_BATCHES + 1) if split == "train" else [0]
    for number in expected:
        if number not in found:
            name = f"train_data_batch_{number}" if split == "train" else "val_data"
            raise missing_tree(DOWNSAMPLED_IMAGENET, root, root / FOLDER / f"Imagenet{size}_{split}" / name)
    return [found[number] for number in expected]


def _names_file(root: Path) -> Path:
    return root / FOLDER / "map_clsloc.txt"


def _inputs(root: Path, size: int, split: str) -> Inputs:
    paths = list(dict.fromkeys(batch.path for batch in _batches(root, size, split)))
    names = _names_file(root)
    return Inputs(
        files=[*paths, *([names] if names.is_file() else [])],
        settings=["downsampled-imagenet", READER, size, split, names.is_file()],
    )


def _image_root(size: int, split: str, root: Path) -> Path:
    return own_images(store_path(root, _name(size, split)))


def _name(size: int, split: str) -> str:
    return f"downsampled_imagenet_{size}_{split}"


def _read(
    root: Path, size: int, split: str, writer: StoreWriter, parts: Path, target: Path
) -> list[tuple[int, str]]:
    folder = own_images(target)
    writer.info[OWN_IMAGES] = True
    batches = _batches(root, size, split)
    largest = max(batch.path.stat().st_size for batch in batches)
    tables = map_parts(
        _units(batches, size, folder, parts),
        _convert,
        parts,
        f"converting {_name(size, split)}",
        total=len(batches),
        processes=max(1, min(_MEMORY // (2 * largest + 1), len(batches), default_processes())),
    )
    for batch, table in zip(batches, tables):
        labels = table.column("label").to_numpy().astype(np.int32)
        rows = pa.array(np.arange(len(labels)))
        first = f"{split}_{batch.number:02d}_" if split == "train" else f"{split}_"
        sides = np.full(len(labels), size, dtype=np.int32)
        writer.add_images(
            Images(
                image_id=_numbered(first, pc.utf8_lpad(rows.cast(pa.string()), 6, "0")),
                file_name=_numbered(f"{batch.name}.npy#", rows.cast(pa.string())),
                width=sides,
                height=sides,
                label=labels,
            )
        )
    return list(enumerate(class_names(_names_file(root)), start=1))


def _numbered(text: str, numbers: pa.Array) -> pa.Array:
    return pc.binary_join_element_wise(text, numbers, "")


def _units(
    batches: list[BatchFile], size: int, folder: Path, parts: Path
) -> Iterator[Unit[tuple[BatchFile, int, Path]]]:
    for batch in batches:
        stat = batch.path.stat()
        pixels = folder / f"{batch.name}.npy"
        unit = Unit(
            unit_key(batch.where, str(stat.st_size), str(stat.st_mtime_ns), str(size), str(pixels)),
            (batch, size, pixels),
        )
        if not pixels.exists():  # removed since the part was made
            (parts / f"{unit.key}.arrow").unlink(missing_ok=True)
        yield unit


def _convert(argument: tuple[BatchFile, int, Path]) -> pa.Table:
    """Write the pixels of a batch; its labels are the part."""
    batch, size, pixels = argument
    content = read_batch(batch, size)
    write_packed(pixels, (len(content.data), size, size, 3), content.images(size))
    return pa.table({"label": content.labels})


def class_names(path: Path) -> list[str]:
    """Names of the 1000 classes in the order of the labels, from ``map_clsloc.txt``, spaces for underscores.

    A name that several classes have ("crane" the bird and the machine) gets its WordNet id. Where
    the file is missing the names are "class 1" to "class 1000".

    Raises:
        NDSError: a line is not "WNID LABEL NAME", or the labels are not 1 to 1000.
    """
    if not path.is_file():
        return [f"class {label}" for label in range(1, CLASSES + 1)]
    found: dict[int, tuple[str, str]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 3 or not fields[1].isdecimal():
            raise NDSError(f"{path}, line {number}: expected 'WNID LABEL NAME', got {line!r}.")
        found[int(fields[1])] = (fields[2].replace("_", " "), fields[0])
    if sorted(found) != list(range(1, CLASSES + 1)):
        raise NDSError(f"{path}: expected the labels 1 to {CLASSES}, each once, got {len(found)} labels.")
    counts = Counter(name for name, _ in found.values())
    names = (found[label] for label in range(1, CLASSES + 1))
    return [name if counts[name] == 1 else f"{name} ({wnid})" for name, wnid in names]


def _companions(split: str, store: Path) -> list[Path]:
    names = (
        [f"train_data_batch_{i}" for i in range(1, TRAIN_BATCHES + 1)] if split == "train" else ["val_data"]
    )
    return [own_images(store) / f"{name}.npy" for name in names]


def _spec(size: int, split: str, root: Path) -> StoreSpec:
    name = _name(size, split)
    return StoreSpec(
        name=name,
        path=store_path(root, name),
        inputs=functools.partial(_inputs, root, size, split),
        read=functools.partial(_read, root, size, split),
        companions=functools.partial(_companions, split),
    )


def _split(size: int, split: str) -> Split:
    return Split(
        name=_name(size, split),
        split=split,
        spec=functools.partial(_spec, size, split),
        image_root=functools.partial(_image_root, size, split),
        paper_images=IMAGES["train"] if split == "train" else None,
        images=IMAGES[split],
    )


DOWNSAMPLED_IMAGENET = PublicDataset(
    key="downsampled_imagenet",
    title="Downsampled ImageNet",
    task="classification",
    role="source",
    num_classes=CLASSES,
    paper_classes="1000",
    page="https://image-net.org/download-images.php",
    licence="ImageNet's terms of access: research and education, not commercial",
    tree=TREE,
    download="Imagenet32_train.zip, Imagenet32_val.zip (or the 64 x 64, or the npz files)",
    splits=tuple(_split(size, split) for size in SIZES for split in ("train", "val")),
    remarks=(
        "Batches are unpickled without executing anything. On first use each is written as an array that is "
        "memory-mapped, into nds_stores/NAME/ (3.9 GB for 32 x 32, 15.7 GB for 64 x 64). An image is called "
        "FILE.npy#ROW. The partition, the experts and the selection read it like any file; Detectron2's own "
        "mapper does not. Converting 64 x 64 takes 2 GB of memory. Class names come from map_clsloc.txt of "
        "the authors' scripts; without it they are 'class 1' to 'class 1000'."
    ),
)

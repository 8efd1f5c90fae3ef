"""Downsampled ImageNet as its provider publishes it, tiny: ten batches and one of validation."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

FORMS = ("pickle", "pickle of Python 2", "npz", "zip of pickles", "zip of npz")
PER_BATCH = 6

Content = dict[str, Any]


def batch(number: int, size: int, images: int = PER_BATCH) -> Content:
    """What the provider's script puts into a batch."""
    rng = np.random.Generator(np.random.PCG64([number, size]))
    data = rng.integers(0, 256, (images, 3 * size * size), dtype=np.uint8)
    labels = rng.integers(1, 1001, images).tolist()
    return {"data": data, "labels": labels, "mean": data.mean(axis=0)}


def batches(size: int) -> dict[str, Content]:
    """All batches by the names of their files."""
    found = {f"train_data_batch_{i}": batch(i, size) for i in range(1, 11)}
    found["val_data"] = {k: v for k, v in batch(0, size).items() if k != "mean"}
    return found


def write_tree(root: Path, size: int = 32, form: str = "pickle") -> Path:
    """Write all batches in one of the forms; the folder of the dataset."""
    folder = root / "downsampled_imagenet"
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in batches(size).items():
        split = "val" if name == "val_data" else "train"
        part = "" if size == 32 or split == "val" else f"_part{1 if int(name.rsplit('_', 1)[1]) <= 5 else 2}"
        npz = "npz" in form
        place = f"Imagenet{size}_{split}{part}{'_npz' if npz else ''}"
        data = (
            as_npz(content) if npz else as_python2(content) if "Python 2" in form else pickle.dumps(content)
        )
        file_name = f"{name}.npz" if npz else name
        if "zip" in form:
            with zipfile.ZipFile(folder / f"{place}.zip", "a", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr(f"{place}/{file_name}" if npz else file_name, data)
        else:
            (folder / place).mkdir(exist_ok=True)
            (folder / place / file_name).write_bytes(data)
    return folder


def as_npz(content: Content) -> bytes:
    """As the provider's npz files: the labels are an array there."""
    buffer = io.BytesIO()
    np.savez(buffer, **{**content, "labels": np.array(content["labels"], dtype=np.int64)})
    return buffer.getvalue()


def as_python2(content: Content) -> bytes:
    """As ``cPickle.dump(content, file, protocol=2)`` of Python 2: text and pixels are its ``str``."""
    out = [b"\x80\x02}("]
    for key, value in content.items():
        out += [_str(key.encode()), _array(value) if isinstance(value, np.ndarray) else _list(value)]
    return b"".join([*out, b"u."])


def _str(data: bytes) -> bytes:
    return b"U" + bytes([len(data)]) + data if len(data) < 256 else b"T" + struct.pack("<i", len(data)) + data


def _list(values: list[int]) -> bytes:
    return b"](" + b"".join(b"J" + struct.pack("<i", value) for value in values) + b"e"


def _array(values: npt.NDArray[Any]) -> bytes:
    empty = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85" + _str(b"b") + b"tR"
    shape = b"(" + b"".join(b"J" + struct.pack("<i", side) for side in values.shape) + b"t"
    kind = b"cnumpy\ndtype\n(" + _str(values.dtype.str[1:].encode()) + b"K\x00K\x01tR"
    order = b"(K\x03" + _str(values.dtype.str[:1].encode()) + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    return empty + b"(K\x01" + shape + kind + order + b"\x89" + _str(values.tobytes()) + b"tb"


def as_images(data: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    """Rows of a batch as images, the way its authors' own training script does it."""
    plane = size * size
    stacked = np.dstack((data[:, :plane], data[:, plane : 2 * plane], data[:, 2 * plane :]))
    return stacked.reshape((len(data), size, size, 3))

"""The header of a safetensors file, read with a cap and compared with the experts' architecture.

Needs neither torch nor the file's weights: eight bytes of length, then that much JSON. What a
stranger's file claims is checked before anything is made of it.
"""

from __future__ import annotations

import json
import os
from math import prod
from typing import Any

from nds_plugin.errors import NDSError

# A ResNet-18 has 122 tensors and a header of about 12 KB; the format itself allows 100 MB.
MAX_HEADER = 1 << 20
MAX_TENSORS = 10_000
_BYTES = {"F32": 4, "I64": 8}
_STAGES = ((64, 64), (64, 128), (128, 256), (256, 512))  # channels in and out of ResNet-18's stages

Shapes = dict[str, tuple[str, tuple[int, ...]]]


def resnet18_tensors(outputs: int) -> Shapes:
    """Name -> (dtype, shape) of torchvision's ResNet-18 with that many outputs."""
    found: Shapes = {"conv1.weight": ("F32", (64, 3, 7, 7)), **_batch_norm("bn1", 64)}
    for stage, (before, width) in enumerate(_STAGES, start=1):
        for block in (0, 1):
            name, inputs = f"layer{stage}.{block}", before if block == 0 else width
            found[f"{name}.conv1.weight"] = ("F32", (width, inputs, 3, 3))
            found[f"{name}.conv2.weight"] = ("F32", (width, width, 3, 3))
            found.update(_batch_norm(f"{name}.bn1", width))
            found.update(_batch_norm(f"{name}.bn2", width))
            if inputs != width:
                found[f"{name}.downsample.0.weight"] = ("F32", (width, inputs, 1, 1))
                found.update(_batch_norm(f"{name}.downsample.1", width))
    found["fc.weight"] = ("F32", (outputs, 512))
    found["fc.bias"] = ("F32", (outputs,))
    return found


def _batch_norm(name: str, channels: int) -> Shapes:
    vectors = ("weight", "bias", "running_mean", "running_var")
    found: Shapes = {f"{name}.{vector}": ("F32", (channels,)) for vector in vectors}
    return {**found, f"{name}.num_batches_tracked": ("I64", ())}


def heads_tensors(heads: int, outputs: int, features: int) -> Shapes:
    """Name -> (dtype, shape) of linear classifiers of the same features, and of the shared one."""
    return {
        "weight": ("F32", (heads, outputs, features)),
        "bias": ("F32", (heads, outputs)),
        "shared.weight": ("F32", (outputs, features)),
        "shared.bias": ("F32", (outputs,)),
    }


def check_resnet18_file(path: str | os.PathLike[str], outputs: int) -> None:
    """Refuse a file that is not a ResNet-18 in safetensors: names, dtypes, shapes and every offset.

    Raises:
        NDSError: missing, cut short, a header that is too long or malformed, or another network.
    """
    _check_tensors(path, resnet18_tensors(outputs), "a ResNet-18")


def check_heads_file(path: str | os.PathLike[str], heads: int, outputs: int, features: int) -> None:
    """Refuse a file that does not hold these linear classifiers, likewise.

    Raises:
        NDSError: see :func:`check_resnet18_file`.
    """
    what = f"{heads} heads of {outputs} outputs on {features} features"
    _check_tensors(path, heads_tensors(heads, outputs, features), what)


def check_weights_file(path: str | os.PathLike[str]) -> None:
    """Refuse a file that is not weights in safetensors: any names and shapes, but every offset must be right.

    Whether they are those of the network that they should be is seen where that is built.

    Raises:
        NDSError: missing, cut short, a header that is too long or malformed, or a dtype of no weights.
    """
    header = read_header(path)
    header.pop("__metadata__", None)
    if not 1 <= len(header) <= MAX_TENSORS:
        raise NDSError(f"{path}: {len(header)} tensors, expected 1 to {MAX_TENSORS}: not a network's file.")
    spans = []
    for name, entry in header.items():
        dtype, shape = (entry.get(k) if isinstance(entry, dict) else None for k in ("dtype", "shape"))
        if dtype not in _BYTES or not (
            isinstance(shape, list) and len(shape) <= 8 and all(map(_is_size, shape))
        ):
            raise NDSError(
                f"{path}: tensor {name[:100]!r} is {str(dtype)[:20]} {str(shape)[:60]}, expected one of "
                f"{', '.join(_BYTES)} and a shape: not a network's file."
            )
        spans.append(_span(path, name[:100], entry, dtype, tuple(shape), "this network"))
    _check_spans(path, sorted(spans), os.path.getsize(path))


def _check_tensors(path: str | os.PathLike[str], expected: Shapes, what: str) -> None:
    header = read_header(path)
    header.pop("__metadata__", None)
    if header.keys() != expected.keys():
        odd = sorted(header.keys() ^ expected.keys())
        raise NDSError(
            f"{path}: {len(odd)} tensors are missing or unknown for {what}, first {odd[0][:100]!r}: not "
            "an expert of this architecture."
        )
    spans = []
    for name, (dtype, shape) in expected.items():
        spans.append(_span(path, name, header[name], dtype, shape, what))
    _check_spans(path, sorted(spans), os.path.getsize(path))


def read_header(path: str | os.PathLike[str], max_bytes: int = MAX_HEADER) -> dict[str, Any]:
    """The JSON header of a safetensors file.

    Raises:
        NDSError: missing, cut short, longer than ``max_bytes``, or not a JSON object.
    """
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= max_bytes:
                raise NDSError(
                    f"{path}: its header claims {length} bytes, expected 2 to {max_bytes}: not a safetensors "
                    "file of an expert."
                )
            raw = file.read(length)
    except OSError as error:
        raise NDSError(f"cannot read {path}: {error.strerror}.") from None
    try:
        header = json.loads(raw) if len(raw) == length else None
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise NDSError(f"{path} is not a complete safetensors file: copy it or train it again.")
    return header


def _is_size(number: Any) -> bool:
    return type(number) is int and number >= 0


def _span(
    path: str | os.PathLike[str], name: str, entry: Any, dtype: str, shape: tuple[int, ...], what: str
) -> tuple[int, int]:
    """Where a tensor's bytes lie, after its dtype and shape were found right."""
    found = entry if isinstance(entry, dict) else {}
    if found.get("dtype") != dtype or found.get("shape") != list(shape):
        raise NDSError(
            f"{path}: tensor {name!r} should be {dtype} {list(shape)} in {what}, got "
            f"{str(found.get('dtype'))[:20]} {str(found.get('shape'))[:60]}: not an expert of this set."
        )
    offsets = found.get("data_offsets")
    if not (isinstance(offsets, list) and len(offsets) == 2 and all(type(n) is int for n in offsets)):
        raise NDSError(f"{path}: tensor {name!r} has no offsets: not a complete safetensors file.")
    start, stop = offsets
    if stop - start != prod(shape) * _BYTES[dtype]:
        raise NDSError(f"{path}: tensor {name!r} has {stop - start} bytes, not those of its shape.")
    return start, stop


def _check_spans(path: str | os.PathLike[str], spans: list[tuple[int, int]], size: int) -> None:
    with open(path, "rb") as file:
        header = 8 + int.from_bytes(file.read(8), "little")
    end = 0
    for start, stop in spans:
        if start != end:
            raise NDSError(f"{path}: its tensors overlap or leave a gap at byte {end}: not an expert's file.")
        end = stop
    if header + end != size:
        raise NDSError(f"{path}: {size} bytes, its header describes {header + end}: copy it again.")

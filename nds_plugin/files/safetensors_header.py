"""The header of a safetensors file, read with a cap and compared with the experts' architecture.

Needs neither torch nor the file's weights. What a stranger's file claims is checked before anything is made
of it.
"""

from __future__ import annotations

import os

from safetensors import SafetensorError, safe_open

from nds_plugin.errors import DamagedFileError

# A ResNet-18 has 122 tensors and a header of about 12 KB; the format itself allows 100 MB.
MAX_HEADER = 1 << 20
MAX_TENSORS = 10_000
_DTYPES = ("F32", "I64")
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
    """Refuse a file that is not a ResNet-18 in safetensors: names, dtypes, shapes; safetensors checks every offset.

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
    """Refuse a file that is not weights in safetensors, of any names and shapes.

    Whether they are those of the network that they should be is seen where that is built.

    Raises:
        NDSError: missing, cut short, a header that is too long or malformed, or a dtype of no weights.
    """
    _check_header_size(path)
    with open_safetensors(path) as file:
        names = list(file.keys())
        if not 1 <= len(names) <= MAX_TENSORS:
            raise DamagedFileError(
                f"{path}: {len(names)} tensors, expected 1 to {MAX_TENSORS}: not a network's file."
            )
        for name in names:
            if (dtype := file.get_slice(name).get_dtype()) not in _DTYPES:
                raise DamagedFileError(
                    f"{path}: tensor {name[:100]!r} is {dtype}, expected one of {', '.join(_DTYPES)}: not a "
                    "network's file."
                )


def _check_tensors(path: str | os.PathLike[str], expected: Shapes, what: str) -> None:
    _check_header_size(path)
    with open_safetensors(path) as file:
        if odd := sorted(set(file.keys()) ^ expected.keys()):
            raise DamagedFileError(
                f"{path}: {len(odd)} tensors are missing or unknown for {what}, first {odd[0][:100]!r}: not "
                "an expert of this architecture."
            )
        for name, (dtype, shape) in expected.items():
            tensor = file.get_slice(name)
            if (tensor.get_dtype(), tuple(tensor.get_shape())) != (dtype, shape):
                raise DamagedFileError(
                    f"{path}: tensor {name!r} should be {dtype} {list(shape)} in {what}, got "
                    f"{tensor.get_dtype()} {str(tensor.get_shape())[:60]}: not an expert of this set."
                )


def _check_header_size(path: str | os.PathLike[str]) -> None:
    """Before safetensors, whose own cap is 100 MB, reads it."""
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
    except OSError as error:
        raise DamagedFileError(f"cannot read {path}: {error.strerror}.") from None
    if not 2 <= length <= MAX_HEADER:
        raise DamagedFileError(
            f"{path}: its header claims {length} bytes, expected 2 to {MAX_HEADER}: not a safetensors file of an "
            "expert."
        )


def open_safetensors(path: str | os.PathLike[str]) -> safe_open:
    """A safetensors file whose header has been checked; tensors are read when asked for, as numpy arrays.

    Raises:
        NDSError: missing, cut short, or not in the format.
    """
    try:
        return safe_open(os.fspath(path), framework="numpy")
    except OSError as error:
        raise DamagedFileError(f"cannot read {path}: {error.strerror or error}.") from None
    except SafetensorError as error:
        raise incomplete(path, error) from None


def incomplete(path: str | os.PathLike[str], error: Exception) -> DamagedFileError:
    """The error for a file that safetensors refuses."""
    cause = " ".join(str(error).split())[:200]
    return DamagedFileError(
        f"{path} is not a complete safetensors file ({cause}): copy it or train it again."
    )

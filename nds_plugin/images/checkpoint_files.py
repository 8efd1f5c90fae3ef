"""Checkpoints of any maker as tensors under their names; nothing in a file is executed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from nds_plugin.errors import NDSError
from nds_plugin.files.pickles import load_arrays

_WRAPPERS = ("model", "state_dict", "blobs")

State = dict[str, torch.Tensor]


def read_state(path: str | os.PathLike[str]) -> State:
    """All arrays of a ``.pth``, ``.pkl`` or ``.safetensors`` file under their names.

    Raises:
        NDSError: the file is missing, cut short, would run code, or holds no dict of weights.
    """
    if not os.path.isfile(path):
        raise NDSError(f"feature network: no such file: {path}.")
    if str(path).endswith(".safetensors"):
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise NDSError(f"feature network: {path} is not a whole safetensors file ({error}).") from None
    content = load_arrays(path) if str(path).endswith(".pkl") else _torch_load(path)
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping):
        raise NDSError(
            f"feature network: {path} holds a {type(content).__name__}, expected a dict of weights: save the "
            "network's state_dict()."
        )
    return {str(name): _tensor(value) for name, value in content.items() if _is_array(value)}


def _torch_load(path: str | os.PathLike[str]) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch raises RuntimeError, UnpicklingError, EOFError, KeyError... for a broken file.
        cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise NDSError(
            f"feature network: {path} cannot be read without running code from it, or is cut short "
            f"({cause[:200]}): give a file that holds only the state_dict()."
        ) from None


def _is_array(value: Any) -> bool:
    return isinstance(value, torch.Tensor) or (isinstance(value, np.ndarray) and value.dtype.kind in "fiu")


def _tensor(value: Any) -> torch.Tensor:
    return value if isinstance(value, torch.Tensor) else torch.from_numpy(np.array(value))

"""Checkpoint files of torch: written whole or not at all, and read without unpickling code."""

from __future__ import annotations

import logging
import os
import pickle
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from nds_plugin.errors import NDSError
from nds_plugin.files.artifacts import atomic_write

logger = logging.getLogger(__name__)
V = TypeVar("V")
_PLAIN = (torch.Tensor, bool, int, float, str, bytes, type(None))


def write_checkpoint(path: str | os.PathLike[str], data: Mapping[str, Any]) -> None:
    """Atomically ``torch.save`` to a file.

    Raises:
        NDSError: the disk is full or the folder cannot be written; ``path`` is untouched.
    """
    with atomic_write(path) as file:
        try:
            torch.save(dict(data), file)
        except RuntimeError as error:
            # The archive writer trips over the failed write and hides why it failed.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from error
            raise


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a checkpoint file onto the CPU, without unpickling code.

    Raises:
        NDSError: missing, cut short, not a checkpoint, or one that holds other things than
            tensors, numbers, strings, lists and dicts.
    """
    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise NDSError(f"checkpoint not found: {path}.") from None
    except pickle.UnpicklingError as error:
        cause = str(error).strip().splitlines()[0] if str(error).strip() else "cut short"
        raise NDSError(f"{path} cannot be loaded as weights only: {cause}") from None
    except (RuntimeError, EOFError, KeyError, ValueError, OSError, IndexError, AttributeError) as error:
        lines = str(error).splitlines()
        cause = lines[0].split(". This is")[0] if lines else type(error).__name__
        raise NDSError(f"{path} is not a whole checkpoint ({cause}): take another one.") from None
    if not isinstance(data, dict):
        raise NDSError(f"{path}: expected a checkpoint (a dict), got a {type(data).__name__}.")
    return data


def why_broken(path: str | os.PathLike[str]) -> str | None:
    """Why a file is not a whole checkpoint; None if it is. Reads and checks every byte."""
    try:
        if zipfile.is_zipfile(path):  # torch.load itself does not look at the check sums
            with zipfile.ZipFile(path) as archive:
                bad = archive.testzip()
            if bad is not None:
                return f"{path}: {bad} does not match its check sum"
        read_checkpoint(path)
    except NDSError as error:
        return str(error)
    except Exception as error:  # a damaged archive raises nearly anything
        return f"{path} is not a whole checkpoint ({type(error).__name__}: {error})"
    return None


def first_whole(paths: Iterable[Path]) -> tuple[Path | None, list[str]]:
    """The checkpoint to resume at: the first that is whole.

    Args:
        paths: of checkpoints, the newest first.

    Returns:
        Its path, None where none is whole, and why each one before it is not, of which a WARNING tells.
    """
    tried: list[str] = []
    for path in paths:
        broken = why_broken(path)
        if broken is None:
            if tried:
                logger.warning("Resuming at %s, because the newest is not usable: %s", path, tried[0])
            return path, tried
        tried.append(broken)
    return None, tried


def without_module_prefix(state: Mapping[str, V]) -> dict[str, V]:
    """A state dict by the names of the model itself, where all have the prefix of torch's DataParallel."""
    prefix = "module."
    wrapped = all(name.startswith(prefix) for name in state)
    return {name.removeprefix(prefix) if wrapped else name: value for name, value in state.items()}


def plain_state(value: Any, key: str) -> Any:
    """The value with numpy numbers and arrays converted; an error for anything unloadable."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return torch.from_numpy(value.copy())
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {
            k.item() if isinstance(k, np.generic) else k: plain_state(v, f"{key}.{k}")
            for k, v in value.items()
        }
    if isinstance(value, (list, tuple)):
        items = [plain_state(item, f"{key}[{i}]") for i, item in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)
    if isinstance(value, _PLAIN) and type(value).__module__ in ("builtins", "torch", "torch.nn.parameter"):
        return value
    raise NDSError(
        f"the state {key} of a checkpoint is a {type(value).__name__}: state_dict() must give only tensors, "
        "numbers, strings, lists and dicts, which load without unpickling code."
    )

"""Experts on disk: safetensors files and a manifest; hashed, checked, never unpickled.

``experts/`` holds ``manifest.json`` and, where every expert is a network, ``expert_0000.safetensors`` and so
on, one per cluster, and ``shared.safetensors``, the network that they started from and that relative scores
compare to; where experts are heads, ``backbone.safetensors`` and ``heads.safetensors`` (``heads.py``).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torchvision.models import ResNet

from nds_plugin.errors import NDSError
from nds_plugin.experts.heads import Heads
from nds_plugin.experts.manifest import ARCH, HEAD, MANIFEST, expert_kind, read_manifest, set_files
from nds_plugin.files.artifacts import VERSION, atomic_write, file_hash
from nds_plugin.files.safetensors_header import incomplete, open_safetensors
from nds_plugin.images.backbones import FeatureNetwork, restore
from nds_plugin.images.networks import empty_network

_HEADER = "nds"  # the only metadata key: safetensors writes several in no fixed order


def write_network(
    path: str | os.PathLike[str], weights: Mapping[str, torch.Tensor], header: Mapping[str, Any]
) -> None:
    """Write weights with a JSON header atomically; equal input gives equal bytes.

    Args:
        path: the file.
        weights: name -> tensor, as ``state_dict`` gives.
        header: must hold ``key``, the hash of everything the weights were made from.
    """
    text = json.dumps({"kind": "expert", "version": VERSION, **header}, allow_nan=False, sort_keys=True)
    data = save({k: v.contiguous() for k, v in weights.items()}, {_HEADER: text})
    with atomic_write(path) as file:
        file.write(data)


def read_network(
    path: str | os.PathLike[str], sha256: str | None = None
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read weights and header of a file that :func:`write_network` wrote.

    Args:
        path: the file.
        sha256: the hash that the file must have, if known.

    Raises:
        NDSError: missing, cut short, changed since it was hashed, or not written by nds_plugin.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise NDSError(f"expert file not found: {path}.") from None
    try:
        weights = load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise incomplete(path, error) from None
    # The format: 8 bytes of length, then JSON. From the same bytes as weights and hash; load() has checked it.
    metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__")
    header = _header(metadata, path)
    found = hashlib.sha256(data).hexdigest() if sha256 is not None else None
    if found != sha256:
        raise _wrong_hash(path, sha256, found)
    return weights, header


def _wrong_hash(path: str | os.PathLike[str], expected: str | None, found: str | None) -> NDSError:
    return NDSError(
        f"{path} is not the file that the manifest names: expected SHA-256 {expected}, got {found}; copy the "
        "whole folder of experts again."
    )


def _header(metadata: Mapping[str, str] | None, path: str | os.PathLike[str]) -> dict[str, Any]:
    if metadata is None or _HEADER not in metadata:
        raise NDSError(f"{path} is a safetensors file, but not one that nds_plugin wrote.")
    try:
        header = json.loads(metadata[_HEADER])
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise NDSError(f"{path}: its header is damaged: train it again.")
    if header.get("version") != VERSION or not isinstance(header.get("key"), str):
        raise NDSError(
            f"{path}: written in version {header.get('version')} of the format, this release reads "
            f"version {VERSION}: train it again."
        )
    return header


def valid_header(path: str | os.PathLike[str], key: str) -> dict[str, Any] | None:
    """The header of a whole network file that was made from exactly these inputs, else None."""
    try:
        with open_safetensors(path) as file:
            header = _header(file.metadata(), path)
    except NDSError:
        return None
    return header if header["key"] == key else None


def load_network(
    path: str | os.PathLike[str], *, outputs: int | None = None, sha256: str | None = None
) -> ResNet:
    """A network file as a ResNet-18 in eval mode, float32, on the CPU.

    Args:
        path: the file.
        outputs: number of outputs expected, else as the file's header says.
        sha256: the hash that the file must have, if known.

    Raises:
        NDSError: see :func:`read_network`; or names or shapes that are not the architecture's.
    """
    weights, header = read_network(path, sha256)
    network = empty_network(outputs if outputs is not None else int(header["outputs"]))
    expected = network.state_dict()
    if weights.keys() != expected.keys():
        odd = sorted(weights.keys() ^ expected.keys())
        raise NDSError(
            f"{path}: {len(odd)} tensors are missing or unknown for {ARCH}, first {odd[0]!r}: not an expert "
            "of this architecture."
        )
    for name, tensor in expected.items():
        if weights[name].shape != tensor.shape or weights[name].dtype != tensor.dtype:
            raise NDSError(
                f"{path}: tensor {name!r} should be {_describe(tensor)} in {ARCH}, got "
                f"{_describe(weights[name])}: not an expert of this set."
            )
    _refuse_not_finite(weights, path)
    # Clones, since the tensors that were read share the file's read-only buffer.
    network.load_state_dict({name: tensor.clone() for name, tensor in weights.items()}, assign=True)
    return network.eval()


def _refuse_not_finite(weights: Mapping[str, torch.Tensor], path: str | os.PathLike[str]) -> None:
    for name, tensor in weights.items():
        if not bool(torch.isfinite(tensor).all()):
            raise NDSError(f"{path}: tensor {name!r} holds values that are not finite: train it again.")


def _describe(tensor: torch.Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


class ExpertSet:
    """A folder of experts whose manifest has been checked; the networks are read when asked for.

    Attributes:
        directory: the folder.
        manifest: content of ``manifest.json``.
    """

    def __init__(self, directory: Path, manifest: dict[str, Any]) -> None:
        self.directory = directory
        self.manifest = manifest
        self._entries = {entry["cluster"]: entry for entry in manifest["experts"]}

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> ExpertSet:
        """Read a folder's manifest and see that its files are there.

        Raises:
            NDSError: no manifest, one that was changed by hand, or a missing file.
        """
        directory = Path(directory)
        manifest = read_manifest(directory / MANIFEST)
        experts = cls(directory, manifest)
        names = [entry["file"] for entry in set_files(manifest)]
        missing = [name for name in names if not (directory / name).is_file()]
        if missing:
            raise NDSError(
                f"{directory}: {len(missing)} of {len(names)} expert files are missing, first {missing[0]}: "
                "copy the whole folder of experts again."
            )
        return experts

    @property
    def hash(self) -> str:
        """Hash that scores carry, so that they are never used with other experts."""
        return str(self.manifest["hash"])

    @property
    def clusters(self) -> list[int]:
        """Numbers of the clusters, ascending."""
        return sorted(self._entries)

    @property
    def task(self) -> str:
        """Name of the proxy task."""
        return str(self.manifest["task"])

    @property
    def crop_size(self) -> int:
        """Side of the crops in pixels."""
        return int(self.manifest["crop_size"])

    @property
    def kind(self) -> str:
        """One of ``manifest.EXPERT_KINDS``."""
        return expert_kind(self.manifest)

    @property
    def has_shared(self) -> bool:
        """Whether what relative scores compare to is part of the set; heads always have it."""
        return self.kind == HEAD or self.manifest.get("shared") is not None

    def load_model(self, cluster: int) -> ResNet:
        """A cluster's expert, in eval mode, float32, on the CPU.

        Raises:
            NDSError: no such cluster; or the file is cut short, changed or of other shapes.
        """
        self._refuse_heads()
        if cluster not in self._entries:
            raise NDSError(f"no expert of cluster {cluster!r} in {self.directory}; it has {self.clusters}.")
        return self._load(self._entries[cluster])

    def load_shared(self) -> ResNet:
        """The network that the experts started from, likewise.

        Raises:
            NDSError: the set was trained without one; or its file is not in order.
        """
        self._refuse_heads()
        if not self.has_shared:
            raise NDSError(f"{self.directory} holds no shared network: its experts were trained without one.")
        return self._load(self.manifest["shared"])

    def load_backbone(self) -> FeatureNetwork:
        """The frozen network under all heads, float32, on the CPU.

        Raises:
            NDSError: the experts are networks; the file is not in order; or the network is timm's, which is
                not installed.
        """
        path = self._head_file("backbone")
        weights, _ = read_network(path, self.manifest["backbone"]["sha256"])
        _refuse_not_finite(weights, path)
        # Clones, since the tensors that were read share the file's read-only buffer.
        state = {name: tensor.clone() for name, tensor in weights.items()}
        return restore(self.manifest, state, str(path))

    def load_heads(self) -> Heads:
        """The linear classifiers of all clusters, ascending, and the shared one.

        Raises:
            NDSError: the experts are networks, or the file is not in order.
        """
        path = self._head_file("heads")
        weights, _ = read_network(path, self.manifest["heads"]["sha256"])
        shape = (len(self._entries), len(self.manifest["classes"]), self.manifest["features"])
        _refuse_not_finite(weights, path)
        return Heads.from_state({name: tensor.clone() for name, tensor in weights.items()}, shape, str(path))

    def _head_file(self, name: str) -> Path:
        if self.kind != HEAD:
            raise NDSError(f"{self.directory} holds no {name}: its experts are networks of their own.")
        return self.directory / str(self.manifest[name]["file"])

    def _refuse_heads(self) -> None:
        if self.kind == HEAD:
            raise NDSError(
                f"{self.directory}: its experts are heads on one backbone and no networks of their own: use "
                "load_backbone and load_heads."
            )

    def verify(self) -> None:
        """Hash every file.

        Raises:
            NDSError: one is not the file that the manifest names.
        """
        for entry in set_files(self.manifest):
            found = file_hash(self.directory / entry["file"])
            if found != entry["sha256"]:
                raise _wrong_hash(self.directory / entry["file"], entry["sha256"], found)

    def _load(self, entry: Mapping[str, Any]) -> ResNet:
        path = self.directory / entry["file"]
        return load_network(path, outputs=len(self.manifest["classes"]), sha256=entry["sha256"])

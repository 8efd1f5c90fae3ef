"""A gate on disk: the network and the classifier as safetensors, and a manifest; hashed, never unpickled."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nds_plugin.errors import NDSError
from nds_plugin.experts.expert_set import read_network, write_network
from nds_plugin.files.artifacts import (
    check_own_hash,
    content_hash,
    file_hash,
    is_valid,
    read_json,
    write_json,
)
from nds_plugin.images.backbones import FeatureNetwork, restore
from nds_plugin.images.crop_geometry import resize_size
from nds_plugin.images.input_form import IMAGENET, MSRA
from nds_plugin.images.linear import LinearClassifier

KIND = "gate"
MANIFEST = "manifest.json"
NETWORK = "network.safetensors"
CLASSIFIER = "classifier.safetensors"
CENTROIDS = {"classifier": "centroids"}  # in the place of the settings of a gate that is fitted
_FIELDS = {
    "hash": str, "arch": str, "crop_size": int, "resize_size": int, "partition": str, "index": str,
    "sources": list, "clusters": int, "config": dict, "files": dict,
}  # fmt: skip


@dataclass(frozen=True)
class Gate:
    """A folder of a gate whose manifest has been checked; the files are read when asked for."""

    directory: Path
    manifest: dict[str, Any]

    @property
    def hash(self) -> str:
        """Hash that scores carry, so that they are never used with another gate."""
        return str(self.manifest["hash"])

    @property
    def by_centroids(self) -> bool:
        """Whether an image counts for the cluster of its nearest centroid alone, as the histogram wants it."""
        return bool(self.manifest["config"] == CENTROIDS)

    @property
    def num_clusters(self) -> int:
        """K."""
        return int(self.manifest["clusters"])

    @property
    def crop_size(self) -> int:
        """Side of the crops in pixels."""
        return int(self.manifest["crop_size"])

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> Gate:
        """Read a folder's manifest and see that its files are there.

        Raises:
            NDSError: no manifest, one that was changed by hand, or a missing file.
        """
        directory = Path(directory)
        path = directory / MANIFEST
        manifest = read_json(path, KIND)
        for name, kind in _FIELDS.items():
            if not isinstance(manifest.get(name), kind):
                raise NDSError(
                    f"{path}: field {name!r} should be of type {kind.__name__}: make the gate again."
                )
        check_own_hash(path, manifest, gate_hash)
        if set(manifest["files"]) != {NETWORK, CLASSIFIER}:
            raise NDSError(f"{path}: expected the files {NETWORK} and {CLASSIFIER}: make the gate again.")
        if manifest["resize_size"] != resize_size(manifest["crop_size"]):
            raise NDSError(f"{path}: crops of another release of nds_plugin: make the gate again.")
        missing = [name for name in (NETWORK, CLASSIFIER) if not (directory / name).is_file()]
        if missing:
            raise NDSError(f"{directory}: {missing[0]} is missing: copy the whole folder of the gate again.")
        return cls(directory, manifest)

    def network(self) -> FeatureNetwork:
        """The frozen feature network, on the CPU.

        Raises:
            NDSError: its file is not the one that the manifest names, or not a whole network.
        """
        weights, _ = read_network(self.directory / NETWORK, self.manifest["files"][NETWORK])
        # Clones, since the tensors that were read share the file's read-only buffer.
        state = {name: tensor.clone() for name, tensor in weights.items()}
        return restore(_description(self.manifest), state, str(self.directory / NETWORK))

    def classifier(self) -> LinearClassifier:
        """The classifier of clusters on the network's features.

        Raises:
            NDSError: its file is not the one that the manifest names, or of another shape.
        """
        path = self.directory / CLASSIFIER
        weights, _ = read_network(path, self.manifest["files"][CLASSIFIER])
        shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
        weight, bias = shapes.get("weight", ()), shapes.get("bias", ())
        if len(weight) != 2 or weight[0] != self.num_clusters or bias != weight[:1] or len(shapes) != 2:
            raise NDSError(
                f"{path}: expected weight ({self.num_clusters}, D) and bias ({self.num_clusters},), got {shapes}."
            )
        if not all(bool(torch.isfinite(tensor).all()) for tensor in weights.values()):
            raise NDSError(f"{path}: holds values that are not finite: make the gate again.")
        return LinearClassifier(
            *(np.array(weights[name].numpy(), dtype=np.float64) for name in ("weight", "bias"))
        )


def gate_hash(manifest: Mapping[str, Any]) -> str:
    """Hash of a gate: of its files' hashes and of all that decides how they are used."""
    form = "msra" if "msra" in manifest else "input"
    used = ("files", "arch", form, "crop_size", "resize_size", "clusters", "config")
    return content_hash({name: manifest.get(name) for name in used})


def _description(manifest: dict[str, Any]) -> dict[str, Any]:
    """What the network is; gates of before networks had names say ``msra`` in place of the input."""
    if "msra" not in manifest:
        return manifest
    return {"arch": manifest["arch"], "input": (MSRA if manifest["msra"] else IMAGENET).to_dict()}


def write_gate(
    directory: str | os.PathLike[str],
    key: str,
    network: FeatureNetwork,
    classifier: LinearClassifier,
    facts: dict[str, Any],
) -> Gate:
    """Write a gate, the manifest last.

    Args:
        directory: the folder.
        key: hash of everything that the gate was made from.
        network, classifier: its parts.
        facts: the manifest's crop_size, partition, index, sources and config, and what else is worth keeping.
    """
    directory = Path(directory)
    write_network(directory / NETWORK, network.body.state_dict(), {"kind": KIND, "key": key})
    tensors = {"weight": torch.from_numpy(classifier.weight), "bias": torch.from_numpy(classifier.bias)}
    write_network(directory / CLASSIFIER, tensors, {"kind": KIND, "key": key})
    manifest = {
        **facts,
        **network.describe(),
        "resize_size": resize_size(facts["crop_size"]),
        "clusters": len(classifier.bias),
        "files": {name: file_hash(directory / name) for name in (NETWORK, CLASSIFIER)},
    }
    write_json(directory / MANIFEST, KIND, key, {**manifest, "hash": gate_hash(manifest)})
    return Gate.load(directory)


def gate_is_complete(directory: str | os.PathLike[str], key: str) -> bool:
    """Whether a folder holds the whole gate made from exactly these inputs."""
    if not is_valid(Path(directory) / MANIFEST, KIND, key):
        return False
    try:
        gate = Gate.load(directory)
        gate.network()
        gate.classifier()
    except NDSError:
        return False
    return True

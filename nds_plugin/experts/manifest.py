"""The manifest of an expert set: what it says, whether it is whole, and the set's hash.

A set is of one of two kinds. ``network``: a ResNet-18 per cluster, each in a file, and the shared network
that they started from. ``head``: one frozen backbone for all clusters and, in one file, a linear classifier
per cluster. Needs no torch, so that a server can hand experts out without it.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nds_plugin.errors import NDSError
from nds_plugin.files.artifacts import check_own_hash, content_hash, read_json
from nds_plugin.files.safetensors_header import check_heads_file, check_resnet18_file, check_weights_file
from nds_plugin.images.crop_geometry import resize_size
from nds_plugin.images.input_form import IMAGENET, InputForm

ARCH = "resnet18"
KIND = "experts"
NETWORK, HEAD = "network", "head"
EXPERT_KINDS = (NETWORK, HEAD)
MANIFEST = "manifest.json"
SHARED = "shared.safetensors"
BACKBONE, HEADS = "backbone.safetensors", "heads.safetensors"
TASKS = ("rotation", "supervised")
ROTATIONS = 4  # 0, 90, 180 and 270 degrees, counter-clockwise
MIN_CROP, MAX_CROP = 8, 1024  # sides in pixels; a stranger's manifest must not ask for all memory
MAX_FEATURES = 1 << 16
_FIELDS = {
    "hash": str, "task": str, "arch": str, "crop_size": int, "resize_size": int,
    "classes": list, "partition": str, "index": str, "sources": list, "config": dict, "experts": list,
}  # fmt: skip
_FIELDS_OF: dict[str, dict[str, Any]] = {
    NETWORK: {"mean": list, "std": list},
    HEAD: {"input": dict, "features": int, "backbone": dict, "heads": dict},
}
_FILE_FIELDS = {"file": str, "sha256": str}
_EXPERT_FIELDS_OF: dict[str, dict[str, Any]] = {
    NETWORK: {"cluster": int, "images": int, "steps": int, **_FILE_FIELDS},
    HEAD: {"cluster": int, "images": int},
}


def expert_file(cluster: int) -> str:
    """File name of a cluster's expert, where it is a network of its own."""
    return f"expert_{cluster:04d}.safetensors"


def expert_kind(manifest: Mapping[str, Any]) -> str:
    """The kind of a set's experts; sets of before there were heads do not name it."""
    return str(manifest.get("expert_kind", NETWORK))


def set_files(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The entries of a set's files, each with ``file`` and ``sha256``; the manifest itself is not among them."""
    if expert_kind(manifest) == HEAD:
        return [manifest["backbone"], manifest["heads"]]
    shared = manifest.get("shared")
    return [*manifest["experts"], *([shared] if shared else [])]


def set_hash(manifest: Mapping[str, Any]) -> str:
    """Hash of an expert set: of its files' hashes and of all that decides how they are used."""
    if expert_kind(manifest) == HEAD:
        clusters = [entry["cluster"] for entry in manifest["experts"]]
        files = [entry["sha256"] for entry in set_files(manifest)]
        fields = ("task", "arch", "input", "features", "crop_size", "resize_size", "config")
        return content_hash([HEAD, clusters, files, {k: manifest[k] for k in fields}])
    experts = [[entry["cluster"], entry["sha256"]] for entry in manifest["experts"]]
    shared = manifest["shared"]["sha256"] if manifest.get("shared") else None
    used = {k: manifest[k] for k in ("task", "arch", "crop_size", "resize_size", "mean", "std", "config")}
    return content_hash([experts, shared, used])


def read_manifest(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A folder's ``manifest.json``.

    Raises:
        NDSError: missing, or not the manifest of a set that this release reads.
    """
    manifest = read_json(path, KIND)
    check_manifest(manifest, Path(path))
    return manifest


def check_manifest(manifest: Mapping[str, Any], path: Path) -> None:
    """Refuse a manifest of wrong fields, with files outside its folder, or that was changed by hand."""
    kind = expert_kind(manifest)
    if kind not in EXPERT_KINDS:
        raise NDSError(
            f"{path}: experts of kind {kind!r:.40}, this release reads {' and '.join(EXPERT_KINDS)}: update it."
        )
    _check_fields(manifest, kind, path)
    if any(Path(entry["file"]).name != entry["file"] for entry in set_files(manifest)):
        raise NDSError(f"{path}: an expert's file lies outside the folder; the manifest is not nds_plugin's.")
    if kind == NETWORK and manifest["arch"] != ARCH:
        raise NDSError(f"{path}: experts of architecture {manifest['arch']!r}, this release reads {ARCH!r}.")
    _check_task(manifest, kind, path)
    clusters = [-1, *(entry["cluster"] for entry in manifest["experts"])]
    if any(first >= second for first, second in itertools.pairwise(clusters)):
        raise NDSError(f"{path}: the experts' clusters should ascend from 0 or more: make it again.")
    ours = {**IMAGENET.to_dict(), **{name: manifest.get(name) for name in ("mean", "std")}}
    InputForm.from_dict(manifest["input"] if kind == HEAD else ours, str(path))
    if kind == HEAD and not 1 <= manifest["features"] <= MAX_FEATURES:
        raise NDSError(f"{path}: {manifest['features']} features, expected 1 to {MAX_FEATURES}.")
    if manifest["resize_size"] != resize_size(manifest["crop_size"]):
        raise NDSError(
            f"{path}: crops of {manifest['crop_size']} from {manifest['resize_size']} pixels, this release "
            f"takes them from {resize_size(manifest['crop_size'])}: train the experts again."
        )
    check_own_hash(path, manifest, set_hash)


def _check_task(manifest: Mapping[str, Any], kind: str, path: Path) -> None:
    task, crop_size, outputs = manifest["task"], manifest["crop_size"], len(manifest["classes"])
    known = TASKS[:1] if kind == HEAD else TASKS
    if task not in known:
        raise NDSError(
            f"{path}: {kind} experts of task {task!r:.40}, expected {' or '.join(known)}: update it."
        )
    if outputs != ROTATIONS if task == "rotation" else outputs < 2:
        raise NDSError(f"{path}: {outputs} classes of the task {task!r}: make it again.")
    if not MIN_CROP <= crop_size <= MAX_CROP:
        raise NDSError(
            f"{path}: crops of {crop_size} pixels, expected {MIN_CROP} to {MAX_CROP}: make it again."
        )


def _check_fields(manifest: Mapping[str, Any], kind: str, path: Path) -> None:
    entries = manifest.get("experts")
    rows: list[tuple[Any, dict[str, Any]]] = [(manifest, {**_FIELDS, **_FIELDS_OF[kind]})]
    rows += [(entry, _EXPERT_FIELDS_OF[kind]) for entry in (entries if isinstance(entries, list) else [])]
    if kind == NETWORK and manifest.get("shared") is not None:
        rows.append((manifest["shared"], _FILE_FIELDS))
    if kind == HEAD:
        rows += [(manifest.get(name), _FILE_FIELDS) for name in ("backbone", "heads")]
    for row, fields in rows:
        for name, expected in fields.items():
            if not isinstance(row, Mapping) or not isinstance(row.get(name), expected):
                raise NDSError(
                    f"{path}: field {name!r} should be of type {expected.__name__}: make it again."
                )
    if not entries:
        raise NDSError(f"{path}: holds no experts: make it again.")


def check_set_file(path: str | os.PathLike[str], manifest: Mapping[str, Any], name: str) -> None:
    """Refuse a file of a set whose header is not what the manifest makes of it; no weights are read.

    Args:
        path: where the file is.
        manifest: of the set, checked.
        name: of the file in the set.

    Raises:
        NDSError: missing, cut short, or other tensors.
    """
    outputs = len(manifest["classes"])
    if expert_kind(manifest) == NETWORK:
        check_resnet18_file(path, outputs)
    elif name == manifest["heads"]["file"]:
        check_heads_file(path, len(manifest["experts"]), outputs, manifest["features"])
    else:
        check_weights_file(path)

"""The manifest of an expert set: what it says, whether it is whole, and the set's hash.

Needs no torch, so that a server can hand experts out without it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nds_plugin.errors import NDSError
from nds_plugin.files.artifacts import content_hash, read_json
from nds_plugin.images.crop_geometry import resize_size

ARCH = "resnet18"
KIND = "experts"
MANIFEST = "manifest.json"
SHARED = "shared.safetensors"
_FIELDS = {
    "hash": str, "task": str, "arch": str, "crop_size": int, "resize_size": int, "mean": list, "std": list,
    "classes": list, "partition": str, "index": str, "sources": list, "config": dict, "experts": list,
}  # fmt: skip
_EXPERT_FIELDS = {"cluster": int, "file": str, "sha256": str, "images": int, "steps": int}


def expert_file(cluster: int) -> str:
    """File name of a cluster's expert."""
    return f"expert_{cluster:04d}.safetensors"


def set_hash(manifest: Mapping[str, Any]) -> str:
    """Hash of an expert set: of its files' hashes and of all that decides how they are used."""
    files = [[entry["cluster"], entry["sha256"]] for entry in manifest["experts"]]
    shared = manifest["shared"]["sha256"] if manifest.get("shared") else None
    used = {k: manifest[k] for k in ("task", "arch", "crop_size", "resize_size", "mean", "std", "config")}
    return content_hash([files, shared, used])


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
    entries = manifest.get("experts")
    rows: list[tuple[Any, dict[str, Any]]] = [(manifest, _FIELDS)]
    rows += [(entry, _EXPERT_FIELDS) for entry in (entries if isinstance(entries, list) else [])]
    for row, fields in rows:
        for name, kind in fields.items():
            if not isinstance(row, Mapping) or not isinstance(row.get(name), kind):
                raise NDSError(f"{path}: field {name!r} should be of type {kind.__name__}: make it again.")
    if not entries:
        raise NDSError(f"{path}: holds no experts: make it again.")
    files = [entry["file"] for entry in manifest["experts"]]
    if any(Path(name).name != name for name in files):
        raise NDSError(f"{path}: an expert's file lies outside the folder; the manifest is not nds_plugin's.")
    if manifest["arch"] != ARCH:
        raise NDSError(f"{path}: experts of architecture {manifest['arch']!r}, this release reads {ARCH!r}.")
    if manifest["resize_size"] != resize_size(manifest["crop_size"]):
        raise NDSError(
            f"{path}: crops of {manifest['crop_size']} from {manifest['resize_size']} pixels, this release "
            f"takes them from {resize_size(manifest['crop_size'])}: train the experts again."
        )
    if manifest["hash"] != set_hash(manifest):
        raise NDSError(f"{path}: its hash is not that of its content; it was changed by hand: make it again.")

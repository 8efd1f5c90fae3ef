"""Manifests of anybody: what would end in a traceback later, or take all memory, is refused when it is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nds_plugin.errors import NDSError
from nds_plugin.experts.expert_set import _header
from nds_plugin.experts.manifest import check_manifest, set_hash
from nds_plugin.images.crop_geometry import resize_size

EXPERT = {"cluster": 0, "images": 1, "steps": 1, "file": "a.safetensors", "sha256": "x"}
MANIFEST = {
    "task": "rotation", "arch": "resnet18", "classes": ["0", "90", "180", "270"], "partition": "p", "index": "i",
    "sources": ["s"], "config": {}, "mean": [0.4, 0.4, 0.4], "std": [0.2, 0.2, 0.2], "experts": [EXPERT], "shared": None,
}  # fmt: skip


def check(crop_size: int = 224, **changed: Any) -> None:
    manifest = {**MANIFEST, "crop_size": crop_size, "resize_size": resize_size(crop_size), **changed}
    check_manifest({**manifest, "hash": set_hash(manifest)}, Path("manifest.json"))


def test_a_manifest_in_order_is_taken() -> None:
    check()
    check(experts=[EXPERT, {**EXPERT, "cluster": 3}], shared={"file": "s.safetensors", "sha256": "y"})
    check(task="supervised", classes=["cat", "dog", "cup"])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"task": "puzzle"}, "network experts of task 'puzzle', expected rotation or supervised"),
        ({"classes": ["0", "90"]}, "2 classes of the task 'rotation'"),
        ({"task": "supervised", "classes": ["cat"]}, "1 classes of the task 'supervised'"),
        ({"crop_size": 0}, "crops of 0 pixels, expected 8 to 1024"),
        ({"crop_size": 60000}, "crops of 60000 pixels, expected 8 to 1024"),
        ({"mean": ["a"]}, "mean should be three numbers"),
        ({"std": [0, 0, 0]}, "std should be above 0"),
        ({"shared": {"file": "s", "sha256": 1}}, "field 'sha256' should be of type str"),
        ({"experts": [EXPERT, EXPERT]}, "clusters should ascend"),
        ({"experts": [{**EXPERT, "cluster": -1}]}, "clusters should ascend"),
    ],
)
def test_a_manifest_that_nothing_can_be_done_with_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(NDSError, match=message):
        check(**changed)


@pytest.mark.parametrize("text", ["{", "[]", "[" * 100_000])
def test_a_network_file_with_a_damaged_header_is_refused(text: str) -> None:
    with pytest.raises(NDSError, match=r"a.safetensors: its header is damaged"):
        _header({"nds": text}, "a.safetensors")

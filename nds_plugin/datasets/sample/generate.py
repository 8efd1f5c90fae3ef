"""The embedded sample: synthetic scenes of several domains, made on the spot, with COCO masks.

It exists so that the whole method runs anywhere in minutes, without a download. The domains
differ in palette, layout and classes, every scene has a clear "up" (rotations can be learnt), and
each client has one source domain that resembles it more than the others do: ``street`` for
``city``, ``meadow`` for ``farm``. It says nothing about real photographs.

    ROOT/NAME/images/*.jpg, train.json, val.json     one folder per domain
    ROOT/README.md, sample.json                      sample.json is written last

Pixels and annotations depend on the seed, the size and the picture's own number alone, not on
how many are made (JPEG bytes also on Pillow's version).
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from nds_plugin.datasets.sample.canvas import Instance
from nds_plugin.datasets.sample.domains import CATEGORY_IDS, DOMAINS, SIZE, Domain, draw_image
from nds_plugin.datasets.sample.polygons import mask_to_polygons
from nds_plugin.errors import NDSError, unknown_name
from nds_plugin.files.artifacts import atomic_write, content_hash, file_hash, read_json, write_json

logger = logging.getLogger(__name__)

KIND = "sample"
MARKER = "sample.json"
LICENSE = "CC0 (synthetic)"
DEFAULT_TRAIN = {"source": 240, "client": 120}
DEFAULT_VAL = {"source": 24, "client": 60}
JPEG_QUALITY = 88
_DRAWING_VERSION = 2  # goes up when the pictures change, so that an older sample is made again
_FIRST_ID = {"train": 1, "val": 500_001}

__all__ = ["CATEGORY_IDS", "DOMAINS", "Domain", "draw_image", "generate", "is_complete", "sample_key"]

Count = int | Mapping[str, int] | None


def generate(
    root: str | os.PathLike[str],
    seed: int = 0,
    train_images: Count = None,
    val_images: Count = None,
    size: tuple[int, int] = SIZE,
    domains: Iterable[str] | None = None,
) -> None:
    """Make the sample in ``root``; does nothing where it is there already, made from the same arguments.

    Args:
        seed: same seed, same bytes.
        train_images, val_images: pictures per domain, or a mapping from role ("source", "client")
            or domain to it; what the mapping lacks and None are ``DEFAULT_TRAIN``, ``DEFAULT_VAL``.
        size: width and height in pixels, at least 96 x 72.
        domains: names of ``DOMAINS``; all by default.

    Raises:
        NDSError: an unknown domain, a count or size out of range, or a folder in the way that is
            no sample.
    """
    root = Path(root)
    settings = _settings(seed, train_images, val_images, size, domains)
    key = content_hash(settings)
    if is_complete(root, key):
        logger.info("the synthetic sample in %s is complete", root)
        return
    counts: dict[str, dict[str, int]] = settings["counts"]
    for name in counts:
        _refuse_foreign(root / name)
    partial = root / ".partial"
    try:
        root.mkdir(parents=True, exist_ok=True)
        (root / MARKER).unlink(missing_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        with tqdm(total=_total(counts), desc="synthetic sample", unit="image", disable=None) as progress:
            for name in counts:
                _write_domain(partial / name, DOMAINS[name], counts[name], seed, size, progress)
        for name in counts:
            shutil.rmtree(root / name, ignore_errors=True)
            os.replace(partial / name, root / name)
        shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise NDSError(f"cannot write the synthetic sample to {root}: {error.strerror or error}.") from error
    with atomic_write(root / "README.md", "w") as file:
        file.write(_readme(counts))
    hashes = {
        f"{name}/{part}.json": file_hash(root / name / f"{part}.json")
        for name in counts
        for part in _FIRST_ID
    }
    write_json(root / MARKER, KIND, key, {"synthetic": True, **settings, "hashes": hashes})


def sample_key(
    seed: int = 0,
    train_images: Count = None,
    val_images: Count = None,
    size: tuple[int, int] = SIZE,
    domains: Iterable[str] | None = None,
) -> str:
    """The key that :func:`generate` called with these arguments leaves, for :func:`is_complete`."""
    return content_hash(_settings(seed, train_images, val_images, size, domains))


def is_complete(root: str | os.PathLike[str], key: str | None = None) -> bool:
    """Whether ``root`` holds a whole sample: every annotation file unchanged and every picture there.

    Args:
        key: of :func:`sample_key`; without it any whole sample will do.
    """
    root = Path(root)
    try:
        marker = read_json(root / MARKER, KIND)
        if key is not None and marker["key"] != key:
            return False
        if any(file_hash(root / name) != digest for name, digest in marker["hashes"].items()):
            return False
        return all(
            len(list((root / name / "images").glob("*.jpg"))) == sum(counts.values())
            for name, counts in marker["counts"].items()
        )
    except (NDSError, OSError):
        return False


def _settings(
    seed: int, train_images: Count, val_images: Count, size: tuple[int, int], domains: Iterable[str] | None
) -> dict[str, Any]:
    names = list(DOMAINS) if domains is None else list(dict.fromkeys(domains))
    for name in names:
        if name not in DOMAINS:
            raise unknown_name("sample domain", name, DOMAINS)
    if seed < 0:
        raise NDSError(f"seed of the synthetic sample: expected 0 or more, got {seed}.")
    if size[0] < 96 or size[1] < 72:
        raise NDSError(f"size of the synthetic sample: expected at least 96 x 72, got {size[0]} x {size[1]}.")
    counts = {
        name: {
            "train": _count("train_images", train_images, DEFAULT_TRAIN, DOMAINS[name]),
            "val": _count("val_images", val_images, DEFAULT_VAL, DOMAINS[name]),
        }
        for name in names
    }
    return {"drawing": _DRAWING_VERSION, "seed": seed, "size": list(size), "counts": counts}


def _count(argument: str, given: Count, default: Mapping[str, int], domain: Domain) -> int:
    if isinstance(given, Mapping):
        for name in given:
            if name not in DOMAINS and name not in default:
                raise unknown_name(f"key of {argument}", name, [*default, *DOMAINS])
        count = given.get(domain.name, given.get(domain.role, default[domain.role]))
    else:
        count = default[domain.role] if given is None else given
    if not 1 <= count <= 400_000:
        raise NDSError(f"{argument} of the synthetic sample: expected 1 to 400000, got {count}.")
    return int(count)


def _total(counts: Mapping[str, Mapping[str, int]]) -> int:
    return sum(sum(parts.values()) for parts in counts.values())


def _refuse_foreign(folder: Path) -> None:
    """Only a folder that an earlier sample left may be replaced."""
    if not folder.exists():
        return
    try:
        info = json.loads((folder / "train.json").read_text(encoding="utf-8"))["info"]
        if info["synthetic"] is True:
            return
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise NDSError(f"{folder} exists and is no synthetic sample: give another folder or move it away.")


def _write_domain(
    folder: Path, domain: Domain, counts: Mapping[str, int], seed: int, size: tuple[int, int], progress: Any
) -> None:
    (folder / "images").mkdir(parents=True)
    for part, count in counts.items():
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for position in range(count):
            image_id = _FIRST_ID[part] + position
            picture, instances = draw_image(domain, image_id - 1, seed, size)
            file_name = f"{part}_{position + 1:06d}.jpg"
            Image.fromarray(picture).save(folder / "images" / file_name, quality=JPEG_QUALITY)
            images.append(
                {"id": image_id, "file_name": file_name, "width": size[0], "height": size[1], "license": 1}
            )
            for instance in instances:
                annotations.append(_annotation(len(annotations) + _FIRST_ID[part], image_id, instance))
            progress.update()
        document = _coco(domain, images, annotations)
        (folder / f"{part}.json").write_text(json.dumps(document, separators=(",", ":")), encoding="utf-8")


def _annotation(number: int, image_id: int, instance: Instance) -> dict[str, Any]:
    rows, columns = np.nonzero(instance.mask)
    x, y = int(columns.min()), int(rows.min())
    return {
        "id": number,
        "image_id": image_id,
        "category_id": CATEGORY_IDS[instance.category],
        "bbox": [x, y, int(columns.max()) + 1 - x, int(rows.max()) + 1 - y],
        "area": len(rows),
        "iscrowd": 0,
        "segmentation": mask_to_polygons(instance.mask),
    }


def _coco(domain: Domain, images: list[Any], annotations: list[Any]) -> dict[str, Any]:
    info = {
        "description": f"SYNTHETIC, drawn by nds_plugin, no photographs: {domain.name}, {domain.description}",
        "synthetic": True,
        "domain": domain.name,
        "role": domain.role,
    }
    categories = [
        {"id": CATEGORY_IDS[name], "name": name, "supercategory": "synthetic"} for name in domain.classes
    ]
    return {
        "info": info,
        "licenses": [{"id": 1, "name": LICENSE, "url": ""}],
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }


def _readme(counts: Mapping[str, Mapping[str, int]]) -> str:
    rows = "\n".join(
        f"| {name} | {DOMAINS[name].role} | {parts['train']} / {parts['val']} "
        f"| {', '.join(DOMAINS[name].classes)} | {DOMAINS[name].description} |"
        for name, parts in counts.items()
    )
    return f"""# Synthetic sample

These pictures are SYNTHETIC: drawn by nds_plugin (`nds_plugin/datasets/sample/generate.py`), not photographs.
They exist to try the software; results on them say nothing about real data. Licence: {LICENSE}.

| domain | role | train / val | classes | |
|---|---|---|---|---|
{rows}

Each folder holds `images/`, `train.json` and `val.json` in COCO format, masks as polygons.
"""

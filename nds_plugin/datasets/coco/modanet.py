"""ModaNet (COCO-format polygons of 13 kinds of clothing) and the paper's small draws of it, miniModaNet.

ModaNet publishes the annotations of its training images alone: ``modanet2018_instances_val.json``
lists 2,799 images and no annotation (they were held back for a challenge). Which 1,000 + 1,000
images the paper drew is not known; here both are drawn from the annotated training images, without
overlap, by a rule that depends on nothing but the ids and the seed, and the draw is saved.

The images are Paperdoll's. The json gives the size of each, most of them 400 x 600; a copy from
elsewhere that has another size does not fit its polygons, and the mapper says so of each file.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nds_plugin.datasets.coco.store import FILES, SETTINGS, coco_spec, read_coco
from nds_plugin.datasets.public import PublicDataset, Split, missing_tree, store_path
from nds_plugin.errors import NDSError
from nds_plugin.files.artifacts import content_hash, is_valid, read_json, write_json
from nds_plugin.store import Inputs, StoreSpec, StoreWriter, open_or_build
from nds_plugin.store.opening import STORES

logger = logging.getLogger(__name__)

TREE = """\
modanet/
  annotations/
    modanet2018_instances_train.json   52,377 images
    modanet2018_instances_val.json     2,799 images, no annotations
  images/                              0000003.jpg, ..."""
DRAW_KIND = "image-draw"
MINI_IMAGES = 1000  # of each of the two draws
SEED = 0
_RULE = "annotated images of modanet_train in ascending order of SHA-256(SEED/ID): first train, then val"
_LFS = b"version https://git-lfs.github.com/spec"


@dataclass(frozen=True)
class Draw:
    """Two sets of images without overlap.

    Attributes:
        train, val: image ids in ascending order.
        seed: of the draw.
    """

    train: tuple[int, ...]
    val: tuple[int, ...]
    seed: int

    @property
    def hash(self) -> str:
        """By which a result can say which images it is of."""
        return content_hash([DRAW_KIND, self.train, self.val])


def draw(image_ids: Iterable[int], images: int, seed: int) -> Draw:
    """Draw two sets of images; the same ones whatever the order of the ids.

    Args:
        images: of each set.

    Raises:
        NDSError: there are too few.
    """
    ranked = sorted(image_ids, key=lambda i: hashlib.sha256(f"{seed}/{i}".encode()).digest())
    if len(ranked) < 2 * images:
        raise NDSError(
            f"miniModaNet: expected at least 2 x {images} annotated images in modanet_train to draw from, "
            f"it has {len(ranked)}."
        )
    return Draw(tuple(sorted(ranked[:images])), tuple(sorted(ranked[images : 2 * images])), seed)


def saved_draw(root: Path) -> Draw:
    """The draw of miniModaNet, made and saved beside the stores on first use.

    Raises:
        NDSError: ModaNet is missing or too small, or the draw cannot be written.
    """
    path, store = draw_path(root), open_or_build(spec("train", root))
    key = content_hash([DRAW_KIND, _RULE, SEED, MINI_IMAGES, store.header["key"]])
    if is_valid(path, DRAW_KIND, key):
        document = read_json(path, DRAW_KIND)
        found = Draw(tuple(document["train"]), tuple(document["val"]), document["seed"])
        if found.hash == document["hash"]:
            return found
        logger.warning("%s: its ids are not those of its hash, they are drawn again.", path)
    annotated = store.column("image_id")[store.object_counts > 0].tolist()
    found = draw(annotated, MINI_IMAGES, SEED)
    payload = {"rule": _RULE, "hash": found.hash, **dataclasses.asdict(found)}
    write_json(path, DRAW_KIND, key, payload)
    logger.info("miniModaNet: 2 x %d images drawn, %s, hash %s.", MINI_IMAGES, path, found.hash)
    return found


def draw_path(root: Path) -> Path:
    """Where the draw is saved, given DETECTRON2_DATASETS."""
    return store_path(root, "minimodanet").with_suffix(".json")


def spec(split: str, root: Path) -> StoreSpec:
    """How the store of the whole "train" or "val" is made."""
    json_file = _json_file(split, root)
    whole = coco_spec(json_file, f"modanet_{split}", root / STORES)
    return dataclasses.replace(whole, inputs=functools.partial(_inputs, root, json_file, SETTINGS))


def mini_spec(split: str, root: Path) -> StoreSpec:
    """How the store of a draw is made; ``split`` is "train" or "val"."""
    json_file = _json_file("train", root)
    name = f"minimodanet_{split}"
    return StoreSpec(
        name=name,
        path=store_path(root, name),
        inputs=functools.partial(
            _inputs, root, json_file, [*SETTINGS, "minimodanet", _RULE, SEED, MINI_IMAGES]
        ),
        read=functools.partial(_read_mini, split, root, json_file),
        where=str(json_file),
    )


def _read_mini(
    split: str, root: Path, json_file: Path, writer: StoreWriter, parts: Path, target: Path
) -> list[tuple[int, str]]:
    drawn = saved_draw(root)
    writer.info["draw"] = {"hash": drawn.hash, "seed": drawn.seed, "rule": _RULE}
    return read_coco(json_file, writer, parts, target, frozenset(getattr(drawn, split)))


def _json_file(split: str, root: Path) -> Path:
    return root / FILES[f"modanet_{split}"]


def _inputs(root: Path, json_file: Path, settings: list[Any]) -> Inputs:
    if not json_file.is_file():
        raise missing_tree(MODANET, root, json_file)
    with open(json_file, "rb") as file:
        if file.read(len(_LFS)) == _LFS:
            raise NDSError(
                f"ModaNet: {json_file} is a pointer of Git LFS, not the annotations: run `git lfs pull` in a clone of "
                f"{MODANET.page} and copy the file again."
            )
    return Inputs(files=(json_file,), settings=settings)


def _image_root(root: Path) -> Path:
    return root / "modanet" / "images"


def _split(
    name: str, split: str, images: int, make: Any, paper_images: int | None = None, note: str = ""
) -> Split:
    return Split(
        name=name,
        split=split,
        spec=functools.partial(make, split),
        image_root=_image_root,
        metadata={
            "evaluator_type": "coco",
            **({"json_file": functools.partial(_json_file, split)} if make is spec else {}),
        },
        paper_images=paper_images,
        images=images,
        note=note,
    )


MODANET = PublicDataset(
    key="modanet",
    title="miniModaNet",
    task="detection",
    role="target",
    num_classes=13,
    paper_classes="13",
    page="https://github.com/eBay/modanet",
    licence="annotations CC BY-NC 4.0; the images are Paperdoll's (Chictopia)",
    tree=TREE,
    download="modanet2018_instances_train.json and modanet2018_instances_val.json, and Paperdoll's photos",
    splits=(
        _split(
            "minimodanet_train",
            "train",
            MINI_IMAGES,
            mini_spec,
            1000,
            "drawn here: the paper's draw is not known",
        ),
        _split(
            "minimodanet_val",
            "val",
            MINI_IMAGES,
            mini_spec,
            1000,
            "drawn from the training images: those of val have no annotations",
        ),
        _split("modanet_train", "train", 52_377, spec),
        _split("modanet_val", "val", 2_799, spec, note="published without annotations"),
    ),
)

"""Annotation stores as datasets of MMDetection: memory-mapped, shared by all workers, decoded image by image."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from mmengine.registry import DATASETS

from nds_plugin.datasets.coco.store import open_coco
from nds_plugin.errors import NDSError, unknown_name
from nds_plugin.mm.data.det_dataset import DetDataset
from nds_plugin.mm.data.identity import SOURCE, Identities
from nds_plugin.source.folder import image_size
from nds_plugin.store.records import RecordDecoder
from nds_plugin.store.view import StoreView

_XYWH = 1  # what the decoder puts for the form of boxes; MMDetection's records have no such field


class StoreDataset(DetDataset):
    """The images of a view of a store, with the ``data_info`` that MMDetection's CocoDataset makes of them.

    Pickled (for workers that are spawned), it travels as a path, and four bytes an image where not all
    were chosen.

    Args:
        view: the images; its ``source`` names them.
        classes: names of the classes of the view's label space.
        metainfo: more of it.
        pipeline, test_mode: see :class:`DetDataset`.
    """

    def __init__(
        self,
        view: StoreView,
        classes: Sequence[str],
        metainfo: Mapping[str, Any] | None = None,
        pipeline: Sequence[dict[str, Any] | Callable[..., Any]] = (),
        test_mode: bool = False,
    ) -> None:
        meta = {**(metainfo or {}), SOURCE: [view.source], "classes": tuple(classes)}
        super().__init__(meta, pipeline, test_mode)
        self.view = view
        self._decode = _decoder(view)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_decode"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._decode = _decoder(self.view)

    def __len__(self) -> int:
        return len(self.view)

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """See :class:`DetDataset`."""
        index = int(idx) + (len(self) if idx < 0 else 0)
        record = self._decode(self.view.position(index))
        info = {
            "img_path": record["file_name"],
            "img_id": record["image_id"],
            "seg_map_path": None,
            "height": record["height"],
            "width": record["width"],
            "instances": [_instance(annotation) for annotation in record["annotations"]],
            "sample_idx": index,
        }
        if self.view.label_space is not None:
            info["label_space"] = self.view.label_space
        return info

    def identities(self, source: str | None = None) -> Identities:
        """Identity and size of all images, from the store's columns."""
        del source
        sources = pa.array(np.full(len(self), self.view.source, dtype=object), pa.string())
        return Identities(sources, self.view.image_ids(), self.view.sizes())


@DATASETS.register_module()
class NDSStoreDataset(StoreDataset):
    """A COCO file through its annotation store; in place of CocoDataset, whose list of dicts is copied to every rank.

    The store is built on first use and opened in no time afterwards. Boxes are clipped to their image, and
    annotations without any area in it are left out.

    Args:
        ann_file, data_root, data_prefix, filter_cfg, pipeline, test_mode: as those of CocoDataset, of whose
            filters ``filter_empty_gt`` (images without an instance) and ``min_size`` are known.
        metainfo: with ``classes``, to take some of the file's classes alone, in an order; with
            ``nds_source``, the name that selections know the images by, by default that of the file.
        backend_args, indices: None alone; here so that a config of CocoDataset is taken as it is.
        serialize_data, lazy_init, max_refetch: of no effect; there is no list, and nothing to wait for.
    """

    def __init__(
        self,
        ann_file: str,
        data_root: str = "",
        data_prefix: Mapping[str, str] | None = None,
        metainfo: Mapping[str, Any] | None = None,
        filter_cfg: Mapping[str, Any] | None = None,
        pipeline: Sequence[dict[str, Any] | Callable[..., Any]] = (),
        test_mode: bool = False,
        backend_args: Mapping[str, Any] | None = None,
        serialize_data: bool = True,
        lazy_init: bool = False,
        indices: int | Sequence[int] | None = None,
        max_refetch: int = 1000,
    ) -> None:
        del serialize_data, lazy_init, max_refetch
        if backend_args is not None:
            raise NDSError(
                "NDSStoreDataset reads local or mounted files: take backend_args away, or use CocoDataset."
            )
        if indices is not None:
            raise NDSError(
                "NDSStoreDataset takes no indices: draw a selection (nds draw) and use NDSSelection."
            )
        meta = dict(metainfo or {})
        path = os.path.join(data_root, ann_file)
        if not os.path.isfile(path):
            raise NDSError(
                f"annotation file not found: {path} (data_root {data_root!r}, ann_file {ann_file!r})."
            )
        store = open_coco(path)
        given = meta.pop(SOURCE, None) or [Path(path).stem]
        (source,) = [given] if isinstance(given, str) else map(str, given)
        view = StoreView.whole(store, os.path.join(data_root, (data_prefix or {}).get("img", "")), source)
        classes = list(meta.get("classes") or store.classes)
        if classes != store.classes:
            view = dataclasses.replace(view, class_map=_class_map(store.classes, classes, path))
        view = view if test_mode else _filtered(view, filter_cfg or {})
        super().__init__(view, classes, meta, pipeline, test_mode)


def _decoder(view: StoreView) -> RecordDecoder:
    return RecordDecoder(view.store, view.image_root, _XYWH, image_size, view.class_map)


def _instance(annotation: Mapping[str, Any]) -> dict[str, Any]:
    x, y, width, height = annotation["bbox"]
    found = {
        "ignore_flag": int(bool(annotation.get("iscrowd"))),
        "bbox": [x, y, x + width, y + height],
        "bbox_label": annotation["category_id"],
    }
    mask = annotation.get("segmentation")
    if mask:
        # MMDetection takes run lengths as text, and passes over objects that have them as bytes.
        encoded = isinstance(mask, dict) and isinstance(mask["counts"], bytes)
        found["mask"] = {**mask, "counts": mask["counts"].decode("ascii")} if encoded else mask
    return found


def _class_map(known: Sequence[str], wanted: Sequence[str], path: str) -> np.ndarray:
    for name in wanted:
        if name not in known:
            raise unknown_name(f"class of {path}", name, known)
    places = {name: place for place, name in enumerate(wanted)}
    return np.array([places.get(name, -1) for name in known], dtype=np.int32)


def _filtered(view: StoreView, filter_cfg: Mapping[str, Any]) -> StoreView:
    for name in filter_cfg:
        if name not in ("filter_empty_gt", "min_size"):
            raise unknown_name("filter_cfg of NDSStoreDataset", name, ("filter_empty_gt", "min_size"))
    if filter_cfg.get("filter_empty_gt"):
        view = view.annotated()
    least = filter_cfg.get("min_size", 0)
    sizes = view.sizes().min(axis=1, initial=1 << 30)
    return view.take((sizes >= least) | (sizes == 0)) if least else view

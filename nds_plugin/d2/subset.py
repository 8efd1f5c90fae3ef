"""A selection as a registered dataset: a name that any Detectron2 script can train on.

Every selection under ``$DETECTRON2_DATASETS/nds_selections/NAME.parquet`` is registered as
``nds_NAME`` when ``nds_plugin.d2`` is imported. Scripts that do not import it, such as
Detectron2's own ``train_net.py``, find the names with ``DETECTRON2_ENV_MODULE=nds_plugin.d2.env``.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from detectron2.data import DatasetCatalog, MetadataCatalog

from nds_plugin.d2.coco_dataset import datasets_root
from nds_plugin.d2.registration import dataset_classes, dataset_dicts
from nds_plugin.datasets.label_space import LabelSpace, unite
from nds_plugin.errors import NDSError
from nds_plugin.selection import Selection

logger = logging.getLogger(__name__)

SELECTIONS_FOLDER = "nds_selections"


def selections_folder() -> Path:
    """The folder whose selections are registered by name."""
    return Path(datasets_root()) / SELECTIONS_FOLDER


def register_selections_folder() -> list[str]:
    """Register every selection of the folder under ``nds_<file stem>``; the names."""
    names = []
    for path in sorted(selections_folder().glob("*.parquet")):
        names.append(f"nds_{path.stem}")
        register_selection(path, names[-1])
    return names


def register_selection(path: str | os.PathLike[str], name: str, label_mapping: str = "") -> None:
    """Register a selection as a dataset; nothing is read before it is used.

    Its dicts are those of the source datasets, restricted to the selected images, each with
    ``nds_source``. Sources with different classes are united by name (or by ``label_mapping``),
    and each dict then says which label space it is annotated in (``label_space``).
    """
    if name in DatasetCatalog.list():
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    DatasetCatalog.register(name, functools.partial(_load, str(path), name, label_mapping))
    MetadataCatalog.get(name).set(evaluator_type="coco", nds_selection=str(path))


def selection_label_space(
    sources: Sequence[str], label_mapping: str = "", *, partial: bool = True
) -> LabelSpace:
    """The united classes of several registered datasets.

    Args:
        sources: the datasets' names.
        label_mapping: path of a class mapping.
        partial: the mapping may also name other sources: a draw need not hold an image of each.

    Raises:
        NDSError: an unknown dataset, or a mapping that names unknown classes.
    """
    return unite([dataset_classes(name) for name in sources], label_mapping or None, sources, partial=partial)


def _load(path: str, name: str, label_mapping: str) -> list[dict[str, Any]]:
    selection = Selection.load(path)
    space = selection_label_space(selection.sources, label_mapping)
    chosen: dict[str, set[str]] = {source: set() for source in selection.sources}
    sources = selection.column("source").cast(pa.string()).to_pylist()
    for source, image_id in zip(sources, selection.column("image_id").to_pylist()):
        chosen[source].add(image_id)
    dicts = []
    for number, source in enumerate(selection.sources):
        if not chosen[source]:
            continue
        part = [d for d in dataset_dicts(source) if str(d["image_id"]) in chosen[source]]
        if len(part) != len(chosen[source]):
            raise NDSError(
                f"{path} selects {len(chosen[source])} images of {source}, but that dataset holds "
                f"{len(part)} of them: it is not the dataset that the selection was made from."
            )
        dicts += [_relabel(d, source, number, space.maps[number]) for d in part]
    if label_mapping:
        empty = sum(not record["annotations"] for record in dicts)
        if empty:
            logger.warning(
                "%d of the %d selected images lose all their objects by the mapping %s: training leaves them out.",
                empty,
                len(dicts),
                label_mapping,
            )
    MetadataCatalog.get(name).set(thing_classes=list(space.classes))
    return dicts


def _relabel(record: dict[str, Any], source: str, number: int, new_class: Any) -> dict[str, Any]:
    annotations = []
    for annotation in record.get("annotations", []):
        category = int(new_class[annotation["category_id"]])
        if category >= 0:
            annotations.append({**annotation, "category_id": category})
    return {**record, "annotations": annotations, "nds_source": source, "label_space": number}

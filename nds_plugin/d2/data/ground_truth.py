"""What a registered dataset says of its objects, for evaluation."""

from __future__ import annotations

import os

from detectron2.data import MetadataCatalog

from nds_plugin.d2.data.dicts import DatasetDicts
from nds_plugin.d2.data.registration import dataset_classes, raw_dicts
from nds_plugin.d2.data.store_dataset import StoreDataset
from nds_plugin.datasets.coco.document import object_columns, write_coco_document


def annotation_counts(dicts: DatasetDicts) -> tuple[int, int, int]:
    """Number of annotations of a dataset, of those that have a mask, and of crowds."""
    if isinstance(dicts, StoreDataset):
        columns = object_columns(dicts.views)
        return len(columns), int(columns.has_mask.sum()), int(columns.iscrowd.sum())
    annotations = [a for record in dicts for a in record.get("annotations", ())]
    masks = sum(bool(annotation.get("segmentation")) for annotation in annotations)
    return len(annotations), masks, sum(bool(annotation.get("iscrowd")) for annotation in annotations)


def check_masks(name: str) -> None:
    """See that the run lengths of a registered dataset fit its images; see :meth:`StoreDataset.check_masks`."""
    dicts = raw_dicts(name)
    if isinstance(dicts, StoreDataset):
        dicts.check_masks()


def why_no_object(dicts: DatasetDicts) -> str:
    """Why a dataset without an object to learn from has none, as the end of a sentence."""
    annotations, _, crowds = annotation_counts(dicts)
    whole = isinstance(dicts, StoreDataset) and all(view.chosen is None for view in dicts.views)
    headers = [view.store.header for view in dicts.views] if isinstance(dicts, StoreDataset) and whole else []
    read, kept = (sum(header[key] for header in headers) for key in ("annotations_read", "annotations"))
    parts = []
    if read > kept:
        parts.append(
            f"{read - kept} of {read} annotations were left out, as their boxes have no area in their image or "
            "their polygons no three corners"
        )
    if kept > annotations:
        parts.append(f"the class mapping drops the classes of {kept - annotations} annotations")
    if crowds:
        kind = "iscrowd 1, or ignore 1" if any(h["info"].get("ignored") for h in headers) else "iscrowd 1"
        parts.append(f"all {'other ' if parts else ''}{annotations} annotations are crowds ({kind})")
    return "; ".join(parts) or "there are no annotations"


def write_ground_truth(dataset: StoreDataset, name: str, path: str | os.PathLike[str]) -> None:
    """Write the ground truth of a registered dataset as a COCO file.

    Categories carry the ids that the dataset's metadata maps to classes.
    """
    classes = dataset_classes(name)
    ids = list(range(len(classes)))
    for given, contiguous in MetadataCatalog.get(name).get("thing_dataset_id_to_contiguous_id", {}).items():
        ids[contiguous] = given
    categories = [{"id": ids[i], "name": classes[i]} for i in range(len(classes))]
    write_coco_document(dataset, dataset.views, categories, path)

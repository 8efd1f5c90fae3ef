"""Datasets by name, as MMDetection trains on and tests them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmengine.registry import DATASETS

from nds_plugin.errors import NDSError
from nds_plugin.mm.data.store_dataset import StoreDataset
from nds_plugin.mm.job.host import MMHost
from nds_plugin.pipeline.files_host import StoredDataset
from nds_plugin.pipeline.host import Datasets


def stored(host: Datasets, name: str) -> StoredDataset:
    """A dataset that can be trained on.

    Raises:
        NDSError: it is not known, or only a folder of images.
    """
    found = host.dataset(name)
    if not isinstance(found, StoredDataset):
        raise NDSError(f"dataset {name!r} has no annotations to train on.")
    return found


def named(datasets: Mapping[str, Any], name: str, **more: Any) -> dict[str, Any]:
    """Config of a dataset by its name; ``datasets`` are the COCO files of one's own."""
    return {"type": "NDSNamedDataset", "name": name, "datasets": dict(datasets), **more}


@DATASETS.register_module()
class NDSNamedDataset(StoreDataset):
    """A dataset by its name: one of the paper's, of the sample, of ``$NDS_DATA``, or a COCO file of one's own.

    Args:
        name: of the dataset.
        datasets: COCO files of one's own, as ``nds.datasets``.
        num_images, seed: a seeded draw of its images; 0: all.
        filter_empty: leave out images without an object.
        pipeline, test_mode: see :class:`~nds_plugin.mm.data.det_dataset.DetDataset`.
    """

    def __init__(
        self,
        name: str,
        datasets: Mapping[str, Mapping[str, Any]] | None = None,
        num_images: int = 0,
        seed: int = 0,
        filter_empty: bool = False,
        pipeline: Sequence[dict[str, Any] | Callable[..., Any]] = (),
        test_mode: bool = False,
    ) -> None:
        host = MMHost(datasets)
        if num_images:
            name = host.subset(name, num_images, seed)
        found = stored(host, name)
        view = found.view()
        super().__init__(
            view.annotated() if filter_empty else view, found.classes(), None, pipeline, test_mode
        )

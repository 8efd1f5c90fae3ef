"""Detectron2's own loader, for Detectron2's own samplers, and what no loader here gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from detectron2.config import CfgNode as CN
from detectron2.data import DatasetCatalog, build_detection_train_loader

from nds_plugin.d2.data.catalog import RegisteredDicts
from nds_plugin.d2.data.records import load_records
from nds_plugin.d2.data.registration import check_registered, raw_dicts
from nds_plugin.d2.data.store_source import say_unfiltered
from nds_plugin.errors import NDSError

STOCK_SAMPLERS = (
    "TrainingSampler",
    "RepeatFactorTrainingSampler",
    "RandomSubsetTrainingSampler",
    "WeightedTrainingSampler",
    "WeightedCategoryTrainingSampler",
)
_OURS = ("selection", "filter_empty", "seed", "max_unreadable", "start_iter", "updates")  # arguments


def build_stock_loader(
    cfg: CN, mapper: Callable[..., Any] | None = None, *, dataset: Any = None, **kwargs: Any
) -> Any:
    """``build_detection_train_loader``, on stores without images that have no instance.

    Raises:
        NDSError: an unknown dataset, or an argument that only our own loader has.
    """
    foreign = [key for key in _OURS if key in kwargs and kwargs.pop(key) != ()]
    if foreign:
        raise NDSError(
            f"{', '.join(foreign)} cannot be given with DATALOADER.SAMPLER_TRAIN {cfg.DATALOADER.SAMPLER_TRAIN}, one of "
            "Detectron2's own: take NDSTrainingSampler or SeekableTrainingSampler."
        )
    # A sampler that is given was made for the images as Detectron2 looks them up.
    if dataset is None and "sampler" not in kwargs:
        dataset = _stock_records(cfg)
    return build_detection_train_loader(cfg, mapper, dataset=dataset, **kwargs)


def _stock_records(cfg: CN) -> Any:
    """The images of stores that Detectron2 would not filter, or None where it is to look up its datasets itself."""
    names = cfg.DATASETS.TRAIN
    check_registered(names)
    if not any(isinstance(DatasetCatalog[name], RegisteredDicts) for name in names):
        return None
    # What it looks up itself: datasets again for these samplers, keypoints and proposals.
    looked_up = cfg.DATALOADER.SAMPLER_TRAIN.startswith("Weighted")
    if looked_up or cfg.MODEL.KEYPOINT_ON or cfg.MODEL.LOAD_PROPOSALS:
        for name in names:
            say_unfiltered(name, raw_dicts(name))
        return None
    return load_records(names, cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS).dicts.plain()


def check_model(cfg: CN) -> None:
    """Refuse a config whose model needs what this package's loaders do not give.

    Raises:
        NDSError: keypoints, or proposals from files.
    """
    for key, what in (("KEYPOINT_ON", "keypoints"), ("LOAD_PROPOSALS", "proposals from files")):
        if cfg.MODEL[key]:
            raise NDSError(
                f"MODEL.{key} is on, but {what} are not supported: switch it off, or train with Detectron2's own loader."
            )

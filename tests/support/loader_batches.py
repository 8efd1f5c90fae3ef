"""A drawn selection of the tiny datasets, a config that trains on it, and its first batches."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, get_cfg

from nds_plugin.d2 import add_nds_config, build_nds_train_loader, register_selection
from nds_plugin.d2.data.registration import index_dataset
from nds_plugin.experts.scores import Scores
from nds_plugin.selection.config import SelectionConfig
from nds_plugin.selection.select import select
from nds_plugin.selection.selectors.nds import NDS
from nds_plugin.source.index import SourceIndex
from nds_plugin.source.partition import Partition

DATASET = "test_loader_selection"
SOURCES = ("tiny_street_train", "tiny_room_train")


def drawn_selection(folder: Path, mode: str = "stream", sources: tuple[str, ...] = SOURCES) -> str:
    """Clusters are the sources; the second is preferred."""
    index = SourceIndex.join([index_dataset(name) for name in sources])
    cluster = np.searchsorted(sorted(sources), index.column("source").astype(str))
    partition = Partition(cluster, index.table, index.hash, method="kmeans", seed=0)
    z = [0.2 + 0.05 * k for k in range(len(sources))]
    scores = Scores(list(range(len(z))), z, [0.0] * len(z), "accuracy", 5, "e" * 64, "rotation")
    config = SelectionConfig(NDS(temperature=1.0), mode, count=0 if mode == "stream" else 20)
    path = folder / f"{mode}.parquet"
    select(index, partition, config, scores).save(path, "key")
    register_selection(path, DATASET)
    return str(path)


def loader_config(selection: str, workers: int = 0, sampler: str = "NDSTrainingSampler") -> CfgNode:
    cfg = get_cfg()
    add_nds_config(cfg)
    cfg.DATASETS.TRAIN = (DATASET,)
    cfg.DATALOADER.SAMPLER_TRAIN = sampler
    cfg.DATALOADER.NUM_WORKERS = workers
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = True
    cfg.INPUT.MIN_SIZE_TRAIN = (48, 56, 64)
    cfg.SOLVER.IMS_PER_BATCH = 4
    cfg.NDS.SELECTION = selection
    return cfg


def first_batches(cfg: CfgNode, count: int = 6, **kwargs: Any) -> list[list[dict[str, Any]]]:
    return list(itertools.islice(build_nds_train_loader(cfg, **kwargs), count))


def same_batches(first: list[list[dict[str, Any]]], second: list[list[dict[str, Any]]]) -> bool:
    return all(
        a["file_name"] == b["file_name"] and torch.equal(a["image"], b["image"])
        for a, b in zip(itertools.chain(*first), itertools.chain(*second))
    )

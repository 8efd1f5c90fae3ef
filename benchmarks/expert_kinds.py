"""Both kinds of experts at K = 50 on the same images; part of benchmarks/scoring.py, which prints the result."""

from __future__ import annotations

import logging
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nds_plugin.errors import NDSError
from nds_plugin.experts.expert_set import ExpertSet
from nds_plugin.experts.manifest import KIND, MANIFEST, SHARED, expert_file, set_files, set_hash
from nds_plugin.experts.scoring import score_experts
from nds_plugin.experts.settings import HeadConfig, ScoringConfig
from nds_plugin.experts.train_heads import train_heads
from nds_plugin.files.artifacts import write_json
from nds_plugin.images.backbones import FeatureNetwork, load_feature_network
from nds_plugin.source.index import ImageRecord, SourceIndex
from nds_plugin.source.partition import Partition

logger = logging.getLogger("benchmark")
CLUSTERS = 50
BACKBONE = "package:efficientnet-lite0"


def backbone_of_heads(paths: list[str]) -> FeatureNetwork:
    """EfficientNet-Lite0 with ImageNet weights; asked for before anything is timed.

    Raises:
        NDSError: too few images to fit the heads, or no such weights.
    """
    if len(paths) < CLUSTERS:
        raise NDSError(f"--num-images must be {CLUSTERS} or more to fit {CLUSTERS} heads, got {len(paths)}.")
    return load_feature_network(BACKBONE)


def head_set(
    paths: list[str], backbone: FeatureNetwork, crop_size: int, folder: Path, device: torch.device
) -> ExpertSet:
    """50 heads, fitted on these images."""
    index = SourceIndex.from_records([ImageRecord("benchmark", str(i), path) for i, path in enumerate(paths)])
    cluster = np.arange(len(paths)) % CLUSTERS
    partition = Partition(cluster, index.table, index.hash, method="kmeans", seed=0)
    return train_heads(index, partition, backbone, HeadConfig(crop_size=crop_size), folder, device=device)


def network_set(experts: ExpertSet, folder: Path) -> ExpertSet:
    """The set's networks again and again until there are 50: 50 files, which share their place on the disk."""
    folder.mkdir(parents=True)
    manifest: dict[str, Any] = dict(experts.manifest)
    entries = []
    for k in range(CLUSTERS):
        entry = manifest["experts"][k % len(manifest["experts"])]
        os.link(experts.directory / entry["file"], folder / expert_file(k))
        entries.append({**entry, "cluster": k, "file": expert_file(k)})
    shutil.copyfile(experts.directory / SHARED, folder / SHARED)
    manifest["experts"] = entries
    manifest["hash"] = set_hash(manifest)
    payload = {name: value for name, value in manifest.items() if name not in ("kind", "version", "key")}
    write_json(folder / MANIFEST, KIND, "benchmark", payload)
    return ExpertSet.load(folder)


def megabytes(experts: ExpertSet) -> float:
    """What a client downloads."""
    names = [MANIFEST, *(entry["file"] for entry in set_files(experts.manifest))]
    return sum((experts.directory / name).stat().st_size for name in names) / 1e6


def compare_kinds(
    experts: ExpertSet,
    backbone: FeatureNetwork,
    paths: list[str],
    scored: int,
    workers: int,
    folder: Path,
    device: torch.device,
) -> dict[str, float]:
    """Time of 50 networks over that of 50 heads on the first images, and the sizes of the two sets."""
    heads = head_set(paths, backbone, experts.crop_size, folder / "heads", device)
    networks = network_set(experts, folder / "networks")

    def seconds(chosen: ExpertSet) -> float:
        start = time.perf_counter()
        score_experts(chosen, paths[:scored], ScoringConfig(num_workers=workers), device)
        return time.perf_counter() - start

    # Heads before and after, so that a machine that slows down favours neither.
    first, slow, second = seconds(heads), seconds(networks), seconds(heads)
    logger.info(
        "K = %d, %d images: heads on %s %.2f and %.2f s, networks %.2f s",
        CLUSTERS, scored, heads.manifest["arch"], first, second, slow,
    )  # fmt: skip
    return {
        "heads_vs_networks_k50": round(slow / ((first + second) / 2), 1),
        "set_mb_heads": round(megabytes(heads), 1),
        "set_mb_networks": round(megabytes(networks), 1),
    }

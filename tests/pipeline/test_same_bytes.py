"""Artefacts are the same bytes when they are made twice: what was measured lies beside them."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from tiny_experts import TINY, two_domains, write_domain

from nds_plugin.experts.scores import KIND as SCORES_KIND
from nds_plugin.experts.scores import Scores
from nds_plugin.experts.scoring import ScoringConfig, score_experts
from nds_plugin.experts.train_experts import train_experts
from nds_plugin.files.artifacts import file_hash, write_json, write_table
from nds_plugin.images.cost import Cost, beside
from nds_plugin.selection.config import SelectionConfig
from nds_plugin.selection.image_weights import ImageWeights
from nds_plugin.selection.select import select
from nds_plugin.selection.selection import KIND as SELECTION_KIND
from nds_plugin.selection.selection import Selection
from nds_plugin.selection.selectors.base import Evidence, Features, weigh_images
from nds_plugin.selection.selectors.knn import NearestNeighbours
from nds_plugin.source.index import SourceIndex
from nds_plugin.source.partitioning import PartitionConfig, partition_by_features

MADE = (
    "index.parquet",
    "partition.parquet",
    "experts",
    "scores.json",
    "weights.parquet",
    "selection.parquet",
)


def _make(folder: Path, client: Path, index: SourceIndex, workers: int, batch_size: int) -> dict[str, str]:
    """Every artefact in a folder; the hashes of the files by their names, without what lies beside them."""
    config = replace(TINY, num_workers=workers)
    index.save(folder / "index.parquet", index.hash)
    features = np.random.default_rng(0).normal(size=(len(index), 4)) + 9 * index.column("label")[:, None]
    everything = np.ones(len(index), bool)
    partition = partition_by_features(
        index, features.astype(np.float32), everything, PartitionConfig(num_clusters=2)
    )
    partition.save(folder / "partition.parquet", "p")
    experts = train_experts(index, partition, config, folder / "experts", progress=False)
    scoring = ScoringConfig(precision="fp32", num_workers=workers, batch_size=batch_size)
    scores = score_experts(experts, str(client), scoring, progress=False)
    assert scores.cost.seconds
    scores.save(folder / "scores.json")
    target = Features(features[:5].astype(np.float32), everything[:5], Cost(5, 5, 0.1 + workers))
    seen = Features(features.astype(np.float32), everything)
    weights = weigh_images(NearestNeighbours(), Evidence(index, seen, target))
    weights.save(folder / "weights.parquet", "w")
    select(index, partition, SelectionConfig(count=9), scores).save(folder / "selection.parquet", "s")
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    assert {path.relative_to(folder).parts[0] for path in files} >= set(MADE)
    return {
        str(path.relative_to(folder)): file_hash(path)
        for path in files
        if not path.name.endswith(".cost.json")
    }


@pytest.mark.slow
def test_every_artefact_is_the_same_bytes_whatever_the_workers_and_the_batch_size(tmp_path: Path) -> None:
    index, _ = two_domains(tmp_path / "source", 10)
    write_domain(tmp_path / "client", 7, bright_top=True, seed=5)
    first = _make(tmp_path / "a", tmp_path / "client", index, workers=0, batch_size=16)
    assert len(first) >= 8
    assert first == _make(tmp_path / "b", tmp_path / "client", index, workers=0, batch_size=16)
    assert first == _make(tmp_path / "c", tmp_path / "client", index, workers=2, batch_size=3)


def _scores(cost: Cost) -> Scores:
    return Scores([0, 1], [0.25, 0.75], [0.1, 0.1], "accuracy", 7, "e" * 64, "rotation", cost=cost)


def test_the_time_is_found_beside_scores_weights_and_selection(tmp_path: Path) -> None:
    index, partition = two_domains(tmp_path, 5)
    cost = Cost(7, 84, 1.5)
    _scores(cost).save(tmp_path / "scores.json")
    assert Scores.load(tmp_path / "scores.json").cost == cost
    p = np.full(len(index), 1 / len(index))
    ImageWeights(p, index.table.select(["source", "image_id"]), "knn", True, cost).save(
        tmp_path / "weights.parquet", "w"
    )
    assert ImageWeights.load(tmp_path / "weights.parquet").cost == cost
    drawn = select(index, partition, SelectionConfig(count=3), _scores(cost))
    drawn.save(tmp_path / "drawn.parquet", "s")
    assert Selection.load(tmp_path / "drawn.parquet").info == drawn.info
    assert drawn.info["cost"] == dataclasses.asdict(cost)
    for name in ("scores.json", "weights.parquet", "drawn.parquet"):
        assert b"1.5" not in (tmp_path / name).read_bytes()


def test_without_the_file_beside_it_the_time_is_not_known_and_all_else_is(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    _scores(Cost(7, 84, 1.5)).save(path)
    beside(path).unlink()
    loaded = Scores.load(path)
    assert loaded.cost == Cost(7, 84, None)
    assert str(loaded.cost) == "84 forward passes over 7 images, in a time that is not known"
    loaded.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()
    assert not beside(tmp_path / "again.json").exists()


@pytest.mark.parametrize("text", ["{", "[]", '{"kind": "cost", "version": 1, "key": "x", "seconds": 3.0}'])
def test_a_time_that_is_damaged_or_of_another_artefact_is_not_taken(tmp_path: Path, text: str) -> None:
    path = tmp_path / "scores.json"
    _scores(Cost(7, 84, 1.5)).save(path)
    beside(path).write_text(text)
    assert Scores.load(path).cost == Cost(7, 84, None)


def test_a_cost_without_forward_passes_leaves_nothing_beside_and_removes_an_older_one(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    _scores(Cost(7, 84, 1.5)).save(path)
    _scores(Cost()).save(path)
    assert not beside(path).exists()
    assert Scores.load(path).cost == Cost()


def test_files_that_hold_the_time_themselves_are_read_as_before(tmp_path: Path) -> None:
    payload = {**dataclasses.asdict(_scores(Cost(7, 84, 2.5)))}
    write_json(tmp_path / "scores.json", SCORES_KIND, "k", payload)
    assert "seconds" in json.loads((tmp_path / "scores.json").read_text())["cost"]
    assert Scores.load(tmp_path / "scores.json").cost == Cost(7, 84, 2.5)
    index, partition = two_domains(tmp_path, 5)
    drawn = select(index, partition, SelectionConfig(count=3), _scores(Cost(7, 84, 2.5)))
    header = {"mode": drawn.mode, "weights": drawn.weights.tolist(), **drawn.info}
    write_table(tmp_path / "old.parquet", SELECTION_KIND, "k", pa.table(drawn.table), header)
    assert Selection.load(tmp_path / "old.parquet").info["cost"]["seconds"] == 2.5

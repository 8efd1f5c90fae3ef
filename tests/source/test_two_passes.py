"""A partition in two passes: the same as in memory, whatever the shards and who does them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from planted_images import coloured, extraction
from ranks import Ranks

from nds_plugin.engine.executor import LocalExecutor
from nds_plugin.errors import NDSError
from nds_plugin.source import two_passes
from nds_plugin.source.features import extract_features, feature_shards
from nds_plugin.source.index import SourceIndex
from nds_plugin.source.partition import Partition
from nds_plugin.source.partition_parts import StreamedPartition
from nds_plugin.source.partitioning import (
    PartitionConfig,
    partition_by_features,
    partition_key,
    sample_rows,
    sample_size,
)
from nds_plugin.source.two_passes import TwoPasses, clean

pytestmark = pytest.mark.slow

COUNT, BROKEN = 150, (3, 70)
CONFIG = PartitionConfig(num_clusters=3)
SAMPLED = replace(CONFIG, sample_per_cluster=20, sample_least=1)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> SourceIndex:
    return coloured(tmp_path_factory.mktemp("coloured"), COUNT, BROKEN)


def passes(
    folder: Path, config: PartitionConfig = CONFIG, shard: int = 64, rank: int = 0, ranks: int = 1
) -> TwoPasses:
    executor = LocalExecutor(Ranks(rank, ranks), progress=False)
    return TwoPasses(config, extraction(), executor, folder / "partition", folder / "features", shard)


def parts(folder: Path) -> list[Path]:
    return sorted((folder / "partition").glob("part-*.parquet"))


@pytest.fixture(scope="module")
def features(index: SourceIndex) -> tuple[np.ndarray, np.ndarray]:
    how = extraction()
    return extract_features(index, how.network, how.crop_size)


@pytest.mark.parametrize("method", ["kmeans", "superclass"])
@pytest.mark.parametrize("shard", [64, 4096])
def test_a_source_no_larger_than_the_sample_is_cut_as_in_memory(
    index: SourceIndex, features: tuple[np.ndarray, np.ndarray], tmp_path: Path, method: str, shard: int
) -> None:
    config = replace(CONFIG, method=method, num_clusters=2)
    expected = partition_by_features(index, *features, config)
    found = passes(tmp_path, config, shard).run(index, "key")
    expected.save(tmp_path / "expected.parquet", "key")
    found.save(tmp_path / "found.parquet", "key")
    assert (tmp_path / "found.parquet").read_bytes() == (tmp_path / "expected.parquet").read_bytes()


def test_its_key_is_that_of_before_there_was_a_sample(index: SourceIndex) -> None:
    assert partition_key("f", SAMPLED, 60) == partition_key("f", CONFIG, 60)
    assert partition_key("f", SAMPLED, 61) != partition_key("f", CONFIG, 61)


def test_the_parts_say_cluster_and_distance_of_every_image(
    index: SourceIndex, features: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    partition = passes(tmp_path).run(index, "key")
    assert len(parts(tmp_path)) == 3
    table = pq.read_table(parts(tmp_path))
    assert table.column_names == ["source", "image_id", "cluster", "distance"]
    assert table.column("image_id").to_pylist() == index.column("image_id").tolist()
    assert (table.column("cluster").to_numpy() == partition.cluster).all()
    points, readable = features
    for k in range(3):
        members = partition.cluster == k
        centre = points[members].mean(axis=0)
        expected = np.linalg.norm(points[members] - centre, axis=1)
        assert np.allclose(table.column("distance").to_numpy()[members], expected, atol=1e-3)
    assert np.isnan(table.column("distance").to_numpy()[~readable]).all()
    clean(passes(tmp_path).folder)
    assert not (tmp_path / "partition/assigned").exists()


def test_a_larger_source_is_cut_by_the_centroids_of_a_seeded_sample(
    index: SourceIndex, tmp_path: Path
) -> None:
    assert sample_size(COUNT, SAMPLED) == 60
    assert (sample_rows(COUNT, SAMPLED) == sample_rows(COUNT, SAMPLED)).all()
    assert (sample_rows(COUNT, SAMPLED) != sample_rows(COUNT, replace(SAMPLED, seed=1))).any()
    partition = passes(tmp_path, SAMPLED).run(index, "key")
    assert "the centroids are of a sample of 60 of 150 images" in partition.notes
    colours = index.column("label")
    for k in range(3):  # the colours are told apart although most images were not in the sample
        counts = np.bincount(colours[partition.cluster == k], minlength=3)
        assert counts.max() == counts.sum()
    assert np.flatnonzero(partition.cluster < 0).tolist() == list(BROKEN)


@pytest.mark.parametrize("method", ["kmeans", "superclass"])
def test_it_is_the_same_on_any_number_of_ranks(index: SourceIndex, tmp_path: Path, method: str) -> None:
    config = replace(SAMPLED, method=method)
    alone = passes(tmp_path / "one", config).run(index, "key")
    for rank in (1, 0, 1, 0):  # each comes as far as the others' files allow
        try:
            together = passes(tmp_path / "two", config, rank=rank, ranks=2).run(index, "key")
        except (NDSError, OSError):
            continue
    assert (together.cluster == alone.cluster).all()
    assert together.notes == alone.notes
    assert [p.read_bytes() for p in parts(tmp_path / "one")] == [
        p.read_bytes() for p in parts(tmp_path / "two")
    ]


class _KilledError(Exception):
    pass


def test_a_killed_pass_goes_on_with_what_is_missing(
    index: SourceIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = passes(tmp_path / "whole", SAMPLED).run(index, "key")
    run, seen = two_passes.Extractor.run, []

    def killed(self, paths, progress):  # type: ignore[no-untyped-def]
        seen.append(len(paths))
        if len(seen) == 3:
            raise _KilledError
        return run(self, paths, progress)

    monkeypatch.setattr(two_passes.Extractor, "run", killed)
    with pytest.raises(_KilledError):
        passes(tmp_path / "killed", SAMPLED).run(index, "key")
    assert seen == [60, 64, 64]
    again = passes(tmp_path / "killed", SAMPLED).run(index, "key")
    assert seen[3:] == [64, 22]
    assert again.hash == whole.hash


def test_features_are_kept_where_they_are_asked_for(
    index: SourceIndex, features: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    passes(tmp_path, replace(SAMPLED, keep_features=True)).run(index, "key")
    column = pq.read_table(parts(tmp_path)).column("features").combine_chunks()
    kept = column.values.to_numpy().reshape(COUNT, -1)
    assert kept.dtype == np.float16
    assert np.allclose(kept[features[1]], features[0][features[1]], atol=1e-3)


def test_features_that_a_later_step_wants_are_computed_once_for_the_same_partition(
    index: SourceIndex,
    features: tuple[np.ndarray, np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = passes(tmp_path / "expected", SAMPLED).run(index, "key")
    seen: list[str] = []
    run = two_passes.Extractor.run

    def counted(self: two_passes.Extractor, files: list[str], *rest: Any) -> Any:
        seen.extend(files)
        return run(self, files, *rest)

    monkeypatch.setattr(two_passes.Extractor, "run", counted)
    how = replace(passes(tmp_path / "found", SAMPLED), all_features=True)
    found = how.run(index, "key")
    later = feature_shards(index, how.how, how.features, how.shard_size)
    assert sorted(seen) == sorted(index.column("file_name"))
    for made, name in ((expected, "expected"), (found, "found")):
        made.save(tmp_path / f"{name}.parquet", "key")
    assert (tmp_path / "found.parquet").read_bytes() == (tmp_path / "expected.parquet").read_bytes()
    for ours, theirs in zip(later.load(), features):
        assert (ours == theirs).all()


def test_a_partition_of_a_sample_leaves_the_features_of_the_whole_where_they_are(
    index: SourceIndex, tmp_path: Path
) -> None:
    sampled = passes(tmp_path, SAMPLED)
    whole = feature_shards(index, sampled.how, sampled.features, sampled.shard_size)
    sampled.run(index, "key")
    assert all(path.is_file() for path in whole.paths)


def test_a_folder_that_is_not_there_is_refused_and_not_taken_for_broken_images(tmp_path: Path) -> None:
    index = coloured(tmp_path / "images", 150)
    for path in index.column("file_name")[64:128]:
        Path(path).unlink()
    with pytest.raises(
        NDSError, match="64 of 150 images cannot be read, more than 10%: is the image folder right"
    ):
        feature_shards(index, extraction(), tmp_path / "features", 64, max_unreadable=0.1)
    assert len(list((tmp_path / "features").iterdir())) == 1


@pytest.mark.parametrize("config", [CONFIG, SAMPLED], ids=["whole", "sampled"])
def test_an_image_repaired_between_two_starts_is_as_if_it_had_never_been_broken(
    tmp_path: Path, config: PartitionConfig
) -> None:
    broken, sound = tmp_path / "broken", coloured(tmp_path / "sound", 150)
    index = coloured(broken, 150, BROKEN)
    passes(tmp_path / "found", config).run(index, "key")  # and is killed before the partition is saved
    for number in BROKEN:
        (broken / f"{number:04d}.png").write_bytes((tmp_path / f"sound/{number:04d}.png").read_bytes())
    found = passes(tmp_path / "found", config).run(index, "key")
    expected = passes(tmp_path / "expected", config).run(sound, "key")
    assert found.cluster.tolist() == expected.cluster.tolist()
    assert StreamedPartition.open(tmp_path / "found/partition").hash == found.hash


def test_a_partition_is_read_as_any_other(index: SourceIndex, tmp_path: Path) -> None:
    partition = passes(tmp_path, SAMPLED).run(index, "key")
    partition.save(tmp_path / "partition.parquet", "key")
    Partition.load(tmp_path / "partition.parquet").check_matches(index)
    streamed = StreamedPartition.open(tmp_path / "partition")
    assert (streamed.hash, streamed.index_hash) == (partition.hash, partition.index_hash)
    clusters = np.concatenate([found for _, found in streamed.blocks()])
    assert clusters.tolist() == partition.cluster.tolist()


def test_another_size_of_shards_or_another_partition_in_the_same_folder_changes_nothing(
    index: SourceIndex, tmp_path: Path
) -> None:
    whole = passes(tmp_path, shard=128).run(index, "key")
    clean(passes(tmp_path).folder)
    assert (
        passes(tmp_path, shard=64).run(index, "key").hash == whole.hash
    )  # 150 images: 128 + 22, 64 + 64 + 22
    two = passes(tmp_path, replace(CONFIG, num_clusters=2), shard=192).run(index, "other key")
    assert len(parts(tmp_path)) == 1
    assert StreamedPartition.open(tmp_path / "partition").hash == two.hash

"""Laws of the partition: repeatable, without holes, tied to its index."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from nds_plugin.errors import NDSError
from nds_plugin.source import clustering
from nds_plugin.source.index import ImageRecord, SourceIndex
from nds_plugin.source.partition import Partition
from nds_plugin.source.partition_summary import summarise, summary_table
from nds_plugin.source.partitioning import PartitionConfig, partition_by_features, partition_key

CENTRES = np.eye(8)[:4]


def make_index(
    sources: Sequence[str] = ("a",),
    per_source: int = 60,
    labels: npt.NDArray[np.integer] | None = None,
    classes: Sequence[str] = (),
    **changes: Any,
) -> SourceIndex:
    """Records with the same ids in every source."""
    records = [
        ImageRecord(source, str(i), f"/nowhere/{source}/{i}.jpg", 64, 48)
        for source in sources
        for i in range(per_source)
    ]
    if labels is not None:
        records = [ImageRecord(**{**vars(r), "label": int(k)}) for r, k in zip(records, labels)]
    return SourceIndex.from_records([ImageRecord(**{**vars(r), **changes}) for r in records], classes)


def blobs(
    sizes: Sequence[int], seed: int = 0, spread: float = 0.02
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Unit features around orthogonal centres, sizes[i] of them around the i-th."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(len(sizes)), sizes)
    points = CENTRES[group] + spread * rng.standard_normal((len(group), CENTRES.shape[1]))
    order = rng.permutation(len(group))
    points = (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)
    return points[order], group[order]


def cut(
    index: SourceIndex,
    features: npt.NDArray[np.float32],
    readable: npt.NDArray[np.bool_] | None = None,
    **config: Any,
) -> Partition:
    readable = np.ones(len(index), bool) if readable is None else readable
    return partition_by_features(index, features, readable, PartitionConfig(**config))


def same_groups(a: npt.NDArray[np.integer], b: npt.NDArray[np.integer]) -> bool:
    """Whether two numberings cut the same way."""
    pairs = set(zip(a.tolist(), b.tolist()))
    return len(pairs) == len(set(a.tolist())) == len(set(b.tolist()))


def test_kmeans_finds_separate_groups_and_numbers_them_by_size() -> None:
    features, group = blobs([10, 20, 12, 18])
    partition = cut(make_index(), features, num_clusters=4)
    assert same_groups(partition.cluster, group)
    assert partition.sizes.tolist() == [20, 18, 12, 10]
    assert partition.num_clusters == 4
    assert partition.cluster.dtype == np.int32
    assert partition.sizes.dtype == np.int64
    for k in range(4):
        assert (partition.cluster[partition.members(k)] == k).all()
        assert len(partition.members(k)) == partition.sizes[k]


def test_partition_repeats_under_one_seed_and_follows_it() -> None:
    features = np.random.default_rng(1).standard_normal((300, 8)).astype(np.float32)
    index = make_index(per_source=300)
    first, again, other = (cut(index, features, num_clusters=7, seed=s) for s in (3, 3, 4))
    assert first.hash == again.hash
    assert (first.cluster == again.cluster).all()
    assert first.hash != other.hash


def test_minibatch_kmeans_of_a_large_source_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clustering, "MINIBATCH_ABOVE", 100)
    features, group = blobs([100, 80, 60, 60])
    index = make_index(per_source=300)
    first, again = (cut(index, features, num_clusters=4, seed=2) for _ in range(2))
    assert first.hash == again.hash
    assert same_groups(first.cluster, group)


def test_principal_components_keep_separate_groups_apart() -> None:
    features, group = blobs([10, 20, 12, 18])
    partition = cut(make_index(), features, num_clusters=4, pca_dim=3)
    assert same_groups(partition.cluster, group)
    with pytest.raises(NDSError, match="pca_dim is 9, but 60 features of 8 numbers allow at most 8"):
        cut(make_index(), features, num_clusters=4, pca_dim=9)


def test_clusters_left_empty_by_equal_images_are_dropped_and_noted() -> None:
    features = np.repeat(CENTRES[:3], 20, axis=0).astype(np.float32)
    partition = cut(make_index(), features, num_clusters=6)
    assert partition.sizes.tolist() == [20, 20, 20]
    assert partition.notes == ["3 of 6 clusters were empty and are left out"]


def test_tiny_clusters_join_the_nearest_and_are_noted() -> None:
    features, _ = blobs([30, 25, 5])
    features[features[:, 2] > 0.5] += 0.4 * CENTRES[1].astype(np.float32)
    partition = cut(make_index(), features, num_clusters=3, min_size=6)
    assert partition.sizes.tolist() == [30, 30]
    assert partition.notes == [
        "a cluster of 5 images (fewer than min_size 6) is merged into its nearest neighbour of 25 images"
    ]
    merged = partition.cluster[np.abs(features[:, 2]) > 0.5]
    assert (merged == partition.cluster[np.argmax(features[:, 1])]).all()


def test_merging_goes_on_until_all_are_large_enough_and_loses_no_image() -> None:
    rng = np.random.default_rng(0)
    sizes = rng.integers(0, 12, size=20)
    target, notes = clustering.merge_small(sizes, rng.standard_normal((20, 4)), 25)
    merged = np.bincount(target, weights=sizes, minlength=20)
    assert merged.sum() == sizes.sum()
    assert (merged[merged > 0] >= 25).all()
    assert len(notes) == (sizes > 0).sum() - (merged > 0).sum() + ((sizes == 0).any())


def test_one_cluster_remains_where_all_are_tiny() -> None:
    features, _ = blobs([30, 30])
    assert cut(make_index(), features, num_clusters=4, min_size=1000).sizes.tolist() == [60]


def test_numbers_of_equal_sizes_follow_the_first_image() -> None:
    labels = np.array([5, 2, -1, 2, 5, 9])
    assert clustering.number_by_size(labels).tolist() == [0, 1, -1, 1, 0, 2]


def test_more_clusters_than_images_is_refused() -> None:
    features, _ = blobs([10, 20, 12, 18])
    with pytest.raises(NDSError, match="cannot cut 60 images into 61 clusters: lower --num-clusters"):
        cut(make_index(), features, num_clusters=61)
    assert cut(make_index(), features, num_clusters=60).sizes.tolist() == [1] * 60


def test_unreadable_images_are_in_no_cluster() -> None:
    features, group = blobs([10, 20, 12, 18])
    readable = np.ones(60, bool)
    readable[[0, 7, 59]] = False
    features[~readable] = np.nan
    partition = cut(make_index(), features, readable, num_clusters=4)
    assert (partition.cluster == -1).tolist() == (~readable).tolist()
    assert partition.sizes.sum() == 57
    assert same_groups(partition.cluster[readable], group[readable])
    assert "3 unreadable images are in no cluster and are never drawn" in partition.notes


def test_a_source_of_mostly_unreadable_images_is_refused() -> None:
    features, _ = blobs([10, 20, 12, 18])
    readable = np.arange(60) >= 7
    with pytest.raises(NDSError, match=r"7 of 60 images cannot be read, more than 10%: is the image folder"):
        cut(make_index(), features, readable, num_clusters=4)


def test_features_that_do_not_fit_are_refused() -> None:
    features, _ = blobs([10, 20, 12, 18])
    with pytest.raises(NDSError, match=r"expected features of shape \(60, D\).*got \(59, 8\)"):
        cut(make_index(), features[:59], num_clusters=4)
    features[12, 3] = np.inf
    with pytest.raises(NDSError, match="features of 1 images are not finite, first image '12' of 'a'"):
        cut(make_index(), features, num_clusters=4)


def test_superclass_keeps_each_class_in_one_cluster_and_names_it() -> None:
    features, group = blobs([10, 20, 12, 18])
    classes = ("car", "bus", "dress", "shirt", "unused")
    features[np.isin(group, [0, 1])] += 2 * CENTRES[0].astype(np.float32)
    features[np.isin(group, [2, 3])] += 2 * CENTRES[3].astype(np.float32)
    # One shirt that looks like a car: an image goes with its label, whatever it looks like.
    odd = int(np.flatnonzero(group == 3)[0])
    features[odd] = features[np.flatnonzero(group == 0)[0]]
    index = make_index(labels=group, classes=classes)
    partition = cut(index, features, method="superclass", num_clusters=2)
    assert same_groups(partition.cluster, group // 2)
    assert partition.notes[-2:] == [
        "cluster 0 holds the classes car, bus",
        "cluster 1 holds the classes dress, shirt",
    ]


def test_superclass_gives_images_without_label_to_the_nearest() -> None:
    features, group = blobs([10, 20, 12, 18])
    labels = group.copy()
    labels[::5] = -1
    index = make_index(labels=labels, classes=("a", "b", "c", "d"))
    partition = cut(index, features, method="superclass", num_clusters=4)
    assert same_groups(partition.cluster, group)
    assert "12 images without a label went to the nearest superclass by their features" in partition.notes


def test_more_superclasses_than_classes_is_refused() -> None:
    features, group = blobs([10, 20, 12, 18])
    index = make_index(labels=group, classes=("a", "b", "c", "d", "unused"))
    with pytest.raises(NDSError, match=r"cannot cut 4 classes .* into 5 superclasses: lower --num-clusters"):
        cut(index, features, method="superclass", num_clusters=5)
    with pytest.raises(NDSError, match="cannot cut 0 classes"):
        cut(make_index(), features, method="superclass", num_clusters=1)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"method": "kmean"},
            "unknown partition method 'kmean'.*Did you mean 'kmeans'.*Known: kmeans, super",
        ),
        ({"num_clusters": 0}, "num_clusters must be 1 or more, got 0"),
        ({"min_size": 0}, "min_size must be 1 or more, got 0"),
        ({"seed": -1}, "seed must be 0 to 4294967295, got -1"),
        ({"pca_dim": 1.5}, "pca_dim must be a whole number of 0 or more, got 1.5"),
    ],
)
def test_a_bad_config_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(NDSError, match=message):
        PartitionConfig(**config)


def test_partition_survives_saving(tmp_path: Path) -> None:
    features, _ = blobs([10, 20, 12, 18])
    readable = np.arange(60) != 5
    index = make_index(("a", "b"), 30)
    partition = cut(index, features, readable, num_clusters=4, seed=3)
    path = tmp_path / "partition.parquet"
    partition.save(path, partition_key("features", PartitionConfig(num_clusters=4), 60))
    loaded = Partition.load(path)
    assert loaded.hash == partition.hash
    assert (loaded.cluster == partition.cluster).all()
    for name in ("notes", "method", "seed", "index_hash", "num_clusters"):
        assert getattr(loaded, name) == getattr(partition, name)
    loaded.check_matches(index)


def test_a_cut_short_or_changed_file_is_refused(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    from nds_plugin.files.artifacts import read_table, write_table

    path = tmp_path / "partition.parquet"
    features, _ = blobs([10, 20, 12, 18])
    cut(make_index(), features, num_clusters=4).save(path, "key")
    table, header = read_table(path, "partition")
    payload = {k: v for k, v in header.items() if k not in ("kind", "version", "key")}
    changed = table.to_pydict()
    changed["cluster"] = changed["cluster"][::-1]
    write_table(path, "partition", "key", type(table).from_pydict(changed), payload)
    with pytest.raises(NDSError, match="its clusters are not those it was saved with"):
        Partition.load(path)
    pq.write_table(table, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(NDSError, match="not a complete Parquet file"):
        Partition.load(path)


def test_joined_sources_may_share_ids() -> None:
    features, _ = blobs([10, 20, 12, 18])
    index = make_index(("a", "b", "c"), 20)
    partition = cut(index, features, num_clusters=4)
    rows = summarise(partition, index)
    assert [row.cluster for row in rows] == [0, 1, 2, 3]
    assert [row.images for row in rows] == [20, 18, 12, 10]
    assert sum(row.share for row in rows) == pytest.approx(1)
    source = index.column("source")
    for row in rows:
        members = source[partition.cluster == row.cluster]
        assert row.by_source == {name: int((members == name).sum()) for name in row.by_source}
        assert list(row.by_source.values()) == sorted(row.by_source.values(), reverse=True)
        assert sum(row.by_source.values()) == row.images
    text = summary_table(rows, most=2)
    assert "1 more" in text
    assert len(text.splitlines()) == 6


def test_a_partition_of_another_index_is_refused() -> None:
    features, _ = blobs([10, 20, 12, 18])
    partition = cut(make_index(("a", "b"), 30), features, num_clusters=4)
    with pytest.raises(NDSError, match=r"30 of its 60 images are not in the index, first \('b', '0'\)"):
        partition.check_matches(make_index(("a", "c"), 30))
    with pytest.raises(NDSError, match=r"30 of the index's 90 images are not in it, first \('c', '0'\)"):
        partition.check_matches(make_index(("a", "b", "c"), 30))
    with pytest.raises(NDSError, match="the images' order differs"):
        partition.check_matches(make_index(("b", "a"), 30))
    with pytest.raises(NDSError, match="images are the same, but their sizes, labels, classes or checksums"):
        partition.check_matches(make_index(("a", "b"), 30, width=65))
    partition.check_matches(make_index(("a", "b"), 30))


def test_filtering_images_is_noticed_although_positions_still_exist() -> None:
    features, _ = blobs([10, 20, 12, 18])
    index = make_index()
    partition = cut(index, features, num_clusters=4)
    filtered = SourceIndex(index.table.slice(1))
    with pytest.raises(NDSError, match=r"1 of its 60 images are not in the index, first \('a', '0'\)"):
        partition.check_matches(filtered)


@pytest.mark.parametrize("cluster", [[0, 2, 2], [-1, -1, -1], [0, -2, 1]])
def test_numbering_with_a_hole_is_refused(cluster: list[int]) -> None:
    identities = make_index(per_source=3).table
    with pytest.raises(NDSError, match="clusters must be numbered 0 to K-1 without a hole"):
        Partition(np.array(cluster), identities, "hash", method="kmeans", seed=0)


def test_asking_for_a_cluster_that_is_not_there_is_refused() -> None:
    partition = Partition(np.array([0, 1, 1]), make_index(per_source=3).table, "h", method="kmeans", seed=0)
    with pytest.raises(NDSError, match="no cluster 2: the partition has clusters 0 to 1"):
        partition.members(2)
    with pytest.raises(NDSError, match="expected one cluster for each of 3 images"):
        Partition(np.array([0, 1]), make_index(per_source=3).table, "h", method="kmeans", seed=0)


def test_a_partition_is_read_without_torch_and_sklearn(tmp_path: Path) -> None:
    features, _ = blobs([10, 20, 12, 18])
    index = make_index()
    cut(index, features, num_clusters=4).save(tmp_path / "partition.parquet", "key")
    index.save(tmp_path / "index.parquet", "key")
    code = """
import sys
for name in ("torch", "torchvision", "sklearn", "scipy", "detectron2"):
    sys.modules[name] = None
from nds_plugin.source.index import SourceIndex
from nds_plugin.source.partition import Partition
from nds_plugin.source.partition_summary import summarise
partition = Partition.load("partition.parquet")
rows = summarise(partition, SourceIndex.load("index.parquet"))
assert [row.images for row in rows] == [20, 18, 12, 10], rows
"""
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_number_of_threads_does_not_matter() -> None:
    """The same clusters with one OpenMP thread and with several."""
    code = """
import numpy as np
from nds_plugin.source.clustering import kmeans
points = np.random.default_rng(0).standard_normal((4000, 16)).astype(np.float32)
labels, centroids = kmeans(points, 9, 0)
print(labels.tolist(), centroids.tobytes().hex())
"""
    root = str(Path(__file__).parents[2])
    outputs = set()
    for threads in ("1", "3"):
        environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": threads}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
        )
        outputs.add(done.stdout)
    assert len(outputs) == 1

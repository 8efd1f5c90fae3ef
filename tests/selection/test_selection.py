"""A selection: what selectors agree on, what is kept, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nds_plugin.errors import NDSError
from nds_plugin.experts.scores import Scores
from nds_plugin.pipeline.selection_log import log_selection
from nds_plugin.selection.config import SelectionConfig
from nds_plugin.selection.select import select
from nds_plugin.selection.selection import Selection
from nds_plugin.selection.selectors import SELECTORS
from nds_plugin.selection.selectors.nds import NDS
from nds_plugin.selection.selectors.uniform import Full, Uniform
from nds_plugin.selection.tables import cluster_table, effective_numbers, source_shares
from nds_plugin.source.index import ImageRecord, SourceIndex
from nds_plugin.source.partition import Partition


@pytest.fixture(scope="module")
def index() -> SourceIndex:
    """Two sources whose images have the same ids."""
    return SourceIndex.from_records(
        [
            ImageRecord(
                source, str(i), f"{source}/{i}.jpg", url=f"https://example.org/{source}/{i}", license="CC0"
            )
            for source in ("a", "b")
            for i in range(30)
        ]
    )


@pytest.fixture(scope="module")
def partition(index: SourceIndex) -> Partition:
    """Cluster 0: the first 20 of a; 1: the rest of a and ten of b; 2: the rest of b but the last two."""
    cluster = np.array([0] * 20 + [1] * 20 + [2] * 18 + [-1] * 2)
    return Partition(cluster, index.table, index.hash, method="kmeans", seed=0)


def _scores(z: list[float]) -> Scores:
    return Scores(list(range(len(z))), z, [0.0] * len(z), "accuracy", 10, "e" * 64, "rotation")


def test_the_budget_is_exact_and_the_best_cluster_is_drawn_most(
    index: SourceIndex, partition: Partition
) -> None:
    selection = select(index, partition, SelectionConfig(count=20), _scores([0.9, 0.5, 0.4]))
    counts = np.bincount(selection.column("cluster").to_numpy(), minlength=3)
    assert len(selection) == 20
    assert counts.argmax() == 0


@pytest.mark.parametrize("temperature", [0.1, 1e-4])
def test_a_share_is_one_of_the_whole_source_even_where_a_cluster_has_no_weight(
    index: SourceIndex, partition: Partition, temperature: float
) -> None:
    config = SelectionConfig(NDS(temperature=temperature), share=0.25)
    selection = select(index, partition, config, _scores([0.9, 0.9, 0.4]))
    assert (selection.weights[2] == 0) == (temperature < 0.1)
    assert len(selection) == round(0.25 * 58)


def test_uniform_does_not_depend_on_the_partition(index: SourceIndex) -> None:
    config = SelectionConfig(Uniform(), share=0.4)
    halves = Partition(np.repeat([0, 1], 30), index.table, index.hash, method="kmeans", seed=0)
    with_clusters = select(index, halves, config).table.drop(["cluster", "p"])
    assert with_clusters.equals(select(index, Partition.whole(index), config).table.drop(["cluster", "p"]))


def test_full_takes_every_image(index: SourceIndex) -> None:
    assert len(select(index, Partition.whole(index), SelectionConfig(Full()))) == 60


def test_a_stream_keeps_every_image_that_can_be_drawn_with_its_p(
    index: SourceIndex, partition: Partition
) -> None:
    selection = select(index, partition, SelectionConfig(mode="stream"), _scores([0.9, 0.5, 0.4]))
    assert len(selection) == 58
    assert selection.column("p").to_numpy().sum() == pytest.approx(1.0)


def test_a_saved_selection_is_the_same_selection(
    index: SourceIndex, partition: Partition, tmp_path: Path
) -> None:
    selection = select(index, partition, SelectionConfig(count=20, seed=5), _scores([0.9, 0.5, 0.4]))
    selection.save(tmp_path / "s.parquet", "key")
    loaded = Selection.load(tmp_path / "s.parquet")
    assert loaded.table.equals(selection.table.cast(loaded.table.schema))
    assert loaded.info == selection.info
    assert loaded.mode == "subset"
    assert loaded.info["seed"] == 5
    assert loaded.info["expert_set"] == "e" * 64
    row = loaded.table.slice(0, 1).to_pylist()[0]
    assert row["url"] == f"https://example.org/{row['source']}/{row['image_id']}"


def test_identity_survives_filtering_and_sources_that_share_ids(
    index: SourceIndex, partition: Partition
) -> None:
    """A dataset without some of the images, in another order, gets each image's own cluster."""
    selection = select(index, partition, SelectionConfig(mode="stream"), _scores([0.9, 0.5, 0.4]))
    rows = [58, 3, 33, 25, 57, 0]
    sources = ["b", "a", "b", "a", "b", "a"]
    ids = ["28", "3", "3", "25", "27", "0"]
    expected = partition.cluster[rows]
    assert selection.placed(sources, ids).cluster.tolist() == expected.tolist()
    assert expected.tolist() == [-1, 0, 1, 1, 2, 0]


def test_a_dataset_that_was_not_selected_from_is_refused(index: SourceIndex, partition: Partition) -> None:
    selection = select(index, partition, SelectionConfig(count=5), _scores([0.9, 0.5, 0.4]))
    with pytest.raises(NDSError, match=r"none of the 1 images of the dataset \(c\).*made from a"):
        selection.placed(["c"], ["1"])


def test_nds_without_scores_is_refused(index: SourceIndex, partition: Partition) -> None:
    with pytest.raises(NDSError, match="score the experts first"):
        select(index, partition, SelectionConfig(count=5))


def test_scores_of_another_number_of_clusters_are_refused(index: SourceIndex, partition: Partition) -> None:
    with pytest.raises(NDSError, match=r"scores are of clusters \[0, 1\], the partition has 0 to 2"):
        select(index, partition, SelectionConfig(count=5), _scores([0.9, 0.5]))


def test_a_budget_above_the_drawable_images_is_refused(index: SourceIndex, partition: Partition) -> None:
    with pytest.raises(NDSError, match="budget must be 1 to 58"):
        select(index, partition, SelectionConfig(count=59), _scores([0.9, 0.5, 0.4]))


def test_an_unknown_selector_lists_the_known_ones() -> None:
    with pytest.raises(
        NDSError,
        match=r"unknown selector 'ndz'.*'nds'.*Known: domain_classifier, full, gate, histogram, knn, nds, oracle, snds, uniform",
    ):
        SELECTORS["ndz"]


def test_a_subset_cannot_be_reweighted(index: SourceIndex, partition: Partition) -> None:
    selection = select(index, partition, SelectionConfig(count=5), _scores([0.9, 0.5, 0.4]))
    with pytest.raises(NDSError, match="only a selection of mode stream"):
        selection.placed(["a"] * 30 + ["b"] * 30, [str(i) for i in range(30)] * 2).reweighted(np.ones(3))


def test_the_tables_before_training_add_up(index: SourceIndex, partition: Partition) -> None:
    selection = select(index, partition, SelectionConfig(count=30), _scores([0.9, 0.5, 0.4]))
    clusters = cluster_table(selection, index, partition)
    assert [row["cluster"] for row in clusters] == [0, 1, 2]
    assert sum(row["share"] for row in clusters) == pytest.approx(1)
    assert sum(row["w"] for row in clusters) == pytest.approx(1)
    assert clusters[1]["sources"] == "a 50%, b 50%"
    shares = source_shares(selection, index)
    assert sum(row["draw_share"] for row in shares) == pytest.approx(1)
    assert shares[0]["index_share"] == pytest.approx(0.5)
    assert 1 <= effective_numbers(selection)["effective_clusters"] <= 3


def test_a_file_cut_short_is_not_taken_for_a_selection(
    index: SourceIndex, partition: Partition, tmp_path: Path
) -> None:
    path = tmp_path / "s.parquet"
    select(index, partition, SelectionConfig(count=20), _scores([0.9, 0.5, 0.4])).save(path, "key")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(NDSError, match="not a complete Parquet file"):
        Selection.load(path)


def test_selection_runs_without_torch() -> None:
    """Index, artefacts, maths, scores, partition and selection import in a process that has no torch."""
    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['sklearn'] = None; sys.modules['detectron2'] = None\n"
        "import nds_plugin.selection.selection, nds_plugin.selection.streams, nds_plugin.datasets.coco.split, nds_plugin.command_line\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_the_log_tells_of_clusters_and_of_a_cost_only_where_there_are_any(
    index: SourceIndex, partition: Partition, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    log_selection(
        select(index, partition, SelectionConfig(count=20), _scores([0.9, 0.5, 0.4])), index, partition
    )
    whole = Partition.whole(index)
    log_selection(select(index, whole, SelectionConfig(Uniform(), count=20)), index, whole)
    scored, uniform = caplog.messages
    assert "effective clusters of 3, effective sample size" in scored
    assert "cluster  sources" in scored
    assert "Selection by uniform: 20 images, mode subset, effective sample size 60.\n" in uniform
    assert "index_share" in uniform
    assert "cluster" not in uniform

"""What is pretrained on are the images of the selection and no others, each in its cluster."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from imagenet_trees import as_images, batches, write_tree
from ssl_jobs import write_images

from nds_plugin.engine.processes import OneProcess
from nds_plugin.job.selection_summary import Timings
from nds_plugin.pipeline.selection_steps import Selected
from nds_plugin.pipeline.work_folder import WorkFolder
from nds_plugin.selection.config import SelectionConfig
from nds_plugin.selection.select import select
from nds_plugin.selection.selectors.uniform import Uniform
from nds_plugin.source.index import SourceIndex
from nds_plugin.source.partition import Partition
from nds_plugin.ssl.host import SSLHost
from nds_plugin.ssl.pixels import square, stored_side
from nds_plugin.ssl.pretrain import Images, selected_images

SIZE, CLUSTERS, SELECTED = 32, 3, 12
Pixels = Callable[[str], npt.NDArray[np.uint8]]


def selected_from(index: SourceIndex, root: Path) -> Selected:
    """Twelve images of a source in three clusters; their rows lie in another order than those of the source."""
    return drawn(index, root, SelectionConfig(Uniform(), count=SELECTED, seed=2))


def drawn(index: SourceIndex, root: Path, config: SelectionConfig) -> Selected:
    """A selection of a source in three clusters."""
    cluster = np.random.default_rng(0).permutation(len(index)) % CLUSTERS
    partition = Partition(cluster, index.table, index.hash, method="kmeans", seed=0)
    selection = select(index, partition, config)
    mixed = selection.table.take(np.random.default_rng(1).permutation(len(selection)))
    return Selected(replace(selection, table=mixed), root / "s.parquet", "key", index, partition, None, {})


@pytest.fixture(params=["folder", "packed"])
def source(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[SourceIndex, Pixels]:
    """A source, and the pixels of its images by their ids."""
    if request.param == "folder":
        write_images(tmp_path / "photos", 30, 0)
        host = SSLHost({"photos": {"FOLDER": str(tmp_path / "photos")}})
        return host.dataset("photos").index(), lambda name: square(
            str(tmp_path / "photos" / name), stored_side(SIZE)
        )
    write_tree(tmp_path, SIZE, "npz")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    content = batches(SIZE)

    def pixels(name: str) -> npt.NDArray[np.uint8]:
        _, batch, row = name.split("_")
        return as_images(content[f"train_data_batch_{int(batch)}"]["data"], SIZE)[int(row)]

    return SSLHost().dataset(f"downsampled_imagenet_{SIZE}_train").index(), pixels


def test_the_rows_are_the_images_of_the_selection_cluster_by_cluster(
    source: tuple[SourceIndex, Pixels], tmp_path: Path
) -> None:
    index, pixels = source
    selected = selected_from(index, tmp_path)
    work = WorkFolder(tmp_path / "work", OneProcess(), Timings())
    images: Images = selected_images(selected, SIZE, work, 0, 0.0)
    assert images.unreadable == ()
    assert len(images.rows) == len(images.placed) == len(images.placed.cluster) == SELECTED < len(index)
    found = images.rows.rows(np.arange(SELECTED)).numpy()
    ids = np.array(selected.selection.column("image_id").to_pylist())
    clusters = selected.selection.column("cluster").to_numpy()
    assert set(clusters) == set(range(CLUSTERS))
    for cluster in range(CLUSTERS):
        expected = sorted(pixels(name).tobytes() for name in ids[clusters == cluster])
        assert len(set(expected)) == len(expected)
        assert sorted(image.tobytes() for image in found[images.placed.cluster == cluster]) == expected
    assert sorted(images.placed.stream(5).draw(0, SELECTED)) == list(range(SELECTED))


@pytest.mark.parametrize("by_image", [False, True], ids=["clusters", "images"])
def test_a_stream_draws_all_images_but_those_of_probability_0(tmp_path: Path, by_image: bool) -> None:
    write_images(tmp_path / "photos", 30, 0)
    index = SSLHost({"photos": {"FOLDER": str(tmp_path / "photos")}}).dataset("photos").index()
    selected = drawn(index, tmp_path, SelectionConfig(Uniform(), mode="stream", seed=2))
    table, info = selected.selection.table, {**selected.selection.info, "by_image": by_image}
    never = np.arange(30) % 4 == 0 if by_image else table["cluster"].to_numpy() == 0
    table = table.set_column(table.column_names.index("p"), "p", pa.array(np.where(never, 0.0, 0.1)))
    weights = selected.selection.weights * (by_image | (np.arange(CLUSTERS) > 0))
    selected = replace(
        selected, selection=replace(selected.selection, table=table, weights=weights, info=info)
    )
    images = selected_images(selected, SIZE, WorkFolder(tmp_path / "work", OneProcess(), Timings()), 0, 0.0)
    assert len(images.rows) == 30
    seen = {picture.numpy().tobytes() for picture in images.rows.rows(images.placed.stream(5).draw(0, 2000))}
    names = table["image_id"].filter(pa.array(~never)).to_pylist()
    assert seen == {square(str(tmp_path / "photos" / name), stored_side(SIZE)).tobytes() for name in names}

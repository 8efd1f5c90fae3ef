"""Laws of the training loader: the same data on any number of workers, broken images replaced."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from loader_batches import DATASET, SOURCES, drawn_selection, first_batches, loader_config, same_batches

from nds_plugin.d2 import TRAIN_SAMPLERS, NDSTrainer, build_nds_train_loader
from nds_plugin.d2.config.nodes import load_config
from nds_plugin.d2.data.drawn_dataset import register_selection
from nds_plugin.d2.data.known_datasets import register_coco_folder
from nds_plugin.d2.data.registration import index_dataset, registered_temporarily
from nds_plugin.d2.train.stages import finetune_config
from nds_plugin.errors import NDSError
from nds_plugin.experts.scores import Scores
from nds_plugin.selection.config import SelectionConfig
from nds_plugin.selection.placed import PlacedSelection
from nds_plugin.selection.select import select
from nds_plugin.selection.selection import Selection
from nds_plugin.selection.selectors.nds import NDS
from nds_plugin.selection.streams import ShuffledStream
from nds_plugin.source.index import SourceIndex
from nds_plugin.source.partition import Partition


@pytest.mark.usefixtures("tiny_datasets")
@pytest.mark.parametrize("mode", ["stream", "subset"])
def test_batches_are_the_same_pixel_by_pixel_on_any_number_of_workers(tmp_path: Path, mode: str) -> None:
    selection = drawn_selection(tmp_path, mode)
    alone = first_batches(loader_config(selection))
    for workers in (1, 4):
        assert same_batches(alone, first_batches(loader_config(selection, workers)))


@pytest.mark.usefixtures("tiny_datasets")
def test_a_loader_that_starts_at_an_iteration_gives_the_tail(tmp_path: Path) -> None:
    cfg = loader_config(drawn_selection(tmp_path))
    assert same_batches(first_batches(cfg, 6)[4:], first_batches(cfg, 2, start_iter=4))


@pytest.mark.usefixtures("tiny_datasets")
def test_ranks_together_give_what_one_process_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = loader_config(drawn_selection(tmp_path))
    alone = [[d["file_name"] for d in batch] for batch in first_batches(cfg)]
    parts = []
    for rank in range(2):
        monkeypatch.setattr("detectron2.utils.comm.get_rank", lambda rank=rank: rank)
        monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)
        monkeypatch.setattr("detectron2.data.build.get_world_size", lambda: 2)
        parts.append([[d["file_name"] for d in batch] for batch in first_batches(cfg)])
    together = [[name for pair in zip(a, b) for name in pair] for a, b in zip(*parts)]
    assert together == alone


@pytest.mark.usefixtures("tiny_datasets")
def test_each_image_keeps_the_cluster_of_its_own_source(tmp_path: Path) -> None:
    """Both sources number their images from one."""
    for batch in first_batches(loader_config(drawn_selection(tmp_path)), 10):
        for example in batch:
            source = "street" if "/street/" in example["file_name"] else "room"
            assert example["nds_cluster"] == {"room": 0, "street": 1}[source]


@pytest.mark.usefixtures("tiny_datasets")
def test_a_subset_draws_its_own_images_alone_once_an_epoch(tmp_path: Path) -> None:
    path = drawn_selection(tmp_path, "subset")
    cfg = loader_config(path)
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = False  # which reorders within a window of some batches
    drawn = [d["nds_index"] for batch in first_batches(cfg, 5) for d in batch]
    assert len(set(drawn)) == 20 == len(Selection.load(path))


@pytest.mark.usefixtures("tiny_datasets")
def test_detectron2s_own_samplers_get_detectron2s_own_loader() -> None:
    cfg = loader_config("", sampler="TrainingSampler")
    cfg.DATASETS.TRAIN = SOURCES[:1]
    loader = build_nds_train_loader(cfg)
    assert type(loader).__module__.startswith("detectron2")
    cfg.DATALOADER.SAMPLER_TRAIN = "SeekableTrainingSampler"
    loader = build_nds_train_loader(cfg, sampler="TrainingSampler")
    assert type(loader).__module__.startswith("detectron2")
    assert cfg.DATALOADER.SAMPLER_TRAIN == "SeekableTrainingSampler"


@pytest.mark.usefixtures("tiny_datasets")
def test_an_unknown_sampler_lists_ours_and_detectron2s() -> None:
    with pytest.raises(
        NDSError, match=r"'NDSTrainingSamler'.*'NDSTrainingSampler'.*RepeatFactorTrainingSampler"
    ):
        build_nds_train_loader(loader_config("", sampler="NDSTrainingSamler"))


@pytest.mark.usefixtures("tiny_datasets")
def test_the_nds_sampler_without_a_selection_says_what_to_set() -> None:
    cfg = loader_config("")
    cfg.DATASETS.TRAIN = SOURCES[:1]
    with pytest.raises(NDSError, match="set NDS.SELECTION"):
        build_nds_train_loader(cfg)


@pytest.mark.usefixtures("tiny_datasets")
@pytest.mark.parametrize("mode", ["stream", "subset"])
def test_the_dataset_that_a_selection_was_registered_as_brings_its_selection(
    tmp_path: Path, mode: str
) -> None:
    cfg = loader_config(drawn_selection(tmp_path, mode))
    given = first_batches(cfg)
    cfg.NDS.SELECTION = ""
    assert same_batches(given, first_batches(cfg))


@pytest.mark.usefixtures("tiny_datasets")
def test_a_selection_that_is_handed_over_is_not_read_again(tmp_path: Path) -> None:
    cfg = loader_config(drawn_selection(tmp_path))
    expected = first_batches(cfg)
    selection = Selection.load(cfg.NDS.SELECTION)
    register_selection(cfg.NDS.SELECTION, cfg.DATASETS.TRAIN[0], selection=selection)
    Path(cfg.NDS.SELECTION).unlink()
    assert same_batches(expected, first_batches(cfg))


@pytest.mark.usefixtures("tiny_datasets")
def test_a_sampler_of_ones_own_is_called_with_the_selection(tmp_path: Path) -> None:
    calls = []

    def first_cluster(selection: PlacedSelection, cluster: np.ndarray, seed: int) -> ShuffledStream:
        calls.append((len(selection), seed))
        return ShuffledStream(np.flatnonzero(cluster == 0), seed)

    TRAIN_SAMPLERS._do_register("FirstCluster", first_cluster)
    try:
        batches = first_batches(loader_config(drawn_selection(tmp_path), sampler="FirstCluster"))
    finally:
        del TRAIN_SAMPLERS._obj_map["FirstCluster"]
    assert calls == [(48, 0)]
    assert {d["nds_cluster"] for batch in batches for d in batch} == {0}


@pytest.mark.usefixtures("tiny_datasets")
def test_datasets_of_other_classes_are_not_mixed_up(tmp_path: Path) -> None:
    cfg = loader_config(drawn_selection(tmp_path))
    cfg.DATASETS.TRAIN = SOURCES
    with pytest.raises(
        NDSError, match="'tiny_street_train' and 'tiny_room_train' have different classes"
    ) as error:
        build_nds_train_loader(cfg)
    assert "the one dataset nds_NAME that nds draw --name NAME" in str(error.value)


@pytest.mark.usefixtures("tiny_datasets")
@pytest.mark.parametrize("mode", ["stream", "subset"])
def test_a_selection_is_not_trained_on_by_a_part_of_its_sources(tmp_path: Path, mode: str) -> None:
    cfg = loader_config(drawn_selection(tmp_path, mode))
    cfg.DATASETS.TRAIN = SOURCES[:1]
    selection = Selection.load(cfg.NDS.SELECTION)
    lost = selection.column("source").to_pylist().count(SOURCES[1])
    with pytest.raises(NDSError) as error:
        build_nds_train_loader(cfg)
    assert (
        f"of which {lost} are of {SOURCES[1]}, which DATASETS.TRAIN ('{SOURCES[0]}',) does not name"
        in str(error.value)
    )


@pytest.mark.usefixtures("tiny_datasets")
def test_a_selection_without_an_image_of_a_source_does_not_need_that_source(tmp_path: Path) -> None:
    index = SourceIndex.join([index_dataset(name) for name in SOURCES])
    cluster = np.searchsorted(sorted(SOURCES), index.column("source").astype(str))
    partition = Partition(cluster, index.table, index.hash, method="kmeans", seed=0)
    scores = Scores([0, 1], [0.0, 1.0], [0.0, 0.0], "accuracy", 5, "e" * 64, "rotation")
    config = SelectionConfig(NDS(temperature=0.01), count=10)
    select(index, partition, config, scores).save(tmp_path / "one.parquet", "key")
    cfg = loader_config(str(tmp_path / "one.parquet"))
    cfg.DATASETS.TRAIN = ("tiny_street_train",)
    assert all("/street/" in d["file_name"] for batch in first_batches(cfg) for d in batch)


@pytest.mark.usefixtures("tiny_datasets")
def test_a_stream_over_sources_of_other_classes_is_trained_on_by_its_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What the message of datasets with different classes says: by name, with nothing else set."""
    by_path = first_batches(loader_config(drawn_selection(tmp_path)))
    assert same_batches(by_path, first_batches(loader_config("")))
    assert {d["nds_source"] for batch in by_path for d in batch} == set(SOURCES)
    assert "is a stream" not in caplog.text
    DatasetCatalog.get(DATASET)  # as a stock loader does
    DatasetCatalog.get(DATASET)
    assert caplog.text.count("is a stream, whose images are to be drawn by their probabilities") == 1


@pytest.mark.usefixtures("tiny_datasets")
def test_the_index_of_a_drawn_dataset_tells_images_of_one_id_by_their_source(tmp_path: Path) -> None:
    drawn_selection(tmp_path)
    index, sources = index_dataset(DATASET), [index_dataset(name) for name in SOURCES]
    assert index.column("source").tolist() == SourceIndex.join(sources).column("source").tolist()
    assert index.column("image_id").tolist() == SourceIndex.join(sources).column("image_id").tolist()


@pytest.mark.usefixtures("tiny_datasets")
@pytest.mark.parametrize(
    ("mode", "sampler"), [("stream", "NDSTrainingSampler"), ("subset", "SeekableTrainingSampler")]
)
def test_the_main_job_draws_from_a_stream_that_it_is_told_to_train_on(
    tmp_path: Path, mode: str, sampler: str
) -> None:
    drawn_selection(tmp_path, mode)
    for given in ("TrainingSampler", "NDSTrainingSampler"):
        options = [
            "DATASETS.TRAIN",
            f"('{DATASET}',)",
            "DATALOADER.SAMPLER_TRAIN",
            given,
            "NDS.SELECTOR",
            "none",
        ]
        options += ["NDS.TARGET.NUM_IMAGES", "0"]
        cfg = finetune_config(load_config("nds_sample.yaml", options))
        assert (cfg.DATALOADER.SAMPLER_TRAIN, len(cfg.NDS.LABEL_SPACES)) == (sampler, len(SOURCES))


@pytest.mark.usefixtures("tiny_datasets")
def test_a_selection_also_works_on_its_source_dataset(tmp_path: Path) -> None:
    """As in somebody's own config: the stock dataset, our sampler, the selection's path."""
    cfg = loader_config(drawn_selection(tmp_path, "subset", SOURCES[:1]))
    cfg.DATASETS.TRAIN = SOURCES[:1]
    chosen = set(Selection.load(cfg.NDS.SELECTION).column("image_id").to_pylist())
    drawn = {str(d["image_id"]) for batch in first_batches(cfg, 40) for d in batch}
    assert drawn == chosen


def test_an_unknown_dataset_lists_the_nearest() -> None:
    cfg = loader_config("")
    cfg.DATASETS.TRAIN = ("coco_2017_trian",)
    with pytest.raises(NDSError, match="'coco_2017_trian'.*'coco_2017_train'"):
        build_nds_train_loader(cfg)


@pytest.mark.usefixtures("tiny_datasets")
def test_explicit_arguments_build_the_same_loader_as_a_config(tmp_path: Path) -> None:
    from nds_plugin.d2 import NDSDatasetMapper

    selection = drawn_selection(tmp_path)
    cfg = loader_config(selection)
    explicit = build_nds_train_loader(
        dataset=DATASET, mapper=NDSDatasetMapper(cfg, True), total_batch_size=4, selection=selection
    )
    assert same_batches(first_batches(cfg), list(itertools.islice(explicit, 6)))


@pytest.fixture
def broken_dataset(tiny_datasets: Path, tmp_path: Path):
    """The street images with one truncated, one empty and one that is no image, as its own dataset."""
    shutil.copytree(tiny_datasets / "street", tmp_path / "data" / "street")
    names = register_coco_folder(tmp_path / "data", "broken")
    document = json.loads((tmp_path / "data/street/train.json").read_text())
    files = [tmp_path / "data/street/images" / image["file_name"] for image in document["images"][:3]]
    files[0].write_bytes(files[0].read_bytes()[:400])
    files[1].write_bytes(b"")
    files[2].write_text("not an image")
    yield [str(file) for file in files]
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def _broken_config(tmp_path: Path, allowed: float, workers: int = 0) -> CfgNode:
    cfg = loader_config(
        drawn_selection(tmp_path, "stream", ("broken_street_train", "tiny_room_train")), workers
    )
    cfg.NDS.LOADER.MAX_UNREADABLE = allowed
    return cfg


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_images_are_replaced_from_their_own_cluster_and_counted(
    broken_dataset: list[str], tmp_path: Path, workers: int
) -> None:
    loader = build_nds_train_loader(_broken_config(tmp_path, 0.5, workers))
    seen = [d for batch in itertools.islice(loader, 60) for d in batch]
    replaced = [d for d in seen if d["nds_drawn"] != d["nds_index"]]
    assert replaced
    assert {d["nds_cluster"] for d in replaced} == {0}
    assert all("/street/" in d["file_name"] and d["file_name"] not in broken_dataset for d in replaced)
    assert int(loader.dataset.unreadable.sum()) == len({d["nds_drawn"] for d in seen} & {0, 1, 2}) > 1


def test_broken_images_are_replaced_under_the_stock_mapper_too(
    broken_dataset: list[str], tmp_path: Path
) -> None:
    cfg = _broken_config(tmp_path, 0.5)
    loader = build_nds_train_loader(cfg, mapper=DatasetMapper(cfg, True))
    seen = [d for batch in itertools.islice(loader, 60) for d in batch]
    assert any(d["nds_drawn"] != d["nds_index"] for d in seen)
    assert not {d["file_name"] for d in seen} & set(broken_dataset)
    assert int(loader.dataset.unreadable.sum()) == len({d["nds_drawn"] for d in seen} & {0, 1, 2}) > 1


@pytest.mark.usefixtures("tiny_datasets")
def test_a_mistake_in_a_mapper_is_not_taken_for_a_broken_image(tmp_path: Path) -> None:
    def mapper(record: dict[str, Any]) -> dict[str, Any]:
        return {"image": record["no such key"]}

    with pytest.raises(KeyError, match="no such key"):
        first_batches(loader_config(drawn_selection(tmp_path)), 1, mapper=mapper)


@pytest.mark.usefixtures("broken_dataset")
def test_too_many_broken_images_stop_the_run_with_one_line(tmp_path: Path) -> None:
    with pytest.raises(NDSError, match=r"2 of 48 images cannot be read, more than NDS.LOADER.MAX_UNREADABLE"):
        first_batches(_broken_config(tmp_path, 0.03), 25)


@pytest.mark.usefixtures("tiny_datasets")
def test_augmentation_leaves_the_global_generators_alone(tmp_path: Path) -> None:
    cfg = loader_config(drawn_selection(tmp_path))
    np.random.seed(3)
    torch.manual_seed(3)
    expected = np.random.random(), torch.rand(1).item()
    np.random.seed(3)
    torch.manual_seed(3)
    loader = build_nds_train_loader(cfg)
    loader.dataset[(0, 0)]
    assert np.random.random() == expected[0]
    assert torch.rand(1).item() == expected[1]


@pytest.mark.usefixtures("tiny_datasets")
def test_a_loader_takes_the_arguments_of_detectron2s_builder(tmp_path: Path) -> None:
    def named(record: dict[str, Any]) -> dict[str, Any]:
        return {"file_name": record["file_name"], "width": record["width"], "height": record["height"]}

    cfg = loader_config(drawn_selection(tmp_path))
    for sampler in ("NDSTrainingSampler", "TrainingSampler"):
        cfg.DATALOADER.SAMPLER_TRAIN = sampler
        batch = next(iter(build_nds_train_loader(cfg, named, total_batch_size=2, collate_fn=tuple)))
        assert type(batch) is tuple
        assert len(batch) == 2
        assert "image" not in batch[0]
    with pytest.raises(NDSError, match="start_iter cannot be given with .* TrainingSampler"):
        build_nds_train_loader(cfg, start_iter=3)
    cfg.DATALOADER.SAMPLER_TRAIN = "NDSTrainingSampler"
    with pytest.raises(NDSError, match="needs dataset as names of registered datasets, got dicts"):
        build_nds_train_loader(cfg, dataset=[{"file_name": "x"}])


@pytest.mark.usefixtures("tiny_datasets")
def test_detectron2s_own_samplers_get_no_image_without_an_instance(tiny_datasets: Path) -> None:
    document = json.loads((tiny_datasets / "street/train.json").read_text())
    document["annotations"] = [a for a in document["annotations"] if a["image_id"] > 20]
    file = tiny_datasets / "few.json"
    file.write_text(json.dumps(document))
    cfg = loader_config("", sampler="TrainingSampler")
    images = str(tiny_datasets / "street/images")
    with registered_temporarily("few_images", json_file=str(file), image_root=images):
        cfg.DATASETS.TRAIN = ("few_images",)
        loader = NDSTrainer.build_train_loader(cfg)
        ids = {d["image_id"] for batch in itertools.islice(loader, 6) for d in batch}
        has_masks = next(iter(loader))[0]["instances"].has("gt_has_mask") if cfg.MODEL.MASK_ON else None
    assert ids == {21, 22, 23, 24}
    assert has_masks is not False

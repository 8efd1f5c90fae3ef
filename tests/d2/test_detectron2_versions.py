"""What differs between Detectron2 v0.6 (2021) and its main branch, each difference put into the other's place."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.engine import SimpleTrainer
from detectron2.utils.events import EventStorage
from loader_batches import drawn_selection, first_batches, loader_config, same_batches
from tiny_detector import tiny_config
from torch.utils.data import Dataset, IterableDataset, Sampler, get_worker_info

from nds_plugin.d2 import NDSDatasetMapper, NDSTrainer, build_nds_train_loader
from nds_plugin.d2.model.checkpoint import AtomicCheckpointer
from nds_plugin.errors import NDSError

pytestmark = pytest.mark.usefixtures("tiny_datasets")


class SingleElements(IterableDataset[Any]):
    """ToIterableDataset as in v0.6: worker w of n gets the elements w, w + n, ... of the sampler."""

    def __init__(self, dataset: Dataset[Any], sampler: Sampler[Any], shard_sampler: bool = True) -> None:
        self._dataset, self._sampler = dataset, sampler
        assert shard_sampler

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        for element in itertools.islice(self._sampler, first, None, step):
            yield self._dataset[element]


@pytest.fixture
def single_elements(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loader that deals single elements to its workers, whose batches each worker then makes."""

    def build(dataset: Any, sampler: Any, shard_chunk_size: int) -> SingleElements:
        del shard_chunk_size
        return SingleElements(dataset, sampler)

    monkeypatch.setattr("detectron2.data.common.ToIterableDataset", SingleElements)
    monkeypatch.setattr("detectron2.data.build.ToIterableDataset", build)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_batches_are_those_of_main_where_workers_get_single_elements(
    tmp_path: Path, workers: int, request: pytest.FixtureRequest
) -> None:
    selection = drawn_selection(tmp_path)
    main = first_batches(loader_config(selection), 5)
    request.getfixturevalue("single_elements")
    assert same_batches(main, first_batches(loader_config(selection, workers), 5))


class EagerTrainer(SimpleTrainer):
    """SimpleTrainer as in v0.6: it makes its iterator at once and cannot reset its loader."""

    _data_loader_iter: Any = None

    def __init__(self, model: Any, data_loader: Any, optimizer: Any) -> None:
        super().__init__(model, data_loader, optimizer)
        self._data_loader_iter = iter(data_loader)

    def __getattribute__(self, name: str) -> Any:
        if name == "reset_data_loader":
            raise AttributeError(name)
        return super().__getattribute__(name)


def _trainer_config(tmp_path: Path) -> CfgNode:
    cfg = loader_config(drawn_selection(tmp_path))
    model = tiny_config(num_classes=7).MODEL
    cfg.MODEL = model
    cfg.SOLVER.MAX_ITER = 4
    cfg.SOLVER.STEPS = ()
    cfg.OUTPUT_DIR = str(tmp_path / "run")
    (tmp_path / "run").mkdir()
    return cfg


def _drawn(batches: Any) -> list[list[int]]:
    return [[example["nds_drawn"] for example in batch] for batch in batches]


def test_a_trainer_that_starts_its_loader_at_once_begins_where_a_resumed_run_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nds_plugin.d2.model.mixed_precision.SimpleTrainer", EagerTrainer)
    cfg = _trainer_config(tmp_path)
    expected = _drawn(first_batches(cfg, 6))
    trainer = NDSTrainer(cfg)
    trainer.start_iter = 2  # as after resume_or_load
    trainer.train()
    assert trainer.iter == 4
    assert _drawn([trainer.data_loader.last_batch]) == expected[3:4]
    trainer.seek(5)
    assert _drawn([next(trainer._trainer._data_loader_iter)]) == expected[5:6]


def test_a_loader_begins_at_the_iteration_that_training_is_at(tmp_path: Path) -> None:
    cfg = loader_config(drawn_selection(tmp_path))
    loader = build_nds_train_loader(cfg)
    outside = _drawn(itertools.islice(loader, 6))
    with EventStorage(4):
        assert _drawn(itertools.islice(loader, 2)) == outside[4:]
        assert _drawn(itertools.islice(build_nds_train_loader(cfg, start_iter=1), 2)) == outside[1:3]


def test_a_checkpoint_is_read_without_unpickling_where_the_stock_checkpointer_would_unpickle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(DetectionCheckpointer, "_torch_load")
    model = torch.nn.Linear(2, 2)
    torch.save(model.state_dict(), tmp_path / "bare.pth")
    torch.save({"model": model.state_dict(), "cfg": CfgNode({"A": 1})}, tmp_path / "pickled.pth")
    AtomicCheckpointer(model, str(tmp_path)).save("own")
    for name in ("bare", "own"):
        other = torch.nn.Linear(2, 2)
        AtomicCheckpointer(other, str(tmp_path)).load(str(tmp_path / f"{name}.pth"))
        assert torch.equal(other.weight, model.weight)
    with pytest.raises(NDSError, match=r"pickled\.pth cannot be loaded as weights only"):
        AtomicCheckpointer(model, str(tmp_path)).load(str(tmp_path / "pickled.pth"))


def test_the_mapper_needs_no_method_for_annotations_of_the_stock_mapper(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = loader_config(drawn_selection(tmp_path))
    with_method = first_batches(cfg, 3)
    monkeypatch.delattr(DatasetMapper, "_transform_annotations")
    without = first_batches(cfg, 3, mapper=NDSDatasetMapper(cfg, True))
    assert same_batches(with_method, without)
    for a, b in zip(itertools.chain(*with_method), itertools.chain(*without)):
        assert torch.equal(a["instances"].gt_boxes.tensor, b["instances"].gt_boxes.tensor)


def test_detectron2_before_v06_draws_in_the_main_process(monkeypatch: pytest.MonkeyPatch) -> None:
    from nds_plugin.d2.data import loader

    assert loader._deals_whole_batches()
    monkeypatch.delattr("detectron2.data.common.ToIterableDataset")
    assert loader._deals_whole_batches()

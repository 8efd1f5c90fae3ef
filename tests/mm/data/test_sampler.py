"""Laws of the sampler: one stream for all ranks and both hosts, whatever the order of the dataset."""

from __future__ import annotations

import itertools
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from loader_batches import drawn_selection, first_batches, loader_config
from mmengine.dataset import ConcatDataset, RepeatDataset
from mmengine.registry import DATASETS
from tiny_mmdet import Numbers, coco, joined, short

from nds_plugin.errors import NDSError
from nds_plugin.mm.data.identity import identity_of
from nds_plugin.mm.data.sampler import DrawnIndex, NDSInfiniteSampler

BATCH = 4


def first(sampler: NDSInfiniteSampler, count: int = 48) -> list[int]:
    return [int(i) for i in itertools.islice(sampler, count)]


def identities(sampler: NDSInfiniteSampler, count: int = 48) -> list[tuple[str, str]]:
    return [identity_of(sampler.dataset, i) for i in first(sampler, count)]


@pytest.fixture(scope="module")
def drawn(tiny_datasets: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("drawn")
    return tiny_datasets, {mode: drawn_selection(folder, mode) for mode in ("stream", "subset")}


@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize("mode", ["stream", "subset"])
def test_both_hosts_draw_the_same_images(drawn: Any, mode: str, grouped: bool, tmp_path: Path) -> None:
    root, _ = drawn
    selection = drawn_selection(tmp_path, mode)  # registers it for Detectron2
    cfg = loader_config(selection)
    cfg.NDS.SEED, cfg.DATALOADER.ASPECT_RATIO_GROUPING = 5, grouped
    theirs = [short(d["file_name"]) for batch in first_batches(cfg, 12) for d in batch]
    dataset = DATASETS.build(joined(root, selection))
    sampler = NDSInfiniteSampler(dataset, 5, selection, BATCH, grouped)
    ours = [short(dataset.get_data_info(i)["img_path"]) for i in first(sampler)]
    assert ours == theirs
    assert len({file.split("/")[0] for file in ours}) == 2


@pytest.mark.parametrize("mode", ["stream", "subset"])
def test_the_draw_does_not_depend_on_how_a_dataset_orders_its_images(drawn: Any, mode: str) -> None:
    root, selections = drawn
    parts = [DATASETS.build(coco(root, domain)) for domain in ("street", "room")]
    ways = [ConcatDataset(p, ignore_keys=["classes", "nds_source"]) for p in (parts, parts[::-1])]
    ways.append(DATASETS.build(joined(root, selections[mode])))
    samplers = [NDSInfiniteSampler(dataset, 1, selections[mode], BATCH) for dataset in ways]
    assert identities(samplers[0]) == identities(samplers[1]) == identities(samplers[2])


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_the_shares_of_all_ranks_are_one_stream(drawn: Any, world_size: int) -> None:
    root, selections = drawn
    dataset = DATASETS.build(joined(root, selections["stream"]))
    whole = first(NDSInfiniteSampler(dataset, 1, selections["stream"], 6))
    shares = []
    for rank in range(world_size):
        sampler = NDSInfiniteSampler(dataset, 1, selections["stream"], 6 // world_size)
        sampler.rank, sampler.world_size = rank, world_size
        sampler.skip(12 // world_size)  # MMEngine's contract: of this rank's share
        skipped = first(sampler, 36 // world_size)
        sampler.start(2)
        assert first(sampler, 36 // world_size) == skipped
        shares.append(skipped)
    assert [i for together in zip(*shares) for i in together] == whole[12:]


def test_iterating_changes_nothing(drawn: Any) -> None:
    root, selections = drawn
    sampler = NDSInfiniteSampler(
        DATASETS.build(joined(root, selections["stream"])), 1, selections["stream"], BATCH
    )
    assert first(sampler) == first(sampler)
    sampler.set_epoch(3)
    assert first(sampler) == first(pickle.loads(pickle.dumps(sampler)))


def test_an_index_travels_to_a_worker_with_its_position() -> None:
    index = pickle.loads(pickle.dumps(DrawnIndex(7, 3, 2)))
    assert (index, index.position, index.place) == (7, 3, 2)
    assert index == 7
    assert np.arange(10)[index] == 7


def test_without_a_selection_every_image_comes_once_an_epoch() -> None:
    sampler = NDSInfiniteSampler(Numbers(30), 2, None, 3, aspect_ratio_grouping=False)
    assert sorted(first(sampler, 30)) == list(range(30))
    assert first(sampler, 60)[30:] != first(sampler, 30)
    assert len(sampler) == 30


def test_a_sampler_has_the_length_of_one_ranks_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nds_plugin.mm.data.sampler.get_dist_info", lambda: (0, 4))
    assert len(NDSInfiniteSampler(Numbers(30), 2)) == 8


def test_batches_are_of_one_orientation() -> None:
    sampler = NDSInfiniteSampler(Numbers(96), 2, None, 4)
    batches = np.array(first(sampler, 4 * 16)).reshape(16, 4) % 2
    assert sum(len(set(batch)) > 1 for batch in batches.tolist()) <= 1
    assert sorted(first(sampler, 64)) == sorted(first(NDSInfiniteSampler(Numbers(96), 2, None, 4, False), 64))


def refused(dataset: Any, selection: str, match: str, **more: Any) -> None:
    with pytest.raises(NDSError, match=match):
        first(NDSInfiniteSampler(dataset, 1, selection, **{"batch_size": BATCH, **more}))


def test_what_cannot_be_drawn_from_is_refused_in_one_line(drawn: Any, tmp_path: Path) -> None:
    root, selections = drawn
    street = DATASETS.build(coco(root, "street"))
    refused(street, selections["stream"], "holds images of tiny_room_train, which the dataset does not")
    refused(RepeatDataset(street, 2), selections["stream"], "24 images are in the dataset more than once")
    unnamed = DATASETS.build({**coco(root, "street"), "metainfo": {"classes": street.metainfo["classes"]}})
    refused(unnamed, selections["stream"], r"does not say which one it is: give metainfo=dict\(nds_source=")
    other = DATASETS.build({**coco(root, "street"), "metainfo": {"nds_source": ["elsewhere"]}})
    refused(
        other, selections["stream"], "none of the 24 images of the dataset .elsewhere. is in the selection"
    )
    both = DATASETS.build(joined(root, selections["stream"]))
    refused(both, selections["stream"], "does not know the batch size", batch_size=None)
    refused(both, str(tmp_path / "no.parquet"), "no.parquet")
    refused(both, selections["stream"], "expected batch_size", batch_size=0)


def test_a_dataset_that_tells_no_ids_is_refused(drawn: Any) -> None:
    class WithoutIds(Numbers):
        def load_data_list(self) -> list[dict[str, Any]]:
            return [{"img_path": "a.png", "width": 1, "height": 1}]

    refused(
        WithoutIds(1),
        drawn[1]["stream"],
        "the images of WithoutIds have no img_id, they have height, img_path",
    )
    refused([1, 2], drawn[1]["stream"], "the dataset list has no get_data_info")


def test_a_subset_cannot_be_reweighted_and_stays_as_it_was(drawn: Any) -> None:
    root, selections = drawn
    sampler = NDSInfiniteSampler(
        DATASETS.build(joined(root, selections["subset"])), 1, selections["subset"], BATCH
    )
    before = first(sampler)
    with pytest.raises(NDSError, match="only a selection of mode stream"):
        sampler.reweight([(8, np.array([1.0, 0.0]))])
    assert first(sampler) == before


def test_new_weights_hold_from_their_position_on(drawn: Any) -> None:
    root, selections = drawn
    dataset = DATASETS.build(joined(root, selections["stream"]))
    sampler = NDSInfiniteSampler(dataset, 1, selections["stream"], BATCH)
    before = identities(sampler)
    sampler.reweight([(24, np.array([0.0, 1.0]))])
    after = identities(sampler)
    assert after[:24] == before[:24]
    assert {source for source, _ in after[24:]} == {"tiny_street_train"}  # clusters go by the sorted names


def test_identities_of_columns_are_those_of_get_data_info(drawn: Any) -> None:
    root, selections = drawn
    for dataset in (
        DATASETS.build(joined(root, selections["subset"])),
        DATASETS.build(coco(root, "street", kind="NDSStoreDataset")),
    ):
        found = dataset.identities()
        pairs = [identity_of(dataset, i) for i in range(len(dataset))]
        assert pairs == list(zip(found.sources.to_pylist(), found.image_ids.to_pylist()))
        infos = [dataset.get_data_info(i) for i in range(len(dataset))]
        assert found.sizes.tolist() == [[info["width"], info["height"]] for info in infos]
        assert isinstance(found.sources, pa.Array)

"""Pretraining on a selection: images as mapped rows, the method, the weights that leave."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nds_plugin.engine.processes import agreed
from nds_plugin.errors import NDSError
from nds_plugin.files.artifacts import content_hash, read_json, write_json
from nds_plugin.pipeline.selection_steps import Selected
from nds_plugin.pipeline.work_folder import WorkFolder
from nds_plugin.selection.placed import PlacedSelection
from nds_plugin.source.folder import file_sizes
from nds_plugin.ssl.batches import Batches, check_groups
from nds_plugin.ssl.learner import Learner
from nds_plugin.ssl.moco import MoCo
from nds_plugin.ssl.network import load_trunk, read_trunk, trunk
from nds_plugin.ssl.pixels import (
    KIND,
    MappedRows,
    decode,
    is_readable,
    is_whole,
    packed_rows,
    replaced,
    stored_side,
)
from nds_plugin.ssl.rotnet import RotNet
from nds_plugin.ssl.settings import NetworkConfig, PretrainConfig
from nds_plugin.ssl.train import Run, Training, train_stage

logger = logging.getLogger(__name__)
DETECTRON2 = "detectron2.pth"
LEARNERS: dict[str, type[Learner]] = {"moco": MoCo, "rotnet": RotNet}
WEIGHTS = "MODEL.WEIGHTS"


def check_pretraining(config: PretrainConfig, world_size: int) -> None:
    """Refuse numbers that do not go together.

    Raises:
        NDSError: a batch that the queue cannot hold, or groups that the batch or the processes do not divide.
    """
    LEARNERS[config.method].check(config)
    check_groups(config.batch_size, config.bn_groups, world_size)


def check_selected(config: PretrainConfig, images: int) -> None:
    """Refuse a selection that does not fill a batch, and warn of one that the method does not suit.

    Raises:
        NDSError: fewer images than a batch has.
    """
    check_fills_batch(config, images)
    LEARNERS[config.method].check_images(config, images)


def check_fills_batch(config: PretrainConfig, images: int) -> None:
    """Refuse a selection that does not fill a batch.

    Raises:
        NDSError: fewer images than a batch has.
    """
    if images < config.batch_size:
        raise NDSError(
            f"the selection has {images} images, fewer than PRETRAIN.BATCH_SIZE {config.batch_size}: a batch would hold "
            "some of them twice. Raise NDS.BUDGET, or lower PRETRAIN.BATCH_SIZE."
        )


@dataclass(frozen=True)
class Images:
    """What is pretrained on.

    Attributes:
        rows: the images of a selection.
        placed: the selection laid over exactly these.
        key: hash of the selection, and of what of its photographs was decoded.
        unreadable: places of those that could not be read, whose rows are those of others.
    """

    rows: MappedRows
    placed: PlacedSelection
    key: str
    unreadable: tuple[int, ...] = ()


def selected_images(
    selected: Selected, size: int, work: WorkFolder, seed: int, max_unreadable: float
) -> Images:
    """The images of a selection.

    Raises:
        NDSError: more photographs than allowed that cannot be read.
    """
    index, what = selected.index, ", ".join(selected.selection.sources)
    sources, ids = index.table.column("source").cast("string"), index.table.column("image_id")
    whole = selected.selection.placed(sources.combine_chunks(), ids.combine_chunks())
    chosen = np.flatnonzero(whole.cluster >= 0)
    placed = PlacedSelection(
        whole.mode, whole.weights, whole.cluster[chosen], None if whole.p is None else whole.p[chosen]
    )
    names = [str(name) for name in index.column("file_name")[chosen]]
    rows = packed_rows(names)
    if rows is not None:
        return Images(rows, placed, selected.key)
    found = decoded(work, "pixels", [selected.key, index.hash], names, size, what, max_unreadable)
    unreadable = tuple(int(place) for place in found.unreadable)
    if unreadable:
        logger.warning(
            "%s: %d of %d images of the selection cannot be read, others of their clusters stand in for them; first: %s",
            what, len(unreadable), len(names), next(iter(found.unreadable.values())),
        )  # fmt: skip
    of_each = replaced(len(names), unreadable, placed.cluster, seed)
    return Images(MappedRows.of_file(found.array, of_each), placed, found.key, unreadable)


@dataclass(frozen=True)
class Decoded:
    """Photographs as an array.

    Attributes:
        array: its file.
        key: hash of what it was made from; of each photograph that is its name and its size in bytes.
        unreadable: why some could not be read, by their places.
    """

    array: Path
    key: str
    unreadable: dict[str, str]


def decoded(
    work: WorkFolder,
    name: str,
    made_from: list[Any],
    names: list[str],
    size: int,
    what: str,
    max_unreadable: float,
) -> Decoded:
    """Photographs decoded once into ``<name>-<key>.npy``, with a JSON file beside it.

    They are decoded again where one that could not be read has been repaired since.

    Raises:
        NDSError: more than a share of them cannot be read.
    """
    side = stored_side(size)
    sizes = agreed(work.processes, lambda: content_hash(file_sizes(names)))
    key = content_hash([KIND, made_from, side, sizes])

    def is_out_of_date(path: Path) -> bool:
        if not is_whole(path.with_suffix(".npy"), (len(names), side, side, 3)):
            return True
        return any(is_readable(names[int(place)], side) for place in read_json(path, KIND)["unreadable"])

    def make(path: Path) -> None:
        unreadable = decode(names, side, path.with_suffix(".npy"), what)
        told = {str(place): why for place, why in sorted(unreadable.items())}
        write_json(path, KIND, key, {"images": len(names), "unreadable": told})

    path = work.artefact(name, KIND, key, ".json", make, is_out_of_date)
    # Of kept ones, too: less may be allowed than when they were decoded.
    unreadable = read_json(path, KIND)["unreadable"]
    check_unreadable(what, list(unreadable.values()), len(names), max_unreadable)
    return Decoded(path.with_suffix(".npy"), key, unreadable)


def check_unreadable(what: str, told: Sequence[str], images: int, max_unreadable: float = 0.0) -> None:
    """Refuse more images that cannot be read than a share of them.

    Args:
        told: of each of these, which it is and why.

    Raises:
        NDSError: there are more.
    """
    if len(told) > int(max_unreadable * images):
        allowed = f"more than NDS.LOADER.MAX_UNREADABLE allows ({max_unreadable:g})"
        if max_unreadable == 0:
            allowed = "and none may be missing: repair them, or take them out"
        raise NDSError(f"{what}: {len(told)} of {images} images cannot be read, {allowed}; first: {told[0]}")


def pretraining_key(
    network: NetworkConfig,
    config: PretrainConfig,
    images: Images,
    seed: int,
    start: str,
) -> str:
    """Hash of everything that the weights depend on.

    Args:
        images: that it draws from.
        start: hash of the weights that it starts from; empty for none.
    """
    made_from = [network.identity(), config.deciding(), images.key, list(images.unreadable), seed, start]
    return content_hash(["ssl 2", *made_from])


def pretrain(
    folder: Path,
    key: str,
    network: NetworkConfig,
    config: PretrainConfig,
    images: Images,
    run: Run,
) -> Path:
    """Pretrain unless that is done; the path of the weights, those of the trunk.

    Args:
        folder: of the training. key: see :func:`pretraining_key`.
        images: that are drawn from.
    """
    processes = run.processes

    def work(go_on: bool) -> None:
        training, learner = prepared(folder, network, config, run)
        start = training.start(go_on)
        stream, size, last = images.placed.stream(run.seed), config.batch_size, config.iterations
        share: dict[str, Any] = {
            "rank": processes.rank,
            "world_size": processes.world_size,
            "groups": config.bn_groups,
        }
        batches = Batches(images.rows, stream, run.seed, size, start, last, keys=learner.views > 1, **share)
        training.run(batches.loader(run.workers, run.device), start)
        if processes.rank == 0:
            training.finish(trunk(learner.trunk), {"method": config.method})

    return train_stage(folder, key, work, config, run)


def prepared(
    folder: Path, network: NetworkConfig, config: PretrainConfig, run: Run
) -> tuple[Training, Learner]:
    """A training that has not begun, and its learner."""
    groups = config.bn_groups // run.processes.world_size
    learner = LEARNERS[config.method](network, config, run.seed, groups)
    if network.weights:
        state = read_trunk(network.weights, WEIGHTS, network)
        for part in learner.networks:
            load_trunk(part, state, f"{WEIGHTS} {network.weights}")
    return Training(learner, config, folder, run.processes, run.device, network), learner

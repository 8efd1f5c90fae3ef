"""The training loader: our samplers by name, Detectron2's own for every other name."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from detectron2.config import CfgNode as CN
from detectron2.config import configurable
from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_train_loader, common
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from fvcore.common.registry import Registry

from nds_plugin.d2.data.drawn_dataset import DrawnDataset
from nds_plugin.d2.data.mapped_images import MappedImages
from nds_plugin.d2.data.mapper import NDSDatasetMapper
from nds_plugin.d2.data.records import DRAW_BY_NAME, Records, load_records, orientations
from nds_plugin.d2.data.registration import check_registered
from nds_plugin.d2.data.stock_loader import STOCK_SAMPLERS, build_stock_loader, check_model
from nds_plugin.errors import NDSError, unknown_name
from nds_plugin.selection.config import LoaderConfig
from nds_plugin.selection.placed import PlacedSelection, segmented
from nds_plugin.selection.sampler import PositionedSampler
from nds_plugin.selection.selection import Selection
from nds_plugin.selection.streams import IndexStream, ShuffledStream

logger = logging.getLogger(__name__)

TRAIN_SAMPLERS: Registry = Registry("NDS_TRAIN_SAMPLER")
TRAIN_SAMPLERS.__doc__ = """
Samplers that ``DATALOADER.SAMPLER_TRAIN`` may name beside Detectron2's own. A registered function
is called with (PlacedSelection or None, cluster of each image, seed) and returns an IndexStream.
"""
_WITHOUT_SELECTION = ("SeekableTrainingSampler",)
Weights = npt.NDArray[np.float64]


@TRAIN_SAMPLERS.register()
def NDSTrainingSampler(  # noqa: N802  (the name that a config gives)
    selection: PlacedSelection | None, cluster: npt.NDArray[np.int32], seed: int
) -> IndexStream:
    """The images of a selection: drawn by p (mode stream) or in shuffled epochs (mode subset)."""
    del cluster
    if selection is None:
        raise NDSError(
            "NDSTrainingSampler needs a selection: set NDS.SELECTION to the file of one, or name a dataset "
            "that was drawn (nds_NAME) as the only one of DATASETS.TRAIN."
        )
    return selection.stream(seed)


@TRAIN_SAMPLERS.register()
def SeekableTrainingSampler(  # noqa: N802
    selection: PlacedSelection | None, cluster: npt.NDArray[np.int32], seed: int
) -> IndexStream:
    """Every image once an epoch, as TrainingSampler, but a resumed run goes on where it was."""
    del selection
    return ShuffledStream(np.flatnonzero(cluster >= 0), seed)


class ObservedLoader:
    """A loader that begins where training is, and keeps the last batch for hooks to look at.

    Args:
        build: builds Detectron2's loader whose first batch is that of a given iteration.
        dataset, stream, total_batch_size: what the batches are made of.
        start_iter: iteration of the first batch. None: the one that training is at when it takes
            its first batch (Detectron2's event storage, which every trainer and plain_train_net.py
            set), so that a resumed run goes on with its draw; 0 outside of training.
        selection: what is drawn from; None where no selection is used.
    """

    def __init__(
        self,
        build: Callable[[int], Any],
        dataset: MappedImages,
        stream: IndexStream,
        total_batch_size: int,
        start_iter: int | None = None,
        selection: PlacedSelection | None = None,
    ) -> None:
        self._build = build
        self.dataset = dataset
        self.stream = stream
        self.total_batch_size = total_batch_size
        self._start_iter = start_iter
        self.selection = selection
        self.last_batch: list[dict[str, Any]] = []

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        # A generator: nothing below runs before the first batch is asked for.
        start = _current_iteration() if self._start_iter is None else self._start_iter
        if start:
            logger.info("The training loader goes on at iteration %d.", start)
        # Starting a loader draws from torch's global generator; a resumed run starts one more.
        with torch.random.fork_rng(devices=[]):
            batches = iter(self._build(start))
        for batch in batches:
            self.last_batch = batch
            yield batch


def _current_iteration() -> int:
    try:
        return int(get_event_storage().iter)
    except AssertionError:  # there is none outside of training
        return 0


def _from_config(
    cfg: CN, mapper: Callable[..., Any] | None = None, *, start_iter: int | None = None, updates: Any = ()
) -> dict[str, Any]:
    check_model(cfg)
    return {
        "dataset": tuple(cfg.DATASETS.TRAIN),
        "sampler": cfg.DATALOADER.SAMPLER_TRAIN,
        "selection": cfg.NDS.SELECTION or None,
        "mapper": mapper or NDSDatasetMapper(cfg, True),
        "total_batch_size": cfg.SOLVER.IMS_PER_BATCH,
        "aspect_ratio_grouping": cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
        "filter_empty": cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
        "seed": cfg.NDS.SEED if cfg.NDS.SEED >= 0 else comm.shared_random_seed(),
        "max_unreadable": cfg.NDS.LOADER.MAX_UNREADABLE,
        "start_iter": start_iter,
        "updates": updates,
    }


@configurable(from_config=_from_config)
def _build(
    dataset: str | Sequence[str],
    *,
    mapper: Callable[..., Any],
    total_batch_size: int,
    selection: str | Selection | None = None,
    sampler: str = "NDSTrainingSampler",
    aspect_ratio_grouping: bool = True,
    num_workers: int = 0,
    filter_empty: bool = True,
    seed: int = 0,
    max_unreadable: float = LoaderConfig.max_unreadable,
    start_iter: int | None = None,
    updates: Sequence[tuple[int, Weights]] = (),
    **loader_options: Any,
) -> ObservedLoader:
    _check_batch_size(total_batch_size)
    names = [dataset] if isinstance(dataset, str) else list(dataset)
    if not all(isinstance(name, str) for name in names):
        raise NDSError(f"the sampler {sampler} needs dataset as names of registered datasets, got dicts.")
    check_registered(names)
    chosen = _selection(selection, sampler, names)
    records = load_records(names, filter_empty)
    placed = None if chosen is None else _placed(chosen, records, names)
    dicts = records.dicts
    cluster = np.zeros(len(dicts), dtype=np.int32) if placed is None else placed.cluster
    first = TRAIN_SAMPLERS.get(sampler)(placed, cluster, seed)
    grouping = (orientations(dicts, names), total_batch_size) if aspect_ratio_grouping else None
    stream = segmented(first, placed, updates, seed, grouping)
    images = MappedImages(dicts.packed(), mapper, cluster, seed, max_unreadable, placed)

    def build(start: int) -> Any:
        return build_detection_train_loader(
            images,
            mapper=None,
            sampler=_sampler(stream, start, total_batch_size),
            total_batch_size=total_batch_size,
            aspect_ratio_grouping=False,  # done in the stream, where it can be resumed
            num_workers=num_workers,
            **loader_options,
        )

    return ObservedLoader(build, images, stream, total_batch_size, start_iter, placed)


def _placed(selection: Selection, records: Records, names: Sequence[str]) -> PlacedSelection:
    """The selection laid over the records.

    Raises:
        NDSError: a source that images were selected from is in none of the datasets.
    """
    own = selection.column("source").cast(pa.string())
    absent = [name for name in pc.unique(own).to_pylist() if name not in records.sources]
    if absent:
        lost = pc.sum(pc.is_in(own, pa.array(absent))).as_py()
        raise NDSError(
            f"the selection holds {len(selection)} images of {', '.join(selection.sources)}, of which {lost} are of "
            f"{', '.join(absent)}, which DATASETS.TRAIN {tuple(names)} does not name: they would never be drawn. "
            "Name all of the sources; or, in particular where their classes differ, the one dataset nds_NAME that "
            f"{DRAW_BY_NAME} makes; or draw from fewer sources."
        )
    placed = selection.placed(records.dicts.sources(), records.dicts.image_ids())
    if len(placed) < len(selection):
        logger.warning(
            "%d of the %d selected images are not trained on: they have no instance, or are not in %s.",
            len(selection) - len(placed),
            len(selection),
            ", ".join(names),
        )
    return placed


def _check_batch_size(total: int) -> None:
    processes = comm.get_world_size()
    if total < 1 or total % processes:
        raise NDSError(f"SOLVER.IMS_PER_BATCH must be a multiple of the {processes} processes, got {total}.")


def _sampler(stream: IndexStream, start_iter: int, total_batch_size: int) -> PositionedSampler:
    """This process's part of the stream from an iteration on."""
    world_size = comm.get_world_size()
    return PositionedSampler(
        stream,
        rank=comm.get_rank(),
        world_size=world_size,
        start=start_iter * total_batch_size,
        interleave=None if _deals_whole_batches() else total_batch_size // world_size,
    )


def _selection(given: str | Selection | None, sampler: str, names: Sequence[str]) -> Selection | None:
    """The selection to draw from: the one given, else the one that made the dataset (``nds_NAME``)."""
    if sampler in _WITHOUT_SELECTION:
        return None
    if isinstance(given, Selection):
        return given
    drawn_from = MetadataCatalog.get(names[0]).get("nds_selection") if len(names) == 1 else None
    path = drawn_from if given is None and sampler == NDSTrainingSampler.__name__ else given
    if path is None:
        return None
    dataset = DatasetCatalog[names[0]]
    if path == drawn_from and isinstance(dataset, DrawnDataset):
        return dataset.selection()
    return Selection.load(path)


def build_nds_train_loader(*args: Any, **kwargs: Any) -> Any:
    """Build the training loader: ``build_nds_train_loader(cfg)`` or with explicit arguments.

    With a config it takes what Detectron2's ``build_detection_train_loader`` takes, ``mapper`` and the
    arguments below among it. Where ``DATALOADER.SAMPLER_TRAIN`` is one of Detectron2's own names it is that
    function, on stores without images that have no instance (``DATALOADER.FILTER_EMPTY_ANNOTATIONS``).
    With explicit arguments (LazyConfig):

    Args:
        dataset: name or names of registered datasets.
        mapper: dataset dict to training example.
        total_batch_size: images of an iteration over all processes.
        selection: path of a selection, or a Selection; needed by NDSTrainingSampler unless the
            dataset is one that a selection was registered as.
        sampler: a name in TRAIN_SAMPLERS.
        aspect_ratio_grouping: batches of one orientation, decided in the stream.
        num_workers: loader workers a process.
        filter_empty: leave out images without (non-crowd) instances.
        seed: of the data order and the augmentation.
        max_unreadable: share of the images that may be unreadable before the run stops.
        start_iter: iteration of the first batch; None: the one that training is at, see
            :class:`ObservedLoader`. A resumed run needs nothing else to go on with its draw.
        updates: (first stream position, cluster weights) of every later change of the weights.
        collate_fn and others: as of ``build_detection_train_loader``.

    Returns:
        An iterable of batches, each a list of mapped dicts.

    Raises:
        NDSError: unknown dataset or sampler, a selection that does not fit, a bad batch size.
    """
    cfg = args[0] if args else kwargs.get("cfg")
    if not isinstance(cfg, CN):
        return _build(*args, **kwargs)
    given = {key: value for key, value in kwargs.items() if value is not None}
    sampler = given.get("sampler", cfg.DATALOADER.SAMPLER_TRAIN)
    if isinstance(sampler, str):
        check_sampler(sampler)
        if sampler in TRAIN_SAMPLERS:
            return _build(*args, **given)
        if "sampler" in given:  # Detectron2's builder takes a name from the config alone
            cfg = cfg.clone()
            cfg.defrost()
            cfg.DATALOADER.SAMPLER_TRAIN = given.pop("sampler")
    rest = {key: value for key, value in given.items() if key != "cfg"}
    return build_stock_loader(cfg, *args[1:], **rest)


def check_sampler(name: str) -> None:
    """Raise the error that lists the known samplers if a name is not one of them."""
    known = [*STOCK_SAMPLERS, *(n for n, _ in TRAIN_SAMPLERS)]
    if name not in known:
        raise unknown_name("DATALOADER.SAMPLER_TRAIN", name, known)


def _deals_whole_batches() -> bool:
    """Whether this Detectron2 gives each loader worker whole batches (main) or single elements (v0.6)."""
    sharding = getattr(common, "ToIterableDataset", None)  # before v0.6 the main process draws
    return sharding is None or "shard_chunk_size" in inspect.signature(sharding.__init__).parameters

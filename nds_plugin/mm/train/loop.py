"""A training loop that begins where a run is, without replaying the batches before."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from mmengine.dist import get_rank
from mmengine.hooks import CheckpointHook
from mmengine.registry import DATA_SAMPLERS, DATASETS, LOOPS
from mmengine.runner import IterBasedTrainLoop
from torch.utils.data import DataLoader

from nds_plugin.errors import NDSError, unknown_name
from nds_plugin.mm.data.drawn_dataset import DrawnDataset
from nds_plugin.mm.data.identity import refuse_other_classes
from nds_plugin.mm.data.sampler import NDSInfiniteSampler
from nds_plugin.selection.config import LoaderConfig
from nds_plugin.selection.counter_rng import Purpose, stream_key

logger = logging.getLogger(__name__)


@LOOPS.register_module()
class NDSIterBasedTrainLoop(IterBasedTrainLoop):
    """MMEngine's loop by iterations on NDSInfiniteSampler.

    It differs from the stock one in four ways. A resumed run goes on with its draw at once, where the stock
    loop of some versions loads and drops every batch that was trained on. Augmentation is seeded by the
    position in the draw, and the model's own draws (proposals, dropout) by seed, iteration and rank, so that a
    resumed run repeats the unbroken one. An image that cannot be read is replaced by another of its cluster,
    not by any other, and counted.

    Args:
        runner, dataloader, max_iters, kwargs: see the stock loop. The dataloader must be a config.
        max_unreadable: share of the drawn images that may be unreadable before the run stops.

    Raises:
        NDSError: another sampler, a batch sampler, or a dataset that does not fit the selection.
    """

    def __init__(
        self,
        runner: Any,
        dataloader: Any,
        max_iters: int,
        max_unreadable: float = LoaderConfig.max_unreadable,
        **kwargs: Any,
    ) -> None:
        _log_as(runner.logger)
        _refuse_converted(runner.param_schedulers)
        loader = _loader(runner, dataloader, max_unreadable)
        super().__init__(runner, _NotStarted(loader.dataset), max_iters, **kwargs)
        self.dataloader = loader
        self._max_unreadable = max_unreadable
        self._any_seed = _any_seed(runner, dataloader["sampler"])
        self.sampler = cast(NDSInfiniteSampler, loader.sampler)

    def run(self) -> Any:
        """Train, from the iteration that was resumed at."""
        _refuse_epochs(self.runner.param_schedulers)
        _tell_epochs(self.runner.hooks)
        if self._iter and self._any_seed:  # the runner has taken that of the checkpoint
            self.sampler.reseed(self.runner.seed)
            cast(DrawnDataset, self.dataloader.dataset).draw_by(self.sampler, self._max_unreadable)
        self.runner.call_hook("before_train")
        self.runner.call_hook("before_train_epoch")
        self.seek(self._iter)
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            self.run_iter(next(self.dataloader_iterator))
            self._decide_current_val_interval()
            if self._is_time_to_validate():
                self.runner.val_loop.run()
        self.runner.call_hook("after_train_epoch")
        self.runner.call_hook("after_train")
        return self.runner.model

    def run_iter(self, data_batch: Any) -> None:
        """One iteration, under a seed of its own."""
        key = stream_key(self.sampler.seed, Purpose.ITERATION, self._iter, get_rank())
        torch.manual_seed(int(key[0]) % 2**63)
        super().run_iter(data_batch)

    def seek(self, iteration: int) -> None:
        """Let the next batch be that of ``iteration``, by the sampler's stream as it is now."""
        if iteration:
            logger.info("The training loader goes on at iteration %d.", iteration)
        self.sampler.start(iteration)
        self.dataloader_iterator = iter(self.dataloader)

    def _is_time_to_validate(self) -> bool:
        return (
            self.runner.val_loop is not None
            and self._iter >= self.val_begin
            and (self._iter % self.val_interval == 0 or self._iter == self._max_iters)
        )


class _NotStarted:
    """Stands for the loader while the stock loop is built, which would start its workers at the first batch."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __iter__(self) -> Iterator[Any]:
        return iter(())


def _loader(runner: Any, config: Any, max_unreadable: float) -> DataLoader[Any]:
    if not isinstance(config, dict):
        raise NDSError(
            f"NDSIterBasedTrainLoop builds the loader itself: expected train_dataloader as a config, got a {type(config).__name__}."
        )
    config = dict(config)
    if config.pop("batch_sampler", None) is not None:
        raise NDSError(
            "train_dataloader has a batch_sampler, which would change what NDSInfiniteSampler draws and find its groups empty "
            "after a resume: set batch_sampler=None; batches of one orientation are made in the stream."
        )
    _check_sampler(config.get("sampler"))
    dataset = config["dataset"]
    if isinstance(dataset, dict):
        dataset = DATASETS.build(dict(dataset))
        if hasattr(dataset, "full_init"):
            dataset.full_init()
    refuse_other_classes(dataset)
    drawn = DrawnDataset(dataset)
    several = bool(runner._randomness_cfg.get("diff_rank_seed", False))
    if isinstance(config["sampler"], Mapping):  # MMEngine hands none over where ranks differ in theirs
        config["sampler"] = {"seed": runner.seed, **config["sampler"]}
    loader = runner.build_dataloader({**config, "dataset": drawn}, seed=runner.seed, diff_rank_seed=several)
    loader.sampler.set_batch_size(loader.batch_size)
    drawn.draw_by(loader.sampler, max_unreadable)
    return loader  # type: ignore[no-any-return]


def _any_seed(runner: Any, sampler: Any) -> bool:
    """Whether nobody has said by which seed to draw."""
    given = runner._randomness_cfg.get("seed") is not None
    return not given and isinstance(sampler, Mapping) and "seed" not in sampler


def _refuse_epochs(schedulers: Any) -> None:
    """See that no schedule counts in epochs, of which there is one: a warm-up would never end."""
    for several in schedulers.values() if isinstance(schedulers, dict) else [schedulers or []]:
        for scheduler in several:
            if scheduler.by_epoch:
                raise NDSError(
                    f"param_scheduler {type(scheduler).__name__} counts in epochs, of which a training by iterations has one: give "
                    "by_epoch=False, with begin, end and milestones in iterations."
                )


def _refuse_converted(schedules: Any) -> None:
    """See that no schedule, which is still a config here, is turned from epochs into iterations: a draw has no epochs to count."""
    several = schedules if isinstance(schedules, (list, tuple)) else [schedules]
    for schedule in several:
        if not isinstance(schedule, Mapping):
            continue
        if schedule.get("convert_to_iter_based"):
            raise NDSError(
                f"param_scheduler {schedule.get('type')} has convert_to_iter_based, and a draw has no epochs: give by_epoch=False, "
                "with begin, end and milestones in iterations."
            )
        for inner in schedule.values():  # of several optimizers
            if isinstance(inner, list):
                _refuse_converted(inner)


def _tell_epochs(hooks: Any) -> None:
    for hook in hooks:
        if isinstance(hook, CheckpointHook) and hook.by_epoch:
            logger.warning(
                "The checkpoint hook counts in epochs, of which a training by iterations has one: nothing is saved before its "
                "end. Set default_hooks=dict(checkpoint=dict(_delete_=True, type='NDSCheckpointHook', interval=...))."
            )


def _log_as(runners: logging.Logger) -> None:
    """What the package tells goes where the runner's own log goes, unless somebody has said where."""
    own = logging.getLogger("nds_plugin")
    if own.handlers or logging.getLogger().handlers:
        return
    own.setLevel(runners.level)
    for handler in runners.handlers:
        own.addHandler(handler)


def _check_sampler(config: Any) -> None:
    """See that a sampler's config is of one that can be sought."""
    if isinstance(config, NDSInfiniteSampler):
        return
    kind = config.get("type") if isinstance(config, dict) else type(config)
    if isinstance(kind, str):
        with DATA_SAMPLERS.switch_scope_and_registry(None) as registry:
            found = registry.get(kind)
            known = {*registry.module_dict, *DATA_SAMPLERS.module_dict}
        if found is None:
            raise unknown_name("train_dataloader.sampler", kind, known)
        kind = found
    if not (isinstance(kind, type) and issubclass(kind, NDSInfiniteSampler)):
        raise NDSError(
            f"NDSIterBasedTrainLoop needs sampler=dict(type='NDSInfiniteSampler', selection=PATH), got {getattr(kind, '__name__', kind)}: "
            "with another sampler train by IterBasedTrainLoop, which replays what was trained on when a run is resumed."
        )

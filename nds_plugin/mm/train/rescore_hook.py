"""A hook that scores the experts again while training, and goes on with the new weights."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from nds_plugin.errors import NDSError
from nds_plugin.experts.expert_set import ExpertSet
from nds_plugin.experts.scoring import score_experts
from nds_plugin.experts.settings import ScoringConfig
from nds_plugin.images.networks import choose_device
from nds_plugin.mm.train.draw_hook import NDSDrawHook, sampler_of
from nds_plugin.selection.select import selector_weights
from nds_plugin.selection.selection import Selection
from nds_plugin.selection.selectors import SELECTORS
from nds_plugin.selection.selectors.nds import NDS
from nds_plugin.source.index import SourceIndex

logger = logging.getLogger(__name__)

STATE = "nds_rescore"  # its part of a checkpoint
Weights = npt.NDArray[np.float64]
Target = str | os.PathLike[str] | Sequence[str] | SourceIndex


@HOOKS.register_module()
class NDSRescoreHook(Hook):
    """Score the experts again after given iterations.

    All ranks change their stream at the same position. The changes are part of a checkpoint, so that a resumed
    run draws what the unbroken one would have drawn.

    Args:
        iterations: numbers of finished iterations after which to score.
        selection: path of the stream that is drawn from; its selector makes weights of the scores.
        experts: folder of its experts.
        target: the client's images as they are then: a folder; ``[JSON, IMAGES]`` of a COCO file; or an index.
        scoring: settings of the scoring, as ``ScoringConfig``; each time another draw of the images.
        score: ``score(iteration) -> w``, shape (K,), in place of the four above; called on the main process alone.
    """

    priority = "BELOW_NORMAL"  # after NDSDrawHook has counted, before the checkpoint

    def __init__(
        self,
        iterations: Sequence[int],
        selection: str | os.PathLike[str] | None = None,
        experts: str | os.PathLike[str] | None = None,
        target: Target | None = None,
        scoring: Mapping[str, Any] | None = None,
        score: Callable[[int], Weights] | None = None,
    ) -> None:
        if any(i < 1 for i in iterations):
            raise NDSError(f"NDSRescoreHook: expected iterations of 1 or more, got {list(iterations)}.")
        if score is None:
            if selection is None or experts is None or target is None:
                raise NDSError("NDSRescoreHook needs selection=PATH, experts=FOLDER and target=FOLDER.")
            score = ExpertScoring(selection, experts, target, ScoringConfig(**(scoring or {})))
        self._iterations = frozenset(int(i) for i in iterations)
        self._score = score
        self._updates: list[tuple[int, Weights]] = []
        self._loaded: dict[str, Any] | None = None

    def before_train(self, runner: Any) -> None:
        """See that the draw can be changed; take up the changes of a resumed run."""
        sampler = sampler_of(runner, "NDSRescoreHook")
        if not hasattr(runner.train_loop, "seek"):
            raise NDSError(
                "NDSRescoreHook changes what the workers have loaded already: set train_cfg=dict(type='NDSIterBasedTrainLoop')."
            )
        sampler.drawable.placed.reweighted(sampler.drawable.placed.weights)  # refuses what cannot be
        if self._loaded is not None and runner.iter > 0:
            self._updates = [(int(n), np.asarray(w, np.float64)) for n, w in self._loaded["updates"]]
        sampler.reweight(self._updates)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Score where it is time, and go on with what came out."""
        del batch_idx, data_batch, outputs
        finished = runner.iter + 1
        if finished not in self._iterations or finished >= runner.max_iters:
            return
        result: list[Any] = [None]
        if is_main_process():
            try:
                result = [np.asarray(self._score(finished), np.float64).tolist()]
            except Exception as error:  # the other ranks wait for it
                broadcast_object_list([f"{type(error).__name__}: {error}"])
                raise
        broadcast_object_list(result)
        if isinstance(result[0], str):
            raise NDSError(f"the experts could not be scored again on the main process: {result[0]}")
        sampler = sampler_of(runner, "NDSRescoreHook")
        self._updates.append((finished * sampler.total_batch_size, np.asarray(result[0])))
        logger.info("Iteration %d: experts scored again, new weights %s", finished, np.round(result[0], 3))
        sampler.reweight(self._updates)
        runner.train_loop.seek(finished)
        for hook in runner.hooks:
            if isinstance(hook, NDSDrawHook):
                hook.set_weights(self._updates[-1][1])

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Put the changes of the draw into a checkpoint."""
        del runner
        checkpoint[STATE] = {"updates": [[n, w.tolist()] for n, w in self._updates]}

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Keep them until it is known whether the run is resumed."""
        del runner
        self._loaded = checkpoint.get(STATE)


class ExpertScoring:
    """Weights from the experts' scores on a client's images, by the selector that made a selection."""

    def __init__(
        self,
        selection: str | os.PathLike[str],
        experts: str | os.PathLike[str],
        target: Target,
        config: ScoringConfig,
    ) -> None:
        self._selection = Selection.load(selection)
        self._experts = ExpertSet.load(experts)
        self._target, self._config = target, config
        _check(target)
        if self._selection.info["selector"] != NDS.name:
            raise NDSError(
                f"{os.fspath(selection)} was made by the selector {self._selection.info['selector']!r}, whose weights do not follow "
                f"from the experts' scores alone: NDSRescoreHook needs one of {NDS.name!r}."
            )
        if self._experts.hash != self._selection.info["expert_set"]:
            raise NDSError(
                f"{os.fspath(selection)} was drawn by scores of other experts than those of {os.fspath(experts)}: give the "
                "folder of its own experts."
            )

    def __call__(self, iteration: int) -> Weights:
        info = self._selection.info
        given = ("temperature", "normalisation")
        settings = {name: info[name] for name in given if info.get(name) is not None}
        config = dataclasses.replace(self._config, seed=iteration, metric=info["metric"])
        scores = score_experts(self._experts, _images(self._target), config, choose_device(), progress=False)
        sizes = np.asarray(info["sizes"], np.int64)
        return selector_weights(SELECTORS[info["selector"]](**settings), sizes, scores)


def _check(target: Target) -> None:
    """Refuse at the start what would fail after hours."""
    if isinstance(target, SourceIndex):
        return
    paths = [target] if isinstance(target, (str, os.PathLike)) else list(target)
    if len(paths) > 2 or not all(isinstance(path, (str, os.PathLike)) for path in paths) or not paths:
        raise NDSError(f"NDSRescoreHook: expected target to be a folder or [JSON, IMAGES], got {target!r}.")
    if not os.path.isdir(paths[-1]):
        raise NDSError(
            f"NDSRescoreHook: the target's folder of images {os.fspath(paths[-1])} does not exist."
        )
    if len(paths) == 2 and not os.path.isfile(paths[0]):
        raise NDSError(f"NDSRescoreHook: the target's annotations {os.fspath(paths[0])} do not exist.")


def _images(target: Target) -> Any:
    """The client's images: an index, or a folder."""
    if isinstance(target, SourceIndex):
        return target
    if isinstance(target, (str, os.PathLike)):
        return os.fspath(target)
    from nds_plugin.datasets.coco.split import index_coco

    return index_coco(*target)

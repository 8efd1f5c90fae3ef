"""Hooks: watch what is drawn, score again while training, make every iteration repeatable."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from detectron2.engine import HookBase
from detectron2.utils import comm

from nds_plugin.d2.data.loader import ObservedLoader
from nds_plugin.errors import NDSError
from nds_plugin.selection.counter_rng import Purpose, stream_key
from nds_plugin.selection.placed import draw_scalars
from nds_plugin.selection.weights import available_weights, cluster_sizes

logger = logging.getLogger(__name__)

Weights = npt.NDArray[np.float64]


class IterationSeed(HookBase):
    """Seed torch from (seed, iteration, rank) before every step.

    The model's own draws (proposals, anchors, dropout) then do not depend on what ran before, so
    that a resumed run repeats the unbroken one.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def before_step(self) -> None:
        key = stream_key(self._seed, Purpose.ITERATION, self.trainer.iter, comm.get_rank())
        torch.manual_seed(int(key[0]) % 2**63)


class DrawMonitor(HookBase):
    """Compare what was drawn with what the selection says.

    Every step: the batch must hold the elements of the stream that belong to this iteration and
    rank. Every ``period`` steps, to the event storage: the share of each cluster among the images
    drawn so far (``nds/drawn/cluster_k``), the expected one (``nds/expected/cluster_k``), their
    total variation distance and the number of unreadable images that were replaced.

    Args:
        weights: expected shares of the clusters at the start, shape (K,).
        period: steps between two log entries.
    """

    def __init__(self, weights: Weights, period: int = 20) -> None:
        self._weights = np.asarray(weights, dtype=np.float64)
        self._period = period
        self._drawn = np.zeros(len(self._weights), dtype=np.int64)
        self._expected = np.zeros(len(self._weights))

    def set_weights(self, weights: Weights) -> None:
        """Expect other shares from the next step on: those of the clusters that can be loaded."""
        sizes = cluster_sizes(self.trainer.data_loader.dataset.cluster, len(weights))
        self._weights = available_weights(weights, sizes)

    def after_step(self) -> None:
        loader: ObservedLoader = self.trainer.data_loader
        self._check(loader)
        clusters = [example["nds_cluster"] for example in loader.last_batch]
        self._drawn += np.bincount(clusters, minlength=len(self._drawn))
        self._expected += self._weights * len(clusters)
        if (self.trainer.iter + 1) % self._period == 0 or self.trainer.iter + 1 == self.trainer.max_iter:
            self._log(loader)

    def _check(self, loader: ObservedLoader) -> None:
        size, iteration = loader.total_batch_size, self.trainer.iter
        elements = loader.stream.draw(iteration * size, (iteration + 1) * size)
        expected = elements[comm.get_rank() :: comm.get_world_size()].tolist()
        drawn = [example["nds_drawn"] for example in loader.last_batch]
        if drawn != expected:
            raise NDSError(
                f"iteration {iteration}: the loader gave the images {drawn}, the selection's stream says "
                f"{expected}: a sampler or loader between them changes the draw."
            )

    def _log(self, loader: ObservedLoader) -> None:
        gathered = comm.gather((self._drawn, self._expected, int(loader.dataset.unreadable.sum())))
        if not comm.is_main_process():
            return
        drawn = sum(d for d, _, _ in gathered)
        expected = sum(e for _, e, _ in gathered)
        for name, value in draw_scalars(drawn, expected, sum(u for _, _, u in gathered)).items():
            self.trainer.storage.put_scalar(name, value, smoothing_hint=False)

    def state_dict(self) -> dict[str, Any]:
        """The counts of this rank's share; only the main process's are in a checkpoint."""
        return {
            "drawn": self._drawn.tolist(),
            "expected": self._expected.tolist(),
            "weights": self._weights.tolist(),
            "selection": _selection_hash(self.trainer),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if _is_of_another(self.trainer, state):
            logger.warning("The checkpoint was trained on another selection: what was drawn is counted anew.")
            return
        self._weights = np.asarray(state["weights"])
        if comm.is_main_process():  # the counts of the other ranks were not saved
            self._drawn = np.asarray(state["drawn"], dtype=np.int64)
            self._expected = np.asarray(state["expected"])


def _selection_hash(trainer: Any) -> str:
    selection = getattr(trainer.data_loader, "selection", None)
    return "" if selection is None else str(selection.hash)


def _is_of_another(trainer: Any, state: dict[str, Any]) -> bool:
    """Whether a checkpoint's state is of another selection (``--resume`` under another config)."""
    own = _selection_hash(trainer)
    return bool(state.get("selection", own) != own)


class Rescore(HookBase):
    """Score the experts again after given iterations and go on with the new weights.

    All ranks change their stream at the same position; the changes are part of the checkpoint,
    so that a resumed run draws what the unbroken one would have drawn. Comes after DrawMonitor
    and before the checkpointer in the list of hooks.

    Args:
        iterations: numbers of finished iterations after which to score.
        score: ``score(iteration) -> w``, shape (K,), on the target's images as they are then;
            called on the main process alone.
    """

    def __init__(self, iterations: Sequence[int], score: Callable[[int], Weights]) -> None:
        if any(i < 1 for i in iterations):
            raise NDSError(f"NDS.RESCORE.ITERS must be 1 or more, got {list(iterations)}.")
        self._iterations = frozenset(iterations)
        self._score = score
        self._updates: list[tuple[int, list[float]]] = []

    def after_step(self) -> None:
        finished = self.trainer.iter + 1
        if finished not in self._iterations or finished >= self.trainer.max_iter:
            return
        weights = self._score(finished).tolist() if comm.is_main_process() else None
        comm.synchronize()  # waits as long as the job may; a gather would give up after 30 minutes
        weights = comm.all_gather(weights)[0]
        position = finished * self.trainer.cfg.SOLVER.IMS_PER_BATCH
        self._updates.append((position, weights))
        logger.info("Iteration %d: experts scored again, new weights %s", finished, np.round(weights, 3))
        self._apply(finished)

    def state_dict(self) -> dict[str, Any]:
        updates = [[position, weights] for position, weights in self._updates]
        return {"updates": updates, "selection": _selection_hash(self.trainer)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if _is_of_another(self.trainer, state):
            logger.warning("The checkpoint was trained on another selection: its later scores are forgotten.")
            return
        self._updates = [(int(position), list(weights)) for position, weights in state["updates"]]

    def before_train(self) -> None:
        if self._updates:
            self._apply(self.trainer.start_iter)

    def _apply(self, next_iter: int) -> None:
        self.trainer.seek(next_iter, [(n, np.asarray(w)) for n, w in self._updates])
        for hook in self.trainer._hooks:
            if isinstance(hook, DrawMonitor):
                hook.set_weights(np.asarray(self._updates[-1][1]))

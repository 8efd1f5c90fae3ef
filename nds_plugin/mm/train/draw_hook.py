"""A hook that compares what is drawn with what the selection says."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from nds_plugin.errors import NDSError
from nds_plugin.files.artifacts import read_header
from nds_plugin.mm.data.identity import identity_of
from nds_plugin.mm.data.sampler import NDSInfiniteSampler
from nds_plugin.selection.placed import draw_scalars
from nds_plugin.selection.selection import KIND
from nds_plugin.selection.weights import available_weights, cluster_sizes

STATE = "nds_draw"  # its part of a checkpoint
Weights = npt.NDArray[np.float64]


def sampler_of(runner: Any, who: str) -> NDSInfiniteSampler:
    """The sampler that a runner trains by.

    Raises:
        NDSError: it is another one, or the loop is one of epochs, which an endless sampler never ends.
    """
    sampler = getattr(runner.train_dataloader, "sampler", None)
    if not isinstance(sampler, NDSInfiniteSampler):
        raise NDSError(
            f"{who} needs train_dataloader=dict(batch_sampler=None, sampler=dict(type='NDSInfiniteSampler', selection=PATH)), "
            f"got the sampler {type(sampler).__name__}."
        )
    if hasattr(runner.train_loop, "run_epoch"):
        raise NDSError(
            f"{who}: NDSInfiniteSampler is endless, so that an epoch of {type(runner.train_loop).__name__} would never end: set "
            "train_cfg=dict(type='NDSIterBasedTrainLoop', max_iters=...)."
        )
    return sampler


@HOOKS.register_module()
class NDSDrawHook(Hook):
    """Check the draw, and log it.

    Every iteration: the batch must hold the elements of the stream that belong to this iteration and rank.
    Every ``interval`` iterations, to the visualizer: the share of each cluster in what was drawn so far
    (``nds/drawn/cluster_k``), the expected one (``nds/expected/cluster_k``), their total variation distance
    (``nds/draw_distance``) and the number of unreadable images that were replaced.

    A checkpoint holds what decides the draw; a run that is resumed by another selection, seed or number of
    images an iteration is refused.

    Args:
        selection: path of the selection, to see that the sampler draws by it; None: whatever it draws by.
        interval: iterations between two entries.
    """

    def __init__(self, selection: str | os.PathLike[str] | None = None, interval: int = 20) -> None:
        if interval < 1:
            raise NDSError(f"NDSDrawHook: expected interval of 1 or more, got {interval}.")
        self._selection = selection
        self._interval = interval
        self._loaded: dict[str, Any] | None = None

    def before_train(self, runner: Any) -> None:
        """Look at the sampler, and at what a resumed run drew by."""
        sampler = self._sampler = sampler_of(runner, "NDSDrawHook")
        if self._selection and str(read_header(self._selection, KIND)["key"]) != sampler.drawable.key:
            raise NDSError(
                f"NDSDrawHook is to check {self._selection}, but the sampler draws by {sampler.selection}: name the same file."
            )
        self._weights = sampler.drawable.placed.shares
        self._drawn = np.zeros(len(self._weights), dtype=np.int64)
        self._expected = np.zeros(len(self._weights))
        if self._loaded is not None and runner.iter > 0:
            self._resume(self._loaded)

    def set_weights(self, weights: Weights) -> None:
        """Expect other shares from the next iteration on: those of the clusters that can be loaded."""
        sizes = cluster_sizes(self._sampler.drawable.placed.cluster, len(weights))
        self._weights = available_weights(weights, sizes)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Check the batch and count the clusters of all ranks' ones, which are parts of one stream."""
        del batch_idx, outputs
        size = self._sampler.total_batch_size
        places = self._sampler.stream.draw(runner.iter * size, (runner.iter + 1) * size)
        mine = places[self._sampler.rank :: self._sampler.world_size]
        self._check(runner.iter, [int(place) for place in mine], data_batch)
        clusters = self._sampler.drawable.placed.cluster[places]
        self._drawn += np.bincount(clusters, minlength=len(self._drawn))
        self._expected += self._weights * size
        if self.every_n_train_iters(runner, self._interval) or self.is_last_train_iter(runner):
            self._log(runner)

    def _check(self, iteration: int, places: list[int], data_batch: Any) -> None:
        samples = data_batch["data_samples"]
        drawn: list[Any]
        expected: list[Any]
        if all("nds_drawn" in sample for sample in samples):
            drawn, expected = [int(sample.nds_drawn) for sample in samples], places
        else:  # another loop: images are known by their ids alone
            drawn = [str(sample.img_id) for sample in samples]
            order, only = self._sampler.drawable.order, type(self._sampler.dataset).__name__
            expected = [identity_of(self._sampler.dataset, int(order[p]), only)[1] for p in places]
        if drawn != expected:
            raise NDSError(
                f"iteration {iteration}: the loader gave the images {drawn}, the selection's stream says {expected}: a batch "
                "sampler or loader between them changes the draw, or the pipeline gave None for an image and MMEngine took "
                "any other (NDSIterBasedTrainLoop takes one of its cluster)."
            )

    def _log(self, runner: Any) -> None:
        unreadable = torch.tensor(getattr(runner.train_dataloader.dataset, "unreadable", 0))
        all_reduce(unreadable)
        scalars = draw_scalars(self._drawn, self._expected, float(unreadable))
        runner.visualizer.add_scalars(scalars, step=runner.iter + 1)

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Put the identity of the draw and the counts of all ranks into a checkpoint."""
        del runner
        checkpoint[STATE] = {
            "identity": self._sampler.identity(),
            "drawn": self._drawn.tolist(),
            "expected": self._expected.tolist(),
            "weights": self._weights.tolist(),
        }

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Keep them until it is known whether the run is resumed; weights alone are loaded in this way, too."""
        del runner
        self._loaded = checkpoint.get(STATE)

    def _resume(self, state: dict[str, Any]) -> None:
        then, now = state["identity"], self._sampler.identity()
        other = [name for name in now if then.get(name) != now[name]]
        if other:
            changes = ", ".join(f"{name} was {then.get(name)!r} and is {now[name]!r}" for name in other)
            raise NDSError(
                f"the run that is resumed drew otherwise: {changes} (batch_size is that of all ranks together: give each "
                f"of the {self._sampler.world_size} its share). Go on as it began, or start anew in another work_dir."
            )
        self._drawn = np.asarray(state["drawn"], dtype=np.int64)
        self._expected = np.asarray(state["expected"], dtype=np.float64)
        self._weights = np.asarray(state["weights"], dtype=np.float64)

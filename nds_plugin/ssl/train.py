"""The training loop of both stages: SGD on batches, checkpoints, and going on from one exactly."""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from nds_plugin.engine.processes import Processes
from nds_plugin.errors import NDSError
from nds_plugin.files.checkpoints import read_checkpoint, write_checkpoint
from nds_plugin.images.checkpoint_forms import State, broken_weight
from nds_plugin.images.networks import precision_name, repeatable, resolve_precision
from nds_plugin.job.training_folder import FINAL, train_once
from nds_plugin.ssl import checkpoints, metrics
from nds_plugin.ssl.batches import Batch
from nds_plugin.ssl.network import GroupedBatchNorm
from nds_plugin.ssl.processes import averaged
from nds_plugin.ssl.settings import NetworkConfig, TrainingConfig

logger = logging.getLogger(__name__)
_TELL = 200  # iterations between two lines of the log
_STEP = 0.1  # what the schedule "steps" multiplies by


def learning_rate(config: TrainingConfig, iteration: int) -> float:
    """The learning rate of an iteration, a function of nothing else."""
    if iteration < config.warmup:
        return config.base_lr * (iteration + 1) / (config.warmup + 1)
    if config.schedule == "cosine":
        done = (iteration - config.warmup) / max(1, config.iterations - config.warmup)
        return config.base_lr * (1 + math.cos(math.pi * done)) / 2
    return config.base_lr * _STEP ** sum(iteration >= step for step in config.steps)


@dataclass(frozen=True)
class Run:
    """How a training is run.

    Attributes:
        seed: of weights, stream and views.
        processes: that train together.
        device: of this one.
        workers: processes that make batches.
        resume: go on from a checkpoint that another config left, too.
        text: the config, to be kept.
    """

    seed: int
    processes: Processes
    device: torch.device
    workers: int = 0
    resume: bool = False
    text: str = ""


@dataclass
class Training:
    """What a training is made of; all of it is in a checkpoint.

    Attributes:
        model: gives the loss of a batch.
        config: of the stage.
        folder: of the checkpoints.
        processes: that train together.
        device: of this one.
        network: that the model holds; None where it has settings of its own.
    """

    model: nn.Module
    config: TrainingConfig
    folder: Path
    processes: Processes
    device: torch.device
    network: NetworkConfig | None = None

    def __post_init__(self) -> None:
        self.model.to(self.device)
        self.dtype = resolve_precision(self.config.precision, self.device)
        learnt = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(
            learnt, self.config.base_lr, momentum=self.config.momentum, weight_decay=self.config.weight_decay
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)

    def start(self, go_on: bool) -> int:
        """The first iteration: after the newest whole checkpoint where the training goes on, else 0.

        Raises:
            NDSError: none is whole, or it is not one of such a training.
        """
        if not go_on:
            return 0
        path = checkpoints.newest_whole(self.folder, self.processes)
        state = read_checkpoint(path)
        self._check_fits(state, path)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        for group in self.optimizer.param_groups:  # after --resume the config may be another one, and counts
            group.update(momentum=self.config.momentum, weight_decay=self.config.weight_decay)
        if self.scaler.is_enabled() and state["scaler"]:  # empty where no scaler was needed until then
            self.scaler.load_state_dict(state["scaler"])
        if self.processes.rank == 0:
            checkpoints.remove_newer(self.folder, path)
            metrics.cut(self.folder, state["iteration"])
        logger.info("%s: going on after iteration %d.", self.folder.name, state["iteration"])
        return int(state["iteration"])

    def _check_fits(self, state: Mapping[str, Any], path: Path) -> None:
        """Refuse the checkpoint of another network, method or batch size, or of a longer training: those of --resume alone
        may be."""
        own, other = self.model.state_dict(), state["model"]
        differs = [(name, _shape(other, name), _shape(own, name)) for name in (*own, *other)]
        told = state.get("told", {})  # a checkpoint of before may say nothing
        differs += [(key, told.get(key, value), value) for key, value in self._told().items()]
        for name, there, here in differs:
            if there != here:
                raise NDSError(
                    f"--resume: {path} does not fit this config ({name} is {there} there, {here} here): set network, method, "
                    "queue and batch size as they were, or start without --resume."
                )
        if state["iteration"] > self.config.iterations:
            raise NDSError(
                f"--resume: {path} is after iteration {state['iteration']}, but {self.config.node}.ITERATIONS is "
                f"{self.config.iterations}: raise it, or start without --resume."
            )

    def run(self, batches: Iterable[Batch], start: int) -> None:
        """Train on the batches of iterations ``start`` and later.

        Raises:
            NDSError: loss or weights are no numbers any more, or a checkpoint cannot be written.
        """
        model: nn.Module = self.model
        if self.processes.world_size > 1:
            with warnings.catch_warnings():  # its successor, forward_sync_buffers, is of newer versions only
                warnings.filterwarnings("ignore", ".*broadcast_buffers", FutureWarning)
                model = DistributedDataParallel(model, broadcast_buffers=False)
        model.train()
        last, began, told = self.config.iterations, time.perf_counter(), start
        quiet = None if self.processes.rank == 0 else True
        with (
            repeatable(),
            tqdm(initial=start, total=last, desc=self.folder.name, unit="it", disable=quiet) as bar,
        ):
            for iteration, batch in enumerate(batches, start=start):
                loss = self.step(model, batch.to(self.device), iteration)
                bar.update()
                done = iteration + 1
                tells, saves = done % _TELL == 0 or done == last, done % self.config.checkpoint_period == 0
                if tells or saves:  # no checkpoint is to take the place of a good one unless all is well
                    mean = self.check_loss(done, float(loss))
                if tells:
                    self._tell(done, mean, (done - told) / (time.perf_counter() - began))
                    began, told = time.perf_counter(), done
                if saves and done < last:
                    self.save(done)
        self.average()

    def step(self, model: nn.Module, batch: Batch, iteration: int) -> torch.Tensor:
        """One iteration; its loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, iteration)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            loss: torch.Tensor = model(batch)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.detach()

    def check_loss(self, done: int, loss: float) -> float:
        """The mean loss of all processes.

        Raises:
            NDSError: on all of them, it is no number on one.
        """
        losses = self.processes.all_gather(loss)
        if wrong := [loss for loss in losses if not math.isfinite(loss)]:
            raise self._broken(f"the loss is {wrong[0]} at iteration {done}")
        return sum(losses) / len(losses)

    def check_weights(self, done: int) -> None:
        """The same of the weights: a step may break them after a loss that is a number.

        Raises:
            NDSError: on all processes, they are no numbers on one.
        """
        floats = {name: value for name, value in self.model.state_dict().items() if value.is_floating_point()}
        if wrong := [broken for broken in self.processes.all_gather(broken_weight(floats)) if broken]:
            raise self._broken(f"{wrong[0]} after iteration {done}")

    def _broken(self, what: str) -> NDSError:
        """Of a training that leaves the numbers, what to do, and what is kept of it."""
        node, kept = self.config.node, checkpoints.which_is_kept(self.folder)
        return NDSError(
            f"{self.folder.name}: {what}: take a lower {node}.BASE_LR, or a longer {node}.WARMUP.{kept}"
        )

    def _tell(self, done: int, loss: float, speed: float) -> None:
        told = getattr(self.model, "accuracy", None)  # of the pretext task, where there is one
        shares = [] if told is None else self.processes.all_gather(float(told))
        if self.processes.rank == 0:
            images = speed * self.config.batch_size
            logger.info("%s: iteration %d, loss %.4f, %.0f images/s", self.folder.name, done, loss, images)
            metrics.add_line(
                self.folder,
                done,
                loss=loss,
                accuracy=sum(shares) / len(shares) if shares else None,
                lr=self.optimizer.param_groups[0]["lr"],
                images_per_s=images,
            )

    def average(self) -> None:
        """Give all processes the same statistics of batch norms, the means of theirs."""
        if self.processes.world_size == 1:  # of this training; the job may have others, which wait
            return
        norms = [m for m in self.model.modules() if isinstance(m, GroupedBatchNorm)]
        averaged([t for m in norms for t in (m.running_mean, m.running_var) if t is not None])

    def save(self, iteration: int) -> None:
        """Write a checkpoint, whole or not at all, and then remove those before the one before.

        Raises:
            NDSError: the weights are no numbers any more, or it cannot be written; those before are kept.
        """
        self.average()
        self.check_weights(iteration)
        if self.processes.rank == 0:
            checkpoints.write(self.folder, iteration, self.state(iteration))
        self.processes.barrier()

    def finish(self, weights: State, meta: Mapping[str, Any]) -> None:
        """Write the final weights, and how they came about.

        Raises:
            NDSError: they are no numbers, or cannot be written.
        """
        if (broken := broken_weight(weights)) is not None:
            raise self._broken(f"{broken} after the last iteration")
        network = {} if self.network is None else {"network": asdict(self.network)}
        told = {**network, **meta, "precision": precision_name(self.dtype)}
        write_checkpoint(self.folder / FINAL, {"model": weights, "meta": told})

    def state(self, iteration: int) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {
            "iteration": iteration,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "told": self._told(),
        }

    def _told(self) -> dict[str, Any]:
        """What must be as it was, though no shape of a weight shows it, by the keys of the config."""
        network = {} if self.network is None else self.network.identity()
        told = {f"MODEL.{name.upper()}": value for name, value in network.items()}
        return {**told, f"{self.config.node}.BATCH_SIZE": self.config.batch_size}


def train_stage(
    folder: Path, key: str, work: Callable[[bool], None], config: TrainingConfig, run: Run
) -> Path:
    """Train unless that is done, see :func:`train_once`; at the end no checkpoint is left but the final weights."""
    final = train_once(
        run.processes, folder, key, work, resume=run.resume, config=run.text, iterations=config.iterations
    )
    if run.processes.rank == 0:
        checkpoints.remove(folder)
    return final


def _shape(state: Mapping[str, torch.Tensor], name: str) -> str:
    return f"of shape {tuple(state[name].shape)}" if name in state else "missing"

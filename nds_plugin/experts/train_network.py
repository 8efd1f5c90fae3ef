"""Training one network on one set of images: the loop behind every expert."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from nds_plugin.errors import NDSError
from nds_plugin.experts.manifest import ARCH
from nds_plugin.experts.settings import ExpertConfig
from nds_plugin.experts.tasks import Task
from nds_plugin.files.artifacts import content_hash
from nds_plugin.images.backbones import load_feature_network
from nds_plugin.images.crops import CACHE_BYTES, CropBatch, RandomCrops, Unreadable, crop_loader
from nds_plugin.images.input_form import IMAGENET
from nds_plugin.images.networks import (
    build_network,
    precision_name,
    repeatable,
    resolve_precision,
)

logger = logging.getLogger(__name__)

WARMUP = 0.05  # share of the steps; our choice
Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class TrainingSet:
    """The images that one network is trained on.

    Attributes:
        what: how logs and errors call them, as "cluster 3".
        stream: number of the random stream; the cluster + 1, and 0 for the shared network.
        paths: image files.
        labels: int, one per path.
    """

    what: str
    stream: int
    paths: Sequence[str]
    labels: npt.NDArray[np.int64]


@dataclass(frozen=True)
class TrainingStats:
    """What is known of a network after training.

    Attributes:
        images: size of the training set.
        steps: taken.
        train_accuracy, train_loss: means over the last tenth of the steps.
        precision: number format of the convolutions.
        unreadable: base names of the images that were replaced by others of the set.
    """

    images: int
    steps: int
    train_accuracy: float
    train_loss: float
    precision: str
    unreadable: list[str]


def pretrained_trunk(path: str) -> Weights:
    """The weights of a checkpoint's ResNet-18, without its last layer.

    Raises:
        NDSError: it is of another network, or one that expects images in another form.
    """
    found = load_feature_network(path)
    if (found.name, found.form) != (ARCH, IMAGENET):
        raise NDSError(
            f"{path} is a {found.name} of {found.form.order} images; experts of kind network are each a {ARCH} of RGB images with "
            "ImageNet's mean: give a checkpoint of that (NDS.EXPERTS.PRETRAINED), or take head experts, which stand on any network "
            "(NDS.EXPERTS.KIND head)."
        )
    return dict(found.body.state_dict())


def learning_rate(config: ExpertConfig, step: int, steps: int) -> float:
    """Linear warm-up over the first ``WARMUP`` of the steps, then half a cosine down to 0."""
    warmup = max(1, round(WARMUP * steps))
    if step < warmup:
        return config.base_lr * (step + 1) / warmup
    return config.base_lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def train_network(
    data: TrainingSet,
    task: Task,
    config: ExpertConfig,
    steps: int,
    device: torch.device,
    *,
    initial: Weights | None = None,
    progress: bool = True,
) -> tuple[Weights, TrainingStats]:
    """Train a ResNet-18 on the images for a number of steps.

    Args:
        data: the images.
        task: the proxy task.
        config: the schedule; ``config.steps`` is not looked at.
        steps: to take.
        device: to train on.
        initial: weights to start from, else those of ``config.pretrained`` below a new last layer, else random
            ones of ``config.seed``.
        progress: show a progress bar if on a terminal.

    Returns:
        Weights on the CPU, and the statistics. The same inputs give the same bits on the same
        machine.

    Raises:
        NDSError: too many unreadable images, a loss that is no longer finite, or weights of another network.
    """
    network = build_network(len(task.classes), config.seed)
    if initial is not None:
        network.load_state_dict(initial)
    elif config.pretrained:
        network.load_state_dict(pretrained_trunk(config.pretrained), strict=False)
    trainer = _Trainer(network, task, config, device)
    stream = RandomCrops(
        data.paths, config.crop_size, steps * config.batch_size, config.seed, data.stream,
        CACHE_BYTES // max(1, config.num_workers),
    )  # fmt: skip
    unreadable = Unreadable(data.what, data.paths)
    labels = torch.from_numpy(np.asarray(data.labels, dtype=np.int64))
    records: list[torch.Tensor] = []
    with repeatable(), tqdm(total=steps, desc=data.what, disable=None if progress else True) as bar:
        loader = crop_loader(stream, config.batch_size, config.num_workers, device)
        for step, batch in enumerate(loader):
            unreadable.add(batch, config.batch_size)
            records.append(trainer.step(batch, labels, learning_rate(config, step, steps)))
            if step % 20 == 19 or step == steps - 1:
                _check_finite(records, data.what, step, config)
            if (step + 1) % max(1, steps // 10) == 0:  # for logs, where there is no progress bar
                loss, accuracy = records[-1].tolist()
                logger.info(
                    "%s: step %d of %d, loss %.3f, accuracy %.3f", data.what, step + 1, steps, loss, accuracy
                )
            bar.update()
    tail = torch.stack(records[-max(1, steps // 10) :]).double().mean(dim=0)
    stats = TrainingStats(
        len(data.paths), steps, round(float(tail[1]), 6), round(float(tail[0]), 6),
        precision_name(trainer.dtype), unreadable.names(),
    )  # fmt: skip
    _log(data.what, stats, unreadable)
    return trainer.weights(), stats


class _Trainer:
    """One network with its optimizer and its mixed precision."""

    def __init__(self, network: nn.Module, task: Task, config: ExpertConfig, device: torch.device) -> None:
        self.network = network.to(device).to(memory_format=torch.channels_last).train()
        self.task, self.device = task, device
        self.dtype = resolve_precision(config.precision if config.amp else "fp32", device)
        self.optimizer = torch.optim.SGD(
            self.network.parameters(), config.base_lr, config.momentum, weight_decay=config.weight_decay
        )
        # fp16 gradients of a small loss vanish unless they are scaled; bf16 has fp32's range.
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == torch.float16)

    def step(self, batch: CropBatch, labels: torch.Tensor, rate: float) -> torch.Tensor:
        """One update; returns (loss, accuracy), shape (2,), still on the device."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        crops = batch.crops.to(self.device, non_blocking=True)
        inputs, targets = self.task.batch(crops, labels[batch.rows].to(self.device))
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            logits = self.network(inputs)
        loss = F.cross_entropy(logits.float(), targets)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        correct = (logits.detach().argmax(dim=1) == targets).float().mean()
        return torch.stack([loss.detach(), correct])

    def weights(self) -> Weights:
        """A copy of the weights on the CPU, in the default memory layout."""
        state = self.network.state_dict()
        return {
            k: v.detach().cpu().contiguous(memory_format=torch.contiguous_format) for k, v in state.items()
        }


def _check_finite(records: list[torch.Tensor], what: str, step: int, config: ExpertConfig) -> None:
    if not bool(torch.isfinite(records[-1][0])):
        raise NDSError(
            f"{what}: the training loss is not finite at step {step + 1}: lower --base-lr (NDS.EXPERTS.BASE_LR), "
            f"now {config.base_lr}."
        )


def _log(what: str, stats: TrainingStats, unreadable: Unreadable) -> None:
    logger.info(
        "%s: %d images, %d steps in %s, training accuracy %.3f, loss %.3f",
        what, stats.images, stats.steps, stats.precision, stats.train_accuracy, stats.train_loss,
    )  # fmt: skip
    for message in unreadable.errors.values():
        logger.warning("%s: replaced an unreadable image: %s", what, message)


def shared_key(index_hash: str, config: ExpertConfig) -> str:
    """Hash of everything the shared network is made from."""
    return content_hash(["shared", index_hash, config.shared_identity()])


def expert_key(index_hash: str, partition_hash: str, cluster: int, config: ExpertConfig) -> str:
    """Hash of everything one expert is made from."""
    return content_hash(["expert", index_hash, partition_hash, cluster, config.identity()])

"""A classifier on the target: fine-tuning or linear evaluation, and top-1 accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from nds_plugin.errors import NDSError, few
from nds_plugin.files.checkpoints import read_checkpoint
from nds_plugin.images.checkpoint_forms import State
from nds_plugin.images.networks import repeatable
from nds_plugin.selection.streams import ShuffledStream
from nds_plugin.source.index import NO_LABEL, SourceIndex
from nds_plugin.ssl.augment import WORDS, Augmentation, augment, plain
from nds_plugin.ssl.batches import Batch, Batches
from nds_plugin.ssl.network import build_network, load_trunk, read_trunk, trunk
from nds_plugin.ssl.pixels import MappedRows
from nds_plugin.ssl.settings import FinetuneConfig, NetworkConfig
from nds_plugin.ssl.train import Run, Training, train_stage

_TEST_BATCH = 256


@dataclass(frozen=True)
class Labelled:
    """Images of a target with their classes.

    Attributes:
        rows: the images.
        labels: of each, a position in classes, shape (N,).
        classes: names.
        key: hash of the images and their classes.
    """

    rows: MappedRows
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    key: str = ""


class Classifier(nn.Module):
    """The network with one output per class; with ``linear`` all but these stay as they were pretrained.

    A linear classifier sees features of mean 0 and deviation 1, by a batch norm without weights as in MAE (He et al., 2022):
    else one learning rate would not suit features of 0.3 and of 3 alike.
    """

    def __init__(self, network: NetworkConfig, config: FinetuneConfig, classes: int, seed: int) -> None:
        super().__init__()
        self.network = build_network(network, classes, seed)
        self.config = config
        if config.linear:
            self.network.requires_grad_(False)
            last: Any = self.network.fc.requires_grad_(True)
            norm = nn.BatchNorm1d(last.in_features, affine=False, momentum=None)  # None: over all batches
            self.network.fc = nn.Sequential(norm, last)  # type: ignore[assignment]

    def train(self, mode: bool = True) -> Classifier:
        """With ``linear``, batch norms keep their statistics."""
        super().train(mode)
        if self.config.linear:
            self.network.eval()
            self.network.fc.train(mode)
        return self

    def weights(self) -> State:
        """Of the plain network, on the CPU: the norm of a linear classifier is in its last layer."""
        if not self.config.linear:
            return {name: value.detach().cpu() for name, value in self.network.state_dict().items()}
        head: Any = self.network.fc
        norm, last = head
        scale = (norm.running_var + norm.eps).rsqrt()
        weight = (last.weight * scale).detach().cpu()
        bias = (last.bias - last.weight @ (norm.running_mean * scale)).detach().cpu()
        return {**trunk(self.network), "fc.weight": weight, "fc.bias": bias}

    def forward(self, batch: Batch) -> torch.Tensor:
        """The loss of a batch."""
        how = Augmentation(self.config.min_crop)
        inputs = augment(batch.pixels, batch.units[:, :WORDS], self.config.size, how)
        return F.cross_entropy(self.network(inputs).float(), batch.labels)


def check_labels(index: SourceIndex, name: str) -> None:
    """Refuse images that no classifier can learn from, or be tested on.

    Raises:
        NDSError: no classes, or images without one.
    """
    labels = index.column("label")
    if len(index.classes) < 2 or (labels == NO_LABEL).all():
        raise NDSError(
            f"dataset {name!r} has no classes to learn: expected a classification dataset, or a folder with a folder of "
            "images for each of at least 2 classes."
        )
    bare = int((labels == NO_LABEL).sum())
    if bare:
        raise NDSError(f"dataset {name!r}: {bare} of {len(index)} images have no class: leave them out.")


def check_counts(labels: npt.NDArray[np.integer], classes: Sequence[str], names: Sequence[str]) -> None:
    """Refuse classes that cannot be learnt.

    Args:
        labels: of all training images, of all datasets. classes: names. names: of the datasets, for the message.

    Raises:
        NDSError: a class of fewer than two images.
    """
    counts = np.bincount(labels, minlength=len(classes))
    too_few = [f"{name}: {count}" for name, count in zip(classes, counts) if count < 2]
    if too_few:
        raise NDSError(
            f"NDS.TARGET.TRAIN ({', '.join(names)}): {len(too_few)} classes have fewer than 2 images ({few(too_few)}), "
            "the least that a class can be learnt from: add images or leave the class out."
        )


def finetune(
    folder: Path,
    key: str,
    network: NetworkConfig,
    config: FinetuneConfig,
    target: Labelled,
    pretrained: Path | None,
    run: Run,
) -> Path:
    """Train the classifier unless that is done; the path of its weights. Called by one process."""

    def work(go_on: bool) -> None:
        model = Classifier(network, config, len(target.classes), run.seed)
        if pretrained is not None:
            what = "MODEL.WEIGHTS" if str(pretrained) == network.weights else "the weights of the pretraining"
            load_trunk(model.network, read_trunk(str(pretrained), what, network), f"{what} {pretrained}")
        training = Training(model, config, folder, run.processes, run.device, network)
        start = training.start(go_on)
        stream = ShuffledStream(np.arange(len(target.labels)), run.seed)
        size, last = config.batch_size, config.iterations
        batches = Batches(target.rows, stream, run.seed, size, start, last, labels=target.labels)
        training.run(batches.loader(run.workers, run.device), start)
        training.finish(model.weights(), {"classes": list(target.classes)})

    return train_stage(folder, key, work, config, run)


@torch.no_grad()
@repeatable()
def evaluate(
    weights: Path, network: NetworkConfig, config: FinetuneConfig, test: Labelled, device: torch.device
) -> dict[str, Any]:
    """Top-1 accuracy and its mean over the classes, in percent, on central crops, computed in 32 bits.

    Returns:
        ``top1``, ``mean_per_class``, ``per_class`` (None for a class without test images), ``images``.

    Raises:
        NDSError: outputs that are no numbers.
    """
    model = build_network(network, len(test.classes), 0)
    model.load_state_dict(read_checkpoint(weights)["model"])
    model.to(device).eval()
    found = []
    starts = range(0, len(test.labels), _TEST_BATCH)
    for start in tqdm(starts, desc="evaluate", unit="batch", disable=None):
        places = np.arange(start, min(start + _TEST_BATCH, len(test.labels)))
        outputs = model(plain(test.rows.rows(places).to(device), config.size))
        if not outputs.isfinite().all():
            raise NDSError(
                f"{weights}: the classifier's outputs for test images are no numbers: train it with a lower "
                "FINETUNE.BASE_LR."
            )
        found.append(outputs.argmax(1).cpu().numpy())
    return accuracies(np.concatenate(found), test.labels, test.classes)


def accuracies(
    found: npt.NDArray[np.int64], labels: npt.NDArray[np.int64], classes: tuple[str, ...]
) -> dict[str, Any]:
    """See :func:`evaluate`."""
    right = found == labels
    per_class = {
        name: 100 * float(right[labels == i].mean()) if (labels == i).any() else None
        for i, name in enumerate(classes)
    }
    told = [value for value in per_class.values() if value is not None]
    return {
        "top1": 100 * float(right.mean()),
        "mean_per_class": float(np.mean(told)),
        "per_class": per_class,
        "images": len(labels),
    }

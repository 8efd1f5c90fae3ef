"""The proxy tasks that experts are trained on: rotation (self-supervised) and image labels.

A task turns crops and labels into inputs and targets. Everything else about an expert is the
same for both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from nds_plugin.errors import NDSError, unknown_name
from nds_plugin.experts.manifest import ROTATIONS, TASKS
from nds_plugin.images.networks import normalise


class Task(Protocol):
    """What training needs to know of a proxy task."""

    @property
    def name(self) -> str:
        """How configs and manifests call the task."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the network's outputs."""

    @property
    def needs_labels(self) -> bool:
        """Whether images without a label are of no use."""

    def batch(self, crops: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """uint8 crops (B, S, S, 3) and labels (B,) to inputs (B', 3, S, S) and targets (B',)."""


class RotationTask:
    """Which of four rotations was the crop given? All four of one crop go into one batch."""

    name = "rotation"
    classes = ("0", "90", "180", "270")
    needs_labels = False

    def batch(self, crops: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # noqa: ARG002
        """Inputs (4B, 3, S, S), the four rotations of a crop one after the other; targets (4B,)."""
        targets = torch.arange(ROTATIONS, device=crops.device).repeat(len(crops))
        return normalise(rotations(crops)), targets


class SupervisedTask:
    """Which class is the image of? Labels are positions in ``classes``."""

    name = "supervised"
    needs_labels = True

    def __init__(self, classes: Sequence[str]) -> None:
        if len(classes) < 2:
            raise NDSError(
                f"task 'supervised' needs a source of at least 2 classes, got {len(classes)}: "
                "use task 'rotation' or a labelled source."
            )
        self.classes = tuple(classes)

    def batch(self, crops: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs (B, 3, S, S) and the labels as targets (B,)."""
        return normalise(crops), labels.long()


def get_task(name: str, classes: Sequence[str] = ()) -> Task:
    """The task of that name.

    Args:
        name: one of ``TASKS``.
        classes: the source's classes; only the supervised task looks at them.

    Raises:
        NDSError: an unknown name, or a supervised task of fewer than two classes.
    """
    if name == RotationTask.name:
        return RotationTask()
    if name == SupervisedTask.name:
        return SupervisedTask(classes)
    raise unknown_name("task", name, TASKS)


def rotations(crops: torch.Tensor) -> torch.Tensor:
    """Crops (B, S, S, 3) to (4B, S, S, 3): each crop rotated by 0, 90, 180 and 270 degrees."""
    turned = [torch.rot90(crops, k, dims=(1, 2)) for k in range(ROTATIONS)]
    return torch.stack(turned, dim=1).flatten(0, 1)

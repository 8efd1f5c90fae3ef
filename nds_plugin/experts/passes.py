"""A client's images on their way through networks: decoded once, in chunks, always in batches of one size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from nds_plugin.images.crops import CenterCrops, crop_loader

SHARED = -1  # how scoring calls the shared network, or the shared head, among the clusters


@dataclass
class Pass:
    """What the forward passes over all images leave behind; rows are readable images.

    ``outputs`` holds per cluster an array (n, width): for the rotation task the share of right
    answers and the mean log-likelihood of each image, for the supervised task its features. ``precision`` is the
    number format that they were computed in.
    """

    rows: list[int] = field(default_factory=list)
    errors: dict[int, str] = field(default_factory=dict)
    outputs: dict[int, list[torch.Tensor]] = field(default_factory=dict)
    precision: str = ""


@dataclass(frozen=True)
class Reading:
    """How crops are read.

    Attributes:
        paths: the images.
        size: side of the crops in pixels.
        interpolation: of the resizing.
        batch_size, num_workers: of the loader; they change nothing but the time.
    """

    paths: list[str]
    size: int
    interpolation: str
    batch_size: int
    num_workers: int


def micro_batch(device: torch.device) -> int:
    """Images per forward pass (the rotation task makes four inputs of each); our choice."""
    return 64 if device.type == "cuda" else 16


def chunks(reading: Reading, device: torch.device, chunk: int, result: Pass) -> Iterator[torch.Tensor]:
    """Crops of the readable images, uint8 (chunk, S, S, 3), the last chunk shorter."""
    dataset = CenterCrops(reading.paths, reading.size, reading.interpolation)
    pending: list[torch.Tensor] = []
    held = 0
    for batch in crop_loader(dataset, reading.batch_size, reading.num_workers, device):
        result.rows += batch.rows.tolist()
        result.errors.update(batch.errors)
        if not len(batch.crops):
            continue
        pending.append(batch.crops)
        held += len(batch.crops)
        while held >= chunk:
            joined = torch.cat(pending)
            yield joined[:chunk]
            pending, held = [joined[chunk:]], held - chunk
    if held:
        yield torch.cat(pending)


def padded(crops: torch.Tensor, micro: int, device: torch.device) -> torch.Tensor:
    """Crops on the device, filled up to ``micro``: kernels may sum in another order for another batch size."""
    filled = torch.zeros((micro, *crops.shape[1:]), dtype=torch.uint8, device=device)
    filled[: len(crops)] = crops.to(device, non_blocking=True)
    return filled


def right_answers(logits: torch.Tensor, rotations: int) -> torch.Tensor:
    """Share of right answers and mean log-likelihood of each image, shape (B, 2), of logits (B * rotations, C)."""
    targets = torch.arange(rotations, device=logits.device).repeat(len(logits) // rotations)
    correct = (logits.argmax(dim=1) == targets).to(logits.dtype)
    likelihood = logits.log_softmax(dim=1).gather(1, targets[:, None])[:, 0]
    return torch.stack([correct, likelihood], dim=1).view(-1, rotations, 2).mean(dim=1)

"""``SOLVER.AMP`` on a CPU, which Detectron2's AMPTrainer refuses."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.engine import AMPTrainer, SimpleTrainer


class CPUAMPTrainer(SimpleTrainer):
    """Trains in bf16 on a CPU: its range is that of fp32, so that losses need no scaling.

    Convolutions of bf16 are fast in oneDNN with the channels last alone; weights keep that layout.
    """

    def __init__(self, model: torch.nn.Module, data_loader: Any, optimizer: Any) -> None:
        super().__init__(model.to(memory_format=torch.channels_last), data_loader, optimizer)

    def run_step(self) -> None:
        """One iteration, see SimpleTrainer."""
        with torch.autocast("cpu", dtype=torch.bfloat16):
            super().run_step()


def trainer_type(amp: bool, device: str) -> type[SimpleTrainer]:
    """The trainer of one iteration, by SOLVER.AMP.ENABLED and MODEL.DEVICE."""
    if not amp:
        return SimpleTrainer
    return CPUAMPTrainer if torch.device(device).type == "cpu" else AMPTrainer

"""DefaultTrainer with a loader that can be sought, atomic checkpoints, and CPU processes."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from detectron2.config import CfgNode as CN
from detectron2.data import MetadataCatalog, build_detection_test_loader
from detectron2.engine import DefaultTrainer, TrainerBase, hooks
from detectron2.solver import build_optimizer
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping
from detectron2.utils import comm
from torch.nn.parallel import DistributedDataParallel

from nds_plugin.d2.data.loader import ObservedLoader, build_nds_train_loader
from nds_plugin.d2.data.mapper import NDSDatasetMapper
from nds_plugin.d2.model.checkpoint import AtomicCheckpointer
from nds_plugin.d2.model.mixed_precision import trainer_type
from nds_plugin.d2.train.evaluation import build_evaluator
from nds_plugin.d2.train.hooks import DrawMonitor, IterationSeed
from nds_plugin.errors import unknown_name

logger = logging.getLogger(__name__)

OPTIMIZERS = ("SGD", "AdamW")
Weights = npt.NDArray[np.float64]


class NDSTrainer(DefaultTrainer):
    """The trainer of both stages.

    Differs from DefaultTrainer in five ways: the loader starts at the iteration that a resumed
    run has reached; checkpoints are written atomically and name the classes; several processes
    train on CPUs too, and in mixed precision; AdamW may be chosen (``NDS.OPTIMIZER``).
    """

    def __init__(self, cfg: CN, extra_hooks: Sequence[hooks.HookBase] = ()) -> None:
        TrainerBase.__init__(self)
        cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
        self.cfg = cfg
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        loader = self.build_train_loader(cfg)
        model = _data_parallel(model)
        step = trainer_type(cfg.SOLVER.AMP.ENABLED, cfg.MODEL.DEVICE)
        self._trainer = step(model, loader, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = AtomicCheckpointer(
            model, cfg.OUTPUT_DIR, extra=_checkpoint_extra(cfg), trainer=weakref.proxy(self)
        )
        self._extra_hooks = list(extra_hooks)
        self.register_hooks(self.build_hooks())

    @classmethod
    def build_train_loader(cls, cfg: CN, start_iter: int | None = None, updates: Any = ()) -> Any:
        """See :func:`nds_plugin.d2.data.loader.build_nds_train_loader`."""
        mapper = NDSDatasetMapper(cfg, True)  # for Detectron2's own samplers, too: masks may be partial
        return build_nds_train_loader(cfg, mapper, start_iter=start_iter, updates=updates)

    @classmethod
    def build_test_loader(cls, cfg: CN, dataset_name: str) -> Any:
        """Detectron2's test loader, whose error names the image file that cannot be read."""
        return build_detection_test_loader(cfg, dataset_name, mapper=NDSDatasetMapper(cfg, False))

    @classmethod
    def build_optimizer(cls, cfg: CN, model: torch.nn.Module) -> torch.optim.Optimizer:
        """Detectron2's SGD, or AdamW on the same parameter groups."""
        if cfg.NDS.OPTIMIZER == "SGD":
            return build_optimizer(cfg, model)
        if cfg.NDS.OPTIMIZER != "AdamW":
            raise unknown_name("NDS.OPTIMIZER", cfg.NDS.OPTIMIZER, OPTIMIZERS)
        params = get_default_optimizer_params(
            model,
            base_lr=cfg.SOLVER.BASE_LR,
            weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM,
            bias_lr_factor=cfg.SOLVER.BIAS_LR_FACTOR,
            weight_decay_bias=cfg.SOLVER.WEIGHT_DECAY_BIAS,
        )
        optimizer = maybe_add_gradient_clipping(cfg, torch.optim.AdamW)
        return optimizer(params, lr=cfg.SOLVER.BASE_LR, weight_decay=cfg.SOLVER.WEIGHT_DECAY)

    @classmethod
    def build_evaluator(cls, cfg: CN, dataset_name: str, output_folder: str | None = None) -> Any:
        """See :func:`nds_plugin.d2.train.evaluation.build_evaluator`."""
        return build_evaluator(cfg, dataset_name, output_folder)

    def build_hooks(self) -> list[Any]:
        """Ours, then those given, then Detectron2's: the checkpointer saves what the others changed."""
        ours: list[Any] = []
        if self.cfg.NDS.SEED >= 0:
            ours.append(IterationSeed(self.cfg.NDS.SEED))
        loader = self._trainer.data_loader
        if isinstance(loader, ObservedLoader) and loader.selection is not None:
            ours.append(DrawMonitor(loader.selection.shares))
        return [*ours, *self._extra_hooks, *super().build_hooks()]

    def seek(self, iteration: int, updates: Sequence[tuple[int, Weights]] = ()) -> None:
        """Let the next batch be that of ``iteration``, under later changes of the weights."""
        before = self._trainer.data_loader
        if not isinstance(before, ObservedLoader):
            return  # Detectron2's own samplers cannot be sought: they start anew, as in DefaultTrainer

        def build() -> Any:
            loader = self.build_train_loader(self.cfg, start_iter=iteration, updates=updates)
            loader.dataset.unreadable = before.dataset.unreadable  # counted on
            return loader

        if hasattr(self._trainer, "reset_data_loader"):
            self._trainer.reset_data_loader(build)
        else:  # Detectron2 v0.6
            self._trainer.data_loader = build()
            self._trainer._data_loader_iter = iter(self._trainer.data_loader)


def _data_parallel(model: torch.nn.Module) -> torch.nn.Module:
    """DistributedDataParallel over GPUs or, unlike Detectron2's own, over CPU processes."""
    if comm.get_world_size() == 1:
        return model
    on_gpu = next(model.parameters()).is_cuda
    return DistributedDataParallel(
        model,
        device_ids=[comm.get_local_rank()] if on_gpu else None,
        broadcast_buffers=False,
        find_unused_parameters=True,  # a batch may hold no instance with a mask
    )


def _checkpoint_extra(cfg: CN) -> dict[str, Any]:
    """What a later fine-tuning must know about a checkpoint: the names of its classes."""
    metadata = MetadataCatalog.get(cfg.DATASETS.TRAIN[0])
    return {"thing_classes": list(metadata.get("thing_classes", []))}

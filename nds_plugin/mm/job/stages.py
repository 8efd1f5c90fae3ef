"""The training half of the main job: one training by MMEngine's Runner."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import is_main_process
from mmengine.hooks import EMAHook, Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from nds_plugin.errors import NDSError
from nds_plugin.files.checkpoints import read_checkpoint, write_checkpoint
from nds_plugin.job.training_folder import FINAL, train_once
from nds_plugin.job.transfer import transfer_checkpoint
from nds_plugin.mm.job.host import MMHost
from nds_plugin.mm.job.stage_configs import may_lack

logger = logging.getLogger(__name__)


class StartWith(Hook):
    """Lets a training that starts anew begin with other weights than the model's own initialisation."""

    priority = "VERY_HIGH"

    def __init__(self, start: Callable[[Any], None]) -> None:
        self._start = start

    def before_train(self, runner: Any) -> None:
        """The model is initialised, and nothing is trained."""
        if runner.iter == 0:
            self._start(runner.model)


def train(
    cfg: Config,
    key: str,
    classes: Sequence[str],
    *,
    launcher: str,
    resume: bool,
    timed: Callable[[str], Any],
    initialise: Callable[[Any], None] | None = None,
    extra_hooks: Sequence[Hook] = (),
) -> Path:
    """Train one stage unless it is finished; go on from its last checkpoint where it was interrupted.

    Args:
        cfg: the stage's config.
        key: hash of everything the result depends on.
        classes: that the model tells; kept beside the weights.
        launcher: of the processes, as MMEngine calls it.
        resume: go on from a checkpoint that another config left, too.
        timed: context manager by the name of a step.
        initialise: called with the model where the training starts anew.
        extra_hooks: hooks beside the config's.

    Returns:
        The path of the final weights.
    """
    folder = Path(cfg.work_dir)

    def work(go_on: bool) -> None:
        with timed(folder.name):
            init_default_scope("mmdet")
            runner = Runner.from_cfg(_for_runner(cfg, launcher, go_on, folder))
            for hook in (*extra_hooks, *([StartWith(initialise)] if initialise else [])):
                runner.register_hook(hook)
            runner.train()
            if is_main_process():
                write_weights(folder / FINAL, final_state(runner), classes)

    return train_once(
        MMHost(), folder, key, work, resume=resume, config=cfg.pretty_text, iterations=cfg.train_cfg.max_iters
    )


def _for_runner(cfg: Config, launcher: str, go_on: bool, folder: Path) -> Config:
    found = copy.deepcopy(cfg)
    found.launcher, found.resume = launcher, go_on
    if go_on:
        found.load_from = None
    # MMEngine keeps one log and one visualizer of a name in a process, and a job has two trainings.
    found.experiment_name = str(folder)
    if isinstance(found.get("visualizer"), Mapping):
        found.visualizer.name = found.experiment_name
    if launcher != "none":
        gpu = torch.cuda.is_available()
        wrapper = {
            "type": "MMDistributedDataParallel",
            "find_unused_parameters": True,
            "broadcast_buffers": False,
        }
        found.model_wrapper_cfg = wrapper if gpu else {**wrapper, "device_ids": None}
    return found


def final_state(runner: Any) -> dict[str, torch.Tensor]:
    """The weights that a training ends with: those of the average, where an EMAHook keeps one."""
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    checkpoint = {"state_dict": dict(model.state_dict())}
    for hook in runner.hooks:
        if isinstance(hook, EMAHook):
            hook.before_save_checkpoint(runner, checkpoint)
    return {name: value.detach().cpu() for name, value in checkpoint["state_dict"].items()}


def write_weights(path: Path, state: Mapping[str, torch.Tensor], classes: Sequence[str]) -> None:
    """Write weights as a checkpoint of MMDetection, with the names of the classes."""
    write_checkpoint(path, {"state_dict": dict(state), "meta": {"dataset_meta": {"classes": list(classes)}}})


def transfer_into(
    work_dir: Path,
    pretrained: Path,
    classes: Sequence[str],
    *,
    masks: bool,
    loose: bool,
    require_shared: bool,
) -> Callable[[Any], None]:
    """How fine-tuning starts: everything that fits, class-specific rows by name; reported in transfer.json.

    Args:
        work_dir: of fine-tuning. pretrained: the weights. classes: of the target.
        masks: whether pretraining had a mask head.
        loose, require_shared: see :func:`~nds_plugin.job.transfer.transfer_checkpoint`.
    """

    def initialise(model: Any) -> None:
        inner = model.module if is_model_wrapper(model) else model
        report = transfer_checkpoint(
            inner,
            str(pretrained),
            classes,
            allow_missing=may_lack(masks),
            loose=loose,
            require_shared=require_shared,
        )
        if is_main_process():
            report.save(work_dir)

    return initialise


def model_with(cfg: Config, weights: Path) -> torch.nn.Module:
    """The model of a stage's config with trained weights, on this process's device.

    Raises:
        NDSError: they are of another model.
    """
    init_default_scope("mmdet")
    model_cfg = copy.deepcopy(cfg.model)
    model_cfg.backbone.init_cfg = None
    model: torch.nn.Module = MODELS.build(model_cfg)
    state = read_checkpoint(weights)
    try:
        model.load_state_dict(state.get("state_dict", state))
    except RuntimeError as error:
        raise NDSError(
            f"{weights} holds other weights than those of the config's detector "
            f"({' '.join(str(error).split())[:200]}): evaluate weights that were trained with this model config."
        ) from None
    return model.to(get_device())

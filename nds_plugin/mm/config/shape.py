"""What a config must have, and may have, to be a job's."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner

from nds_plugin.errors import NDSError, unknown_name

SCOPE = "mmdet"
# What a Runner looks for in its config, beside its arguments.
_READ_BY_RUNNER = ("sync_bn", "activation_checkpointing", "efficient_conv_bn_eval", "compile")


def check_parts(cfg: Config, names: Iterable[str], kind: str, also: Iterable[str] = ()) -> None:
    """See that parts are ones that the config has or a Runner takes: MMEngine would add any other.

    Args:
        names: of the parts. kind: of what they are, for messages.
        also: further names that can be.

    Raises:
        NDSError: another name.
    """
    known = {*cfg.keys(), *inspect.signature(Runner.__init__).parameters, *_READ_BY_RUNNER, *also} - {"self"}
    for name in names:
        if name not in known:
            raise unknown_name(kind, name, sorted(known))


def check_shape(cfg: Config, where: str) -> None:
    """See that the parts which a job reads are there, of the kind that it expects.

    Args:
        cfg: of one training. where: the config, for messages.

    Raises:
        NDSError: they are not.
    """
    scope = cfg.get("default_scope")
    if scope != SCOPE:
        raise NDSError(
            f"{where}: default_scope is {scope!r}, under which MMEngine does not find MMDetection's models: set "
            f"default_scope = '{SCOPE}'."
        )
    needed = ("model", "optim_wrapper", "train_cfg", "train_dataloader", "test_dataloader")
    missing = [key for key in needed if not cfg.get(key)]
    if missing:
        raise NDSError(
            f"{where} lacks {', '.join(missing)}: see configs/mmdetection/_base_/ for what a job needs."
        )
    for key in needed:
        if not isinstance(cfg[key], Mapping):
            raise NDSError(f"{where}: {key} must be dict(...), got {cfg[key]!r}.")
    for key in ("train_dataloader", "test_dataloader"):
        _check_loader(cfg[key], key, where)
    iterations = cfg.train_cfg.get("max_iters")
    if type(iterations) is not int or iterations < 1:
        raise NDSError(
            f"{where}: train_cfg must have max_iters of 1 or more, got {iterations!r}: a draw has no epochs."
        )


def _check_loader(loader: Mapping[str, Any], key: str, where: str) -> None:
    dataset = loader.get("dataset")
    if isinstance(dataset, Mapping) and ("dataset" in dataset or "datasets" in dataset):
        raise NDSError(
            f"{where}: {key}.dataset is {dataset.get('type')} around other datasets, which the job does not take over: replace it "
            "by dataset=dict(_delete_=True, pipeline=[...]), the steps of one image; which images, nds.target says."
        )
    steps = dataset.get("pipeline") if isinstance(dataset, Mapping) else None
    if not isinstance(steps, (list, tuple)) or not steps:
        raise NDSError(
            f"{where}: {key} must have dataset=dict(pipeline=[...]); which images, nds.target says."
        )
    for step in steps:
        if not isinstance(step, Mapping) or "type" not in step:
            raise NDSError(f"{where}: {key}.dataset.pipeline has {step!r}, expected dict(type=..., ...).")
    workers = loader.get("num_workers", 0)
    if type(workers) is not int or workers < 0:
        raise NDSError(f"{where}: {key}.num_workers must be a whole number of 0 or more, got {workers!r}.")

"""The numbers that the tables need, and the results file of a run."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from nds_plugin.errors import NDSError
from nds_plugin.files.artifacts import content_hash, plain, write_json
from nds_plugin.job.training_folder import training_times
from nds_plugin.store.parts import usable_cores

KIND = "results"
_MODULES = ("torch", "torchvision", "numpy", "pycocotools", "nds_plugin")


def summarise(results: Mapping[str, Any], classes: Sequence[str] = ()) -> dict[str, Any]:
    """The numbers of the tables from the results of an evaluation on one dataset, in the form of Detectron2's evaluators.

    Args:
        results: ``{"bbox": {"AP": ..., "AP-person": ...}, "segm": {...}}``, in percent.
        classes: the dataset's classes; needed for one with a single class, for which Detectron2
            leaves out the AP per category.

    Returns:
        ``AP_bb``, ``AP50_bb`` of boxes, ``AP``, ``AP50`` of masks, and ``per_category`` (masks) and
        ``per_category_bb`` as ``{class: AP}``. What was not computed (NaN, no masks) is None. A
        detector that found nothing at all, for which Detectron2 gives NaN alone, has an AP of 0.
    """
    boxes, masks = _metrics(results, "bbox"), _metrics(results, "segm")
    if not any(value is not None for metrics in (boxes, masks) for value in metrics.values()):
        zeros = dict.fromkeys(("AP", "AP50", *(f"AP-{name}" for name in classes)), 0.0)
        boxes, masks = (dict(zeros) if metrics else {} for metrics in (boxes, masks))
    return {
        "AP_bb": boxes.get("AP"),
        "AP50_bb": boxes.get("AP50"),
        "AP": masks.get("AP"),
        "AP50": masks.get("AP50"),
        "per_category": _per_category(masks, classes),
        "per_category_bb": _per_category(boxes, classes),
    }


def write_results(
    path: str | os.PathLike[str],
    results: Mapping[str, Any],
    config: str,
    seed: int,
    times: Mapping[str, float],
    classes: Sequence[str] = (),
    key: str | None = None,
    extra: Mapping[str, Any] | None = None,
    frameworks: Sequence[str] = (),
) -> dict[str, Any]:
    """Write the one JSON file of a run (artefact kind "results").

    Args:
        results: of the evaluation on one dataset; kept whole beside the summary.
        config: the config that was trained with, as text.
        times: name of a step -> seconds; those of trainings that an earlier start finished are added.
        classes: see :func:`summarise`.
        key: the artefact's key; by default the hash of config and seed.
        extra: further JSON-able entries; NaN and infinities become None.
        frameworks: modules whose versions are kept beside those that every run has.

    Returns:
        What was written, without the header.
    """
    selects = bool((extra or {}).get("selection"))
    payload = {
        "seed": seed,
        "summary": summarise(results, classes),
        "results": plain(results),
        **circumstances(Path(path).parent, times, frameworks, pretrains=selects),
        **plain(extra or {}),
        "config": config,
    }
    write_json(path, KIND, content_hash([config, seed]) if key is None else key, payload)
    return payload


def circumstances(
    run: Path, times: Mapping[str, float], frameworks: Sequence[str] = (), *, pretrains: bool
) -> dict[str, Any]:
    """What every results file says of how it came about: times, versions, machine.

    Args:
        run: the folder of the run, with those of its trainings: their seconds are those that they keep themselves.
        times: name of another step -> seconds.
        frameworks: see :func:`versions`.
        pretrains: whether there is a pretraining.
    """
    stages = ("pretrain", "finetune") if pretrains else ("finetune",)
    trained, in_parts = training_times(run / stage for stage in stages)
    return {
        "times": plain({**times, **trained}),
        "trained_in_parts": in_parts,
        "versions": versions(frameworks),
        "machine": machine(),
    }


def versions(frameworks: Sequence[str] = ()) -> dict[str, str]:
    """Versions of what a result depends on; "" for what is not installed."""
    found = {"python": platform.python_version()}
    for name in (*frameworks, *_MODULES):
        try:
            found[name] = str(getattr(importlib.import_module(name), "__version__", "")) or _distribution(
                name
            )
        except ImportError:
            found[name] = ""
    return found


def machine() -> dict[str, Any]:
    """Processor, usable cores, GPUs and system of this machine."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"cpu": _cpu_name(), "cores": usable_cores(), "gpus": gpus, "system": platform.platform()}


def _metrics(results: Mapping[str, Any], task: str) -> dict[str, Any]:
    metrics = results.get(task) or {}
    if not isinstance(metrics, Mapping):
        raise NDSError(
            f"expected the results of one dataset, {{'bbox': {{...}}, 'segm': {{...}}}}, got {metrics!r} "
            f"for {task!r}."
        )
    return dict(plain(metrics))


def _per_category(metrics: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    if len(classes) == 1 and "AP" in metrics:
        return {classes[0]: metrics["AP"]}
    return {name[len("AP-") :]: value for name, value in metrics.items() if name.startswith("AP-")}


def _distribution(module: str) -> str:
    try:
        return importlib.metadata.version(module)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()

"""Experts in the form that the paper authors' client reads (see :mod:`nds_plugin.service.fastadapt.scores`)."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from tqdm import tqdm

from nds_plugin.errors import NDSError
from nds_plugin.experts.expert_set import ExpertSet
from nds_plugin.experts.manifest import HEAD, ROTATIONS
from nds_plugin.experts.tasks import RotationTask
from nds_plugin.files.artifacts import atomic_write, check_writable
from nds_plugin.files.temporary import is_temporary, remove_leftovers
from nds_plugin.service.fastadapt.scores import expert_name

FOLDER = "fastadapt"  # below a folder of experts, where publishing finds it


def export_fastadapt(
    experts: ExpertSet, folder: str | os.PathLike[str], *, progress: bool = True
) -> list[Path]:
    """Write each expert as ``torch.save({"network": state_dict})``, in the format before torch 1.6.

    Nothing else goes into the folder: the authors' client takes every file in it for an expert. The shared
    network is left out, since it is no expert.

    Args:
        experts: experts of the rotation task.
        folder: new, empty, or holding files of this set alone.
        progress: show a progress bar if on a terminal.

    Returns:
        The files, by cluster.

    Raises:
        NDSError: head experts, experts of another task, an expert file that is not in order, or other files in the folder.
    """
    if experts.kind == HEAD:
        raise NDSError(
            f"{experts.directory}: its experts are heads on one {experts.manifest['arch']}; the authors' client runs a "
            "ResNet-18 per expert and cannot run heads: train experts of kind 'network' for it."
        )
    if experts.task != RotationTask.name or len(experts.manifest["classes"]) != ROTATIONS:
        raise NDSError(
            f"{experts.directory}: experts of task {experts.task!r} with {len(experts.manifest['classes'])} outputs; "
            "the authors' client knows only rotation experts with 4 outputs."
        )
    folder = Path(folder)
    names = {cluster: expert_name(experts.hash, cluster) for cluster in experts.clusters}
    check_writable(folder)
    remove_leftovers(folder)
    others = sorted({entry.name for entry in folder.iterdir()} - set(names.values()))
    if others and is_temporary(others[0]):
        raise NDSError(
            f"{folder} holds {others[0]}, which another process is writing, or left on another machine or before a "
            "restart of this one: let that export end; if there is none, remove the file."
        )
    if others:
        raise NDSError(
            f"{folder} holds other files, first {others[0]}: give a new folder, since the authors' client takes "
            "every file in it for an expert."
        )
    for cluster, name in tqdm(
        names.items(), desc="exporting", unit="expert", disable=None if progress else True
    ):
        with atomic_write(folder / name) as file:
            # torch of 2019 does not read the zip format; today's reads both, also with weights_only.
            state = experts.load_model(cluster).state_dict()
            torch.save({"network": state}, file, _use_new_zipfile_serialization=False)
    return [folder / name for name in names.values()]

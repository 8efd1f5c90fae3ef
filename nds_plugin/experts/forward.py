"""The forward passes of all experts of a set over a list of images; each image is decoded once.

The passes always take batches of one fixed size, the last one padded, so that the results depend neither on the
loader nor on how the images are cut into shards.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from nds_plugin.experts.expert_set import ExpertSet
from nds_plugin.experts.head_scoring import forward_heads
from nds_plugin.experts.manifest import HEAD, ROTATIONS
from nds_plugin.experts.passes import SHARED, Pass, Reading, chunks, micro_batch, padded, right_answers
from nds_plugin.experts.settings import ScoringConfig
from nds_plugin.experts.tasks import rotations
from nds_plugin.images.networks import (
    InferenceNetwork,
    normalise,
    precision_name,
    repeatable,
    resolve_precision,
)

MEGABYTE = 1 << 20


@dataclass(frozen=True)
class Forward:
    """How the passes are computed.

    Attributes:
        directory: of the expert set.
        config: precision, memory, loader.
        device: to compute on.
    """

    directory: Path
    config: ScoringConfig
    device: str

    def _dtype(self, experts: ExpertSet) -> torch.dtype:
        """The number format; of the backbone under heads float32, in which they were fitted, unless asked for."""
        wanted = self.config.precision
        if experts.kind == HEAD and wanted == "auto":
            wanted = "fp32"
        return resolve_precision(wanted, torch.device(self.device))

    def run(self, paths: list[str], *, experts: ExpertSet | None = None, progress: bool = True) -> Pass:
        """What the passes over some images leave.

        Args:
            paths: the images.
            experts: the set of ``directory`` where it is loaded.
            progress: show a progress bar if on a terminal.

        Raises:
            NDSError: an expert file that is not in order.
        """
        experts = experts or ExpertSet.load(self.directory)
        device, dtype = torch.device(self.device), self._dtype(experts)
        with torch.inference_mode(), repeatable():
            if experts.kind == HEAD:
                how = (self.config.batch_size, self.config.num_workers)
                result = forward_heads(experts, paths, how, device, dtype, progress=progress)
            else:
                result = _forward_all(experts, paths, self.config, device, dtype, progress)
        result.precision = precision_name(dtype)
        return result


def _forward_all(
    experts: ExpertSet,
    paths: list[str],
    config: ScoringConfig,
    device: torch.device,
    dtype: torch.dtype,
    progress: bool,
) -> Pass:
    names = [*experts.clusters, *[SHARED] * experts.has_shared]
    groups = _groups(names, config.resident_mb * MEGABYTE, dtype)
    micro = micro_batch(device)
    crop_bytes = 3 * experts.crop_size**2
    chunk = (
        micro if len(groups) == 1 else max(micro, config.crops_mb * MEGABYTE // crop_bytes // micro * micro)
    )
    result = Pass(outputs={name: [] for name in names})
    resident: dict[int, InferenceNetwork] = {}
    with tqdm(
        total=len(paths) * len(names), desc="scoring", unit="pass", disable=None if progress else True
    ) as bar:
        reading = Reading(paths, experts.crop_size, "bilinear", config.batch_size, config.num_workers)
        for crops in chunks(reading, device, chunk, result):
            for group in groups:
                if resident.keys() != set(group):
                    resident.clear()  # before loading, so that two groups are never held at once
                    resident.update({name: _network(experts, name, device, dtype) for name in group})
                for batch in crops.split(micro):
                    _forward_batch(batch, micro, resident, experts, device, result.outputs)
                    bar.update(len(batch) * len(group))
    return result


def _groups(names: list[int], limit: int, dtype: torch.dtype) -> list[list[int]]:
    size = 11_200_000 * torch.empty(0, dtype=dtype).element_size()  # weights of a ResNet-18
    count = max(1, limit // size)
    return [names[i : i + count] for i in range(0, len(names), count)]


def _network(experts: ExpertSet, name: int, device: torch.device, dtype: torch.dtype) -> InferenceNetwork:
    network = experts.load_shared() if name == SHARED else experts.load_model(name)
    return InferenceNetwork(network, dtype).to(device)


def _forward_batch(
    crops: torch.Tensor,
    micro: int,
    networks: dict[int, InferenceNetwork],
    experts: ExpertSet,
    device: torch.device,
    outputs: dict[int, list[torch.Tensor]],
) -> None:
    real, batch = len(crops), padded(crops, micro, device)
    mean, std = tuple(experts.manifest["mean"]), tuple(experts.manifest["std"])
    if experts.task == "supervised":
        inputs = normalise(batch, mean, std)
        for name, network in networks.items():
            outputs[name].append(network.features(inputs)[:real].cpu())
        return
    inputs = normalise(rotations(batch), mean, std)
    for name, network in networks.items():
        outputs[name].append(right_answers(network(inputs), ROTATIONS)[:real])

"""Scoring head experts: four forward passes of one backbone an image, and all heads on its features."""

from __future__ import annotations

import torch
from tqdm import tqdm

from nds_plugin.errors import NDSError
from nds_plugin.experts.expert_set import ExpertSet
from nds_plugin.experts.heads import FourRotations, Heads
from nds_plugin.experts.manifest import ROTATIONS
from nds_plugin.experts.passes import SHARED, Pass, Reading, chunks, micro_batch, padded, right_answers
from nds_plugin.images.folding import folded


def forward_heads(
    experts: ExpertSet,
    paths: list[str],
    loader: tuple[int, int],
    device: torch.device,
    dtype: torch.dtype,
    *,
    progress: bool = True,
) -> Pass:
    """Share of right answers and log-likelihood of each image, by cluster and for the shared head.

    Args:
        experts: a set of heads.
        paths: the images.
        loader: batch size and number of workers; they change nothing but the time.
        device: to compute on.
        dtype: of the backbone.
        progress: show a progress bar if on a terminal.

    Raises:
        NDSError: a file of the set is not in order, or backbone and heads do not belong together.
    """
    heads, network = experts.load_heads().to(device), experts.load_backbone()
    found, expected = network.dimension(experts.crop_size), heads.weight.shape[2]
    if found != expected:
        raise NDSError(
            f"{experts.directory}: its heads take {expected} features, its backbone gives {found}: train it again."
        )
    backbone = (
        FourRotations(folded(network, experts.crop_size)).to(device).to(memory_format=torch.channels_last)
    )
    reading = Reading(paths, experts.crop_size, network.interpolation, *loader)
    result = Pass(outputs={name: [] for name in [*experts.clusters, SHARED]})
    micro = micro_batch(device)
    with tqdm(total=len(paths), desc="scoring", unit="image", disable=None if progress else True) as bar:
        for crops in chunks(reading, device, micro, result):
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                features = backbone(padded(crops, micro, device))
            turned = features.float().view(micro * ROTATIONS, expected)
            for name, answers in _answers(heads, experts.clusters, turned).items():
                result.outputs[name].append(answers[: len(crops)])
            bar.update(len(crops))
    return result


def _answers(heads: Heads, clusters: list[int], features: torch.Tensor) -> dict[int, torch.Tensor]:
    """Per cluster, and for the shared head, (B, 2) of features (4 B, D)."""
    positions: list[tuple[int, int | None]] = [(cluster, k) for k, cluster in enumerate(clusters)]
    return {
        name: right_answers(heads.logits(features, head), ROTATIONS)
        for name, head in [*positions, (SHARED, None)]
    }

"""ResNets as Detectron2 builds and names them, and as Caffe2's files name them."""

from __future__ import annotations

from typing import Any

import pytest
import torch


def detectron2_resnet(depth: int, msra: bool) -> tuple[torch.nn.Module, Any]:
    """Detectron2's own ResNet with frozen batch norm, its config, and its pooled last stage."""
    config = pytest.importorskip("detectron2.config", reason="detectron2 is not installed").get_cfg()
    from detectron2.modeling.backbone.resnet import build_resnet_backbone

    config.MODEL.RESNETS.DEPTH = depth
    config.MODEL.RESNETS.STRIDE_IN_1X1 = msra
    config.MODEL.RESNETS.OUT_FEATURES = ["res5"]
    if depth < 50:
        config.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    torch.manual_seed(0)
    from detectron2.layers import ShapeSpec

    network = build_resnet_backbone(config, ShapeSpec(channels=3)).eval()
    for name, buffer in network.named_buffers():
        if name.endswith("norm.weight"):
            buffer.uniform_(0.2, 0.6)
        elif name.endswith("norm.bias"):
            buffer.normal_(0, 0.1)
    return network, config


def to_caffe2(state: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Names as in MSRA's ResNets: scale and shift only."""
    renamed = {}
    for name, value in state.items():
        if "running" in name:
            continue
        name = name.replace("stem.conv1.norm.", "res_conv1_bn_").replace("stem.conv1.", "conv1_")
        for ours, theirs in (("shortcut", "1"), ("conv1.", "2a."), ("conv2", "2b"), ("conv3", "2c")):
            if name.startswith("res") and "res_conv1" not in name:
                name = name.replace(f".{ours}", f"_branch{theirs}")
        norm = "norm" in name or "_bn_" in name
        name = name.replace(".norm.", "_bn_").replace("weight", "s" if norm else "w").replace("bias", "b")
        renamed[name.replace(".", "_")] = value.numpy()
    return renamed

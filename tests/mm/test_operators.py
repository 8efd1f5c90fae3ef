"""Torchvision's operators in the place of MMCV's, and what is said where packages are missing."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from killing import ROOT
from tiny_mmdet import use_torchvision_operators  # skips where MMDetection is missing

from nds_plugin.errors import NDSError
from nds_plugin.mm.operators import is_active


def boxes(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 20
    return torch.cat([corner, corner + 2 + torch.rand(count, 2, generator=generator) * 20], dim=1)


def kept_by_definition(boxes: torch.Tensor, scores: torch.Tensor, threshold: float, offset: int) -> list[int]:
    """Greedy suppression, box by box."""
    kept: list[int] = []
    for i in scores.argsort(descending=True).tolist():
        for j in kept:
            low, high = torch.maximum(boxes[i, :2], boxes[j, :2]), torch.minimum(boxes[i, 2:], boxes[j, 2:])
            common = (high - low + offset).clamp(min=0).prod()
            areas = [(boxes[k, 2:] - boxes[k, :2] + offset).prod() for k in (i, j)]
            if common / (sum(areas) - common) > threshold:
                break
        else:
            kept.append(i)
    return kept


@pytest.mark.parametrize("offset", [0, 1])
def test_nms_keeps_what_the_definition_keeps(offset: int) -> None:
    from mmcv.ops import nms

    candidates, scores = boxes(80), torch.rand(80, generator=torch.Generator().manual_seed(1))
    _, kept = nms(candidates, scores, 0.4, offset=offset)
    assert kept.tolist() == kept_by_definition(candidates, scores, 0.4, offset)


@pytest.mark.parametrize("aligned", [True, False])
def test_roi_align_and_its_gradient_are_those_of_torchvision(aligned: bool) -> None:
    from mmcv.ops import RoIAlign
    from torchvision.ops import roi_align

    features = torch.rand(2, 3, 12, 14, generator=torch.Generator().manual_seed(2))
    rois = torch.cat([torch.tensor([[0.0], [1.0], [1.0]]), boxes(3)], dim=1)
    pooled, gradients = [], []
    for pool in (
        RoIAlign((3, 4), 0.5, 2, aligned=aligned),
        lambda x, r: roi_align(x, r, (3, 4), 0.5, 2, aligned=aligned),
    ):
        own = features.clone().requires_grad_()
        pooled.append(pool(own, rois))
        pooled[-1].square().sum().backward()
        gradients.append(own.grad)
    assert torch.equal(*pooled)
    assert torch.equal(*gradients)
    assert gradients[0].abs().sum() > 0


def test_what_torchvision_does_not_have_raises_when_it_is_called() -> None:
    if not use_torchvision_operators():
        pytest.skip("mmcv has operators of its own")
    from mmcv.ops import RoIAlign, RoIPool

    features, rois = torch.rand(1, 1, 8, 8), torch.tensor([[0.0, 1, 1, 5, 5]])
    with pytest.raises(NDSError, match="the operator roi_pool_forward of mmcv is not there"):
        RoIPool(2)(features, rois)
    with pytest.raises(NDSError, match="pool_mode 'max' is not in torchvision"):
        RoIAlign(2, pool_mode="max")(features, rois)
    assert is_active()


def told(code: str) -> str:
    """The last line that a process of its own prints."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


REQUIRE = """
import sys

def told():
    try:
        mm.require_mmdet()
    except Exception as error:
        return f"{type(error).__name__} {error}"

import nds_plugin.mm as mm
assert "mmdet" not in sys.modules and "mmcv" not in sys.modules
without_operators = told()
active = mm.use_torchvision_operators()
sys.modules["mmdet"] = None
print(f"{active}|{without_operators}|{told()}")
"""


@pytest.mark.slow
def test_missing_packages_and_operators_are_told_in_one_line_with_what_to_do() -> None:
    without = told(
        "import sys; sys.modules['mmengine'] = None\ntry: import nds_plugin.mm\nexcept Exception as e: print(e)"
    )
    assert without.startswith(
        "nds_plugin.mm needs the package mmengine, which is not installed: python -m pip install"
    )
    active, operators, package = told(REQUIRE).split("|")
    assert "MissingPackageError the MMDetection side of nds_plugin needs the package mmdet" in package
    if active == "True":
        assert "is installed without its compiled operators" in operators
        assert "use_torchvision_operators" in operators

"""Which detectors of MMDetection fine-tuning can take over, tried before anything is trained."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_mmdet import mask_rcnn  # skips where MMDetection is not installed

# isort: split
from mm_jobs import write_config
from mmengine.config import Config

from nds_plugin.errors import NDSError
from nds_plugin.mm.config.loading import load_config
from nds_plugin.mm.job.checks import check_source
from nds_plugin.mm.job.host import MMHost
from nds_plugin.mm.job.transferable import check_transfer

ONE, OTHER, MORE = ("car", "person"), ("person", "lamp"), ("person", "lamp", "car")
CUSTOM = {"type": "CrossEntropyCustomLoss", "use_sigmoid": False}  # knows its number of classes
NOWHERE = {"type": "Pretrained", "checkpoint": "https://nowhere.invalid/weights.pth"}
SWIN = {
    "type": "SwinTransformer", "embed_dims": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 1, 1], "window_size": 3,
    "init_cfg": NOWHERE,
}  # fmt: skip


def detector(**head: Any) -> Config:
    """The narrow Mask R-CNN with other keys in parts of its RoI head."""
    model = mask_rcnn(2)
    for name, changes in head.items():
        model["roi_head"].setdefault(name, {}).update(changes)
    return Config({"model": model}, format_python_code=False)


def test_a_backbone_that_reads_numbers_while_it_is_made_is_taken_and_its_weights_are_not_loaded() -> None:
    cfg = detector()
    cfg.model.backbone = SWIN
    cfg.model.neck.in_channels = [8, 16, 32, 64]
    state = torch.random.get_rng_state()
    check_transfer(cfg, cfg, ONE, MORE)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("target", [OTHER, MORE])
def test_a_loss_that_knows_its_number_of_classes_is_tried_with_that_of_its_stage(
    target: tuple[str, ...],
) -> None:
    before, after = (
        detector(bbox_head={"loss_cls": {**CUSTOM, "num_classes": len(n)}}) for n in (ONE, target)
    )
    check_transfer(before, after, ONE, target)
    with pytest.raises(NDSError, match="nds.pretrain.model cannot be built: AssertionError$"):
        check_transfer(before, after, ("car",), target)


@pytest.mark.parametrize("kind", ["MaskScoring", "PointRend"])
def test_heads_of_which_no_class_names_are_known_need_the_same_classes(kind: str) -> None:
    name, layer = (
        ("mask_iou_head", "MaskIoUHead") if kind == "MaskScoring" else ("point_head", "MaskPointHead")
    )
    cfg = detector(**{name: {"type": layer, "num_classes": 80}})
    cfg.model.roi_head.type = f"{kind}RoIHead"
    knows = copy.deepcopy(cfg)
    knows.model.roi_head.bbox_head.loss_cls = {**CUSTOM, "num_classes": 2}
    for model, target in ((cfg, OTHER), (cfg, MORE), (knows, OTHER)):
        with pytest.raises(NDSError, match=f"cannot take over .*roi_head.{name}.*is {kind}RoIHead"):
            check_transfer(model, model, ONE, target)
    check_transfer(cfg, cfg, ONE, ONE)


def test_parts_of_other_classes_than_the_objects_are_refused() -> None:
    cfg = detector(semantic_head={"type": "FusedSemanticHead", "num_classes": 183})
    with pytest.raises(NDSError, match="nds.pretrain.model.roi_head.semantic_head has classes of its own"):
        check_transfer(cfg, cfg, ONE, ONE)


def test_a_layer_that_may_have_rows_per_class_is_refused_where_the_number_of_classes_cannot_be_varied() -> (
    None
):
    coarse = {"type": "CoarseMaskHead", "num_fcs": 1, "fc_out_channels": 8}
    cfg = detector(bbox_head={"loss_cls": {**CUSTOM, "num_classes": 2}}, mask_head=coarse)
    with pytest.raises(NDSError, match="roi_head.mask_head.fc_logits.weight.* may have rows per class"):
        check_transfer(cfg, cfg, ONE, OTHER)
    check_transfer(cfg, cfg, ONE, ONE)


def test_stages_whose_models_cannot_be_built_or_are_not_alike_are_refused() -> None:
    cfg = detector()
    wrong, other = copy.deepcopy(cfg), copy.deepcopy(cfg)
    wrong.model.roi_head.bbox_head.num_shared_fcs = 1
    other.model.neck.out_channels = 8
    with pytest.raises(NDSError, match="nds.pretrain.model cannot be built: TypeError: "):
        check_transfer(wrong, cfg, ONE, OTHER)
    with pytest.raises(NDSError, match="cannot take over the pretrained detector: .*neck"):
        check_transfer(other, cfg, ONE, OTHER)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_mmdetections_own_configs_are_taken_and_refused_by_their_heads() -> None:
    import mmdet

    def transferred(name: str) -> None:
        cfg = Config.fromfile(f"{Path(mmdet.__file__).parent}/.mim/configs/{name}")
        check_transfer(cfg, cfg, ONE, OTHER)

    transferred("cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py")
    with pytest.raises(NDSError, match="cannot take over .*fc_cls.*model.roi_head is SparseRoIHead"):
        transferred("sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco.py")


def test_a_job_tries_it_with_the_classes_of_its_source_and_target(
    tiny_datasets: Path, tmp_path: Path
) -> None:
    path = write_config(tmp_path / "tiny.py", tiny_datasets)

    def check(options: dict[str, Any]) -> None:
        job = load_config(str(path), options, str(tmp_path / "run"))
        check_source(job, MMHost(job.nds.DATASETS))

    check({})
    with pytest.raises(NDSError, match="cannot take over the pretrained detector: .*neck"):
        check({"nds.pretrain.model.neck.out_channels": 8})

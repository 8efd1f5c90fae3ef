"""Laws of mixed supervision in MMDetection, and of the evaluation beside Detectron2's."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tiny_mmdet import mask_rcnn  # skips where MMDetection is not installed

# isort: split
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData

from nds_plugin.mm.model.mixed import NDSLoadAnnotations

SIDE = 64


def model(**head: Any) -> Any:
    cfg = mask_rcnn(3)
    cfg["roi_head"].update({"type": "NDSRoIHead", **head})
    torch.manual_seed(0)
    return MODELS.build(ConfigDict(cfg)).train()


def sample(label: int, space: int, mask: bool) -> DetDataSample:
    found = DetDataSample(
        metainfo={
            "img_shape": (SIDE, SIDE),
            "batch_input_shape": (SIDE, SIDE),
            "pad_shape": (SIDE, SIDE),
            "label_space": space,
        }
    )
    masks = np.zeros((1, SIDE, SIDE), np.uint8)
    if mask:
        masks[0, 8:48, 8:48] = 1
    instances = {"bboxes": torch.tensor([[8.0, 8, 48, 48]]), "labels": torch.tensor([label])}
    found.gt_instances = InstanceData(**instances, masks=BitmapMasks(masks, SIDE, SIDE))
    found.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
    return found


def losses(net: Any, samples: list[DetDataSample]) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    images = torch.rand(len(samples), 3, SIDE, SIDE)
    found = net.loss(images, samples)
    return {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}


def test_without_label_spaces_and_with_all_masks_the_losses_are_the_stock_ones() -> None:
    samples = [sample(0, 0, True), sample(1, 0, True)]
    ours, stock = losses(model(), samples), losses(model(type="StandardRoIHead"), samples)
    assert ours.keys() == stock.keys()
    assert all(torch.equal(ours[name], stock[name]) for name in stock)


def test_classes_that_an_images_source_does_not_label_get_no_gradient() -> None:
    net = model(label_spaces=[[0, 1], [2]])
    losses(net, [sample(0, 0, True), sample(1, 0, True)])["loss_cls"].backward()
    gradient = net.roi_head.bbox_head.fc_cls.weight.grad
    assert gradient[2].abs().sum() == 0
    assert all(gradient[row].abs().sum() > 0 for row in (0, 1, 3))


def test_an_object_without_a_mask_is_learnt_by_its_box_alone() -> None:
    net = model()
    found = losses(net, [sample(0, 0, False)])
    found["loss_mask"].backward(retain_graph=True)
    assert net.roi_head.mask_head.conv_logits.weight.grad.abs().sum() == 0
    assert found["loss_bbox"] > 0
    both = losses(model(), [sample(0, 0, True), sample(1, 0, False)])["loss_mask"]
    assert torch.isfinite(both)
    assert both > 0


@pytest.mark.parametrize("poly2mask", [True, False])
def test_loading_gives_an_object_without_a_mask_an_empty_one_that_is_not_ignored(poly2mask: bool) -> None:
    instances = [{"bbox": [0, 0, 9, 9], "bbox_label": 0, "ignore_flag": 0} for _ in range(2)]
    instances[1]["mask"] = [[0.0, 0, 9, 0, 9, 9, 0, 9]]
    load = NDSLoadAnnotations(with_bbox=True, with_mask=True, poly2mask=poly2mask)
    found = load(
        {"instances": instances, "img_shape": (12, 12), "height": 12, "width": 12, "ori_shape": (12, 12)}
    )
    assert found["gt_ignore_flags"].tolist() == [False, False]
    assert (np.asarray(found["gt_masks"].areas) > 0).tolist() == [False, True]


def test_the_average_precision_is_that_of_detectron2s_evaluator(tiny_datasets: Any, tmp_path: Any) -> None:
    from detectron2.config import get_cfg
    from detectron2.structures import Boxes, Instances
    from mm_jobs import own_files

    from nds_plugin.d2 import add_nds_config
    from nds_plugin.d2.data.registration import dataset_dicts
    from nds_plugin.d2.train.evaluation import build_evaluator
    from nds_plugin.mm.job.evaluation import DetectionResults, coco_results, truth_file
    from nds_plugin.mm.job.host import MMHost

    name = "tiny_city_val"
    dataset = MMHost(own_files(tiny_datasets)).dataset(name)
    ids = dataset.view().store.category_ids
    ours = DetectionResults(ids, masks=False)
    cfg = get_cfg()
    add_nds_config(cfg)
    cfg.MODEL.MASK_ON = False
    theirs = build_evaluator(cfg, name, str(tmp_path))
    theirs.reset()
    generator = np.random.Generator(np.random.PCG64(0))
    for record in dataset_dicts(name):
        boxes, labels = [], []
        for annotation in record["annotations"]:
            x, y, w, h = annotation["bbox"]
            boxes.append([x, y, x + w * generator.uniform(0.7, 1.1), y + h])
            labels.append(annotation["category_id"] if generator.random() < 0.8 else 0)
        scores = generator.random(len(labels))
        of = {
            "boxes": torch.tensor(boxes).reshape(-1, 4),
            "scores": torch.tensor(scores),
            "labels": torch.tensor(labels),
        }
        instances = Instances((record["height"], record["width"]))
        instances.pred_boxes, instances.scores = Boxes(of["boxes"]), of["scores"]
        instances.pred_classes = of["labels"].long()
        theirs.process([record], [{"instances": instances}])
        predicted = InstanceData(bboxes=of["boxes"].clone(), scores=of["scores"], labels=of["labels"].long())
        ours.add([SimpleNamespace(img_id=record["image_id"], pred_instances=predicted)])
    found = coco_results(
        truth_file(dataset, tmp_path), ours.collected(len(dataset_dicts(name))) or [], masks=False
    )
    expected = theirs.evaluate()["bbox"]
    assert found["bbox"].keys() == expected.keys()
    for key, value in expected.items():
        assert found["bbox"][key] == pytest.approx(value, abs=1e-3, nan_ok=True)

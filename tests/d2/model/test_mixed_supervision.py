"""Training on instances with and without masks, of sources that label different classes."""

from __future__ import annotations

import importlib.util
import math

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads import StandardROIHeads
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from tiny_detector import SIZE, example, tiny_config

import nds_plugin.d2.model.roi_heads as roi_heads
import nds_plugin.d2.model.thin_resnet as thin_resnet
from nds_plugin.d2.model.roi_heads import NDSFastRCNNOutputLayers, NDSROIHeads, label_space_table
from nds_plugin.errors import NDSError

torch.set_num_threads(1)

# Three classes; the first source labels 0 and 1 with masks, the second one 1 and 2 without.
SPACES = [[0, 1], [1, 2]]


def build(num_classes=3, label_spaces=(), heads="NDSROIHeads", seed=0, **changes):
    cfg = tiny_config(num_classes, label_spaces, heads)
    for key, value in changes.items():
        cfg.merge_from_list([key.replace("__", "."), value])
    torch.manual_seed(seed)
    return build_model(cfg).train()


def losses_of(model, batch, seed=3):
    torch.manual_seed(seed)  # proposals are sampled at random
    with EventStorage():
        return model(batch)


def mixed_batch():
    return [
        example(1, [0, 1, 0], masks=True, label_space=0),
        example(2, [2, 1], masks=False, label_space=1),
    ]


def sampled_proposals(model, batch, seed=3):
    """Features, and the proposals that the heads would train on."""
    torch.manual_seed(seed)
    with EventStorage():
        images = model.preprocess_image(batch)
        features = model.backbone(images.tensor)
        targets = [x["instances"] for x in batch]
        proposals, _ = model.proposal_generator(images, features, targets)
        return features, model.roi_heads.label_and_sample_proposals(proposals, targets)


@pytest.mark.parametrize("label_spaces", [[], [[0, 1, 2]], [[0, 1, 2], [2, 1, 0]]])
def test_with_one_label_space_and_all_masks_losses_and_weights_equal_the_stock_ones(label_spaces):
    stock = build(heads="StandardROIHeads")
    ours = build(label_spaces=label_spaces)
    assert isinstance(ours.roi_heads, NDSROIHeads)
    assert list(stock.state_dict()) == list(ours.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(stock.state_dict().values(), ours.state_dict().values()))
    plain = [example(s, [0, 1, 2], masks=None, label_space=None) for s in (1, 2)]
    marked = [example(s, [0, 1, 2], masks=True, label_space=0) for s in (1, 2)]
    expected, got = losses_of(stock, plain), losses_of(ours, marked)
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[k], got[k]) for k in expected)


def test_initial_weights_do_not_depend_on_the_label_spaces():
    stock, ours = build(heads="StandardROIHeads"), build(label_spaces=SPACES)
    assert all(torch.equal(v, ours.state_dict()[k]) for k, v in stock.state_dict().items())
    assert stock.state_dict().keys() == ours.state_dict().keys()


def test_two_iterations_on_a_mixed_batch_give_finite_losses_and_move_every_head():
    model = build(label_spaces=SPACES)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    for _ in range(2):
        losses = losses_of(model, mixed_batch())
        assert all(math.isfinite(float(v.detach())) for v in losses.values())
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    for name in ("box_predictor.cls_score", "box_predictor.bbox_pred", "mask_head.predictor"):
        key = f"roi_heads.{name}.weight"
        assert not torch.equal(before[key], model.state_dict()[key])


def test_logits_of_classes_that_a_source_does_not_label_get_no_gradient():
    model = build(label_spaces=SPACES)
    seen = {}

    def keep(_module, _args, outputs):
        outputs[0].retain_grad()
        seen["scores"] = outputs[0]

    model.roi_heads.box_predictor.register_forward_hook(keep)
    batch = mixed_batch()
    losses_of(model, batch)["loss_cls"].backward()
    gradient = seen["scores"].grad
    first, second = gradient.chunk(2)  # the images get the same number of proposals
    assert not first[:, 2].any()
    assert first[:, [0, 1, 3]].any(dim=0).all()
    assert not second[:, 0].any()
    assert second[:, [1, 2, 3]].any(dim=0).all()


def test_rows_of_the_class_layer_stay_put_under_images_that_do_not_label_them():
    model = build(label_spaces=SPACES)
    losses_of(model, [example(2, [2, 1], masks=False, label_space=1)])["loss_cls"].backward()
    layer = model.roi_heads.box_predictor.cls_score
    assert not layer.weight.grad[0].any()
    assert not layer.bias.grad[0].any()
    assert layer.weight.grad[1:].any(dim=1).all()
    stock = build()
    losses_of(stock, [example(2, [2, 1], masks=False, label_space=0)])["loss_cls"].backward()
    assert stock.roi_heads.box_predictor.cls_score.weight.grad[0].any()


def test_the_class_loss_is_the_one_of_a_model_that_has_only_the_labelled_classes():
    model = build(label_spaces=SPACES)
    _, proposals = sampled_proposals(model, mixed_batch())
    scores = torch.randn(sum(map(len, proposals)), 4)
    deltas = torch.zeros(len(scores), 12)
    with EventStorage():
        got = model.roi_heads.box_predictor.losses((scores, deltas), proposals)["loss_cls"]
    expected = []
    for logits, of_image, classes in zip(scores.chunk(2), proposals, ([0, 1, 3], [1, 2, 3])):
        relabelled = torch.tensor([classes.index(int(c)) for c in of_image.gt_classes])
        expected.append(F.cross_entropy(logits[:, classes], relabelled, reduction="none"))
    assert torch.allclose(got, torch.cat(expected).mean())


def test_the_mask_loss_is_the_one_over_the_image_that_has_masks():
    model = build(label_spaces=SPACES)
    features, proposals = sampled_proposals(model, mixed_batch())
    with EventStorage():
        mixed = model.roi_heads._forward_mask(features, proposals)["loss_mask"]
        alone = StandardROIHeads._forward_mask(
            model.roi_heads, {k: v[:1] for k, v in features.items()}, proposals[:1]
        )["loss_mask"]
        everything = StandardROIHeads._forward_mask(model.roi_heads, features, proposals)["loss_mask"]
    assert torch.allclose(mixed, alone)
    assert not torch.allclose(mixed, everything)


def test_within_one_image_only_the_instances_with_masks_enter_the_mask_loss():
    model = build()
    batch = [example(1, [0, 1, 2], masks=True)]
    batch[0]["instances"].gt_has_mask = torch.tensor([True, False, True])
    features, proposals = sampled_proposals(model, batch)
    foreground = proposals[0][(proposals[0].gt_classes < 3) & (proposals[0].gt_classes != 1)]
    with EventStorage():
        got = model.roi_heads._forward_mask(features, proposals)["loss_mask"]
        expected = StandardROIHeads._forward_mask(model.roi_heads, features, [foreground])["loss_mask"]
    assert torch.allclose(got, expected)


def test_a_batch_without_any_mask_leaves_a_zero_gradient_and_not_none_on_the_mask_head():
    model = build(label_spaces=SPACES)
    losses = losses_of(model, [example(2, [2, 1], masks=False, label_space=1)])
    assert float(losses["loss_mask"].detach()) == 0
    assert float(losses["loss_box_reg"].detach()) > 0
    sum(losses.values()).backward()
    for parameter in model.roi_heads.mask_head.parameters():  # distributed training waits for all
        assert parameter.grad is not None
        assert not parameter.grad.any()


def test_boxes_of_the_stock_mapper_without_any_mask_train_as_boxes():
    model = build()
    batch = [example(1, [0, 1], masks=True), example(2, [2, 1], masks=True)]
    batch[1]["instances"].remove("gt_masks")
    batch[1]["instances"].remove("gt_has_mask")
    assert all(math.isfinite(float(v.detach())) for v in losses_of(model, batch).values())


def test_box_losses_do_not_depend_on_masks():
    model = build()
    with_masks = losses_of(model, [example(1, [0, 1], masks=True)])
    without = losses_of(model, [example(1, [0, 1], masks=False)])
    for name in ("loss_box_reg", "loss_cls", "loss_rpn_cls", "loss_rpn_loc"):
        assert torch.equal(with_masks[name], without[name])


def test_an_image_without_instances_is_a_negative_for_the_classes_that_all_sources_label():
    model = build(label_spaces=SPACES)
    losses_of(model, [example(5, [])])["loss_cls"].backward()
    gradient = model.roi_heads.box_predictor.cls_score.bias.grad
    assert gradient[[1, 3]].all()
    assert not gradient[[0, 2]].any()


def test_an_image_without_instances_teaches_no_class_when_the_sources_share_none():
    model = build(label_spaces=[[0], [1, 2]])
    losses = losses_of(model, [example(5, [])])
    assert float(losses["loss_cls"].detach()) == 0
    losses["loss_cls"].backward()
    assert not model.roi_heads.box_predictor.cls_score.weight.grad.any()


def test_the_sigmoid_loss_is_finite_and_leaves_out_unlabelled_classes():
    model = build(label_spaces=SPACES, MODEL__ROI_BOX_HEAD__USE_SIGMOID_CE=True)
    loss = losses_of(model, [example(2, [2, 1], masks=False, label_space=1)])["loss_cls"]
    assert math.isfinite(float(loss.detach()))
    loss.backward()
    gradient = model.roi_heads.box_predictor.cls_score.bias.grad
    assert gradient[[1, 2]].all()
    assert not gradient[0]


def test_the_loss_is_finite_in_half_precision():
    layers = predictor([[0], [1]], num_classes=2)
    scores = torch.randn(4, 3).to(torch.bfloat16).requires_grad_()
    with EventStorage():
        loss = layers.losses((scores, torch.zeros(4, 8)), proposals_of([0, 1, 2, 2], [0, 1, 0, 1]))[
            "loss_cls"
        ]
    loss.backward()
    assert math.isfinite(float(loss.detach()))
    assert torch.isfinite(scores.grad).all()
    assert not scores.grad[[0, 1, 2, 3], [1, 0, 1, 0]].any()


def predictor(label_spaces, num_classes):
    return NDSFastRCNNOutputLayers(
        ShapeSpec(channels=8, height=1, width=1),
        box2box_transform=Box2BoxTransform((10, 10, 5, 5)),
        num_classes=num_classes,
        label_spaces=label_spaces,
    )


def proposals_of(classes, spaces):
    boxes = Boxes(torch.tensor([[0.0, 0.0, 9.0, 9.0]] * len(classes)))
    fields = {"proposal_boxes": boxes, "gt_boxes": boxes, "gt_classes": torch.tensor(classes)}
    if spaces is not None:
        fields["gt_label_space"] = torch.tensor(spaces)
    return [Instances((SIZE, SIZE), **fields)]


def test_heads_are_built_from_explicit_arguments_as_in_a_lazy_config():
    cfg = tiny_config(3, heads="StandardROIHeads")
    shapes = {f"p{i}": ShapeSpec(channels=16, stride=2**i) for i in range(2, 6)}
    arguments = StandardROIHeads.from_config(cfg, shapes)
    arguments["box_predictor"] = NDSFastRCNNOutputLayers(
        arguments["box_head"].output_shape,
        box2box_transform=Box2BoxTransform((10, 10, 5, 5)),
        num_classes=3,
        label_spaces=SPACES,
    )
    model = build(label_spaces=SPACES)
    explicit = NDSROIHeads(**arguments)
    explicit.load_state_dict(model.roi_heads.state_dict())
    expected = losses_of(model, mixed_batch())
    model.roi_heads = explicit.train()
    got = losses_of(model, mixed_batch())
    assert all(torch.equal(expected[k], got[k]) for k in expected)


def test_inference_gives_stock_detections():
    stock, ours = build(heads="StandardROIHeads").eval(), build(label_spaces=SPACES).eval()
    ours.load_state_dict(stock.state_dict())
    image = [{"image": example(1, [0, 1])["image"]}]
    with torch.no_grad():
        expected, got = stock(image)[0]["instances"], ours(image)[0]["instances"]
    assert len(expected)
    assert torch.equal(expected.scores, got.scores)
    assert torch.equal(expected.pred_masks, got.pred_masks)


@pytest.mark.parametrize("module", [roi_heads, thin_resnet])
def test_a_second_import_does_not_trip_over_the_registry(module):
    spec = importlib.util.spec_from_file_location(f"{module.__name__}_again", module.__file__)
    again = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(again)


def test_the_table_of_label_spaces_ends_in_what_all_share():
    table = label_space_table(SPACES, 3)
    assert table.tolist() == [
        [True, True, False, True],
        [False, True, True, True],
        [False, True, False, True],
    ]


@pytest.mark.parametrize(
    ("spaces", "message"),
    [
        ([[0, 1], [2, 3]], r"LABEL_SPACES\[1\] holds class index 3, the model has 3 classes"),
        ([[0, -1]], r"LABEL_SPACES\[0\] holds class index -1"),
        ([[0], [1]], r"classes \[2\] are in none of the 2 NDS.LABEL_SPACES"),
    ],
)
def test_a_wrong_label_space_is_refused_when_the_model_is_built(spaces, message):
    with pytest.raises(NDSError, match=message):
        build(label_spaces=spaces)


@pytest.mark.parametrize(
    ("classes", "spaces", "message"),
    [
        ([0, 2], None, "without 'gt_label_space', though the sources label different classes"),
        ([0, 2], [2, 2], "has label space 2, NDS.LABEL_SPACES has 2"),
        ([0, 2], [1, 1], "instance of class 0 has label space 1, which does not hold that class"),
    ],
)
def test_instances_that_contradict_the_label_spaces_are_refused(classes, spaces, message):
    layers = predictor([[0], [1]], num_classes=2)
    with EventStorage(), pytest.raises(NDSError, match=message):
        layers.losses((torch.zeros(2, 3), torch.zeros(2, 8)), proposals_of(classes, spaces))


def test_heads_that_were_told_of_no_label_space_refuse_images_of_a_second_one():
    model = build(label_spaces=())
    losses_of(model, [example(2, [0, 1], label_space=0)])
    with pytest.raises(NDSError, match="several label spaces, of which the heads were told nothing"):
        losses_of(model, [example(2, [2, 1], label_space=1)])
    whole = build(label_spaces=[[0, 1, 2], [0, 1, 2]])
    losses_of(whole, [example(2, [2, 1], label_space=1)])

"""Transfer from one list of classes to another."""

from __future__ import annotations

import json
import logging
import re

import pytest
import torch
from detectron2.modeling import build_model
from tiny_detector import tiny_config

from nds_plugin.d2.model.checkpoint import AtomicCheckpointer
from nds_plugin.errors import NDSError
from nds_plugin.job.transfer import transfer_checkpoint, transfer_state
from nds_plugin.source.class_names import SYNONYMS, canonical, match_classes, normalise

torch.set_num_threads(1)

SOURCE = ("person", "dog", "TV-monitor", "motorbike")
TARGET = ("motorcycle", "rider", "person")
SCORE = "roi_heads.box_predictor.cls_score"
DELTA = "roi_heads.box_predictor.bbox_pred"
MASK = "roi_heads.mask_head.predictor"


def model_of(num_classes: int, seed: int, **changes: object) -> torch.nn.Module:
    cfg = tiny_config(num_classes)
    for key, value in changes.items():
        cfg.merge_from_list([key.replace("__", "."), value])
    torch.manual_seed(seed)
    return build_model(cfg)


@pytest.fixture(scope="module")
def source() -> dict[str, torch.Tensor]:
    return dict(model_of(len(SOURCE), 1).state_dict())


@pytest.fixture(scope="module")
def target() -> dict[str, torch.Tensor]:
    return dict(model_of(len(TARGET), 2).state_dict())


def test_names_meet_after_dropping_case_and_punctuation():
    assert normalise("Dining Table") == normalise("dining_table") == normalise("diningtable")
    assert normalise("scarf & tie") == normalise("scarf/tie")
    assert normalise("TV-Monitor") != normalise("tv")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("motorcycle", "Motor-bike"),
        ("person", "Pedestrian"),
        ("bicycle", "bike"),
        ("tv", "tvmonitor"),
        ("Sofa", "couch"),
        ("diningtable", "dining table"),
        ("aeroplane", "airplane"),
        ("mobile phone", "cell_phone"),
        ("footwear", "Shoes"),
        ("pottedplant", "Potted plant"),
    ],
)
def test_synonyms_match_in_both_directions(one, other):
    for a, b in ((one, other), (other, one)):
        (match,) = match_classes([a], [b])
        assert match.source == a


def test_no_name_stands_in_two_rows_of_synonyms():
    names = [normalise(name) for row in SYNONYMS for name in row]
    rows = [canonical(name) for row in SYNONYMS for name in row]
    assert len(dict(zip(names, rows))) == len(set(zip(names, rows)))
    assert len({canonical(row[0]) for row in SYNONYMS}) == len(SYNONYMS)


def test_an_equal_name_wins_over_a_synonym_and_a_synonym_over_a_loose_pair():
    both = match_classes(["pedestrian", "person"], ["person"], loose=True)
    assert (both[0].source, both[0].how) == ("person", "name")
    both = match_classes(["man", "pedestrian"], ["person"], loose=True)
    assert (both[0].source, both[0].how) == ("pedestrian", "synonym")


def test_names_that_one_list_keeps_apart_never_share_a_class_by_their_spelling() -> None:
    dust = ["pm1.5", "pm15"]
    assert [(m.source, m.how) for m in match_classes(dust, dust)] == [("pm1.5", "name"), ("pm15", "name")]
    assert [m.source for m in match_classes(["pm1.5"], dust)] == ["pm1.5", None]
    (match,) = match_classes(["pm1.5"], ["PM-15"])
    assert (match.source, match.how) == ("pm1.5", "spelling")
    assert [m.source for m in match_classes(["tv", "television"], ["TV", "tv"])] == ["television", "tv"]


def test_loose_pairs_are_used_on_request_only_and_are_marked():
    assert match_classes(["person"], ["rider"])[0].source is None
    (match,) = match_classes(["Person"], ["rider"], loose=True)
    assert (match.source, match.how) == ("Person", "loose")
    (match,) = match_classes(["bag"], ["purse"], loose=True)
    assert (match.source, match.how) == ("bag", "loose")


def test_rows_go_to_the_class_of_the_same_name_and_the_rest_keeps_its_own(source, target):
    state, report = transfer_state(source, target, SOURCE, TARGET)
    assert report.shared == [("motorcycle", "motorbike"), ("person", "person")]
    assert report.initialised == ["rider"]
    for kind in ("weight", "bias"):
        score, delta, mask = (f"{name}.{kind}" for name in (SCORE, DELTA, MASK))
        assert torch.equal(state[score][[0, 2, 3]], source[score][[3, 0, 4]])  # 3, 4: background
        assert torch.equal(state[score][1], target[score][1])
        assert torch.equal(state[delta][0:4], source[delta][12:16])
        assert torch.equal(state[delta][4:8], target[delta][4:8])
        assert torch.equal(state[delta][8:12], source[delta][0:4])
        assert torch.equal(state[mask][[0, 2]], source[mask][[3, 0]])
        assert torch.equal(state[mask][1], target[mask][1])


def test_everything_else_is_copied_whole_and_every_parameter_is_accounted_for(source, target):
    state, report = transfer_state(source, target, SOURCE, TARGET)
    assert list(state) == list(target)
    for name in report.kept:
        assert torch.equal(state[name], source[name])
    assert not report.dropped
    assert not report.missing
    listed = set(report.kept) | set(report.mapped)
    assert {n for n in target if n not in listed} == {
        n for n in target if n.endswith("num_batches_tracked") or n.startswith("pixel_")
    }
    assert "proposal_generator.rpn_head.objectness_logits.weight" in report.kept


def test_arguments_are_not_changed_and_the_result_shares_no_memory(source, target):
    before = {k: v.clone() for k, v in target.items()}
    state, _ = transfer_state(source, target, SOURCE, TARGET)
    for value in state.values():
        value.fill_(7)
    assert all(torch.equal(target[k], v) for k, v in before.items())
    assert not any(bool((v == 7).all()) and v.numel() > 1 for v in source.values())


def test_the_same_classes_give_back_the_same_weights(source):
    fresh = dict(model_of(len(SOURCE), 9).state_dict())
    state, report = transfer_state(source, fresh, SOURCE, SOURCE)
    assert all(torch.equal(state[n], source[n]) for n in report.kept + report.mapped)


def test_equal_counts_of_other_classes_are_still_mapped_by_name(source):
    fresh = dict(model_of(len(SOURCE), 9).state_dict())
    state, _ = transfer_state(source, fresh, SOURCE, SOURCE[::-1])
    assert torch.equal(state[f"{SCORE}.bias"][:4], source[f"{SCORE}.bias"][:4].flip(0))
    assert torch.equal(state[f"{MASK}.weight"], source[f"{MASK}.weight"].flip(0))


def test_a_model_in_data_parallel_gives_the_same_transfer(source, target):
    wrapped = {f"module.{k}": v for k, v in source.items()}
    one, _ = transfer_state(source, target, SOURCE, TARGET)
    other, report = transfer_state(wrapped, target, SOURCE, TARGET)
    assert not report.dropped
    assert all(torch.equal(one[k], other[k]) for k in one)


def test_class_agnostic_layers_are_copied_whole():
    agnostic = {
        "MODEL__ROI_BOX_HEAD__CLS_AGNOSTIC_BBOX_REG": True,
        "MODEL__ROI_MASK_HEAD__CLS_AGNOSTIC_MASK": True,
    }
    for num_target, names in ((3, TARGET), (1, ("lamp",))):
        source = dict(model_of(len(SOURCE), 1, **agnostic).state_dict())
        target = dict(model_of(num_target, 2, **agnostic).state_dict())
        state, report = transfer_state(source, target, SOURCE, names)
        for name in (f"{DELTA}.weight", f"{MASK}.weight"):
            assert name in report.kept
            assert torch.equal(state[name], source[name])


def test_layers_of_a_single_class_are_taken_as_that_classs_own():
    source = dict(model_of(1, 1).state_dict())
    state, report = transfer_state(source, dict(model_of(3, 2).state_dict()), ["person"], TARGET)
    assert torch.equal(state[f"{DELTA}.weight"][8:12], source[f"{DELTA}.weight"])
    assert torch.equal(state[f"{MASK}.weight"][2:3], source[f"{MASK}.weight"])
    assert not report.dropped
    other = dict(model_of(1, 2).state_dict())
    state, report = transfer_state(source, other, ["person"], ["lamp"])
    for name in (f"{DELTA}.weight", f"{MASK}.weight"):
        assert name in report.mapped
        assert torch.equal(state[name], other[name])


def test_cascade_boxes_are_class_agnostic_for_a_single_class_too():
    changes = {
        "MODEL__ROI_HEADS__NAME": "CascadeROIHeads",
        "MODEL__ROI_BOX_HEAD__CLS_AGNOSTIC_BBOX_REG": True,
    }
    source, target = (dict(model_of(1, seed, **changes).state_dict()) for seed in (1, 2))
    state, report = transfer_state(source, target, ["person"], ["lamp"])
    name = "roi_heads.box_predictor.1.bbox_pred.weight"
    assert name in report.kept
    assert torch.equal(state[name], source[name])


def test_rows_per_class_and_class_agnostic_do_not_mix_and_this_is_reported(source):
    target = dict(model_of(3, 2, MODEL__ROI_BOX_HEAD__CLS_AGNOSTIC_BBOX_REG=True).state_dict())
    state, report = transfer_state(source, target, SOURCE, TARGET)
    assert "only one has rows per class" in report.dropped[f"{DELTA}.weight"]
    assert torch.equal(state[f"{DELTA}.weight"], target[f"{DELTA}.weight"])


def test_cascade_heads_are_mapped_at_every_stage():
    changes = {
        "MODEL__ROI_HEADS__NAME": "CascadeROIHeads",
        "MODEL__ROI_BOX_HEAD__CLS_AGNOSTIC_BBOX_REG": True,
    }
    for source_names, target_names in ((SOURCE, TARGET), (("person",), ("cat", "pedestrian"))):
        source = dict(model_of(len(source_names), 1, **changes).state_dict())
        target = dict(model_of(len(target_names), 2, **changes).state_dict())
        state, report = transfer_state(source, target, source_names, target_names)
        for stage in range(3):
            prefix = f"roi_heads.box_predictor.{stage}"
            score = f"{prefix}.cls_score.weight"
            assert torch.equal(state[score][-2:], source[score][[0, -1]])
            assert f"{prefix}.bbox_pred.weight" in report.kept


def test_a_mask_head_that_the_source_lacks_is_an_error_unless_allowed(source, target):
    boxes_only = {k: v for k, v in source.items() if "mask_head" not in k}
    with pytest.raises(
        NDSError, match=r"6 parameters are not in the checkpoint: roi_heads.mask_head.mask_fcn1"
    ):
        transfer_state(boxes_only, target, SOURCE, TARGET)
    state, report = transfer_state(
        boxes_only, target, SOURCE, TARGET, allow_missing=("roi_heads.mask_head.",)
    )
    assert sorted(report.missing) == sorted(k for k in target if "mask_head" in k)
    assert torch.equal(state[f"{MASK}.weight"], target[f"{MASK}.weight"])


def test_a_mask_head_that_the_model_lacks_is_dropped_and_listed(source):
    target = dict(model_of(3, 2, MODEL__MASK_ON=False).state_dict())
    _, report = transfer_state(source, target, SOURCE, TARGET)
    assert set(report.dropped) == {k for k in source if "mask_head" in k}


def test_another_shape_is_an_error_that_names_the_parameter(source):
    target = dict(model_of(3, 2, MODEL__FPN__OUT_CHANNELS=8).state_dict())
    with pytest.raises(
        NDSError,
        match=r"have another shape: backbone.fpn_lateral2.weight \(16, 16, 1, 1\) instead of \(8, 16",
    ):
        transfer_state(source, target, SOURCE, TARGET)


def test_class_layers_of_another_width_are_an_error_too(source):
    target = dict(model_of(3, 2, MODEL__ROI_BOX_HEAD__FC_DIM=24).state_dict())
    with pytest.raises(NDSError, match=r"box_predictor.cls_score.weight \(5, 32\) instead of \(4, 24\)"):
        transfer_state(source, target, SOURCE, TARGET)


def test_a_list_of_classes_that_does_not_fit_its_state_is_an_error(source, target):
    with pytest.raises(
        NDSError, match=r"cls_score.weight of the checkpoint has 5 rows, its 3 classes need 4"
    ):
        transfer_state(source, target, SOURCE[:3], TARGET)
    with pytest.raises(NDSError, match=r"cls_score.weight of the model has 4 rows, its 2 classes need 3"):
        transfer_state(source, target, SOURCE, TARGET[:2])


def test_no_shared_class_is_one_warning_or_an_error_if_asked(source, target, caplog):
    clothes = ("hat", "skirt", "belt")
    state, report = transfer_state(source, target, SOURCE, clothes)
    assert torch.equal(state[f"{SCORE}.weight"][:-1], target[f"{SCORE}.weight"][:-1])
    assert "backbone.fpn_lateral2.weight" in report.kept
    with caplog.at_level(logging.INFO):
        report.log(logging.getLogger("test"), "pretrained.pth")
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert warnings == [
        "no class of the source (person, dog, TV-monitor, motorbike) is one of the target's (hat, skirt, "
        "belt): the class-specific rows start from scratch."
    ]
    with pytest.raises(NDSError, match=r"no class of the source \(person.*\) is one of the target's \(hat"):
        transfer_state(source, target, SOURCE, clothes, require_shared=True)


def test_the_report_is_json_and_its_log_names_classes_and_modules(source, target, caplog):
    _, report = transfer_state(source, target, SOURCE, TARGET, loose=True)
    content = json.loads(json.dumps(report.to_dict()))
    assert content["classes"][1] == {"target": "rider", "source": "person", "how": "loose"}
    assert report.loose == [("rider", "person")]
    with caplog.at_level(logging.INFO):
        report.log(logging.getLogger("test"), "pretrained.pth")
    text = caplog.records[-1].getMessage()
    assert "3 of 3 target classes" in text
    for row in (
        r"\| rider +\| person +\| loose",
        r"\| kept +\| backbone.bottom_up.res2",
        r"\| mapped .*by class",
    ):
        assert re.search(row, text), row


def test_a_checkpoint_file_initialises_the_model_with_its_own_class_names(tmp_path):
    pretrained = model_of(len(SOURCE), 1)
    AtomicCheckpointer(pretrained, str(tmp_path), extra={"thing_classes": list(SOURCE)}).save("model_final")
    model = model_of(len(TARGET), 2)
    report = transfer_checkpoint(model, str(tmp_path / "model_final.pth"), TARGET)
    assert len(report.shared) == 2
    bias = "roi_heads.box_head.fc1.weight"
    assert torch.equal(model.state_dict()[bias], pretrained.state_dict()[bias])


def test_a_checkpoint_without_class_names_says_so(tmp_path):
    AtomicCheckpointer(model_of(4, 1), str(tmp_path)).save("model_final")
    model = model_of(3, 2)
    with pytest.raises(NDSError, match="does not say which classes it was trained on: give source_classes"):
        transfer_checkpoint(model, str(tmp_path / "model_final.pth"), TARGET)
    transfer_checkpoint(model, str(tmp_path / "model_final.pth"), TARGET, source_classes=SOURCE)


def test_rows_of_a_head_that_is_not_known_are_not_copied_by_position_to_other_classes():
    name = "head.cls_score.weight"  # RetinaNet's: rows per anchor and class
    state = {name: torch.arange(6.0).reshape(6, 1, 1, 1), "head.bbox_pred.weight": torch.ones(12, 1, 1, 1)}
    own = {key: torch.zeros_like(value) for key, value in state.items()}
    new, report = transfer_state(state, own, ["car", "person"], ["person", "car"])
    assert not new[name].any()
    assert list(report.dropped) == [name]
    assert report.kept == ["head.bbox_pred.weight"]
    assert transfer_state(state, own, ["car", "person"], ["car", "person"])[1].kept == list(state)


def test_rows_of_a_head_that_is_not_known_must_be_as_many():
    one, other = ({"head.cls_score.weight": torch.zeros(rows, 1)} for rows in (3, 4))
    with pytest.raises(NDSError, match=r"head.cls_score.weight \(3, 1\) instead of \(4, 1\)"):
        transfer_state(one, other, ["car", "person"], ["person", "car", "dog"])


@pytest.mark.parametrize("part", ["rpn_head", "backbone", "neck", "proposal_generator"])
def test_parts_that_know_no_classes_are_copied_as_they_are_whatever_their_layers_are_called(part):
    state = {f"{part}.conv_cls.weight": torch.ones(3, 1)}  # of Guided Anchoring: one score per anchor
    new, report = transfer_state(state, {n: v * 0 for n, v in state.items()}, ["car"], ["person"])
    assert report.kept == list(state)
    assert new[report.kept[0]].all()

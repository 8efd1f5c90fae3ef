"""Weights from experts that are scored again while training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny_mmdet  # noqa: F401  (skips where MMDetection is missing)
from tiny_experts import trained, two_domains

from nds_plugin.errors import NDSError
from nds_plugin.experts.scoring import score_experts
from nds_plugin.experts.settings import ScoringConfig
from nds_plugin.mm.train.rescore_hook import NDSRescoreHook
from nds_plugin.selection.config import SelectionConfig
from nds_plugin.selection.select import select, selector_weights
from nds_plugin.selection.selection import Selection
from nds_plugin.selection.selectors.nds import NDS

pytestmark = pytest.mark.slow

SCORING = {"num_workers": 0, "max_images": 6}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two domains, their experts, and a stream that was drawn for the first domain."""
    folder = tmp_path_factory.mktemp("rescoring")
    experts = trained(folder, count=8)
    index, partition = two_domains(folder, 8)
    scores = score_experts(experts, str(folder / "day"), ScoringConfig(**SCORING), progress=False)
    config = SelectionConfig(NDS(temperature=0.5, normalisation="none"), "stream")
    select(index, partition, config, scores).save(folder / "stream.parquet", "key")
    return folder


def test_the_selector_of_the_selection_weighs_what_the_experts_say_of_another_draw(made: Path) -> None:
    target = str(made / "night")
    hook = NDSRescoreHook([3], made / "stream.parquet", made / "experts", target, SCORING)
    config = ScoringConfig(**SCORING, seed=3)
    scores = score_experts(trained(made, count=8), target, config, progress=False)
    expected = selector_weights(NDS(temperature=0.5, normalisation="none"), np.array([8, 8]), scores)
    assert hook._score(3).tolist() == expected.tolist()


def test_experts_of_another_set_and_a_target_that_is_none_are_refused(made: Path, tmp_path: Path) -> None:
    trained(tmp_path, count=6)
    with pytest.raises(NDSError, match="was drawn by scores of other experts than those of"):
        NDSRescoreHook([3], made / "stream.parquet", tmp_path / "experts", str(made / "day"))
    for target, match in (
        (["a.json", "images", "more"], r"expected target to be a folder or \[JSON, IMAGES\]"),
        ([3], r"expected target to be a folder or \[JSON, IMAGES\]"),
        ("nowhere", "the target's folder of images nowhere does not exist"),
        (["nowhere.json", str(made / "day")], "the target's annotations nowhere.json do not exist"),
    ):
        with pytest.raises(NDSError, match=match):
            NDSRescoreHook([3], made / "stream.parquet", made / "experts", target)


def test_a_selection_whose_weights_do_not_follow_from_scores_is_refused(made: Path, tmp_path: Path) -> None:
    selection = Selection.load(made / "stream.parquet")
    selection.info["selector"] = "snds"
    selection.save(tmp_path / "snds.parquet", "key")
    with pytest.raises(NDSError, match="was made by the selector 'snds'"):
        NDSRescoreHook([3], tmp_path / "snds.parquet", made / "experts", str(made / "day"))

"""Names of configs: a selector's name before that of a target, and the folder that a run writes into by default."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nds_plugin.d2 import load_config
from nds_plugin.d2.config.deciding import config_hash
from nds_plugin.d2.config.lookup import find_config
from nds_plugin.errors import UnknownNameError
from nds_plugin.files.installed import config_folder

ONE_X = {"NDS.PRETRAIN.SOLVER.STEPS": (60_000, 80_000), "NDS.PRETRAIN.SOLVER.MAX_ITER": 90_000}
# Hashes of the time when each of these was a file of its own, and what it had beside the selector.
TWINS: dict[str, tuple[str, dict[str, Any]]] = {
    "full_cityscapes": ("18d41c7a3b20a802", ONE_X),
    "full_mini": ("7dba20af358ce2cf", {}),
    "full_mini_ccp": ("94003cb1734021fb", {}),
    "full_modanet": ("e058b9401ed90ace", ONE_X),
    "full_voc": ("1f486989fe5d28f1", ONE_X),
    "none_mini": ("fbd22f5590a9483e", {}),
    "none_mini_ccp": ("7217dcc6add3d8f1", {}),
    "none_sample": ("d3ad6ea78836ec29", {}),
    "uniform_cityscapes": ("517053d8c3b05140", {}),
    "uniform_mini": ("ce7c435b0a1f9379", {}),
    "uniform_mini_ccp": ("669280ec8bc59095", {}),
    "uniform_modanet": ("f744f603d8189bd6", {}),
    "uniform_sample": ("b808ca5d9b9628e9", {}),
    "uniform_voc": ("89d86f0cd8b65967", {}),
}


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    pairs: dict[str, Any] = {}
    for key, value in node.items():
        pairs |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return pairs


@pytest.mark.parametrize("name", TWINS)
def test_a_selectors_name_before_a_targets_is_that_targets_config_with_the_selector(name: str) -> None:
    config_hash_then, beside = TWINS[name]
    selector, target = name.split("_", 1)
    cfg, nds = load_config(f"{name}.yaml"), load_config(f"nds_{target}.yaml")
    assert config_hash(cfg) == config_hash_then
    ours, theirs = _flat(cfg), _flat(nds)
    changed = {key: value for key, value in ours.items() if theirs.get(key) != value}
    output = f"output/nds_{target}/{selector}"
    assert changed == {"NDS.SELECTOR": selector, "OUTPUT_DIR": output, **beside}
    assert ours.keys() == theirs.keys()
    by_override = load_config(f"nds_{target}.yaml", ["NDS.SELECTOR", selector])
    assert by_override == cfg


def test_every_selector_has_such_a_name_and_paths_and_bare_names_will_do() -> None:
    chosen = ["NDS.SELECTOR", "domain_classifier"]
    path = str(config_folder("detectron2") / "nds_voc.yaml")
    assert find_config("domain_classifier_voc.yaml") == (path, chosen)
    assert find_config("domain_classifier_voc") == (path, chosen)
    assert find_config(str(config_folder("detectron2") / "domain_classifier_voc.yaml")) == (path, chosen)
    assert find_config("nds_voc") == (path, [])


def test_a_file_of_that_name_goes_before_what_the_name_stands_for(tmp_path: Path) -> None:
    (tmp_path / "nds_mine.yaml").write_text("NDS:\n  SEED: 3\n")
    assert load_config(str(tmp_path / "uniform_mine.yaml")).NDS.SELECTOR == "uniform"
    assert load_config(str(tmp_path / "uniform_mine.yaml")).NDS.SEED == 3
    (tmp_path / "uniform_mine.yaml").write_text("NDS:\n  SEED: 4\n")
    assert load_config(str(tmp_path / "uniform_mine.yaml")).NDS.SEED == 4


def test_an_unknown_selector_or_target_is_refused_with_the_nearest_files() -> None:
    for name in ("unifrom_cityscapes.yaml", "uniform_citiscapes.yaml", "uniform_cityscape"):
        with pytest.raises(UnknownNameError, match=rf"unknown config '{name}'.* Did you mean") as error:
            load_config(name)
        assert "'uniform_cityscapes'" in str(error.value)
        assert "Known: nds_cityscapes, " in str(error.value)
        assert "Base-" not in str(error.value)


def test_a_run_writes_into_a_folder_of_its_config_and_selector_unless_it_is_told_where(
    tmp_path: Path,
) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("NDS:\n  SEED: 1\n")
    assert load_config(str(mine)).OUTPUT_DIR == "output/mine/nds"
    assert load_config(str(mine), ["NDS.SELECTOR", "knn"]).OUTPUT_DIR == "output/mine/knn"
    assert load_config(str(mine), ["OUTPUT_DIR", "./output"]).OUTPUT_DIR == "./output"
    mine.write_text("OUTPUT_DIR: there\n")
    assert load_config(str(mine)).OUTPUT_DIR == "there"


def test_what_differs_for_the_whole_source_is_laid_over_pretraining_of_that_selector_alone(
    tmp_path: Path,
) -> None:
    mine = tmp_path / "mine.yaml"
    full = "  FULL:\n    PRETRAIN:\n      SOLVER:\n        MAX_ITER: 70\n        STEPS: (60,)\n"
    mine.write_text(f"NDS:\n  PRETRAIN:\n    SOLVER:\n      MAX_ITER: 50\n{full}")
    assert load_config(str(mine)).NDS.PRETRAIN.SOLVER == {"MAX_ITER": 50}
    whole = load_config(str(mine), ["NDS.SELECTOR", "full"])
    assert whole.NDS.PRETRAIN.SOLVER == {"MAX_ITER": 70, "STEPS": (60,)}
    told = load_config(str(mine), ["NDS.SELECTOR", "full", "NDS.PRETRAIN.SOLVER.MAX_ITER", "9"])
    assert told.NDS.PRETRAIN.SOLVER.MAX_ITER == 9
    (tmp_path / "again.yaml").write_text(whole.dump())
    assert load_config(str(tmp_path / "again.yaml")).NDS.dump() == whole.NDS.dump()
    mine.write_text(mine.read_text().replace("MAX_ITER: 70", "MAX_ITERS: 70"))
    with pytest.raises(
        ValueError, match=r"config .*mine\.yaml: unknown config key NDS.PRETRAIN.SOLVER.MAX_ITERS"
    ):
        load_config(str(mine), ["NDS.SELECTOR", "full"])

"""Which room may import which: what the rooms' opening comments say, held against the source."""

from __future__ import annotations

import ast
import subprocess
import sys

import module_list
import pytest
from module_list import PACKAGE, PAGE, imports, may_import, modules, needs_torch, own_imports, room, rooms

HOSTS = {"detectron2", "fvcore", "iopath", "omegaconf", "hydra", "mmengine", "mmdet", "mmcv"}
# What runs without torch, but for the modules named here.
WITHOUT_TORCH = {
    "errors": set(),
    "command_line": set(),
    "extras": set(),
    "files": {"checkpoints"},
    "store": set(),
    "datasets": set(),
    "report": set(),
    "commands": set(),
    "pipeline": {"expert_steps", "scoring_steps", "source_steps", "selection_steps"},
    "images": {
        "networks",
        "linear",
        "crops",
        "backbones",
        "checkpoint_forms",
        "folding",
        "resnet_checkpoints",
        "timm_networks",
    },
    "engine": set(),
    "source": {"extraction", "feature_shards", "features", "two_passes"},
    "selection": {
        "drawn_images",
        "sampler",
        "selectors.gate_network",
        "selectors.gate_set",
        "selectors.target",
    },
    "experts": {
        "describing",
        "expert_set",
        "forward",
        "head_scoring",
        "heads",
        "passes",
        "scoring",
        "scoring_shards",
        "supervised",
        "tasks",
        "train_experts",
        "train_heads",
        "train_network",
    },
}


def test_a_room_imports_what_its_opening_comment_allows() -> None:
    for name in modules():
        strange = (
            {room(m) for m in own_imports(name)} - {room(name), *may_import(room(name)), ""} if name else ()
        )
        assert not strange, f"nds_plugin.{name} imports {sorted(strange)}"


def test_the_rooms_lie_on_floors_and_none_imports_one_above() -> None:
    seen: list[str] = []
    waiting = rooms()
    while waiting:
        floor = [name for name in waiting if set(may_import(name)) <= set(seen)]
        assert floor, f"a circle among {waiting}"
        seen += floor
        waiting = [name for name in waiting if name not in floor]


def test_no_imports_run_in_a_circle() -> None:
    graph = {name: own_imports(name, inside_functions=False) & modules().keys() for name in modules()}
    while leaves := {name for name, needs in graph.items() if not needs & graph.keys()}:
        graph = {name: needs for name, needs in graph.items() if name not in leaves}
    assert not graph


def test_the_list_of_modules_in_the_docs_is_that_of_the_opening_comments() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert module_list.updated(page) == page, "run: python docs/module_list.py"


def test_every_module_opens_with_a_comment() -> None:
    assert not [name for name in modules() if not ast.get_docstring(module_list.tree(name))]


def test_drawing_knows_nothing_of_how_experts_are_trained() -> None:
    drawing = [n for n in modules() if room(n) == "selection" and not n.startswith("selection.selectors")]
    known = {m for name in drawing for m in own_imports(name) if room(m) == "experts"}
    assert known <= {"experts.scores"}


def test_experts_know_nothing_of_selection() -> None:
    assert not [
        name for name in modules() if room(name) == "experts" and "selection" in may_import("experts")
    ]


def test_only_the_host_rooms_import_a_host_framework_each_its_own() -> None:
    used = {room(name): set() for name in modules()}
    for name in modules():
        used[room(name)] |= {room(m) for m in imports(name)} & HOSTS
    of_mmdet = {"mmengine", "mmdet", "mmcv"}
    assert used["mm"] == of_mmdet
    assert used["d2"]
    assert not used["d2"] & of_mmdet
    assert {name for name, found in used.items() if found} == {"d2", "mm", "commands"}


def test_neither_host_imports_the_other() -> None:
    assert "mm" not in may_import("d2")
    assert "d2" not in may_import("mm")


def test_self_supervision_knows_no_host() -> None:
    assert not {"d2", "mm", "service"} & set(may_import("ssl"))
    assert not {name for name in ("d2", "mm", "service") if "ssl" in may_import(name)}


def test_all_but_the_learning_parts_import_without_torch_and_without_detectron2() -> None:
    names = [
        name
        for name in modules()
        if room(name) in WITHOUT_TORCH and name.partition(".")[2] not in WITHOUT_TORCH[room(name)]
    ]
    assert not [name for name in names if needs_torch(name)]
    blocked = {"torch", "torchvision", "sklearn", *HOSTS}
    code = [
        f"import sys, importlib; sys.modules.update(dict.fromkeys({sorted(blocked)}))",
        f"[importlib.import_module('nds_plugin.' + name) for name in {names}]",
        "assert not any(m.split('.')[0] in ('torch', 'detectron2') for m, v in sys.modules.items() if v)",
    ]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(code)], capture_output=True, text=True, cwd=PACKAGE.parent
    )
    assert done.returncode == 0, done.stderr


def test_the_block_of_torch_in_these_tests_blocks() -> None:
    code = "import sys; sys.modules['torch'] = None; import nds_plugin.selection.sampler"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert done.returncode != 0
    assert "No module named 'torch" in done.stderr


def test_detectron2_is_imported_without_the_warning_that_its_own_code_causes() -> None:
    tool = [sys.executable, str(PACKAGE.parent / "tools/train_net.py"), "--help"]
    done = subprocess.run(tool, capture_output=True, text=True, cwd=PACKAGE.parent)
    assert done.returncode == 0, done.stderr
    assert "torch.jit.script" not in done.stderr


@pytest.mark.slow
def test_a_users_own_use_of_torch_jit_script_is_warned_of_as_before() -> None:
    code = (
        "import warnings, nds_plugin.d2\n"
        "assert not [f for f in warnings.filters if f[1] and 'jit' in f[1].pattern], warnings.filters"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert done.returncode == 0, done.stderr
    assert "torch.jit.script" not in done.stderr

"""Which module may import which: the arrows of docs/architecture.md, read from the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "nds_plugin"
# A module may import those of its own line and of the lines above it. Packages count as one.
LAYERS = (
    {"errors"},
    {
        "artifacts",
        "cost",
        "counter_rng",
        "class_names",
        "images",
        "image_crops",
        "image_folders",
        "packed",
        "pickles",
        "safetensors_header",
    },
    {"expert_manifest", "index", "sampling", "networks", "linear", "supervised", "crops", "clustering"},
    {
        *("partition", "objects", "streams", "scores", "image_weights", "selection_config"),
        *("backbones", "tasks", "training"),
    },
    {
        *("partitioning", "partition_summary", "selection", "select", "selection_tables", "sampler"),
        *("features", "expert_set", "experts", "scoring"),
    },
    {"locking"},
    {"store"},
    {"datasets"},
    {"selectors"},
    {"report", "cli", "preparing"},
    {"service"},
    {"grid"},
    {"d2"},
)
SELECTING = {
    *("sampling", "streams", "scores", "image_weights", "selection_config", "selection", "select"),
    *("selection_tables", "sampler"),
}
LEARNING = {
    *("networks", "linear", "supervised", "tasks", "training", "expert_set", "experts", "backbones"),
    "features",
}
WITHOUT_TORCH = (
    *(
        "errors",
        "artifacts",
        "cost",
        "counter_rng",
        "class_names",
        "images",
        "image_crops",
        "image_folders",
        "packed",
        "pickles",
        "index",
    ),
    *("expert_manifest", "safetensors_header", "sampling", "clustering", "partition", "objects", "streams"),
    *("partitioning", "partition_summary", "scores", "image_weights", "selection_config", "selection"),
    *("select", "selection_tables", "locking", "store"),
    *("datasets", "report", "cli", "preparing", "grid"),
)
HOSTS = {"detectron2", "fvcore", "iopath", "omegaconf", "hydra", "mmengine", "mmdet"}


def _modules() -> dict[str, Path]:
    """Names of the package's modules, without ``nds_plugin.``, and their files."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = _modules()


def _imports(name: str, inside_functions: bool = True) -> set[str]:
    """Absolute names that a module imports, ``a.b`` for ``from a import b`` where that is a module."""
    found = set()
    stack: list[ast.AST] = [ast.parse(MODULES[name].read_text(encoding="utf-8"))]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively"
            assert node.module
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            own = {m for m in submodules if m.removeprefix("nds_plugin.") in MODULES}
            found |= own or {node.module}
        is_function = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        if inside_functions or not is_function:
            stack += ast.iter_child_nodes(node)
    return found


def _own_imports(name: str, inside_functions: bool = True) -> set[str]:
    prefix = "nds_plugin."
    return {m[len(prefix) :] for m in _imports(name, inside_functions) if m.startswith(prefix)}


def _top(name: str) -> str:
    return name.split(".")[0]


def _layer(name: str) -> int:
    for number, layer in enumerate(LAYERS):
        if _top(name) in layer:
            return number
    raise AssertionError(f"nds_plugin.{name} is in none of LAYERS: say where in the order it belongs.")


@pytest.mark.parametrize("name", [m for m in MODULES if m])
def test_imports_run_one_way(name: str) -> None:
    later = {m for m in _own_imports(name) if _layer(m) > _layer(name)}
    # The tools name their sources by a registered dataset, a file or a folder; only the first needs d2.
    later -= {"d2.registration"} if name == "cli" else set()
    assert not later


def test_no_imports_run_in_a_circle() -> None:
    graph = {name: _own_imports(name, inside_functions=False) & MODULES.keys() for name in MODULES}
    while leaves := {name for name, needs in graph.items() if not needs & graph.keys()}:
        graph = {name: needs for name, needs in graph.items() if name not in leaves}
    assert not graph


@pytest.mark.parametrize("name", sorted(SELECTING))
def test_selecting_knows_nothing_of_experts_and_training(name: str) -> None:
    assert not _own_imports(name) & (LEARNING | {"scoring"})


@pytest.mark.parametrize("name", sorted(LEARNING))
def test_experts_and_training_know_nothing_of_selecting(name: str) -> None:
    assert not _own_imports(name) & SELECTING


def test_only_d2_imports_a_host_framework() -> None:
    users = {_top(name) for name in MODULES if {_top(m) for m in _imports(name)} & HOSTS}
    assert users == {"d2"}


def test_all_but_the_learning_parts_import_without_torch_and_without_detectron2() -> None:
    names = [m for m in MODULES if _top(m) in WITHOUT_TORCH]
    assert len(names) > len(WITHOUT_TORCH)  # the packages' own modules are among them
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
    code = "import sys; sys.modules['torch'] = None; import nds_plugin.sampler"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert done.returncode != 0
    assert "No module named 'torch" in done.stderr


def test_detectron2_is_imported_without_the_warning_that_its_own_code_causes() -> None:
    tool = [sys.executable, str(PACKAGE.parent / "tools/train_net.py"), "--help"]
    done = subprocess.run(tool, capture_output=True, text=True, cwd=PACKAGE.parent)
    assert done.returncode == 0, done.stderr
    assert "torch.jit.script" not in done.stderr


def test_a_users_own_use_of_torch_jit_script_is_warned_of_as_before() -> None:
    code = (
        "import warnings, nds_plugin.d2\n"
        "assert not [f for f in warnings.filters if f[1] and 'jit' in f[1].pattern], warnings.filters"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert done.returncode == 0, done.stderr
    assert "torch.jit.script" not in done.stderr

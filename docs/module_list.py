"""The list of modules in docs/architecture.md, made from the modules' opening comments.

    python docs/module_list.py           # writes it
    python docs/module_list.py --check   # exit status 1 if it is not up to date

A room is a module or folder at the top of the package. The line "May import: ..." of its opening
comment names the rooms that it may import; tests/test_imports.py holds the code to it. A star marks
what needs torch.
"""

from __future__ import annotations

import ast
import functools
import re
import sys
import textwrap
from pathlib import Path

from marks import written

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "nds_plugin"
PAGE = ROOT / "docs/architecture.md"
_NAME, _WIDTH = 25, 120  # columns of a name in the list, and of a line


@functools.cache
def modules() -> dict[str, Path]:
    """Every module, without ``nds_plugin.``, and its file; a folder is its ``__init__.py``."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@functools.cache
def tree(name: str) -> ast.Module:
    """The source of a module, parsed."""
    return ast.parse(modules()[name].read_text(encoding="utf-8"))


@functools.cache
def imports(name: str, inside_functions: bool = True) -> frozenset[str]:
    """Absolute names that a module imports, ``a.b`` for ``from a import b`` where that is a module."""
    found: set[str] = set()
    stack: list[ast.AST] = [tree(name)]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"{name} imports relatively"
            assert node.level == 0, f"{name} imports relatively"
            below = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {m for m in below if m.removeprefix("nds_plugin.") in modules()} or {node.module}
        never_run = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if inside_functions or not (never_run or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))):
            stack += ast.iter_child_nodes(node)
    return frozenset(found)


def own_imports(name: str, inside_functions: bool = True) -> set[str]:
    """The package's modules among them, without ``nds_plugin.``."""
    prefix = "nds_plugin."
    return {m[len(prefix) :] for m in imports(name, inside_functions) if m.startswith(prefix)}


def room(name: str) -> str:
    """The room that a module lies in."""
    return name.split(".")[0]


def rooms() -> list[str]:
    """The rooms, the ones that import least first."""
    names = {room(name) for name in modules()} - {""}
    return sorted(names, key=lambda name: (len(may_import(name)), name))


def may_import(name: str) -> list[str]:
    """The rooms that the opening comment of a room allows it to import."""
    found = re.search(r"^May import: (.+?)\.\s*\Z", _comment(name), re.MULTILINE | re.DOTALL)
    assert found, f"nds_plugin.{name}: its opening comment must end in a line 'May import: ...'."
    return [] if found[1] == "nothing" else re.split(r",\s+", found[1])


@functools.cache
def needs_torch(name: str) -> bool:
    """Whether importing a module imports torch."""
    seen, stack = set(), [name]
    while stack:
        module = stack.pop()
        if module in seen or module not in modules():
            continue
        seen.add(module)
        names = imports(module, inside_functions=False)
        if {m.split(".")[0] for m in names} & {"torch", "torchvision"}:
            return True
        stack += [m for m in own_imports(module, inside_functions=False) if m]
        stack += [module.rpartition(".")[0]] if "." in module else []
    return False


def listing() -> str:
    """The list: a line per module, room by room."""
    lines = []
    for top in rooms():
        members = [name for name in modules() if room(name) == top and name != top]
        lines += _entry(top + ("/" if members else ".py"), _star(top), _summary(top))
        for name in members:
            is_folder = modules()[name].name == "__init__.py"
            shown = "  " * name.count(".") + name.rpartition(".")[2] + ("/" if is_folder else "")
            lines += _entry(shown, " " if is_folder else _star(name), _summary(name))
    return "\n".join(lines)


def updated(page: str) -> str:
    """A page with the list made anew."""
    return written(page, __file__, f"```text\n{listing()}\n```")


def _entry(shown: str, star: str, summary: str) -> list[str]:
    indent = " " * (_NAME + 2)
    return textwrap.wrap(f"{shown:<{_NAME}}{star} {summary}", _WIDTH, subsequent_indent=indent)


def _star(name: str) -> str:
    return "*" if needs_torch(name) else " "


def _comment(name: str) -> str:
    return ast.get_docstring(tree(name)) or ""


def _summary(name: str) -> str:
    """The first sentence of the opening comment."""
    paragraph = " ".join(_comment(name).split("\n\n")[0].split())
    sentence = re.split(r"(?<=\.) ", paragraph)[0].rstrip(".:")
    return re.sub(r":\w+:`~?([^`]+)`", r"\1", sentence).replace("``", "").replace("`", "")


def main() -> None:
    """Write the list, or check it."""
    page = PAGE.read_text(encoding="utf-8")
    if "--check" in sys.argv[1:]:
        raise SystemExit(int(updated(page) != page))
    PAGE.write_text(updated(page), encoding="utf-8")


if __name__ == "__main__":
    main()

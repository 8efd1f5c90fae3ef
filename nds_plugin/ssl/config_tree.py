"""A tree of config keys: YAML files laid over its defaults, ``_BASE_`` first, then ``KEY VALUE`` pairs of a command line.

fvcore's CfgNode does the same for Detectron2. Self-supervision needs neither (a test keeps it so); and here an error
names the file or the command line, the key, what it may be, and the nearest key that there is.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nds_plugin.errors import NDSError, did_you_mean
from nds_plugin.pipeline.config_lookup import read_document


class Node(dict[str, Any]):
    """Keys that can be read as attributes, as the steps of the pipeline read ``cfg.NDS``."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class Free(Node):
    """A node whose keys are names of the user's, each with keys of its own."""


def read_documents(path: Path, installed: Path, above: tuple[Path, ...] = ()) -> Iterator[dict[str, Any]]:
    """The config files that a file is based on by ``_BASE_``, then itself.

    Args:
        path: of the file.
        installed: the folder in which a base is looked for that is not beside its file.
        above: files that are based on this one.

    Raises:
        NDSError: no such file, or one that is based on itself.
    """
    if path.resolve() in above:
        raise NDSError(f"config {path} is based on itself: {' -> '.join(map(str, (*above, path)))}.")
    document = read_document(path, str(above[-1]) if above else "")
    base = document.pop("_BASE_", None)
    if base is not None:
        beside, elsewhere = path.parent / str(base), installed / str(base)
        found = beside if beside.exists() or not elsewhere.is_file() else elsewhere
        yield from read_documents(found, installed, (*above, path.resolve()))
    yield document


def lay(tree: Node, given: Mapping[str, Any], where: str) -> None:
    """Put the values of a document in the place of the tree's.

    Args:
        where: the document, as errors call it.

    Raises:
        NDSError: an unknown key, or a value of another type than the tree's.
    """
    _lay(tree, tree, given, "", where)


def set_key(tree: Node, key: str, value: Any, where: str) -> None:
    """Put one value in the place of the tree's; the key has its nodes before it, with dots. See :func:`lay`."""
    *parents, leaf = key.split(".")
    if len(parents) == 2 and isinstance(tree.get(parents[0]), Free) and parents[1] in tree[parents[0]]:
        tree[parents[0]][parents[1]] = {**_mapping(tree[parents[0]][parents[1]], key), leaf: value}
        return
    place = tree
    for parent in parents:
        if not isinstance(place.get(parent), Node):
            raise _unknown(tree, key, where)
        place = place[parent]
    _lay(tree, place, {leaf: value}, ".".join(parents) + ("." if parents else ""), where)


def read_word(text: Any) -> Any:
    """A word of the command line: a Python literal where it reads as one, else text."""
    try:
        return ast.literal_eval(text) if isinstance(text, str) else text
    except (ValueError, SyntaxError):
        return {"true": True, "false": False}.get(text.lower(), text)


def plain(value: Any) -> Any:
    """A tree, or a part of one, as dicts and lists."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def _lay(root: Node, tree: Node, given: Mapping[str, Any], above: str, where: str) -> None:
    for name, value in given.items():
        key = f"{above}{name}"
        if name not in tree:
            raise _unknown(root, key, where)
        if isinstance(tree[name], Free):
            tree[name] = Free({**tree[name], **copy.deepcopy(_mapping(value, f"{where}: {key}"))})
        elif isinstance(tree[name], Node):
            _lay(root, tree[name], _mapping(value, f"{where}: {key}"), f"{key}.", where)
        else:
            tree[name] = _typed(tree[name], value, f"{where}: {key}")


def _unknown(root: Node, key: str, where: str) -> NDSError:
    return NDSError(f"{where}: unknown config key {key}.{did_you_mean(key, list(_names(root)))}")


def _names(tree: Mapping[str, Any], above: str = "") -> Iterator[str]:
    for name, value in tree.items():
        yield f"{above}{name}"
        if isinstance(value, Node) and not isinstance(value, Free):
            yield from _names(value, f"{above}{name}.")


def _mapping(value: Any, key: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise NDSError(f"{key} holds keys of its own, got the value {value!r}.")
    return value


def _typed(default: Any, value: Any, key: str) -> Any:
    """A value of the default's type; one text serves as a list of one, text such as ``("a",)`` as the list."""
    kind = type(default)
    if kind is tuple and isinstance(value, str):
        value = read_word(value)
        value = (value,) if isinstance(value, str) and value else value
    if kind is tuple and isinstance(value, (list, tuple)):
        return tuple(value)
    if kind is float and isinstance(value, str):
        value = read_word(value)  # YAML reads 1e-4 as text
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is kind:
        return value
    names = {str: "text", int: "a whole number", float: "a number", tuple: "a list", bool: "true or false"}
    raise NDSError(f"{key} must be {names.get(kind, kind.__name__)}, got {value!r}.")

"""The part ``nds`` of a config: the settings of all steps under the keys of ``cfg.NDS``, in lower case."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import ConfigDict

from nds_plugin.errors import NDSError, did_you_mean
from nds_plugin.pipeline.config_nodes import add_settings_nodes
from nds_plugin.pipeline.presets import preset
from nds_plugin.selection.selectors.nds import NDS

# What is not a setting of a step. FREE nodes hold keys of others: MMEngine's own, or names of datasets.
_OWN: dict[str, Any] = {
    "PRESET": "",
    # One of the selectors (docs/selectors.md), or none: no pretraining at all.
    "SELECTOR": NDS.name,
    "UNIT": "image",
    # Where artefacts are kept; work_dir/nds when empty.
    "WORK_DIR": "",
    # D: names of datasets, joined in this order; file of a class mapping.
    "SOURCE": {"DATASETS": (), "LABEL_MAPPING": ""},
    # T: names of the target's datasets for training and test; of the images that are scored, those of
    # TRAIN by default; a seeded draw of so many images of each dataset in TRAIN, 0: all.
    "TARGET": {"TRAIN": (), "TEST": (), "DATASETS": (), "NUM_IMAGES": 0},
    # COCO files of one's own by the name of the dataset: dict(ann_file=..., images=FOLDER).
    "DATASETS": {},
    # What differs in pretraining: any of the config's own keys; and for the selector full beside that.
    "PRETRAIN": {},
    "FULL": {"PRETRAIN": {}},
    "TRANSFER": {"LOOSE_NAMES": False, "REQUIRE_SHARED_CLASSES": False},
    "EVALUATE_PRETRAINED": False,
    "RESCORE": {"ITERS": ()},
}
FREE = ("DATASETS", "PRETRAIN", "FULL.PRETRAIN")


def defaults() -> ConfigDict:
    """All keys with their defaults."""
    tree = ConfigDict(copy.deepcopy(_OWN))
    add_settings_nodes(tree)
    return tree


def nds_part(given: Any, where: str) -> ConfigDict:
    """The keys of ``nds`` over their defaults and its preset, in capitals as the steps read them.

    Args:
        given: ``nds`` of a config.
        where: the config, for messages.

    Raises:
        NDSError: an unknown key or preset, or a value of another type.
    """
    if not isinstance(given, Mapping):
        raise NDSError(f"{where}: expected nds = dict(selector=..., ...), got {type(given).__name__}.")
    tree = defaults()
    for key, value in preset(given.get("preset", ""), "nds.preset").items():
        _set(tree, key.removeprefix("NDS."), value)
    _lay(tree, given, "", where)
    return tree


def _lay(tree: ConfigDict, given: Mapping[str, Any], above: str, where: str) -> None:
    for name, value in given.items():
        key = f"{above}{name}".upper()
        node, leaf = tree, str(name).upper()
        if str(name) != str(name).lower() or leaf not in node:
            known = [k.lower() for k in _names(defaults())]
            raise NDSError(f"{where}: unknown key nds.{above}{name}.{did_you_mean(f'{above}{name}', known)}")
        if key in FREE:
            node[leaf] = _mapping(value, f"{where}: nds.{key.lower()}")
        elif isinstance(node[leaf], dict):
            _lay(node[leaf], _mapping(value, f"{where}: nds.{key.lower()}"), f"{above}{name}.", where)
        else:
            node[leaf] = _typed(node[leaf], value, f"{where}: nds.{key.lower()}")


def _mapping(value: Any, key: str) -> Any:
    if not isinstance(value, Mapping):
        raise NDSError(f"{key} must be dict(...), got {value!r}.")
    return value


def _typed(default: Any, value: Any, key: str) -> Any:
    """A value of the default's type; a list, or one text, serves as a tuple, a whole number as a number."""
    kind = type(default)
    if kind is tuple:
        if isinstance(value, (list, tuple)):
            return tuple(value)
        if isinstance(value, str):
            return (value,) if value else ()
    elif kind is float:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return value
    elif type(value) is kind:
        return value
    names = {str: "text", int: "a whole number", float: "a number", tuple: "a list", bool: "True or False"}
    raise NDSError(f"{key} must be {names.get(kind, kind.__name__)}, got {value!r}.")


def _set(tree: ConfigDict, key: str, value: Any) -> None:
    *parents, leaf = key.split(".")
    for parent in parents:
        tree = tree[parent]
    tree[leaf] = value


def _names(tree: Mapping[str, Any], above: str = "") -> Iterator[str]:
    for name, value in tree.items():
        yield f"{above}{name}"
        if isinstance(value, Mapping):
            yield from _names(value, f"{above}{name}.")

"""The config node of the plugin, ``cfg.NDS``. Symbols are those of ``docs/method.md``."""

from __future__ import annotations

import ast
import contextlib
import os
import re
from typing import Any

from detectron2.config import CfgNode as CN

from nds_plugin.d2.config.lookup import find_config
from nds_plugin.d2.config.presets import apply_preset
from nds_plugin.d2.config.timm_nodes import add_timm_config
from nds_plugin.errors import NDSError, did_you_mean, few
from nds_plugin.pipeline.config_lookup import default_output, read_document
from nds_plugin.pipeline.config_nodes import add_settings_nodes
from nds_plugin.selection.selectors.nds import NDS
from nds_plugin.selection.selectors.uniform import Full

_PRETRAIN = "NDS.PRETRAIN."


def add_nds_config(cfg: CN) -> None:
    """Add the default ``cfg.NDS``, and ``cfg.MODEL.TIMM``, to a Detectron2 config."""
    add_timm_config(cfg)
    cfg.NDS = CN()
    # Named settings, laid under the other keys of the place that names it; see presets.py.
    cfg.NDS.PRESET = ""
    # Which images to pretrain on: one of SELECTORS (docs/selectors.md), or none (no pretraining at all).
    cfg.NDS.SELECTOR = NDS.name
    # What is clustered, scored and compared: image, or object (crops of annotated boxes).
    cfg.NDS.UNIT = "image"
    # The settings of each step: their classes give defaults and ranges, docs/configuration.md the meaning.
    add_settings_nodes(cfg.NDS)
    # A finished selection, for DATALOADER.SAMPLER_TRAIN = NDSTrainingSampler. The main job sets it.
    cfg.NDS.SELECTION = ""
    # Where index, partition, experts, scores and selections are kept; OUTPUT_DIR/nds when empty.
    # Runs that share it share what they have in common.
    cfg.NDS.WORK_DIR = ""

    # D: the source, registered dataset names, joined in this order.
    cfg.NDS.SOURCE = CN()
    cfg.NDS.SOURCE.DATASETS = ()
    # JSON file {"dataset or *": {"its class": "united class" or null}}; classes unite by name without.
    cfg.NDS.SOURCE.LABEL_MAPPING = ""

    # T: the target. Its images are DATASETS.TRAIN unless named here (the client may score more
    # images than it has labelled). NUM_IMAGES is a seeded draw of that many images of each dataset in
    # DATASETS.TRAIN, for fine-tuning and, unless TARGET.DATASETS names others, for scoring.
    cfg.NDS.TARGET = CN()
    cfg.NDS.TARGET.DATASETS = ()
    cfg.NDS.TARGET.NUM_IMAGES = 0

    # What differs in pretraining: any of Detectron2's own nodes, merged over the config.
    cfg.NDS.PRETRAIN = CN(new_allowed=True)
    # The same for the selector full, over PRETRAIN, whose schedule is that of the budget. load_config
    # lays it over and takes it away.
    cfg.NDS.FULL = CN()
    cfg.NDS.FULL.PRETRAIN = CN(new_allowed=True)

    # Initial weights of class-specific rows, by class name, when fine-tuning starts.
    cfg.NDS.TRANSFER = CN()
    cfg.NDS.TRANSFER.LOOSE_NAMES = False  # also near names, such as rider from person
    cfg.NDS.TRANSFER.REQUIRE_SHARED_CLASSES = False

    # Also test the pretrained detector on the target before fine-tuning, over the shared classes.
    cfg.NDS.EVALUATE_PRETRAINED = False

    # Iterations of pretraining after which the experts are scored again (MODE stream only).
    cfg.NDS.RESCORE = CN()
    cfg.NDS.RESCORE.ITERS = ()

    cfg.NDS.OPTIMIZER = "SGD"  # or AdamW

    # Classes that each label space of a joined source labels; written by the main job, else those of a drawn dataset.
    cfg.NDS.LABEL_SPACES = []


def load_config(name: str, overrides: list[str] | None = None) -> CN:
    """Detectron2's defaults, ``cfg.NDS``, a config file and ``KEY VALUE`` overrides, in this order.

    ``NDS.FULL.PRETRAIN`` is laid over ``NDS.PRETRAIN`` where the selector is full. ``OUTPUT_DIR`` is
    ``output/<config>/<selector>`` where none is given.
    A preset (``NDS.PRESET``) that the file names comes before the file, one that the overrides name
    between the file and the other overrides: what stands beside its name wins.

    Raises:
        NDSError: no such file, or a key, value or preset that the config does not know.
    """
    path, ours = find_config(name)
    overrides = [*ours, *(overrides or [])]
    if len(overrides) % 2:
        raise NDSError(f"command line: {overrides[-1]!r} at the end is not a pair of KEY VALUE.")
    given = dict(zip(overrides[::2], overrides[1::2]))
    cfg = _from_file(path)
    if "NDS.PRESET" not in given and cfg.NDS.PRESET:
        cfg = _from_file(path, cfg.NDS.PRESET)
    whole = _pairs(flat(cfg.NDS.pop("FULL").PRETRAIN, _PRETRAIN))
    if given.get("NDS.SELECTOR", cfg.NDS.SELECTOR) == Full.name:
        _override(cfg, whole, f"config {path}")
    apply_preset(cfg, given.get("NDS.PRESET", ""))
    _override(cfg, overrides, "command line")
    cfg.OUTPUT_DIR = cfg.OUTPUT_DIR or default_output(path, cfg.NDS.SELECTOR)
    return cfg


def _override(cfg: CN, overrides: list[Any], where: str) -> None:
    _add_pretrain_keys(cfg, overrides)
    try:
        cfg.merge_from_list(overrides)
    except (KeyError, ValueError, AssertionError) as error:
        raise _refused(where, error, cfg) from None


def _from_file(path: str, preset: str = "") -> CN:
    """Detectron2's defaults and ``cfg.NDS``, a preset over them, a config file over that."""
    from detectron2.config import get_cfg

    cfg = get_cfg()
    add_nds_config(cfg)
    cfg.OUTPUT_DIR = ""  # a default of ours takes the place of Detectron2's ./output
    apply_preset(cfg, preset)
    _check_files(path, cfg)
    try:
        # Detectron2 would by default run Python code that a config asks for.
        cfg.merge_from_file(path, allow_unsafe=False)
    except (KeyError, ValueError, AssertionError, RecursionError) as error:
        raise _refused(f"config {path}", error, cfg) from None
    _decode(cfg.NDS.PRETRAIN)
    _decode(cfg.NDS.FULL.PRETRAIN)
    return cfg


def _check_files(path: str, cfg: CN, above: tuple[str, ...] = ()) -> None:
    """Refuse a config file that is no plain YAML with keys, and likewise what it is based on."""
    if path in above:
        raise NDSError(f"config {path} is based on itself: {' -> '.join((*above, path))}.")
    document = read_document(path, above[-1] if above else "")
    for key, value in document.items():
        if isinstance(cfg.get(key), CN) and not isinstance(value, dict):
            raise NDSError(f"config {path}: {key} holds keys of its own, got the value {value!r}.")
    bases = document.get("_BASE_", [])
    for base in bases if isinstance(bases, list) else [bases]:
        located = os.path.expanduser(str(base))
        if "://" not in located:
            _check_files(os.path.join(os.path.dirname(path), located), cfg, (*above, path))


_NODE = "a node of keys"
_TYPES = {  # as yacs names them
    "detectron2.config.config.CfgNode": _NODE,
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "tuple": "a tuple",
}


def _refused(where: str, error: Exception, cfg: CN) -> NDSError:
    """The error of a config that yacs did not accept, with the nearest keys of a mistyped one."""
    text = _one_line(error)
    known = re.fullmatch(r"Non-existent (?:config )?key: (\S+)", text)
    if known:
        key = known[1].removeprefix(_PRETRAIN)
        return NDSError(f"{where}: unknown config key {known[1]}.{did_you_mean(key, flat(cfg))}")
    mismatch = re.fullmatch(
        r"Type mismatch \(<class '(.+?)'> vs\. <class '(.+?)'>\) with values .* for config key: (\S+)", text
    )
    if mismatch:
        expected, got, key = (_TYPES.get(name, name) for name in mismatch.groups())
        hint = {
            ("a number", "a whole number"): " (write 1.0 for 1)",
            ("a tuple", "text"): " (write ('a',) for a)",
        }
        if expected == _NODE:
            node = cfg
            for name in key.split("."):
                node = node[name]
            return NDSError(f"{where}: {key} holds keys of its own ({few(list(node), 8)}), got {got}.")
        return NDSError(f"{where}: {key} must be {expected}, got {got}{hint.get((expected, got), '')}.")
    return NDSError(f"{where}: {text}")


def _add_pretrain_keys(cfg: CN, overrides: list[Any]) -> None:
    """Let overrides name any key under NDS.PRETRAIN that Detectron2 has, not only those of the file."""
    known = flat(cfg)
    for key in overrides[::2]:
        name = str(key)[len(_PRETRAIN) :]
        if not str(key).startswith(_PRETRAIN) or name not in known:
            continue
        node = cfg.NDS.PRETRAIN
        *parents, leaf = name.split(".")
        for parent in parents:
            if parent not in node:
                node[parent] = CN(new_allowed=True)
            node = node[parent]
        if leaf not in node:
            node[leaf] = known[name]


def _decode(node: CN) -> None:
    """Turn text such as ``(60000,)`` into its value, as yacs does for the keys that it knows."""
    for key, value in node.items():
        if isinstance(value, CN):
            _decode(value)
        elif isinstance(value, str):
            with contextlib.suppress(ValueError, SyntaxError):
                node[key] = ast.literal_eval(value)


def _one_line(error: Exception) -> str:
    text = error.args[0] if isinstance(error, KeyError) and error.args else error  # str() would quote it
    return " ".join(str(text).split())


def merged(cfg: CN, node: CN) -> CN:
    """A copy of ``cfg`` with the values of ``node``, whose keys must exist in ``cfg``.

    Raises:
        NDSError: a key or type that the config does not know.
    """
    result = cfg.clone()
    result.defrost()
    try:
        result.merge_from_list(_pairs(flat(node)))
    except (KeyError, ValueError, AssertionError) as error:
        raise _refused("NDS.PRETRAIN", error, cfg) from None
    return result


def flat(node: CN, prefix: str = "") -> dict[str, Any]:
    """The values of a node by their keys with dots, each after ``prefix``."""
    found: dict[str, Any] = {}
    for key, value in node.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def _pairs(values: dict[str, Any]) -> list[Any]:
    """Keys and values in turn, as yacs takes them."""
    return [word for pair in values.items() for word in pair]

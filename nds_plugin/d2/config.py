"""The one config node of the plugin, ``cfg.NDS``. Symbols are those of ``docs/method.md``."""

from __future__ import annotations

import ast
import contextlib
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode as CN

from nds_plugin.errors import NDSError, unknown_name

CONFIG_DIR = Path(__file__).resolve().parents[2] / "configs" / "detectron2"


def add_nds_config(cfg: CN) -> None:
    """Add the default ``cfg.NDS`` to a Detectron2 config."""
    cfg.NDS = CN()
    # Which images to pretrain on: nds, uniform, full, or none (no pretraining at all).
    cfg.NDS.SELECTOR = "nds"
    # subset: a fixed draw without replacement. stream: draws by p for as long as it trains.
    cfg.NDS.MODE = "subset"
    # Budget of a subset: give one of the two.
    cfg.NDS.BUDGET = CN()
    cfg.NDS.BUDGET.IMAGES = 0
    cfg.NDS.BUDGET.SHARE = 0.0
    # T of w = softmax(z / T), and the scaling of z before it: minmax or none.
    cfg.NDS.TEMPERATURE = 0.1
    cfg.NDS.NORMALISATION = "minmax"
    # Seed of the selection and of the data order. The partition and the experts have their own.
    cfg.NDS.SEED = 0
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
    # images than it has labelled); NUM_IMAGES draws that many of them for scoring and fine-tuning.
    cfg.NDS.TARGET = CN()
    cfg.NDS.TARGET.DATASETS = ()
    cfg.NDS.TARGET.NUM_IMAGES = 0

    # g_k(x): the clusters S_k.
    cfg.NDS.PARTITION = CN()
    cfg.NDS.PARTITION.METHOD = "kmeans"  # or superclass
    cfg.NDS.PARTITION.NUM_CLUSTERS = 50  # K
    # Checkpoint of the network that gives the features; the shared rotation network when empty.
    cfg.NDS.PARTITION.WEIGHTS = ""
    cfg.NDS.PARTITION.MIN_SIZE = 1  # smaller clusters join their neighbour
    cfg.NDS.PARTITION.SEED = 0

    # e_k: one expert per cluster.
    cfg.NDS.EXPERTS = CN()
    cfg.NDS.EXPERTS.TASK = "rotation"  # or supervised
    cfg.NDS.EXPERTS.INIT = "shared"  # from one shared rotation network, or scratch
    cfg.NDS.EXPERTS.CROP_SIZE = 224
    cfg.NDS.EXPERTS.STEPS = 5000  # the same for every expert
    cfg.NDS.EXPERTS.SHARED_STEPS = 40000
    cfg.NDS.EXPERTS.BATCH_SIZE = 64  # crops; each enters in four rotations
    cfg.NDS.EXPERTS.BASE_LR = 0.05
    cfg.NDS.EXPERTS.SEED = 0

    # z_k: what the client computes.
    cfg.NDS.SCORING = CN()
    # accuracy (the paper's), log_likelihood, relative_accuracy, relative_log_likelihood
    cfg.NDS.SCORING.METRIC = "accuracy"
    cfg.NDS.SCORING.MAX_IMAGES = 0  # a seeded draw of the target's images; 0: all

    # What differs in pretraining: any of Detectron2's own nodes, merged over the config.
    cfg.NDS.PRETRAIN = CN(new_allowed=True)

    # Initial weights of class-specific rows, by class name, when fine-tuning starts.
    cfg.NDS.TRANSFER = CN()
    cfg.NDS.TRANSFER.LOOSE_NAMES = False  # also near names, such as rider from person
    cfg.NDS.TRANSFER.REQUIRE_SHARED_CLASSES = False

    cfg.NDS.LOADER = CN()
    # Stop when more than this share of the images cannot be read; the others are replaced.
    cfg.NDS.LOADER.MAX_UNREADABLE = 0.01

    # Iterations of pretraining after which the experts are scored again (MODE stream only).
    cfg.NDS.RESCORE = CN()
    cfg.NDS.RESCORE.ITERS = ()

    cfg.NDS.OPTIMIZER = "SGD"  # or AdamW

    # Classes that each label space of a joined source labels; written by the main job.
    cfg.NDS.LABEL_SPACES = []


def find_config(name: str) -> str:
    """The path of a config: as given where it exists, else looked up in configs/detectron2/.

    Raises:
        NDSError: neither; the known names are listed.
    """
    if Path(name).is_file():
        return name
    for candidate in (CONFIG_DIR / name, CONFIG_DIR / f"{name}.yaml"):
        if candidate.is_file():
            return str(candidate)
    known = [str(p.relative_to(CONFIG_DIR)) for p in CONFIG_DIR.rglob("*.yaml")]
    raise unknown_name("config file", name, known)


def load_config(name: str, overrides: list[str] | None = None) -> CN:
    """Detectron2's defaults, ``cfg.NDS``, a config file and ``KEY VALUE`` overrides, in this order.

    Raises:
        NDSError: no such file, or a key or value that the config does not know.
    """
    from detectron2.config import get_cfg

    cfg = get_cfg()
    add_nds_config(cfg)
    path = find_config(name)
    try:
        cfg.merge_from_file(path)
    except (KeyError, ValueError, AssertionError) as error:
        raise NDSError(f"config {path}: {_one_line(error)}") from None
    _decode(cfg.NDS.PRETRAIN)
    try:
        cfg.merge_from_list(overrides or [])
    except (KeyError, ValueError, AssertionError) as error:
        raise NDSError(f"command line KEY VALUE overrides {overrides}: {_one_line(error)}") from None
    return cfg


def _decode(node: CN) -> None:
    """Turn text such as ``(60000,)`` into its value, as yacs does for the keys that it knows."""
    for key, value in node.items():
        if isinstance(value, CN):
            _decode(value)
        elif isinstance(value, str):
            with contextlib.suppress(ValueError, SyntaxError):
                node[key] = ast.literal_eval(value)


def _one_line(error: Exception) -> str:
    text = error.args[0] if error.args else error
    return " ".join(str(text).split())


def merged(cfg: CN, node: CN) -> CN:
    """A copy of ``cfg`` with the values of ``node``, whose keys must exist in ``cfg``.

    Raises:
        NDSError: a key or type that the config does not know.
    """
    result = cfg.clone()
    result.defrost()
    try:
        result.merge_from_list(_flatten(node))
    except (KeyError, ValueError, AssertionError) as error:
        raise NDSError(f"NDS.PRETRAIN: {_one_line(error)}") from None
    return result


def _flatten(node: CN, prefix: str = "") -> list[Any]:
    pairs: list[Any] = []
    for key, value in node.items():
        pairs += _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else [f"{prefix}{key}", value]
    return pairs

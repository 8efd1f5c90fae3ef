"""The config of the job: YAML with the keys of ``cfg.NDS``, and nodes for network, pretraining and classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import yaml

from nds_plugin.errors import NDSError, unknown_name
from nds_plugin.pipeline.config_lookup import NO_PRETRAINING, Configs, default_output
from nds_plugin.pipeline.config_nodes import add_settings_nodes
from nds_plugin.pipeline.presets import preset
from nds_plugin.pipeline.settings import PipelineSettings, check_dataset_names
from nds_plugin.pipeline.settings_from_cfg import pipeline_settings
from nds_plugin.report.run_files import WORK
from nds_plugin.selection.selectors import SELECTORS
from nds_plugin.selection.selectors.nds import NDS
from nds_plugin.settings import Settings, from_plain, settings_of, to_plain
from nds_plugin.ssl.config_tree import Free, Node, lay, plain, read_documents, read_word, set_key
from nds_plugin.ssl.folders import check_folder
from nds_plugin.ssl.settings import FinetuneConfig, NetworkConfig, PretrainConfig

CONFIGS = Configs("ssl", ".yaml")
S = TypeVar("S", bound=Settings)
NODES: dict[str, type[Settings]] = {
    "MODEL": NetworkConfig,
    "PRETRAIN": PretrainConfig,
    "FINETUNE": FinetuneConfig,
}
_NAMES = (
    ("SOURCE", "DATASETS"),
    ("SNDS", "DATASETS"),
    ("TARGET", "TRAIN"),
    ("TARGET", "TEST"),
    ("TARGET", "DATASETS"),
)
_SEEDS = 2**63  # torch takes twice as many; MoCo's second head takes the next one


def defaults() -> Node:
    """All keys with their defaults."""
    nds = Node(
        PRESET="",
        # One of the selectors (docs/selectors.md), or none: no pretraining at all.
        SELECTOR=NDS.name,
        UNIT="image",
        # Where artefacts are kept; OUTPUT_DIR/nds when empty. Runs that share it share what they have in common.
        WORK_DIR="",
        SOURCE=Node(DATASETS=()),
        # Of the classifier; DATASETS: of the images that are scored, those of TRAIN when empty.
        TARGET=Node(TRAIN=(), TEST=(), DATASETS=()),
    )
    add_settings_nodes(nds)
    tree = Node(
        SEED=0,  # of weights, batches and views; that of the selection is NDS.SEED
        OUTPUT_DIR="",
        DEVICE="",  # cpu or cuda; a GPU if there is one when empty
        NUM_WORKERS=0,  # processes that make batches
        # Folders of classes by the name of the dataset: FOLDER, CLASSES, PART, TEST_EVERY.
        FOLDERS=Free(),
        NDS=nds,
    )
    for name, cls in NODES.items():
        tree[name] = Node({item.key: to_plain(item, item.default) for item in settings_of(cls)})
    return tree


@dataclass(frozen=True)
class JobConfig:
    """What a job is told.

    Attributes:
        cfg: all keys.
        network, pretrain, finetune: of the nodes MODEL, PRETRAIN, FINETUNE.
    """

    cfg: Node
    network: NetworkConfig
    pretrain: PretrainConfig
    finetune: FinetuneConfig

    @property
    def nds(self) -> Node:
        """``cfg.NDS``."""
        found: Node = self.cfg.NDS
        return found

    @property
    def pretrains(self) -> bool:
        """Whether there is anything to select and pretrain on."""
        return bool(self.nds.SELECTOR != NO_PRETRAINING)

    @property
    def output(self) -> Path:
        """The folder of the run."""
        return Path(self.cfg.OUTPUT_DIR)

    @property
    def artefacts(self) -> Path:
        """The folder of index, partition, experts, scores and selections."""
        return Path(self.nds.WORK_DIR or self.output / WORK)

    @property
    def text(self) -> str:
        """The whole config."""
        return yaml.safe_dump(plain(self.cfg), sort_keys=False)

    def settings(self) -> PipelineSettings:
        """The settings of the selecting steps.

        Raises:
            NDSError: names or numbers that are out of range.
        """
        loader = Node(NUM_WORKERS=self.cfg.NUM_WORKERS, FILTER_EMPTY_ANNOTATIONS=False)
        targets = tuple(self.nds.TARGET.DATASETS) or tuple(self.nds.TARGET.TRAIN)
        return pipeline_settings(Node(NDS=self.nds, DATALOADER=loader), targets)


def load_config(name: str, overrides: Sequence[str] = ()) -> JobConfig:
    """A config file, or one of configs/ssl/, with ``KEY VALUE`` overrides.

    Args:
        name: of the file; ``moco_uniform_pets.yaml`` is that file alone, ``uniform_x.yaml`` stands for ``nds_x.yaml`` with
            the selector uniform.

    Raises:
        NDSError: no such file, or a key or value that the config does not know.
    """
    path, selector = CONFIGS.find(name)
    if len(overrides) % 2:
        raise NDSError(f"command line: {overrides[-1]!r} at the end is not a pair of KEY VALUE.")
    given = list(zip(overrides[::2], overrides[1::2]))
    documents = list(read_documents(Path(path), CONFIGS.folder))
    tree = defaults()
    nodes = [document["NDS"] for document in documents if isinstance(document.get("NDS"), dict)]
    named = [
        node["PRESET"] for node in nodes if isinstance(node.get("PRESET"), str)
    ]  # others are refused below
    on_the_line = dict(given).get("NDS.PRESET")
    in_the_file = named[-1] if named and on_the_line is None else ""
    for key, value in preset(in_the_file).items():
        set_key(tree, key, value, "preset")
    for document in documents:
        lay(tree, document, f"config {path}")
    for key, value in preset(on_the_line or "").items():
        set_key(tree, key, value, "preset")
    for key, value in [*([("NDS.SELECTOR", selector)] if selector else []), *given]:
        set_key(tree, key, read_word(value), "command line")
    tree["OUTPUT_DIR"] = tree.OUTPUT_DIR or default_output(path, tree.NDS.SELECTOR)
    return _checked(tree)


def _checked(tree: Node) -> JobConfig:
    if tree.NDS.SELECTOR not in (*SELECTORS, NO_PRETRAINING):
        raise unknown_name("NDS.SELECTOR", tree.NDS.SELECTOR, (*SELECTORS, NO_PRETRAINING))
    if not 0 <= tree.SEED < _SEEDS:
        raise NDSError(f"SEED must be 0 or more and below 2^63, got {tree.SEED}.")
    if tree.NUM_WORKERS < 0:
        raise NDSError(f"NUM_WORKERS must be 0 or more, got {tree.NUM_WORKERS}.")
    for name, told in tree.FOLDERS.items():
        check_folder(name, told)
    for node, key in _NAMES:
        check_dataset_names(tree.NDS[node][key], f"NDS.{node}.{key}")
    return JobConfig(
        tree,
        _node(NetworkConfig, tree, "MODEL"),
        _node(PretrainConfig, tree, "PRETRAIN"),
        _node(FinetuneConfig, tree, "FINETUNE"),
    )


def _node(cls: type[S], tree: Node, node: str) -> S:
    """The settings of a node; an error names the key."""
    found = {}
    for item in settings_of(cls):
        found[item.name] = from_plain(item, tree[node][item.key])
        item.check(found[item.name], f"{node}.{item.key}")
    return cls(**found)

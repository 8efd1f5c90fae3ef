"""Other people's scripts train on a selection: Detectron2's own, a user's own, and a LazyConfig."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import detectron2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from nds_plugin.d2 import build_nds_train_loader, register_selection
from nds_plugin.d2.data.known_datasets import register_coco_folder
from nds_plugin.datasets.coco.split import index_coco
from nds_plugin.source.index import SourceIndex
from nds_plugin.source.partition import Partition

pytestmark = pytest.mark.slow  # processes of their own, each with Detectron2 or a server

ROOT = Path(__file__).parents[2]
STOCK_TOOLS = Path(detectron2.__file__).parents[1] / "tools"  # of a wheel and of a checkout
SOURCES = ("room", "street")
BATCH = 2
MODEL = """
_BASE_: "{base}"
MODEL:
  DEVICE: "cpu"
  WEIGHTS: ""
  MASK_ON: True
  BACKBONE: {{FREEZE_AT: 0}}
  RESNETS: {{DEPTH: 18, RES2_OUT_CHANNELS: 64, NORM: "BN"}}
  FPN: {{OUT_CHANNELS: 16}}
  RPN: {{BATCH_SIZE_PER_IMAGE: 32, PRE_NMS_TOPK_TRAIN: 60, POST_NMS_TOPK_TRAIN: 30}}
  ROI_HEADS: {{BATCH_SIZE_PER_IMAGE: 16, NUM_CLASSES: {classes}}}
  ROI_BOX_HEAD: {{FC_DIM: 32, POOLER_RESOLUTION: 3}}
  ROI_MASK_HEAD: {{NUM_CONV: 1, CONV_DIM: 16}}
INPUT: {{MIN_SIZE_TRAIN: [48], MAX_SIZE_TRAIN: 72}}
DATASETS: {{TRAIN: ["coco_2017_train"], TEST: []}}
DATALOADER: {{NUM_WORKERS: 0}}
SOLVER: {{IMS_PER_BATCH: 2, MAX_ITER: 2, STEPS: [], BASE_LR: 0.001}}
VERSION: 2
"""
# What a user writes who has a script of their own; the last hook is for the test to see the batches.
OWN_SCRIPT = """
from detectron2.config import get_cfg
from detectron2.data import DatasetMapper
from detectron2.engine import DefaultTrainer, HookBase, default_argument_parser
from nds_plugin.d2 import add_nds_config, build_nds_train_loader

class Trainer(DefaultTrainer):
    @classmethod
    def build_train_loader(cls, cfg):
        return build_nds_train_loader(cfg, mapper=DatasetMapper(cfg, True))

class Show(HookBase):
    def after_step(self):
        for example in self.trainer.data_loader.last_batch:
            print("trained on", example["file_name"])

args = default_argument_parser().parse_args()
cfg = get_cfg()
add_nds_config(cfg)
cfg.merge_from_file(args.config_file)
cfg.merge_from_list(args.opts)
trainer = Trainer(cfg)
trainer.resume_or_load(resume=args.resume)
trainer.register_hooks([Show()])
trainer.train()
"""
PLAIN_SCRIPT = """
from detectron2.config import get_cfg
from detectron2.engine import DefaultTrainer, default_argument_parser, default_setup
args = default_argument_parser().parse_args()
cfg = get_cfg()
cfg.merge_from_file(args.config_file)
cfg.merge_from_list(args.opts)
default_setup(cfg, args)
DefaultTrainer(cfg).train()
"""
NOTING_MAPPER = """
from nds_plugin.d2 import NDSDatasetMapper

class NotingMapper(NDSDatasetMapper):
    def __call__(self, dataset_dict):
        print("trained on", dataset_dict["file_name"])
        return super().__call__(dataset_dict)
"""


class Workspace:
    """Datasets, an index with two clusters, and a subset of 16 images registered as ``nds_mine``."""

    def __init__(self, root: Path, datasets: Path) -> None:
        self.root = root
        self.path = root / "datasets/nds_selections/mine.parquet"
        shutil.copytree(datasets, root / "data/detection")
        self.environment = {
            **os.environ,
            "NDS_DATA": str(root / "data"),
            "DETECTRON2_DATASETS": str(root / "datasets"),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(root), str(ROOT)]),
        }
        base = Path(detectron2.__file__).parent / "model_zoo/configs/Base-RCNN-FPN.yaml"
        (root / "own.yaml").write_text(MODEL.format(base=base, classes=7))
        (root / "own.py").write_text(OWN_SCRIPT)
        (root / "plain.py").write_text(PLAIN_SCRIPT)
        (root / "noting_mapper.py").write_text(NOTING_MAPPER)

    def python(self, *arguments: object, check: bool = True, **environment: str) -> str:
        """Standard output (with the standard error of a tool that must fail) of a Python command."""
        done = subprocess.run(
            [sys.executable, "-W", "ignore", *map(str, arguments)],
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=300,
            cwd=self.root,
        )
        assert (done.returncode == 0) == check, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout if check else done.stderr

    def index(self, sources: tuple[str, ...], prefix: str = "nds_data_") -> list[str]:
        """Write index and partition (the sources are the clusters); arguments of draw_subset.py."""
        folder = self.root / "data/detection"
        parts = [
            index_coco(folder / s / "train.json", folder / s / "images", f"{prefix}{s}_train")
            for s in sources
        ]
        index = SourceIndex.join(parts)
        cluster = np.searchsorted([f"{prefix}{s}_train" for s in sources], index.column("source").astype(str))
        index.save(self.root / "index.parquet", "key")
        Partition(cluster, index.table, index.hash, method="kmeans", seed=0).save(
            self.root / "partition.parquet", "key"
        )
        files = ["--index", "index.parquet", "--partition", "partition.parquet"]
        return [str(ROOT / "tools/draw_subset.py"), *files, "--selector", "uniform", "--images", "16"]

    def expected(self, batches: int) -> list[str]:
        """Names of the files in the first batches of the selection's stream."""
        loader = build_nds_train_loader(dataset="nds_mine", mapper=dict, total_batch_size=BATCH)
        return [d["file_name"] for batch in itertools.islice(loader, batches) for d in batch]


def _trained_on(output: str) -> list[str]:
    return re.findall(r"^trained on (.+)$", output, re.MULTILINE)


@pytest.fixture(scope="module")
def work(tiny_datasets: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    workspace = Workspace(tmp_path_factory.mktemp("hosts"), tiny_datasets)
    drawn = workspace.python(*workspace.index(SOURCES), "--name", "mine")
    assert "Registered dataset: nds_mine, MODEL.ROI_HEADS.NUM_CLASSES 7" in drawn
    names = [*register_coco_folder(workspace.root / "data/detection", "nds_data"), "nds_mine"]
    register_selection(workspace.path, "nds_mine")
    yield workspace
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_detectron2s_own_script_trains_on_a_drawn_subset_by_its_name(work: Workspace) -> None:
    script = STOCK_TOOLS / "train_net.py"
    work.python(
        script if script.is_file() else "plain.py",
        *("--config-file", "own.yaml", "OUTPUT_DIR", "stock", "DATASETS.TRAIN", "('nds_mine',)"),
        DETECTRON2_ENV_MODULE="nds_plugin.d2.env",
    )
    assert "nds_mine" in (work.root / "stock/log.txt").read_text()
    count = "from detectron2.data import DatasetCatalog; print(len(DatasetCatalog.get('nds_mine')))"
    assert work.python("-c", count, DETECTRON2_ENV_MODULE="nds_plugin.d2.env").split()[-1] == "16"
    metrics = [json.loads(line) for line in (work.root / "stock/metrics.json").read_text().splitlines()]
    assert metrics[-1]["iteration"] == 1
    assert metrics[-1]["loss_mask"] > 0
    assert (work.root / "stock/model_final.pth").is_file()


def test_the_sampler_in_an_own_script_draws_the_stream_and_resumes_it(work: Workspace) -> None:
    """With the stock mapper and heads; what the unbroken run would have drawn comes after the resume."""
    command = ["own.py", "--config-file", "own.yaml", "--resume", "OUTPUT_DIR", "own"]
    command += ["DATALOADER.SAMPLER_TRAIN", "NDSTrainingSampler"]
    first = work.python(*command, "DATASETS.TRAIN", "('nds_mine',)", "NDS.SELECTION", work.path)
    # The selection is found by the dataset's name as well.
    then = work.python(*command, "DATASETS.TRAIN", "('nds_mine',)", "SOLVER.MAX_ITER", 4)
    assert [*_trained_on(first), *_trained_on(then)] == work.expected(4)


def test_a_stream_over_sources_of_other_classes_is_drawn_from_by_its_name(work: Workspace) -> None:
    """The two messages that name the way, followed to the letter."""
    draw = [argument for argument in work.index(SOURCES) if argument not in ("--images", "16")]
    told = work.python(*draw, "--mode", "stream", "--name", "flow")
    assert "Registered dataset: nds_flow, MODEL.ROI_HEADS.NUM_CLASSES 7\nA stream: train with" in told
    both = tuple(f"nds_data_{source}_train" for source in SOURCES)
    command = ["own.py", "--config-file", "own.yaml", "OUTPUT_DIR", "flow"]
    command += ["DATALOADER.SAMPLER_TRAIN", "NDSTrainingSampler"]
    path = work.path.with_name("flow.parquet")
    assert "name in DATASETS.TRAIN the one dataset nds_NAME" in work.python(
        *command, "DATASETS.TRAIN", both, "NDS.SELECTION", path, check=False
    )
    assert len(_trained_on(work.python(*command, "DATASETS.TRAIN", "('nds_flow',)"))) == 2 * BATCH


def test_the_lazy_config_trains_with_detectron2s_own_script_and_resumes(work: Workspace) -> None:
    script = STOCK_TOOLS / "lazyconfig_train_net.py"
    if not script.is_file():
        pytest.skip(f"this Detectron2 came without {script.name}: {STOCK_TOOLS} does not hold it")
    command = [
        *(script, "--config-file", ROOT / "configs/detectron2/lazy/nds_coco_cityscapes.py", "--resume"),
        *("dataloader.train.dataset=nds_mine", f"dataloader.train.total_batch_size={BATCH}"),
        *("dataloader.train.num_workers=0", "dataloader.train.mapper._target_=noting_mapper.NotingMapper"),
        *("dataloader.train.mapper.augmentations.0.short_edge_length=[48]", "model.roi_heads.num_classes=7"),
        *("model.backbone.bottom_up.stem.norm=BN", "model.backbone.bottom_up.stages.norm=BN"),
        *("train.device=cpu", "train.init_checkpoint=''", "train.output_dir=lazy", "optimizer.lr=0.001"),
    ]
    first = work.python(*command, "train.max_iter=2")
    then = work.python(*command, "train.max_iter=3")
    assert [*_trained_on(first), *_trained_on(then)] == work.expected(3)
    config = (work.root / "lazy/config.yaml").read_text()
    assert "nds_plugin.d2.build_nds_train_loader" in config
    assert "nds_plugin.d2.model.roi_heads.NDSROIHeads" in config


def test_a_name_for_a_source_that_detectron2_does_not_know_is_refused(work: Workspace) -> None:
    draw = work.index(SOURCES, prefix="folder_of_")
    error = work.python(*draw, "--name", "unknown", check=False)
    assert re.search(
        r"^error: --name needs sources that were given by --dataset.*'folder_of_room_train'",
        error,
        re.MULTILINE,
    )
    assert not work.path.with_name("unknown.parquet").exists()

"""The selecting half of Detectron2's main job, with the settings of the tiny job of MMDetection."""

from __future__ import annotations

from pathlib import Path

from detectron2.config import get_cfg

from nds_plugin.d2 import add_nds_config
from nds_plugin.d2.job.main_job import selection_steps
from nds_plugin.job.selection_summary import Timings
from nds_plugin.pipeline.selection_steps import SelectionSteps


def detectron_steps(work_dir: Path, output: Path) -> SelectionSteps:
    """Those steps, in a folder of artefacts."""
    cfg = get_cfg()
    add_nds_config(cfg)
    cfg.OUTPUT_DIR, cfg.NDS.WORK_DIR = str(output), str(work_dir)
    cfg.MODEL.DEVICE = "cpu"
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("tiny_city_train",), ("tiny_city_val",)
    nds = cfg.NDS
    nds.SELECTOR = "nds"
    nds.SOURCE.DATASETS = ("tiny_street_train", "tiny_room_train")
    nds.TARGET.NUM_IMAGES = 8
    nds.BUDGET.SHARE = 0.5
    nds.PARTITION.NUM_CLUSTERS = 2
    nds.EXPERTS.CROP_SIZE, nds.EXPERTS.BATCH_SIZE = 32, 8
    nds.EXPERTS.KIND = "network"
    nds.EXPERTS.SHARED_STEPS, nds.EXPERTS.STEPS = 2, 2
    nds.SCORING.MAX_IMAGES = 4
    return selection_steps(cfg, Timings())

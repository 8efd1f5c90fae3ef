"""Run the main job on config files for two iterations a stage, in one process: ``two_iterations.py OUTPUT CONFIG...``.

A process of its own, since Detectron2 reads DETECTRON2_DATASETS when it is imported.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from nds_plugin.d2 import load_config
from nds_plugin.d2.job.main_job import run

SMALL = [
    *("MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "DATALOADER.NUM_WORKERS", "0"),
    *("SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "()", "SOLVER.IMS_PER_BATCH", "2", "SOLVER.BASE_LR", "0.0001"),
    *("INPUT.MIN_SIZE_TRAIN", "(48,)", "INPUT.MIN_SIZE_TEST", "48", "TEST.DETECTIONS_PER_IMAGE", "5"),
    *("NDS.PRETRAIN.SOLVER.MAX_ITER", "2", "NDS.PRETRAIN.SOLVER.STEPS", "()"),
    *("NDS.PRETRAIN.SOLVER.IMS_PER_BATCH", "2", "NDS.PRETRAIN.SOLVER.BASE_LR", "0.0001"),
    *("NDS.PRETRAIN.INPUT.MIN_SIZE_TRAIN", "(48,)"),
    *("NDS.PARTITION.NUM_CLUSTERS", "2", "NDS.EXPERTS.SHARED_STEPS", "2", "NDS.EXPERTS.STEPS", "2"),
    *("NDS.EXPERTS.BATCH_SIZE", "2", "NDS.EXPERTS.CROP_SIZE", "32"),
]


def main(output: Path, names: list[str]) -> None:
    for name in names:
        for kept in (output / "nds").glob("pretraining-*"):  # every row is to train for itself
            shutil.rmtree(kept)
        own = ["OUTPUT_DIR", str(output / Path(name).stem), "NDS.WORK_DIR", str(output / "nds")]
        cfg = load_config(name, [*SMALL, *own])
        if cfg.NDS.BUDGET.IMAGES:
            cfg.NDS.BUDGET.IMAGES = 6
        if cfg.NDS.TARGET.NUM_IMAGES:
            cfg.NDS.TARGET.NUM_IMAGES = 4
        cfg.freeze()
        document = run(cfg)
        stages = [stage for stage in ("pretrain", "finetune") if stage in document["times"]]
        images = (document["selection"] or {}).get("images")
        before = document["pretrained"] and document["pretrained"]["classes"]
        print(json.dumps({"config": name, "stages": stages, "images": images, "shared": before}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])

"""The lines that the documentation gives, over one of MMDetection's own configs."""

from __future__ import annotations

import re
import uuid
from pathlib import Path

import pytest
from killing import ROOT
from loader_batches import drawn_selection
from mmengine.config import Config
from tiny_mmdet import coco, mask_rcnn, trained


@pytest.mark.slow
def test_the_lines_of_the_documentation_train(tiny_datasets: Path, tmp_path: Path) -> None:
    page = (ROOT / "docs/mmdetection.md").read_text(encoding="utf-8")
    lines, schedule = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[:2]
    selection = drawn_selection(tmp_path, "subset", ("tiny_street_train",))
    assert '"mine.parquet"' in lines
    (tmp_path / "own.py").write_text(lines.replace('"mine.parquet"', repr(selection)) + schedule)
    cfg = Config.fromfile(tmp_path / "own.py", format_python_code=False)
    for part in ("val", "test"):
        cfg[f"{part}_dataloader"] = cfg[f"{part}_cfg"] = cfg[f"{part}_evaluator"] = None
    cfg.model = mask_rcnn(4)
    cfg.train_dataloader.dataset = coco(tiny_datasets, "street")
    cfg.train_dataloader.update(num_workers=0, persistent_workers=False)
    cfg.train_cfg.max_iters, cfg.default_hooks.checkpoint.interval = 2, 1
    cfg.work_dir, cfg.experiment_name, cfg.visualizer.name = (
        str(tmp_path / "run"),
        *(uuid.uuid4().hex for _ in "ab"),
    )
    runner = trained(cfg)
    assert runner.iter == 2
    assert {path.name for path in (tmp_path / "run").glob("*.pth")} == {"iter_1.pth", "iter_2.pth"}
    assert len(runner.train_loop.sampler) == 20

"""Hooks after a resume on another selection, and what a loader that is sought keeps."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from detectron2.engine.hooks import EvalHook
from loader_batches import drawn_selection, loader_config
from tiny_detector import tiny_config

from nds_plugin.d2 import NDSTrainer
from nds_plugin.d2.train.hooks import DrawMonitor, Rescore
from nds_plugin.d2.train.stages import StageTrainer
from nds_plugin.selection.placed import PlacedSelection


def monitored(clusters: int) -> tuple[DrawMonitor, Rescore]:
    cluster = np.arange(8, dtype=np.int32) % clusters
    placed = PlacedSelection("stream", np.full(clusters, 1 / clusters), cluster)
    trainer: Any = SimpleNamespace(
        data_loader=SimpleNamespace(selection=placed), start_iter=1, _hooks=[], seek=lambda *_: None
    )
    found = DrawMonitor(placed.shares), Rescore([2], lambda _: placed.weights)
    for hook in found:
        hook.trainer = trainer
    return found


def test_the_state_of_another_selection_is_not_taken_over(caplog: pytest.LogCaptureFixture) -> None:
    monitor, rescore = monitored(4)
    monitor._drawn += 3
    rescore._updates.append((8, [0.25] * 4))
    states = monitor.state_dict(), rescore.state_dict()
    for clusters, kept in ((4, True), (2, False)):
        again = monitored(clusters)
        with caplog.at_level(logging.WARNING):
            for hook, state in zip(again, states):
                hook.load_state_dict(state)
        assert again[0]._drawn.tolist() == [3 * kept] * clusters
        assert bool(again[1]._updates) == kept
        assert caplog.text.count("was trained on another selection") == (0 if kept else 2)


@pytest.mark.usefixtures("tiny_datasets")
def test_a_trainer_watches_a_draw_by_name_and_counts_broken_images_on(tmp_path: Path) -> None:
    drawn_selection(tmp_path)
    cfg = loader_config("")
    cfg.MODEL = tiny_config(7).MODEL
    cfg.OUTPUT_DIR = str(tmp_path)
    trainer, stage = NDSTrainer(cfg), StageTrainer(cfg)
    assert any(isinstance(hook, DrawMonitor) for hook in trainer._hooks)
    assert any(isinstance(hook, EvalHook) for hook in trainer._hooks)
    assert not any(isinstance(hook, EvalHook) for hook in stage._hooks)
    trainer.data_loader.dataset.unreadable[3] = 1
    trainer.seek(2)
    assert int(trainer.data_loader.dataset.unreadable.sum()) == 1

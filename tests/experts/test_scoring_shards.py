"""Scores in shards: what an interrupted scoring leaves."""

from __future__ import annotations

from pathlib import Path

import pytest
from planted_images import CROP, coloured, network

from nds_plugin.engine.executor import LocalExecutor
from nds_plugin.experts.scores import Scores
from nds_plugin.experts.scoring import score_experts
from nds_plugin.experts.scoring_shards import scoring_shards
from nds_plugin.experts.settings import HeadConfig, ScoringConfig
from nds_plugin.experts.train_heads import train_heads
from nds_plugin.source.index import SourceIndex
from nds_plugin.source.partition import Partition

SCORING = ScoringConfig(precision="fp32", num_workers=0)


class _StoppedError(Exception):
    pass


@pytest.mark.slow
def test_images_that_could_not_be_read_are_tried_again_by_the_next_start(tmp_path: Path) -> None:
    """As after a node that did not see them, or a disk that was away."""
    sound, index = coloured(tmp_path / "sound", 64), coloured(tmp_path / "broken", 64, broken=(3, 40))
    partition = Partition(sound.column("label"), sound.table, sound.hash, method="superclass", seed=0)
    heads = train_heads(sound, partition, network(), HeadConfig(crop_size=CROP, c=0.01), tmp_path / "heads")

    def scored(images: SourceIndex, name: str, *, stops: bool = False) -> Scores:
        with scoring_shards(LocalExecutor(progress=False), tmp_path / name, 32) as shards:
            found = score_experts(heads, images, SCORING, shards=shards)
            if stops:
                raise _StoppedError
            return found

    with pytest.raises(_StoppedError):
        scored(index, "scores.json", stops=True)
    for number in (3, 40):
        (tmp_path / f"broken/{number:04d}.png").write_bytes(
            (tmp_path / f"sound/{number:04d}.png").read_bytes()
        )
    assert scored(index, "scores.json").z == scored(sound, "fresh.json").z

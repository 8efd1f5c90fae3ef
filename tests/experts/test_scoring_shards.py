"""Scores in shards: what an interrupted scoring leaves."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from planted_images import CROP, coloured, network

from nds_plugin.engine.executor import LocalExecutor
from nds_plugin.experts.forward import Forward
from nds_plugin.experts.scores import Scores
from nds_plugin.experts.scoring import score_experts
from nds_plugin.experts.scoring_shards import ScoringShards, _shards, remove_shards, scoring_shards
from nds_plugin.experts.settings import HeadConfig, ScoringConfig
from nds_plugin.experts.train_heads import train_heads
from nds_plugin.files.locking import try_lock
from nds_plugin.source.index import SourceIndex
from nds_plugin.source.partition import Partition

SCORING = ScoringConfig(precision="fp32", num_workers=0)


def test_a_result_is_made_by_one_process_at_a_time_and_its_shards_go(tmp_path: Path) -> None:
    with scoring_shards(LocalExecutor(progress=False), tmp_path / "scores.json", 32) as shards:
        shards.folder.mkdir()
        assert try_lock(tmp_path / ".scores.json.lock") is None
        with scoring_shards(LocalExecutor(progress=False), tmp_path / "others.json", 32):
            pass
    assert not shards.folder.exists()
    shards.folder.mkdir()  # as after a kill between the result and the removal
    remove_shards(tmp_path / "scores.json")
    assert not shards.folder.exists()


def test_shards_of_an_image_that_has_changed_are_made_again(tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    image.write_bytes(b"one")
    forward = Forward(tmp_path, SCORING, "cpu")
    shards = ScoringShards(LocalExecutor(progress=False), tmp_path / "shards", 32)

    def key() -> str:
        return _shards(forward, "set", 0, [str(image), "https://host/b.png"], shards)[0].argument.key

    first = key()
    assert key() == first
    os.utime(image, (1, 1))
    assert key() != first


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

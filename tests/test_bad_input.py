"""Mistakes as users make them: each ends in one clear line on stderr and exit status 2, and loses nothing."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_experts import TINY, edit_manifest, two_domains
from user import ROOT, SPOIL, User, cut, edit_json, full_disk, litter, logging_kept, only_line

from nds_plugin import cli
from nds_plugin.d2.known_datasets import register_coco_folder
from nds_plugin.d2.launching import launch
from nds_plugin.errors import NDSError
from nds_plugin.expert_set import ExpertSet
from nds_plugin.experts import train_experts
from nds_plugin.partition import Partition
from nds_plugin.scoring import ScoringConfig, score_experts


@pytest.fixture()
def user(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[User]:
    with logging_kept():
        yield User(monkeypatch, capsys)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything the tools make, in order: nobody may change it."""
    folder = tmp_path_factory.mktemp("made")
    index, partition = two_domains(folder, 6)
    index.save(folder / "index.parquet", "i")
    partition.save(folder / "partition.parquet", "p")
    other = Partition(index.column("label")[::-1], index.table, index.hash, method="kmeans", seed=0)
    other.save(folder / "other_partition.parquet", "p")
    experts = train_experts(index, partition, TINY, folder / "experts", progress=False)
    config = ScoringConfig(num_workers=0, max_images=2)
    score_experts(experts, index, config, progress=False).save(folder / "scores.json")
    return folder


# --- the selection's tool -------------------------------------------------------------------------


def _edit_scores(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / "scores.json", change)


def _drop_last(scores: dict[str, Any]) -> None:
    for name in ("clusters", "z", "stderr"):
        scores[name].pop()


DRAW: dict[str, tuple[Callable[[Path], Any] | None, list[str], str]] = {
    "budget of 0": (None, ["--images", "0"], "budget as a count or as a share, got count=0"),
    "budget below 0": (None, ["--images", "-1"], "budget must be 1 to 12"),
    "budget beyond the images": (None, ["--images", "13"], "budget must be 1 to 12, .* got 13"),
    "share of 0": (None, ["--share", "0"], "count=0 and share=0.0"),
    "share above 1": (None, ["--share", "1.5"], r"share must lie in \(0, 1\], got 1.5"),
    "T of 0": (None, ["--temperature", "0"], "temperature must be a positive number, got 0.0"),
    "T below 0": (None, ["--temperature", "-1"], "temperature must be a positive number, got -1.0"),
    "T of NaN": (None, ["--temperature", "nan"], "temperature must be a positive number, got nan"),
    "unknown selector": (None, ["--selector", "nsd"], "command line: .*invalid choice: 'nsd' .*uniform"),
    "wrong type": (None, ["--images", "many"], "command line: argument --images: invalid int value: 'many'"),
    "unknown argument": (None, ["--imagse", "3"], "command line: unrecognized arguments: --imagse"),
    "NaN score": (_edit_scores(lambda s: s["z"].__setitem__(1, float("nan"))), [], "z of cluster 1 is nan"),
    "score missing": (_edit_scores(_drop_last), [], r"scores are of clusters \[0\], the partition has 0 to 1"),
    "scores of another partition's experts": (
        None, ["--partition", "other_partition.parquet"], "scores are of an expert set of another partition"),
    "scores of another expert set": (
        _edit_scores(lambda s: s.update(expert_set="0" * 64)), ["--experts", "experts"],
        "scores are of another expert set: expected .*, got 000000000000"),
    "scores cut short": (lambda f: cut(f / "scores.json"), [], "scores.json is not a complete JSON file"),
    "scores are experts": (None, ["--scores", "experts/manifest.json"], "expected a file of kind 'scores', got 'experts'"),
    "scores not given": (None, ["--scores", ""], "needs the client's scores"),
    "index cut short": (lambda f: cut(f / "index.parquet"), [], "index.parquet is not a complete Parquet file"),
    "partition cut short": (lambda f: cut(f / "partition.parquet"), [], "partition.parquet is not a complete Parquet"),
    "partition missing": (lambda f: (f / "partition.parquet").unlink(), [], "partition file not found: partition.parquet"),
    "output is a folder": (None, ["--output", "experts"], "cannot write experts: Is a directory"),
    "output below a file": (None, ["--output", "scores.json/x.parquet"], "cannot write scores.json/x.parquet: Not a dir"),
}  # fmt: skip


@pytest.mark.parametrize("case", DRAW)
def test_draw_subset_refuses(
    case: str, made: Path, user: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil, extra, message = DRAW[case]
    folder = tmp_path / "made"
    shutil.copytree(made, folder)
    monkeypatch.chdir(folder)
    (folder / "s.parquet").write_text("an earlier draw")
    if spoil:
        spoil(folder)
    inputs = ["--index", "index.parquet", "--partition", "partition.parquet", "--scores", "scores.json"]
    budget = [] if {"--images", "--share"} & set(extra) else ["--images", "4"]
    line = user.fails("draw_subset", *inputs, *budget, "--output", "s.parquet", *extra)
    assert pytest.raises(NDSError, match=message) and __import__("re").search(message, line), line
    assert (folder / "s.parquet").read_text() == "an earlier draw"
    assert not litter(tmp_path)

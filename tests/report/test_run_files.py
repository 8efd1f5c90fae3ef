"""Artefacts of a run that was moved: found relative to it, or beside it by their names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from nds_plugin.report.run_files import file_references, located

NAME = "index-0123456789.parquet"


def artefact(folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / NAME).touch()
    return str(folder / NAME)


def found(run: Path, selection: dict[str, Any]) -> str:
    return str(located(run, {"selection": selection})["selection"]["artefacts"]["index"])


@pytest.mark.parametrize("work", ["runs/x/nds", "runs/nds"])
def test_a_run_that_is_moved_with_its_artefacts_finds_them(tmp_path: Path, work: str) -> None:
    path = artefact(tmp_path / work)
    (tmp_path / "runs" / "x").mkdir(exist_ok=True)
    kept = file_references(tmp_path / "runs" / "x", tmp_path / work, {"index": path})
    assert not os.path.isabs(kept["artefacts"]["index"])
    (tmp_path / "runs").rename(tmp_path / "elsewhere")
    moved = tmp_path / work.replace("runs", "elsewhere") / NAME
    assert found(tmp_path / "elsewhere" / "x", kept) == str(moved)


def test_a_run_that_is_moved_away_from_a_shared_folder_finds_it(tmp_path: Path) -> None:
    path = artefact(tmp_path / "shared")
    (tmp_path / "x").mkdir()
    kept = file_references(tmp_path / "x", tmp_path / "shared", {"index": path})
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "x").rename(tmp_path / "deep" / "er" / "y")
    assert found(tmp_path / "deep" / "er" / "y", kept) == path


def test_a_run_reached_by_a_link_finds_its_artefacts(tmp_path: Path) -> None:
    path = artefact(tmp_path / "disk" / "work")
    (tmp_path / "disk" / "deep" / "x").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "deep" / "x")
    kept = file_references(tmp_path / "link", tmp_path / "disk" / "work", {"index": path})
    assert found(tmp_path / "link", kept) == path


@pytest.mark.parametrize("old", ["/gone/output/x/nds", "output/x/nds"])
@pytest.mark.parametrize("work", ["y/nds", "nds"])
def test_older_documents_with_whole_paths_are_read(tmp_path: Path, old: str, work: str) -> None:
    path = artefact(tmp_path / work)
    (tmp_path / "y").mkdir(exist_ok=True)
    assert found(tmp_path / "y", {"path": "", "artefacts": {"index": f"{old}/{NAME}"}}) == path


def test_a_document_without_a_selection_stays_as_it_is(tmp_path: Path) -> None:
    assert located(tmp_path, {"selection": None, "seed": 0}) == {"selection": None, "seed": 0}

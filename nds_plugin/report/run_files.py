"""Where the artefacts behind a run's results lie: told relative to the run, so that both can be moved."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

WORK = "nds"  # the folder of artefacts in or beside a run, unless NDS.WORK_DIR names another


def file_references(
    run: str | os.PathLike[str], work: str | os.PathLike[str], paths: Mapping[str, str]
) -> dict[str, Any]:
    """What ``results.json`` keeps of where its artefacts lie.

    Args:
        run: the run's OUTPUT_DIR.
        work: the folder of artefacts.
        paths: each artefact's path by its name.

    Returns:
        ``artefacts`` by name, relative to the run, and the absolute path ``work_dir`` for a run that is moved
        away from it.
    """
    folder = os.path.realpath(run)
    relative = {name: os.path.relpath(os.path.realpath(path), folder) for name, path in paths.items()}
    return {"artefacts": relative, "work_dir": os.path.realpath(work)}


def located(run: str | os.PathLike[str], document: Mapping[str, Any]) -> dict[str, Any]:
    """A results document with the paths at which its artefacts lie now.

    They are looked for where the document says, relative to the run; then, by their names, which hold
    hashes, in the folder of artefacts that it names, and in the one in or beside the run. Documents of
    before paths were relative hold them as the run was given them.
    """
    selection = document.get("selection")
    if not selection or "artefacts" not in selection:
        return dict(document)
    folder = Path(os.path.realpath(run))
    work = [Path(selection.get("work_dir", "")), folder / WORK, folder.parent / WORK]

    def find(path: str) -> str:
        places = [
            Path(os.path.normpath(folder / path)),
            Path(path),
            *(place / Path(path).name for place in work),
        ]
        return str(next((place for place in places if place.exists()), places[0]))

    found = {name: find(path) for name, path in selection["artefacts"].items()}
    path = found.get("selection", selection.get("path"))
    return {**document, "selection": {**selection, "artefacts": found, "path": path}}

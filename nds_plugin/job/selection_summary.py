"""Around the selecting half of a main job: its times, and what results.json keeps of it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nds_plugin.files.artifacts import HEADER_FIELDS, read_json, write_json
from nds_plugin.job.results import KIND
from nds_plugin.pipeline.selection_steps import Selected
from nds_plugin.report.run_files import file_references, located
from nds_plugin.selection.tables import cluster_table, effective_numbers, source_shares


class Timings:
    """Seconds of the steps that ran in this process."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def kept_results(path: Path, selected: Selected | None, config: str) -> dict[str, Any]:
    """The results of an earlier start; written again where the job or its artefacts have been moved since, or its config
    has changed in what they do not depend on."""
    document = read_json(path, KIND)
    now = {**document, "config": config}
    if selected and document["selection"]:
        now["selection"] = {**document["selection"], **_references(selected, path.parent)}
    if now != document:
        payload = {name: value for name, value in now.items() if name not in HEADER_FIELDS}
        write_json(path, KIND, document["key"], payload)
    return located(path.parent, now)


def _references(selected: Selected, run: Path) -> dict[str, Any]:
    """Where the artefacts behind the results lie; see :mod:`nds_plugin.report.run_files`."""
    found = file_references(run, selected.path.parent, selected.paths)
    return {"path": found["artefacts"]["selection"], **found}


def selection_summary(
    selected: Selected | None, run: Path, rescored: Sequence[int] = ()
) -> dict[str, Any] | None:
    """What results.json keeps of the selection, enough for tables and the report.

    Args:
        rescored: iterations of pretraining after which the experts were scored again, so that other weights held.
    """
    if selected is None:
        return None
    selection = selected.selection
    return {
        **_references(selected, run),
        "images": len(selection),
        "mode": selection.mode,
        "weights": selection.weights.tolist(),
        **selection.info,
        **effective_numbers(selection),
        "clusters": cluster_table(selection, selected.index, selected.partition),
        "sources": source_shares(selection, selected.index),
        "rescored_after": list(rescored),
        "stderr": selected.scores.stderr if selected.scores else None,
    }

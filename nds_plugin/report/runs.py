"""From finished runs to a report: their ``results.json`` documents, pictures, one page."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from nds_plugin.errors import NDSError
from nds_plugin.files.artifacts import read_json
from nds_plugin.report.figures import cluster_sheet, draw_sheet, share_bars, weight_bars
from nds_plugin.report.html import write_report
from nds_plugin.report.measures import CLASSIFIER, Rows, measures_of
from nds_plugin.report.run_files import located
from nds_plugin.report.sections import DIGITS
from nds_plugin.selection.selection import Selection
from nds_plugin.selection.selectors import SELECTORS
from nds_plugin.selection.selectors.base import Softmax
from nds_plugin.settings import settings_of
from nds_plugin.source.index import SourceIndex
from nds_plugin.source.partition import Partition

RESULTS = "results"
logger = logging.getLogger(__name__)


def load_run(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The results document of a finished run, with the paths of its artefacts as they are now.

    Raises:
        NDSError: the folder holds no finished run.
    """
    path = Path(folder) / "results.json"
    if not path.is_file():
        raise NDSError(f"{folder} holds no results.json: it is not the OUTPUT_DIR of a finished run.")
    return located(folder, read_json(path, RESULTS))


def load_runs(folders: Sequence[str | os.PathLike[str]]) -> dict[str, dict[str, Any]]:
    """Finished runs by the name of their row: their selector where these differ, else their folder.

    Raises:
        NDSError: a folder holds no finished run, or two runs would have the same row.
    """
    documents = [load_run(folder) for folder in folders]
    names = [str(document["selector"]) for document in documents]
    if len(set(names)) < len(names):
        names = [Path(folder).name for folder in folders]
    if len(set(names)) < len(names):
        raise NDSError(f"report: two of the runs are called the same ({', '.join(names)}): rename a folder.")
    return dict(zip(names, documents))


def results_table(rows: Rows) -> str:
    """Runs or datasets by name against what is measured of them, of a detector also of each category.

    Raises:
        NDSError: a detector and a classifier.
    """
    measures = measures_of(rows)
    kind = measures.per_class
    # A classifier's target may have hundreds of classes.
    names = (
        [] if measures is CLASSIFIER else list(dict.fromkeys(c for row in rows.values() for c in row[kind]))
    )
    lines = [
        [name, *(row[m] for m in measures.means), *(row[kind].get(c) for c in names)]
        for name, row in rows.items()
    ]
    return tabulate(lines, headers=["", *measures.means.values(), *names], floatfmt=".2f", missingval="-")


def write_runs_report(
    runs: Mapping[str, Mapping[str, Any]], path: str | os.PathLike[str], title: str = "", seed: int = 0
) -> Path:
    """Write the page of one or several runs on the same target, with its pictures beside it.

    Args:
        runs: results documents by the name of their row. Pictures, cluster table and transfer are
            those of the last run that selected by scores, else of the last.
        path: of the HTML page; pictures go into ``<path without .html>_pictures``.
        title: of the page; the target's name by default.
        seed: of the images in the cluster sheet.

    Raises:
        NDSError: no run, runs on different test datasets, or of a detector and a classifier.
    """
    if not runs:
        raise NDSError("report: there is no run to report.")
    tests = sorted({_listed(run["test"]) for run in runs.values()})
    if len(tests) > 1:
        raise NDSError(
            f"report: the runs were tested on different datasets ({', '.join(tests)}): compare like with like."
        )
    scored = [run for run in runs.values() if run["selection"] and run["selection"]["z"]]
    main = (scored or list(runs.values()))[-1]
    page = {
        "title": title or _title(main),
        "subtitle": f"Tested on {tests[0]}; rows: {', '.join(runs)}.",
        "synthetic": _is_synthetic(tests[0]),
        "results": {name: run["summary"] for name, run in runs.items()},
        "tables": before_finetuning(runs),
        **selection_parts(main, Path(path), seed),
    }
    return write_report(path, {name: value for name, value in page.items() if value})


def write_selection_report(run: Mapping[str, Any], path: str | os.PathLike[str], seed: int = 0) -> Path:
    """Write the page of a selection alone, with its pictures beside it.

    Args:
        run: of a results document what is known before training: ``target``, ``selection``, ``times``, ``versions``, ``machine``, ``config``.
        path, seed: see :func:`write_runs_report`.
    """
    page = {
        "title": _title(run),
        "subtitle": f"Selected by {run['selection']['selector']}; --select-only wrote this page, and trained nothing on the draw.",
        "synthetic": _is_synthetic(run["target"][0]),
        "notes": [
            f"The selection is {run['selection']['path']}. The same command without --select-only takes it and trains.",
            "Choosing does not always win: train on as many images of the selector uniform, too, and compare.",
        ],
        **selection_parts(run, Path(path), seed),
    }
    return write_report(path, {name: value for name, value in page.items() if value})


def _title(run: Mapping[str, Any]) -> str:
    return f"Pretraining data for {run['target'][0]}"


def _is_synthetic(dataset: str) -> bool:
    return dataset.startswith("nds_sample_")


def selection_parts(run: Mapping[str, Any], path: Path, seed: int) -> dict[str, Any]:
    """The parts of a page that show one run: pictures, clusters, draw, transfer, times, versions, config.

    Args:
        run: its results document.
        path: of the page; pictures go beside it.
        seed: of the images in the cluster sheet.
    """
    selection = run["selection"] or {}
    if selection and "training_seed" in run:  # of a classifier
        selection = {**selection, "training_seed": run["training_seed"]}
    return {
        "pictures": _pictures(selection, path, seed) if selection else [],
        # Where nothing is scored, the clusters are the sources, which have a table of their own.
        "clusters": _with_stderr(selection) if selection.get("z") else [],
        "selection": {
            **_facts(selection),
            **_cost(selection.get("cost") or {}),
            **_rescored(selection.get("rescored_after") or []),
        },
        "sources": selection.get("sources", []),
        "transfer": run.get("transfer") or {},  # a classifier has none
        "timings": run["times"],
        "trained_in_parts": run.get("trained_in_parts", []),
        "versions": {**run["versions"], **{k: _listed(v) for k, v in run["machine"].items()}},
        "config": run["config"],
    }


def _facts(selection: Mapping[str, Any]) -> dict[str, Any]:
    """How the draw was made, and its effective numbers; what a selector has not is left out."""
    unit = (selection.get("details") or {}).get("unit")
    stream = selection.get("mode") == "stream"
    given = ("seed", "training_seed", "metric", "gate_draw", *_softmax_keys(selection))
    facts = {
        "selector": selection.get("selector"),
        "mode": selection.get("mode"),
        "images with a weight" if stream else "images": selection.get("images"),
        "budget": None if stream else selection.get("budget"),
        **{name: selection.get(name) for name in given},
        # Where nothing is scored, the clusters are the sources.
        "effective_clusters": selection.get("effective_clusters") if selection.get("z") else None,
        "effective_sample_size": selection.get("effective_sample_size"),
        f"target_{unit}s" if unit else "target_images": selection.get("target_images"),
        "unit": unit,
        "looks at": "the client's images" if selection.get("sees_target") else None,
    }
    return {name: value for name, value in facts.items() if value is not None}


def _weights_from(selection: Mapping[str, Any]) -> str:
    """How w comes from z; the end of a sentence."""
    if _softmax_keys(selection):
        return "softmax(z / T) of z as it is scaled."
    return "z itself." if selection.get("gate_draw") == "plain" else "z, with a little for all images alike."


def _softmax_keys(selection: Mapping[str, Any]) -> tuple[str, ...]:
    """The settings of the softmax, where the draw went through one."""
    name = str(selection.get("selector"))
    takes = (
        name in SELECTORS and issubclass(SELECTORS[name], Softmax) and selection.get("gate_draw") != "plain"
    )
    return tuple(item.name for item in settings_of(Softmax)) if takes else ()


def _rescored(iterations: Sequence[int]) -> dict[str, str]:
    """What a reader must know of z and w where the experts were scored again while training."""
    if not iterations:
        return {}
    after = ", ".join(map(str, iterations))
    return {"scored again after iterations": f"{after}; z, w and shares here are those until the first"}


def _cost(cost: Mapping[str, Any]) -> dict[str, Any]:
    """What the selection cost the client; nothing where it did not look at the client's images."""
    if not cost.get("forward_passes"):
        return {}
    found = {"client's forward passes": cost["forward_passes"]}
    if cost["seconds"] is not None:
        found["client's seconds"] = round(cost["seconds"], 1)
    return found


def before_finetuning(runs: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The table of the pretrained detectors' AP before fine-tuning, of the runs that measured it."""
    measured = {name: run["pretrained"] for name, run in runs.items() if run.get("pretrained")}
    if not measured:
        return []
    classes = list(dict.fromkeys(c for before in measured.values() for c in before["classes"]))
    lines = [
        [name, *(_percent(before[m]) for m in ("AP_bb", "AP"))]
        + [_percent(before["per_category_bb"].get(c)) for c in classes]
        for name, before in measured.items()
    ]
    text = (
        "The pretrained detector on the target's test images: means over the classes that source and target share "
        "by name, then box AP of each."
    )
    header = ["", "box AP", "mask AP", *classes]
    return [{"title": "Before fine-tuning", "text": text, "header": header, "rows": lines}]


def _listed(value: Any) -> str:
    return (", ".join(map(str, value)) or "none") if isinstance(value, list) else str(value)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.{DIGITS}f}"


def _errors(selection: Mapping[str, Any]) -> list[float] | None:
    """Standard errors of z; None where none were estimated, as of similarities and of a single image."""
    errors = selection.get("stderr")
    return list(errors) if errors and any(errors) else None


def _with_stderr(selection: Mapping[str, Any]) -> list[dict[str, Any]]:
    errors = _errors(selection)
    rows = selection.get("clusters", [])
    return [{**row, "stderr": errors[row["cluster"]]} if errors else dict(row) for row in rows]


def _pictures(selection: Mapping[str, Any], path: Path, seed: int) -> list[dict[str, Any]]:
    folder = path.with_name(f"{path.stem}_pictures")
    pictures = [
        {
            "path": str(share_bars(selection["sources"], folder / "sources.png")),
            "title": "Where the draw comes from",
            "caption": "Share of each source dataset in the draw, beside what a uniform draw would take.",
        }
    ]
    place = selection.get("artefacts", {}).get("index", "")
    index = SourceIndex.load(place) if os.path.exists(place) else None
    return [
        *_draw_picture(selection, index, folder, seed),
        *(_score_pictures(selection, index, folder, seed) if selection["z"] else []),
        *pictures,
    ]


def _draw_picture(
    selection: Mapping[str, Any], index: SourceIndex | None, folder: Path, seed: int
) -> list[dict[str, Any]]:
    """Some images of the draw."""
    drawn = selection.get("artefacts", {}).get("selection", "")
    if index is None or not os.path.exists(drawn):
        return []
    sheet = draw_sheet(index, Selection.load(drawn), folder / "draw.png", seed=seed)
    return [
        {
            "path": str(sheet),
            "title": "Some images of the draw",
            "caption": f"At random (seed {seed}).",
            "wide": True,
        }
    ]


def _score_pictures(
    selection: Mapping[str, Any], index: SourceIndex | None, folder: Path, seed: int
) -> list[dict[str, Any]]:
    errors = _errors(selection)
    bars = weight_bars(
        selection["weights"],
        folder / "weights.png",
        selection["z"],
        errors,
        metric=selection["metric"],
    )
    weights = {
        "path": str(bars),
        "title": "Scores and weights",
        "caption": f"z, the score of a cluster on the client's images{', with its standard error' if errors else ''}; w, its weight in the draw, "
        f"which is {_weights_from(selection)}",
    }
    place, partition = (selection["artefacts"][name] for name in ("index", "partition"))
    if index is None or not os.path.exists(partition):
        logger.warning("the page shows no images of the clusters: %s and %s are not there.", place, partition)
        return [weights]
    sheet = cluster_sheet(
        index,
        Partition.load(partition),
        selection["z"],
        selection["weights"],
        folder / "clusters.png",
        seed=seed,
        stderr=errors,
    )
    return [
        {
            "path": str(sheet),
            "title": "The clusters that scored best",
            "caption": f"Nine random images each (seed {seed}), as Figures 2-4 of the paper show them.",
            "wide": True,
        },
        weights,
    ]

"""Figures of a selection: sample images of the top clusters, scores and weights, shares of the draw.

Every function writes one PNG (Agg; no display is needed) atomically and returns its path.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from matplotlib.ticker import PercentFormatter

from nds_plugin.errors import NDSError
from nds_plugin.report.canvas import AMBER, BLUE, DPI, GREY, GRID, MUTED, new_figure, save_figure, styled
from nds_plugin.report.mosaic import CELL, GAP, cluster_images, drawn_images, mosaic_of
from nds_plugin.source.census import Census

if TYPE_CHECKING:
    from nds_plugin.selection.selection import Selection
    from nds_plugin.source.index import SourceIndex
    from nds_plugin.source.partition import Partition

MAX_LABELLED = 60  # bars with a name; more would not be readable


def top_clusters(z: npt.ArrayLike, weights: npt.ArrayLike, count: int) -> list[int]:
    """The ``count`` best clusters by z, then by w, then by number."""
    scores, shares = np.asarray(z, dtype=float), np.asarray(weights, dtype=float)
    return [int(k) for k in np.lexsort((np.arange(len(scores)), -shares, -scores))[:count]]


_TITLE_NAME = 36  # letters of a source's name that fit over a sheet


@styled
def cluster_sheet(
    index: SourceIndex,
    partition: Partition,
    scores_z: npt.ArrayLike,
    weights: npt.ArrayLike,
    path: str | os.PathLike[str],
    clusters: int = 8,
    images: int = 9,
    seed: int = 0,
    stderr: Sequence[float] | None = None,
) -> Path:
    """Random images of the best clusters (Figures 2-4 of the paper: top eight, nine images each).

    Args:
        scores_z, weights: z and w of all K clusters, shape (K,).
        clusters: how many clusters, by z.
        images: how many images of each; cells stay empty where a cluster has fewer, and are
            crossed out where an image cannot be read.
        seed: of the choice of images.
        stderr: standard errors of z, shape (K,).

    Raises:
        NDSError: z, w and the partition are of different lengths, a count below 1, or the folder
            cannot be written.
    """
    z, w = _per_cluster(partition, scores_z, weights)
    _at_least_one("clusters", clusters)
    _at_least_one("images", images)
    best = top_clusters(z, w, clusters)
    census = Census.of(index, partition)
    columns = min(4 if len(best) > 6 or len(best) == 4 else 3, len(best))
    rows = -(-len(best) // columns)
    side = int(np.ceil(np.sqrt(images)))
    panel = (side * (CELL + GAP) / DPI, -(-images // side) * (CELL + GAP) / DPI)
    figure = new_figure(columns * (panel[0] + 0.22), rows * (panel[1] + 0.62))
    for place, k in enumerate(best):
        axes = figure.add_subplot(rows, columns, place + 1)
        axes.imshow(mosaic_of(index, cluster_images(partition, k, images, seed), side, images))
        axes.set_axis_off()
        axes.set_title(_sheet_title(k, census, z, w, stderr), fontsize=9, linespacing=1.4)
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=1 - 0.5 / figure.get_figheight())
    figure.subplots_adjust(wspace=0.05, hspace=0.55 / panel[1])
    return save_figure(figure, path)


@styled
def draw_sheet(
    index: SourceIndex, selection: Selection, path: str | os.PathLike[str], images: int = 24, seed: int = 0
) -> Path:
    """Random images of a draw; of a stream, drawn by their probabilities.

    Args:
        index: that the selection was drawn from.
        images: how many; fewer where the draw has not as many.
        seed: of the choice of images.

    Raises:
        NDSError: a count below 1, an index of other sources, or the folder cannot be written.
    """
    _at_least_one("images", images)
    chosen = drawn_images(index, selection, images, seed)
    sheet = mosaic_of(index, chosen, min(8, len(chosen)), len(chosen))
    figure = new_figure(sheet.shape[1] / DPI, sheet.shape[0] / DPI)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(sheet)
    axes.set_axis_off()
    return save_figure(figure, path)


@styled
def weight_bars(
    weights: npt.ArrayLike,
    path: str | os.PathLike[str],
    z: npt.ArrayLike | None = None,
    stderr: npt.ArrayLike | None = None,
    labels: Sequence[str] | None = None,
    metric: str = "",
) -> Path:
    """Bars of w, and z with standard errors where there are scores, over all clusters, best first.

    Args:
        weights: w, shape (K,).
        z, stderr: scores and their standard errors, shape (K,).
        labels: what to write at each cluster, else "cluster k".
        metric: name of what z is, for the axis.
    """
    w = np.asarray(weights, dtype=float)
    scores = None if z is None else np.asarray(z, dtype=float)
    for name, values in (("z", scores), ("stderr", stderr), ("labels", labels)):
        if values is not None and len(np.asarray(values)) != len(w):
            raise NDSError(f"weight_bars: {len(w)} weights, but {len(np.asarray(values))} {name}.")
    order = np.asarray(top_clusters(w if scores is None else scores, w, len(w)))
    names = [labels[k] if labels is not None else f"cluster {k}" for k in order]
    row = 0.25 if len(w) <= MAX_LABELLED else 15.0 / len(w)
    panels = 1 if scores is None else 2
    figure = new_figure(5.2 if panels == 1 else 8.6, max(1.9, 0.95 + row * len(w)))
    places = np.arange(len(w))
    if scores is not None:
        axes = figure.add_subplot(1, 2, 1)
        errors = None if stderr is None else np.asarray(stderr, dtype=float)[order]
        axes.errorbar(scores[order], places, xerr=errors, fmt="o", color=BLUE, markersize=5, capsize=2)
        _bar_axes(
            axes,
            ", ".join(
                [
                    "score z",
                    *filter(
                        None, [metric.replace("_", " "), "± standard error" if errors is not None else ""]
                    ),
                ]
            ),
        )
        _name_bars(axes, places, names)
    axes = figure.add_subplot(1, panels, panels)
    axes.barh(places, w[order], color=AMBER, height=0.72)
    axes.axvline(1 / len(w), color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    _bar_axes(axes, "weight w (dashed: all clusters alike)")
    _name_bars(axes, places, names if panels == 1 else None)
    figure.tight_layout()
    return save_figure(figure, path)


@styled
def share_bars(sources: Sequence[Mapping[str, Any]], path: str | os.PathLike[str]) -> Path:
    """Share of the draw per source dataset beside its share of the index (what uniform would draw).

    Args:
        sources: rows with ``source``, ``index_share`` and ``draw_share`` in [0, 1].
    """
    if not sources:
        raise NDSError("share_bars: expected at least one source, got none.")
    rows = sorted(sources, key=lambda row: -float(row["draw_share"]))
    drawn = np.array([float(row["draw_share"]) for row in rows])
    index = np.array([float(row["index_share"]) for row in rows])
    places = np.arange(len(rows))
    figure = new_figure(7.2, max(2.0, 1.2 + 0.42 * len(rows)))
    axes = figure.add_subplot()
    axes.barh(places - 0.19, drawn, height=0.36, color=AMBER, label="share of the draw")
    axes.barh(places + 0.19, index, height=0.36, color=GREY, label="share of the source images (uniform)")
    for offset, values in ((-0.19, drawn), (0.19, index)):
        for place, value in zip(places, values):
            axes.annotate(
                f"{value:.1%}", (value, place + offset), (4, 0), textcoords="offset points",
                va="center", fontsize=7.5, color=MUTED,
            )  # fmt: skip
    _bar_axes(axes, "")
    _name_bars(axes, places, [str(row["source"]) for row in rows])
    axes.set_xlim(0, max(drawn.max(), index.max(), 1e-9) * 1.12)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    # Above the bars, which may fill the axes.
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False, fontsize=8)
    figure.tight_layout()
    return save_figure(figure, path)


def _per_cluster(
    partition: Partition, z: npt.ArrayLike, weights: npt.ArrayLike
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    scores, shares = np.asarray(z, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    for name, values in (("scores", scores), ("weights", shares)):
        if values.shape != (partition.num_clusters,):
            raise NDSError(
                f"cluster sheet: expected {name} of the {partition.num_clusters} clusters, got an array of "
                f"shape {values.shape}."
            )
    return scores, shares


def _at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise NDSError(f"cluster sheet: {name} must be at least 1, got {value}.")


def _sheet_title(k: int, census: Census, z: Any, w: Any, stderr: Sequence[float] | None) -> str:
    most, name = min((-count, name) for count, name in zip(census.counts[k].tolist(), census.sources))
    size, share = int(census.sizes[k]), -most / census.sizes[k]
    if len(name) > _TITLE_NAME:  # the ends tell more than the middle
        name = f"{name[: _TITLE_NAME // 2]}…{name[-_TITLE_NAME // 2 + 1 :]}"
    error = "" if stderr is None else f" ± {stderr[k]:.3f}"
    return f"{k}: {size:,} images, z {z[k]:.3f}{error}, w {w[k]:.3f}\n{name} {share:.0%}"


def _bar_axes(axes: Any, title: str) -> None:
    axes.set_title(title)
    axes.set_axisbelow(True)
    axes.xaxis.grid(True, color=GRID)
    axes.tick_params(length=0)


def _name_bars(axes: Any, places: npt.NDArray[np.int64], names: Sequence[str] | None) -> None:
    axes.set_ylim(len(places) - 0.4, -0.6)  # the first on top
    if names is None or len(names) > MAX_LABELLED:
        axes.set_yticks([])
    else:
        axes.set_yticks(places, names)

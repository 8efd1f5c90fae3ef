"""What all figures share: colours, style, and PNG or SVG written atomically without a display."""

from __future__ import annotations

import functools
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from nds_plugin.files.artifacts import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 110
INK, MUTED, GRID = "#22303c", "#66737f", "#e4e8eb"
BLUE, AMBER, GREY = "#2f6f9f", "#d98a2b", "#b4bec7"
_STYLE: Any = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same picture everywhere
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": GREY,
    "xtick.color": MUTED,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "svg.hashsalt": "nds_plugin",  # the same file for the same figure
}


_Function = TypeVar("_Function", bound=Callable[..., Any])


def styled(function: _Function) -> _Function:
    """Run a function with the figures' style, without touching the user's."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        import matplotlib

        with matplotlib.rc_context(_STYLE):
            return function(*args, **kwargs)

    return cast(_Function, wrapped)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of this size in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a figure atomically, as SVG where the name says so, else as PNG."""
    kind = "svg" if str(path).endswith(".svg") else "png"
    buffer = io.BytesIO()
    # No date and no version: equal figures are equal files.
    figure.savefig(buffer, format=kind, metadata={"Date": None} if kind == "svg" else {"Software": None})
    with atomic_write(path) as file:
        file.write(buffer.getvalue())
    return Path(path)

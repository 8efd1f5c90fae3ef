"""Tables 1, 2, 4 and 5 of the paper's supplementary material (Yan, Acuna, Fidler, CVPR 2020), in percent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

COLUMNS = (
    "AP_bb",
    "AP50_bb",
    "AP",
    "AP50",
    "car",
    "truck",
    "rider",
    "bicycle",
    "person",
    "bus",
    "mcycle",
    "train",
)
TARGETS = ("stanford_dogs", "stanford_cars", "oxford_iiit_pets", "flowers_102", "cub200_birds")
_RANDOM = [23.66, 18.60, 32.35, 48.02, 25.06]
# Top-1 after MoCo and RotNet on a share of Downsampled ImageNet.
_SHARES: dict[str, list[tuple[float, str, list[float]]]] = {
    "1": [
        (0, "random_init", _RANDOM),
        (1.0, "entire_dataset", [41.64, 46.83, 56.34, 67.17, 35.28]),
        (0.2, "uniform", [41.01, 44.16, 56.01, 64.42, 34.41]),
        (0.2, "nds", [39.72, 43.56, 54.62, 65.90, 34.57]),
    ],
    "2": [
        (0, "random_init", _RANDOM),
        (1.0, "entire_dataset", [47.83, 55.87, 67.54, 78.99, 44.25]),
        (0.2, "uniform", [42.74, 42.82, 60.25, 72.59, 39.30]),
        (0.2, "nds", [43.33, 43.34, 61.49, 72.85, 40.47]),
    ],
}
_IMAGENET = [36.2, 62.3, 32.0, 57.6, 49.9, 30.8, 23.2, 17.1, 30.0, 52.4, 17.9, 35.2]
_ROWS: dict[str, list[tuple[int, str, list[float]]]] = {
    "4": [
        (0, "imagenet_init", _IMAGENET),
        (23000, "uniform", [38.1, 64.9, 34.3, 60.0, 50.0, 34.2, 24.7, 19.4, 32.8, 52.0, 18.9, 42.1]),
        (23000, "nds", [40.7, 66.0, 36.1, 61.0, 51.3, 35.4, 25.9, 20.4, 33.9, 56.9, 20.8, 44.0]),
        (47000, "uniform", [39.8, 65.5, 34.4, 60.0, 50.7, 31.8, 25.4, 18.3, 33.3, 55.2, 21.2, 38.9]),
        (47000, "nds", [42.2, 68.1, 36.7, 62.3, 51.8, 36.9, 26.4, 19.8, 33.8, 59.2, 22.1, 44.0]),
        (59000, "uniform", [39.5, 64.9, 34.9, 60.4, 50.8, 34.8, 26.3, 18.9, 33.2, 55.5, 20.8, 38.7]),
        (59000, "nds", [41.7, 66.6, 36.7, 61.9, 51.7, 37.2, 26.9, 19.6, 34.2, 56.7, 22.5, 44.5]),
        (118000, "full", [41.8, 66.5, 36.5, 62.3, 51.5, 37.2, 26.6, 20.0, 34.0, 56.0, 22.3, 44.2]),
    ],
    "5": [
        (0, "imagenet_init", _IMAGENET),
        (118000, "uniform", [37.5, 62.5, 32.8, 57.2, 49.6, 33.2, 23.3, 18.0, 30.8, 52.9, 17.4, 37.1]),
        (118000, "nds", [39.9, 65.1, 35.1, 59.8, 51.6, 36.7, 24.2, 18.3, 32.4, 56.4, 18.0, 42.8]),
        (200000, "uniform", [37.8, 63.1, 32.9, 57.8, 49.7, 31.7, 23.8, 17.8, 31.0, 51.8, 18.4, 38.8]),
        (200000, "nds", [40.7, 65.8, 36.1, 61.2, 51.4, 38.2, 24.2, 17.9, 32.3, 57.8, 19.7, 47.3]),
    ],
}  # fmt: skip


def paper_table(name: str) -> dict[str, Any] | None:
    """A table as ``{"columns": [...], "rows": [{"images", "method", "values"}]}``, None for one that the paper has not.

    ``images`` of Tables 1 and 2 are shares of the source.
    """
    found: Sequence[tuple[float, str, list[float]]] | None = _ROWS.get(name) or _SHARES.get(name)
    if found is None:
        return None
    rows = [{"images": images, "method": method, "values": list(values)} for images, method, values in found]
    return {"columns": list(COLUMNS if name in _ROWS else TARGETS), "rows": rows}

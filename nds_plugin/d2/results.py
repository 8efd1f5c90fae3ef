"""What a finished run prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate

METRICS = {"AP_bb": "box AP", "AP50_bb": "box AP50", "AP": "mask AP", "AP50": "mask AP50"}


def results_table(rows: Mapping[str, Mapping[str, Any]], categories: Sequence[str] | None = None) -> str:
    """Runs or datasets by name against box AP, AP50, mask AP, AP50 and the AP of each category.

    Per category it is mask AP, or box AP where no masks were evaluated.
    """
    first = next(iter(rows.values()))
    kind = "per_category" if any(row["per_category"] for row in rows.values()) else "per_category_bb"
    names = list(first[kind]) if categories is None else list(categories)
    lines = [
        [name, *(row[m] for m in METRICS), *(row[kind].get(c) for c in names)] for name, row in rows.items()
    ]
    headers = ["", *METRICS.values(), *names]
    return tabulate(lines, headers=headers, floatfmt=".2f", missingval="-")

"""Categories of a COCO file that share a name. Classes are known by name, so one of a name is kept."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from nds_plugin.errors import NDSError


def unused_namesakes(categories: Sequence[tuple[Any, str]], used: Collection[Any], where: Any) -> list[Any]:
    """The ids to leave out, so that no two categories are called alike. Pure.

    Roboflow's exports list a category 0 that no annotation uses and that may be called as a used one. If no
    annotation uses any of the namesakes, the one with the highest id stays, as it would in such an export.

    Args:
        categories: id and name of each; the ids are unique, and all numbers or all text.
        used: the ids that annotations use.
        where: the file, for messages.

    Raises:
        NDSError: annotations use two categories of one name.
    """
    owners: dict[str, list[Any]] = {}
    for own, name in categories:
        owners.setdefault(name, []).append(own)
    left_out = []
    for name, ids in owners.items():
        needed = [own for own in ids if own in used]
        if len(needed) > 1:
            raise NDSError(
                f"{where}: annotations use {len(needed)} categories called {name!r}, of the ids "
                f"{' and '.join(map(repr, needed))}: rename all but one, or give their annotations one id."
            )
        kept = needed[0] if needed else max(ids)
        left_out += [own for own in ids if own != kept]
    return left_out

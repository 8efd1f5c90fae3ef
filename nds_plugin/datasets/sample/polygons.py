"""Binary masks as COCO polygons that pycocotools decodes to the same pixels.

Polygons follow the cracks between pixels. COCO polygons cannot express a hole: a mask with one
is cut in two through the middle of the hole, until no part has a hole.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_Corner = tuple[int, int]


def mask_to_polygons(mask: npt.NDArray[np.bool_]) -> list[list[float]]:
    """Polygons ``[x0, y0, x1, y1, ...]`` in pixels whose union is exactly the mask.

    Args:
        mask: bool, (height, width); pixel (row r, column c) covers x in [c, c + 1], y in [r, r + 1].
    """
    loops = _loops(mask)
    hole = next((loop for loop in loops if _signed_area(loop) < 0), None)
    if hole is None:
        return [[float(value) for corner in loop for value in corner] for loop in loops]
    columns = [x for x, _ in hole]
    cut = (min(columns) + max(columns) + 1) // 2
    left, right = mask.copy(), mask.copy()
    left[:, cut:] = False
    right[:, :cut] = False
    return mask_to_polygons(left) + mask_to_polygons(right)


def _loops(mask: npt.NDArray[np.bool_]) -> list[list[_Corner]]:
    """Closed lines around the set pixels, the pixels to the right of the way: outer lines have a
    positive area (y down), holes a negative one. Diagonal neighbours are apart."""
    padded = np.pad(mask, 1)
    here, above, left = padded, np.roll(padded, 1, axis=0), np.roll(padded, 1, axis=1)
    following: dict[_Corner, list[_Corner]] = {}
    for cracks, (dx0, dy0), (dx1, dy1) in (
        (here & ~above, (0, 0), (1, 0)),
        (~here & above, (1, 0), (0, 0)),
        (here & ~left, (0, 1), (0, 0)),
        (~here & left, (0, 0), (0, 1)),
    ):
        rows, columns = np.nonzero(cracks)
        for row, column in zip((rows - 1).tolist(), (columns - 1).tolist()):
            start = (column + dx0, row + dy0)
            following.setdefault(start, []).append((column + dx1, row + dy1))
    loops = []
    while following:
        loops.append(_follow(following, next(iter(following))))
    return loops


def _follow(following: dict[_Corner, list[_Corner]], start: _Corner) -> list[_Corner]:
    """Take one closed line out of ``following``; only its corners are kept."""
    corners: list[_Corner] = []
    here, step = start, (0, 0)
    while True:
        ways = following[here]
        right = (here[0] - step[1], here[1] + step[0])
        towards = ways.pop(ways.index(right)) if len(ways) > 1 and right in ways else ways.pop()
        if not ways:
            del following[here]
        new_step = (towards[0] - here[0], towards[1] - here[1])
        if new_step != step:
            corners.append(here)
        here, step = towards, new_step
        if here == start:
            break
    first = (corners[1][0] - corners[0][0], corners[1][1] - corners[0][1])
    if step[0] * first[1] == step[1] * first[0]:
        corners.pop(0)
    return corners


def _signed_area(corners: list[_Corner]) -> float:
    x, y = np.array(corners, dtype=np.float64).T
    return float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2)

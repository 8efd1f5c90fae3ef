"""Feed a store with the masks of a split of OpenImages, each with its box."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from nds_plugin.datasets.image_headers import Headers
from nds_plugin.datasets.openimages.csv import (
    BoxRows,
    Classes,
    ImageRows,
    read_boxes,
    read_classes,
    read_images,
    read_labels,
)
from nds_plugin.datasets.openimages.hierarchy import Expansion
from nds_plugin.datasets.openimages.masks import BoxMatcher, MaskRows, read_mask_rows
from nds_plugin.datasets.openimages.png import EMPTY, MISSING, THERE, MaskJob, run_lengths
from nds_plugin.datasets.openimages.read import Job, add_images, box_columns, headers_of, turn_corners
from nds_plugin.datasets.seen_files import SAMPLE, sample
from nds_plugin.errors import NDSError
from nds_plugin.store.parts import Unit, map_parts, unit_key

logger = logging.getLogger(__name__)

Group = tuple[str, tuple[Path, ...], slice]  # a first digit, where its masks are, their rows

_UNIT = 1000  # masks of a part
_JOINED = 1_000_000  # boxes that are looked up among the masks at a time


def read_mask_split(job: Job) -> list[tuple[int, str]]:
    """The images of a split that have masks, each mask with its box; the categories.

    Raises:
        NDSError: a mask is of an image that the list of images lacks, and what the readers of the files raise.
    """
    known = read_classes(job.files.classes)
    classes = known if job.files.mask_classes is None else known.only(read_labels(job.files.mask_classes))
    masks = read_mask_rows(job.files.masks, known, classes, job.name)
    headers = headers_of(job, iter([masks.images])) or Headers.unknown(len(masks.images))
    listed = np.zeros(len(masks.images), dtype=bool)
    for rows in read_images(job.files.images):
        place = _places(rows.image_id, masks.images)
        kept = pa.array(place >= 0)
        wanted = ImageRows(**{name: column.filter(kept) for name, column in vars(rows).items()})
        add_images(job, wanted, headers.take(place[place >= 0]))
        listed[place[place >= 0]] = True
    if not listed.all():
        raise NDSError(
            f"{job.files.masks} has masks of {int((~listed).sum())} images that {job.files.images} does not list, first "
            f"{masks.images[int(np.argmin(listed))].as_py()!r}: get both lists again, of one split."
        )
    expansion = job.expansion(classes)
    flags = _join_boxes(job, masks, known, classes, headers, expansion)
    _add_masks(job, masks, flags, headers, expansion)
    return classes.categories()


def _places(ids: pa.Array, images: pa.Array) -> npt.NDArray[np.int64]:
    found = pc.fill_null(pc.index_in(ids, value_set=images), -1)
    return found.to_numpy(zero_copy_only=False).astype(np.int64)


def _join_boxes(
    job: Job, masks: MaskRows, known: Classes, classes: Classes, headers: Headers, expansion: Expansion | None
) -> npt.NDArray[np.uint8]:
    """Flags of each mask, from its box; adds the boxes without mask where they are wanted."""
    matcher = BoxMatcher(masks, len(classes.labels))
    of_known = classes.positions(pa.array(known.labels, pa.string()))
    for boxes in _gathered(read_boxes(job.files.boxes, known)):
        image, category = _places(boxes.image_id, masks.images), of_known[boxes.category]
        rows = np.flatnonzero((image >= 0) & (category >= 0))
        some, image = boxes.take(rows, category[rows]), image[rows]
        has_mask = matcher.take(some, image)
        if job.unmasked and not has_mask.all():
            left = np.flatnonzero(~has_mask)
            corners = turn_corners(some.corners[left], headers.orientation[image[left]])
            alone = some.take(left)
            alone = BoxRows(alone.image_id, alone.category, corners, alone.flags)
            job.writer.add_annotations(box_columns(expansion(alone) if expansion else alone))
    if not matcher.matched.all():
        count = int((~matcher.matched).sum())
        logger.warning(
            "%s: %d of %d masks are of no box in %s; they have the box that the list of masks gives them, and no flags.",
            *(job.name, count, len(masks), job.files.boxes.name),
        )
    return matcher.flags


def _gathered(parts: Iterator[BoxRows]) -> Iterator[BoxRows]:
    """Larger pieces: each is looked up in a table of all images with masks, which is made anew."""
    waiting: list[BoxRows] = []
    for boxes in parts:
        waiting.append(boxes)
        if sum(len(part.category) for part in waiting) >= _JOINED:
            yield BoxRows.joined(waiting)
            waiting = []
    if waiting:
        yield BoxRows.joined(waiting)


def _add_masks(
    job: Job,
    masks: MaskRows,
    flags: npt.NDArray[np.uint8],
    headers: Headers,
    expansion: Expansion | None,
) -> None:
    status = np.zeros(len(masks), dtype=np.int8)
    groups = _by_digit(job, masks)
    units = (unit for _, places, rows in groups for unit in _units(masks, headers, places, rows))
    start = 0
    for table in map_parts(units, run_lengths, job.parts, f"masks of {job.name}", len(masks)):
        stop = start + len(table)
        status[start:stop] = table.column("status").to_numpy()
        kept = np.flatnonzero(status[start:stop] == THERE)
        boxes = masks.boxes(start + kept, flags)
        corners = turn_corners(boxes.corners, headers.orientation[masks.image[start + kept]])
        boxes = BoxRows(boxes.image_id, boxes.category, corners, boxes.flags)
        copies, category = (
            (np.arange(len(kept)), boxes.category) if expansion is None else expansion.rows(boxes.category)
        )
        codes = table.column("rle").combine_chunks().take(pa.array(kept[copies]))
        sizes = np.stack([table.column(name).to_numpy() for name in ("height", "width")], axis=1)
        job.writer.add_annotations(box_columns(boxes.take(copies, category), codes, sizes[kept[copies]]))
        start = stop
    _report(job, masks, status, groups)
    _look_again(job, masks, status, groups)


def _by_digit(job: Job, masks: MaskRows) -> list[Group]:
    """The masks that lie together: first digit of their images' ids, where they are, their rows."""
    first = pc.utf8_slice_codeunits(masks.images, 0, 1)
    starts = np.flatnonzero(np.r_[True, pc.not_equal(first[1:], first[:-1]).to_numpy(zero_copy_only=False)])
    edges = [*np.searchsorted(masks.image, starts).tolist(), len(masks)]
    groups = []
    for digit, begin, end in zip(first.take(pa.array(starts)).to_pylist(), edges, edges[1:]):
        places = tuple(job.files.mask_places(digit))
        if not places:
            raise job.missing(job.files.mask_archive(digit))
        groups.append((digit, places, slice(begin, end)))
    return groups


def _units(
    masks: MaskRows, headers: Headers, places: tuple[Path, ...], rows: slice
) -> Iterator[Unit[MaskJob]]:
    stats = [place.stat() for place in places]
    stamp = "".join(f"{p} {s.st_size} {s.st_mtime_ns}\n" for p, s in zip(places, stats))
    for start in range(rows.start, rows.stop, _UNIT):
        some = np.arange(start, min(start + _UNIT, rows.stop))
        image = masks.image[some]
        size = np.stack([headers.height[image], headers.width[image]], axis=1)
        orientation = headers.orientation[image]
        names = masks.name.take(pa.array(some))
        content = (memoryview(names.buffers()[2]), size.tobytes(), orientation.tobytes())
        yield Unit(unit_key("masks", stamp, *content), MaskJob(places, names, size, orientation), len(some))


def _look_again(job: Job, masks: MaskRows, status: npt.NDArray[np.int8], groups: list[Group]) -> None:
    """Remember some of the masks that lie in folders; zip files are inputs of the store."""
    for _, places, rows in groups:
        folders = [place.relative_to(job.files.folder) for place in places if place.is_dir()]
        size = SAMPLE // (len(groups) * max(1, len(folders)))
        for was_missing in (True, False):
            chosen = rows.start + np.flatnonzero((status[rows] == MISSING) == was_missing)
            names = masks.name.take(pa.array(sample(chosen, max(1, size)))).to_pylist()
            paths = [str(folder / name) for name in names for folder in folders]
            (job.seen.add_missing if was_missing else job.seen.add_read)(paths)


def _report(job: Job, masks: MaskRows, status: npt.NDArray[np.int8], groups: list[Group]) -> None:
    """Tell what is not there; all of an archive is too much.

    Raises:
        NDSError: not one mask of a first digit was found.
    """
    for digit, places, rows in groups:
        if (status[rows] == MISSING).all():
            raise NDSError(
                f"{job.name}: none of the {rows.stop - rows.start} masks of images that begin with {digit!r} is in "
                f"{', '.join(map(str, places))}, first {masks.name[rows.start].as_py()}: put "
                f"{job.files.mask_archive(digit).name} there."
            )
    for kind, what in ((MISSING, "are not there"), (EMPTY, "have no pixel of their object")):
        bad = np.flatnonzero(status == kind)
        if len(bad):
            logger.warning(
                "%s: %d of %d masks %s (first: %s) and were left out.",
                *(job.name, len(bad), len(masks), what, masks.name[int(bad[0])].as_py()),
            )

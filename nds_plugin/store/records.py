"""One image of a store as the dict that Detectron2's loaders take."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from tqdm import tqdm

from nds_plugin.errors import NDSError
from nds_plugin.images.reading import ImageError
from nds_plugin.store import file_names
from nds_plugin.store.reader import AnnotationStore, Objects
from nds_plugin.store.rle import resized
from nds_plugin.store.schema import NO_CROWD_KEY, TEXT_RLE, text_parts
from nds_plugin.store.view import StoreView

SizeOf = Callable[[str], tuple[int, int]]


class RecordDecoder:
    """Decodes the images of a store into Detectron2's standard dataset dicts.

    The dicts equal those of ``detectron2.data.datasets.load_coco_json`` for a store of a COCO file.

    Args:
        store: the store.
        image_root: folder, or URL, that ``file_name`` is relative to, unless that is a URL itself.
        bbox_mode: what to put for x, y, width, height (``BoxMode.XYWH_ABS``).
        size_of: width and height of an image file, for images whose size the provider does not
            give; called when such an image is decoded.
        class_map: int32 of shape (classes,): the class that each becomes, -1 to leave it out.
    """

    def __init__(
        self,
        store: AnnotationStore,
        image_root: str,
        bbox_mode: Any,
        size_of: SizeOf,
        class_map: npt.NDArray[np.int32] | None = None,
    ) -> None:
        self._store, self._root = store, file_names.image_root(store, image_root)
        self._mode, self._size_of = bbox_mode, size_of
        self._class_map = class_map
        self._heads: dict[int, tuple[Any, ...]] = {}

    def __call__(self, position: int) -> dict[str, Any]:
        """The dict of an image; raises IndexError beyond the end, as a list does."""
        number, row = self._store.locate(position)
        ids, names, sizes = self._heads.get(number) or self._read_heads(number)
        width, height = sizes[row].tolist()
        file_name = file_names.join_name(self._root, names(row))
        if not (width and height):
            width, height = self._size_of(file_name)
        objects = self._store.objects(number)
        if objects.rle_size is not None and not self._store.normalised:
            _check_mask_sizes(objects, row, file_name, (width, height))
        scale = (width, height) if self._store.normalised else None
        return {
            "file_name": file_name,
            "height": height,
            "width": width,
            "image_id": ids(row),
            "annotations": self._annotations(objects, row, (width, height), scale),
        }

    def _read_heads(self, number: int) -> tuple[Any, ...]:
        batch = self._store.batch(number)
        sizes = np.stack([batch.column("width").to_numpy(), batch.column("height").to_numpy()], axis=1)
        found = self._heads[number] = (
            _getter(batch.column("image_id")),
            _getter(batch.column("file_name")),
            sizes,
        )
        return found

    def _annotations(
        self, objects: Objects, row: int, size: tuple[int, int], scale: tuple[int, int] | None
    ) -> list[dict[str, Any]]:
        first, last = objects.starts[row : row + 2].tolist()
        if first == last:
            return []
        boxes = objects.bbox[first:last]
        if scale is not None:
            boxes = boxes * np.array(scale * 2, dtype=np.float64)
        classes = objects.columns["category"][first:last]
        if self._class_map is not None:
            classes = self._class_map[classes]
        crowds = objects.columns["iscrowd"][first:last].tolist()
        mode, found = self._mode, []
        for box, crowd, category in zip(boxes.tolist(), crowds, classes.tolist()):
            if crowd == NO_CROWD_KEY:
                found.append({"bbox": box, "category_id": category, "bbox_mode": mode})
            else:
                found.append({"iscrowd": crowd, "bbox": box, "category_id": category, "bbox_mode": mode})
        if objects.polygons is not None:
            _add_polygons(found, objects.polygons, first, last, scale)
        if objects.rle is not None:
            _add_rle(found, objects, first, last, size)
        if objects.keypoints is not None:
            _add_keypoints(found, objects.keypoints, first, last)
        if self._class_map is not None:
            found = [annotation for annotation in found if annotation["category_id"] >= 0]
        return found


def check_masks(view: StoreView, decode: RecordDecoder) -> None:
    """See that run lengths fit the images whose size only their files tell; unreadable ones are passed over.

    Args:
        view: the images. decode: of the store that they lie in.

    Raises:
        NDSError: a mask is not of its image's size.
    """
    if len(view) == 0 or view.store.normalised or view.store.objects(0).rle_size is None:
        return
    unknown = np.flatnonzero((view.sizes() == 0).any(axis=1)).tolist()
    for row in tqdm(unknown, desc=f"masks of {view.source}", unit="image", disable=None, delay=2):
        with contextlib.suppress(ImageError):
            decode(view.position(row))


def _check_mask_sizes(objects: Objects, row: int, file_name: str, size: tuple[int, int]) -> None:
    """See that masks of an image whose size only its file tells are of that size.

    Raises:
        NDSError: one is not. Shares of an image (OpenImages) may be of any size, pixels are of one.
    """
    assert objects.rle_size is not None
    first, last = objects.starts[row : row + 2].tolist()
    sizes = objects.rle_size[first:last]
    wrong = np.flatnonzero((sizes > 0).all(axis=1) & (sizes != size[::-1]).any(axis=1))
    if len(wrong):
        height, width = sizes[wrong[0]].tolist()
        raise NDSError(
            f"{file_name}: {len(wrong)} of its {last - first} annotations have a mask that is not of the image's "
            f"size, the first one: expected {size[0]} x {size[1]}, got {width} x {height}: correct the annotation file."
        )


def _add_polygons(
    found: list[dict[str, Any]], polygons: Any, first: int, last: int, scale: tuple[int, int] | None
) -> None:
    parts, starts, numbers = polygons
    of_object = parts[first : last + 1].tolist()
    if of_object[0] == of_object[-1]:
        return
    edges = starts[of_object[0] : of_object[-1] + 1].tolist()
    flat = numbers[edges[0] : edges[-1]]
    if scale is not None:
        flat = (flat.reshape(-1, 2) * np.array(scale, dtype=np.float64)).ravel()
    values, base, begin = flat.tolist(), of_object[0], edges[0]
    for annotation, start, end in zip(found, of_object, of_object[1:]):
        if start != end:
            annotation["segmentation"] = [
                values[edges[i] - begin : edges[i + 1] - begin] for i in range(start - base, end - base)
            ]


def _add_rle(
    found: list[dict[str, Any]], objects: Objects, first: int, last: int, size: tuple[int, int]
) -> None:
    assert objects.rle is not None
    starts, data = objects.rle
    edges = starts[first : last + 1].tolist()
    if edges[0] == edges[-1]:
        return
    flags = objects.columns.get("flags")
    as_text = [0] * len(found) if flags is None else (flags[first:last] & TEXT_RLE).tolist()
    shape = [size[1], size[0]]
    sizes = None if objects.rle_size is None else objects.rle_size[first:last].tolist()
    for i, (annotation, start, end) in enumerate(zip(found, edges, edges[1:])):
        if start == end:
            continue
        counts: Any = bytes(data[start:end])
        if sizes is not None and sizes[i] != shape:
            counts = resized(counts, (sizes[i][0], sizes[i][1]), (shape[0], shape[1]))
        annotation["segmentation"] = {
            "size": list(shape),
            "counts": counts.decode("ascii") if as_text[i] else counts,
        }


def _add_keypoints(found: list[dict[str, Any]], keypoints: Any, first: int, last: int) -> None:
    starts, numbers = keypoints
    edges = starts[first : last + 1].tolist()
    values = numbers[edges[0] : edges[-1]].tolist()
    for annotation, start, end in zip(found, edges, edges[1:]):
        if start != end:
            # COCO gives pixel indices, Detectron2 wants coordinates: the middle of the pixel.
            points = values[start - edges[0] : end - edges[0]]
            annotation["keypoints"] = [v if i % 3 == 2 else v + 0.5 for i, v in enumerate(points)]


def _getter(column: Any) -> Callable[[int], Any]:
    """How to get one value of a number or text column quickly."""
    if not pa.types.is_string(column.type):
        values = column.to_numpy()
        return lambda row: int(values[row])
    starts, view = text_parts(column)

    def text(row: int) -> str:
        begin, end = starts[row : row + 2].tolist()
        return str(view[begin:end], "utf-8")

    return text

"""The identity of an image in a dataset of MMEngine: (source, image id), never its position."""

from __future__ import annotations

import bisect
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nds_plugin.datasets.coco.json_stream import stream_object
from nds_plugin.datasets.coco.store import KEYS
from nds_plugin.errors import NDSError, few

SOURCE = "nds_source"  # of a dataset's metainfo, or of an image's data_info where a dataset holds several
SOURCES = "nds_sources"  # of metainfo: all sources of a dataset
LABEL_SPACE = "label_space"  # of a data_info and a data sample: the number of its source


@dataclass(frozen=True)
class Identities:
    """What the draw needs to know of the N images of a dataset.

    Attributes:
        sources, image_ids: identity of each, as text.
        sizes: width and height, 0 where not known; int32 of shape (N, 2).
    """

    sources: pa.Array
    image_ids: pa.Array
    sizes: npt.NDArray[np.int32]


def part_of(dataset: Any, index: int) -> tuple[Any, int]:
    """The dataset inside of concatenated ones that an image is in, and its position there."""
    while parts := _parts(dataset):
        number = bisect.bisect_right(dataset.cumulative_sizes, index)
        index -= dataset.cumulative_sizes[number - 1] if number else 0
        dataset = parts[number]
    return dataset, index


def identity_of(dataset: Any, index: int, source: str | None = None) -> tuple[str, str]:
    """(source, image id) of one image of a dataset, as text.

    Args:
        dataset: any of MMEngine's kind, with ``get_data_info``.
        index: its position there.
        source: name of the source where neither the image nor the dataset says it.

    Raises:
        NDSError: the dataset tells no image ids, or nobody says which source it is.
    """
    part, position = part_of(dataset, index)
    return _identity(part, _info(part, position), source)


def identities(dataset: Any, source: str | None = None) -> Identities:
    """Identity and size of all images of a dataset; arguments and errors as :func:`identity_of`.

    A dataset that has them in columns gives them by a method ``identities()``; of others every
    ``get_data_info`` is asked once.
    """
    if parts := _parts(dataset):
        return joined([identities(part, source) for part in parts])
    if hasattr(dataset, "identities"):
        found: Identities = dataset.identities(source)
        return found
    infos = [_info(dataset, i) for i in range(len(dataset))]
    pairs = [_identity(dataset, info, source) for info in infos]
    sizes = [[int(info.get("width") or 0), int(info.get("height") or 0)] for info in infos]
    return Identities(
        pa.array([name for name, _ in pairs], pa.string()),
        pa.array([image_id for _, image_id in pairs], pa.string()),
        np.array(sizes, np.int32).reshape(-1, 2),
    )


def refuse_twice(rows: npt.NDArray[np.int64], found: Identities) -> None:
    """See that no image of a selection is in a dataset twice.

    Args:
        rows: of the selection, of each image; negative for none.

    Raises:
        NDSError: one is.
    """
    values, counts = np.unique(rows[rows >= 0], return_counts=True)
    if (counts > 1).any():
        first = int(np.flatnonzero(rows == values[counts > 1][0])[0])
        raise NDSError(
            f"{int((counts > 1).sum())} images are in the dataset more than once, the first is {found.image_ids[first]} of "
            f"{found.sources[first]}: a selection says how often an image is drawn, so take RepeatDataset and the like away, "
            "and give datasets that are joined different names by metainfo=dict(nds_source=['NAME'])."
        )


def metainfo_of(dataset: Any) -> Mapping[str, Any]:
    """A dataset's metainfo; where MMDetection's ConcatDataset has a list of several, what they say alike of classes and source."""
    found = getattr(dataset, "metainfo", None) or {}
    if isinstance(found, Mapping):
        return found
    first, *others = found
    return {
        key: first[key]
        for key in ("classes", SOURCE)
        if key in first and all(list(other.get(key) or ()) == list(first[key]) for other in others)
    }


def source_of(dataset: Any) -> str | None:
    """The name that a dataset's metainfo gives its source, if it does; MMEngine looks for a file of a plain text's name."""
    name = metainfo_of(dataset).get(SOURCE)
    if isinstance(name, (list, tuple)):
        (name,) = name if len(name) == 1 else (None,)
    return None if name is None else str(name)


def classes_of(dataset: Any) -> list[str]:
    """Names of a dataset's classes, in the order of ``bbox_label``.

    Raises:
        NDSError: its metainfo names none.
    """
    refuse_other_classes(dataset)
    classes = metainfo_of(dataset).get("classes")
    if not classes or isinstance(classes, str):
        raise NDSError(
            f"the dataset {type(dataset).__name__} has no classes in its metainfo, expected names as those of CocoDataset: "
            "give metainfo=dict(classes=(...)) in its config."
        )
    names = [str(name) for name in classes]
    for part in leaves(dataset):
        _refuse_misnamed(part, names)
    return names


def _refuse_misnamed(dataset: Any, names: Sequence[str]) -> None:
    """See that a dataset which numbers classes as its file does, as CocoDataset, names them in that order."""
    path = str(getattr(dataset, "ann_file", None) or "")
    if not getattr(dataset, "cat_ids", None) or not os.path.isfile(path):
        return
    name_of = _categories(path)
    meant = [name_of.get(category, "none") for category in dataset.cat_ids]
    if meant != list(names[: len(meant)]):  # the last ones may be missing in the file
        pairs = itertools.zip_longest(meant, names)
        first = next(place for place, (one, other) in enumerate(pairs) if one != other)
        raise NDSError(
            f"{type(dataset).__name__} numbers the classes as {path} does, from {first} on {few(meant[first:])}, and its metainfo "
            f"names them {few(names[first:])}: name those of the file, in its order, or take NDSStoreDataset, which numbers them "
            "as they are named."
        )


def _categories(path: str) -> dict[Any, str]:
    """Names of a COCO file's categories by id; of anything else in it, only that it is JSON."""
    found: dict[Any, str] = {}
    for key, items in stream_object(path, KEYS, 20_000):
        if key == "categories":
            found.update((item["id"], str(item["name"])) for item in items)
        elif found:
            break
    return found


def refuse_other_classes(dataset: Any) -> None:
    """See that the parts of a joined dataset, if it is one, mean the same by a label.

    Raises:
        NDSError: their classes differ, which ``ignore_keys`` of ConcatDataset may hide.
    """
    for part in _parts(dataset):
        refuse_other_classes(part)
    classes = [list(metainfo_of(part).get("classes") or ()) for part in _parts(dataset)]
    for found in classes[1:]:
        if found != classes[0]:
            raise NDSError(
                f"the joined datasets have different classes, {', '.join(classes[0][:3])} ... and {', '.join(found[:3])} ...: a "
                "label would mean two things. NDSSelection joins datasets by the names of their classes."
            )


def leaves(dataset: Any) -> Iterator[Any]:
    """The datasets that are joined in one, however deep; of any other itself."""
    if not (parts := _parts(dataset)):
        yield dataset
    for part in parts:
        yield from leaves(part)


def _parts(dataset: Any) -> Sequence[Any]:
    """The datasets that are joined in one; of any other none."""
    found: Sequence[Any] = dataset.datasets if hasattr(dataset, "cumulative_sizes") else ()
    return found


def _info(dataset: Any, index: int) -> dict[str, Any]:
    if not hasattr(dataset, "get_data_info"):
        raise NDSError(
            f"the dataset {type(dataset).__name__} has no get_data_info, by which images are known: use one of MMDetection's "
            "datasets, or a wrapper that hands it on."
        )
    info: dict[str, Any] = dataset.get_data_info(index)
    return info


def _identity(dataset: Any, info: dict[str, Any], source: str | None) -> tuple[str, str]:
    if "img_id" not in info:
        raise NDSError(
            f"the images of {type(dataset).__name__} have no img_id, they have {', '.join(sorted(info))}: a selection knows "
            "an image by its source and id."
        )
    own = info.get(SOURCE) or source_of(dataset) or source
    if own is None:
        raise NDSError(
            f"the selection was made from several sources, and the dataset {type(dataset).__name__} does not say which one it "
            f"is: give metainfo=dict({SOURCE}=['NAME']) in its config."
        )
    return str(own), str(info["img_id"])


def joined(parts: Sequence[Identities]) -> Identities:
    """Those of several datasets, one after the other."""
    return Identities(
        pa.concat_arrays([part.sources for part in parts]),
        pa.concat_arrays([part.image_ids for part in parts]),
        np.concatenate([part.sizes for part in parts]),
    )

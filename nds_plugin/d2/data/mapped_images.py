"""The map-style dataset under the loader: maps a record, replaces what cannot be read, says what it drew."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from detectron2.utils.serialize import PicklableWrapper

from nds_plugin.d2.data.mapper import check_image, read_image
from nds_plugin.errors import NDSError
from nds_plugin.images.reading import ImageError
from nds_plugin.selection.config import LoaderConfig
from nds_plugin.selection.drawn_images import DrawnImages
from nds_plugin.selection.placed import PlacedSelection


class MappedImages(DrawnImages):
    """Dataset dicts behind a mapper, addressed by ``(position in the stream, index)``.

    Each mapped dict also gets ``nds_drawn`` (the index that the stream gave), ``nds_index`` (the
    one that was read) and ``nds_cluster``.

    Args:
        dicts: gives Detectron2's dict of a position, a fresh one each time.
        mapper: dict to training example, or None for another image.
        cluster, seed, max_unreadable, placed: see :class:`DrawnImages`.
    """

    def __init__(
        self,
        dicts: Any,
        mapper: Callable[[dict[str, Any]], dict[str, Any] | None],
        cluster: npt.NDArray[np.integer],
        seed: int,
        max_unreadable: float = LoaderConfig.max_unreadable,
        placed: PlacedSelection | None = None,
    ) -> None:
        if len(dicts) != len(cluster):
            raise NDSError(f"{len(dicts)} images but {len(cluster)} cluster numbers: they must match.")
        super().__init__(cluster, seed, max_unreadable, "NDS.LOADER.MAX_UNREADABLE", placed)
        self._records = dicts
        self._mapper = PicklableWrapper(mapper)  # a lambda, too, can go to a spawned worker

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, drawn: tuple[int, int]) -> dict[str, Any]:
        position, index = drawn
        mapped, current = self.drawn(position, index)
        extra = {"nds_drawn": index, "nds_index": current, "nds_cluster": int(self.cluster[index])}
        return {**mapped, **extra}

    def load(self, index: int) -> Any:
        return self._mapper(self._records[index])  # a fresh dict: unpacked or decoded just now

    def fault(self, index: int) -> ImageError | None:
        try:
            record = self._records[index]
            check_image(dict(record), read_image(record["file_name"], "BGR"))
        except ImageError as error:
            return error
        except Exception:  # a dict without what a mapper needs, say: the mapper's error stands
            return None
        return None

    def file_name(self, index: int) -> str:
        return str(self._records[index].get("file_name"))

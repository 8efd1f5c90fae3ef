"""The dataset under a training loader, without a host."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nds_plugin.errors import NDSError
from nds_plugin.images.reading import ImageError
from nds_plugin.selection.drawn_images import DrawnImages
from nds_plugin.selection.placed import PlacedSelection


class Photos(DrawnImages):
    """None of them can be read."""

    def load(self, index: int) -> Any:
        raise ImageError(f"{index}.jpg: cut short.")

    def fault(self, index: int) -> ImageError | None:
        return None

    def file_name(self, index: int) -> str:
        return f"{index}.jpg"


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_a_share_of_unreadable_images_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(NDSError, match="^own.share must be .*0 to 1, got"):
        Photos(np.zeros(4), 0, share, "own.share")


def test_more_unreadable_images_than_allowed_end_the_run() -> None:
    photos = Photos(np.zeros(4), 0, 0.5, "own.share")
    with pytest.raises(NDSError, match=r"3 of 4 images cannot be read, more than own.share allows \(2\)"):
        photos.drawn(0, 0)


class SomeBroken(Photos):
    """The first two cannot be read."""

    def load(self, index: int) -> Any:
        return index if index > 1 else super().load(index)


def test_a_stream_replaces_a_broken_image_by_the_probabilities_and_anew_each_time() -> None:
    p = np.array([0.3, 0.3, 0.3, 0.1, 0.0, 0.0])
    cluster = np.array([0, 0, 0, 0, 0, 1], np.int32)
    photos = SomeBroken(cluster, 0, 0.5, "own.share", PlacedSelection("stream", np.ones(2), cluster, p))
    counts = np.bincount([photos.drawn(position, 0)[1] for position in range(400)], minlength=6)
    assert counts[[0, 1, 4, 5]].tolist() == [0, 0, 0, 0]
    assert 2 < counts[2] / counts[3] < 4.5


def test_a_subset_replaces_a_broken_image_by_one_of_its_cluster_for_good() -> None:
    cluster = np.zeros(20, np.int32)
    placed = PlacedSelection("subset", np.ones(1), cluster, np.linspace(0, 1, 20))
    photos = SomeBroken(cluster, 0, 0.5, "own.share", placed)
    assert len({photos.drawn(position, 0)[1] for position in range(20)}) == 1

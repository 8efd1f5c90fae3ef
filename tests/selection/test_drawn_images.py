"""The dataset under a training loader, without a host."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nds_plugin.errors import NDSError
from nds_plugin.images.reading import ImageError
from nds_plugin.selection.drawn_images import DrawnImages


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

"""Ids of a COCO file: whole numbers or text, of one type, and the rows that messages name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from coco_files import document, write_coco

from nds_plugin.datasets.coco.store import open_coco
from nds_plugin.errors import NDSError


def _as_text(content: dict[str, Any], key: str, *owners: str) -> dict[str, Any]:
    for owner in owners:
        for item in content[owner]:
            item[key] = str(item[key])
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            _as_text(document(), "category_id", "annotations"),
            "annotations name their categories by text, but the ids of 'categories' are whole numbers",
        ),
        (
            _as_text(document(), "id", "categories"),
            "annotations name their categories by whole numbers, but the ids of 'categories' are text",
        ),
        (
            _as_text(document(), "image_id", "annotations"),
            "annotations name their images by text, but the ids of 'images' are whole numbers",
        ),
        (
            _as_text(document(), "id", "images"),
            "annotations name their images by whole numbers, but the ids of 'images' are text",
        ),
    ],
)
@pytest.mark.parametrize("chunk", [1, 20_000])
def test_numbers_never_meet_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: Any, message: str, chunk: int
) -> None:
    monkeypatch.setattr("nds_plugin.datasets.coco.store._CHUNK", chunk)
    with pytest.raises(NDSError, match=re.escape(message)):
        open_coco(write_coco(tmp_path, content))


def test_pieces_of_a_file_have_ids_of_one_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nds_plugin.datasets.coco.store._CHUNK", 2)
    for change in ("category_id", "image_id"):
        content = document()
        content["annotations"][4][change] = str(content["annotations"][4][change])
        with pytest.raises(
            NDSError,
            match=f"the {change!r} values of 'annotations' must be all whole numbers or all text, got both",
        ):
            open_coco(write_coco(tmp_path, content))


def test_messages_name_the_rows_and_numbers_of_the_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = document()
    content["annotations"][0]["segmentation"] = [[1, 2, 3, 4]]  # left out: later rows keep their numbers
    content["annotations"][2]["category_id"] = 77
    with pytest.raises(NDSError, match=r"1 of 5 annotations .* first annotations\[2\] with category_id 77"):
        open_coco(write_coco(tmp_path, content))
    content["annotations"][2] |= {"category_id": 2, "image_id": 99}
    with pytest.raises(NDSError, match=r"1 of 5 annotations .* first annotations\[2\] with image_id 99"):
        open_coco(write_coco(tmp_path, content))
    content["annotations"][2] |= {"image_id": 12, "segmentation": {"size": [4, 6], "counts": [24]}}
    with pytest.raises(NDSError, match=r"first annotations\[2\] of image 12"):
        open_coco(write_coco(tmp_path, content))
    del content["annotations"][2]["segmentation"]
    content["annotations"][2] |= {"id": None, "bbox": [0, 0, 0, 0]}
    assert open_coco(write_coco(tmp_path, content)).num_annotations == 3
    assert "of 5 boxes, 1 (first: annotations[2] of image 12" in caplog.text
    assert "1 instances left out" in caplog.text
    assert "annotation -1" not in caplog.text

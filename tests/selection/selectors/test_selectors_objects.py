"""Objects as the unit: boxes become crops, an image's weight comes from its objects."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nds_plugin.errors import NDSError
from nds_plugin.images.reading import ImageError, load_image, region_path, split_region
from nds_plugin.source.index import ImageRecord, SourceIndex
from nds_plugin.source.objects import ObjectConfig, crop_objects, parents, pool_objects

BOXES = [  # row of the image, x, y, width, height, label
    (0, 10, 10, 30, 20, 0),
    (0, 60, 5, 40, 40, 1),
    (0, 0, 0, 8, 8, 0),  # too small, beside larger ones
    (1, 5, 5, 6, 4, 1),  # too small, but all there is
    (2, 0, 0, 120, 80, 0),  # the whole image
]


@pytest.fixture
def index(tmp_path: Path) -> SourceIndex:
    """Four images of 120 x 80, the last without an object; every pixel tells its place."""
    y, x = np.mgrid[:80, :120]
    pixels = np.stack([x, y, np.zeros_like(x)], axis=-1).astype(np.uint8)
    for i in range(4):
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    return SourceIndex.from_records(
        [ImageRecord("a", f"img#{i}", str(tmp_path / f"{i}.png"), 120, 80, 0) for i in range(4)],
        ("car", "shoe"),
    )


def crops(index: SourceIndex, boxes: list[tuple[int, ...]] = BOXES, **config: object) -> SourceIndex:
    array = np.array(boxes, dtype=np.float64)
    return crop_objects(
        index,
        array[:, 0].astype(int),
        array[:, 1:5],
        array[:, 5].astype(int),
        ObjectConfig(**config),  # type: ignore[arg-type]
    )


def test_a_crop_is_the_square_around_its_box_moved_into_the_image(index: SourceIndex) -> None:
    objects = crops(index, context=1.5)
    assert objects.column("image_id").tolist() == [
        "img#0#50,0,60,60", "img#0#2,0,45,45", "img#1#3,2,9,9", "img#2#0,0,120,80",
    ]  # fmt: skip
    first = np.asarray(load_image(objects[0].file_name))
    assert first.shape == (60, 60, 3)
    assert first[0, 0].tolist() == [50, 0, 0]
    assert first[-1, -1].tolist() == [109, 59, 0]
    assert objects.column("label").tolist() == [1, 0, 1, 0]
    assert (objects[0].width, objects[0].height) == (60, 60)


def test_small_objects_are_passed_over_unless_an_image_has_no_other(index: SourceIndex) -> None:
    assert parents(crops(index), index).tolist() == [0, 0, 1, 2]
    assert parents(crops(index, min_side=1), index).tolist() == [0, 0, 0, 1, 2]
    assert parents(crops(index, per_image=1), index).tolist() == [0, 1, 2]


def test_neither_the_order_of_boxes_nor_a_repeated_box_changes_the_objects(index: SourceIndex) -> None:
    assert crops(index, BOXES[::-1]).hash == crops(index).hash == crops(index, BOXES + BOXES[:2]).hash


def test_a_moved_box_is_another_object(index: SourceIndex) -> None:
    moved = [(0, 12, 10, 30, 20, 0), *BOXES[1:]]
    assert crops(index, moved).hash != crops(index).hash


def test_weights_of_objects_become_those_of_their_images() -> None:
    p, parent = np.array([0.1, 0.3, 0.2, 0.4]), np.array([0, 0, 2, 3])
    assert pool_objects(p, parent, 5, "sum").tolist() == pytest.approx([0.4, 0, 0.2, 0.4, 0])
    assert pool_objects(p, parent, 5, "mean").tolist() == pytest.approx([0.2, 0, 0.2, 0.4, 0])


def test_a_rectangle_beyond_the_border_is_cut_and_one_outside_is_refused(index: SourceIndex) -> None:
    name = index[0].file_name
    assert load_image(region_path(name, 100, 70, 40, 40)).size == (20, 10)
    with pytest.raises(ImageError, match=r"0\.png: the rectangle 10 x 10 at \(120, 0\) lies outside"):
        load_image(region_path(name, 120, 0, 10, 10))
    with pytest.raises(ImageError, match="gone.png: no such image file"):
        load_image(region_path("gone.png", 0, 0, 10, 10))


def test_a_rectangle_is_in_pixels_of_the_upright_image(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    stored = Image.new("RGB", (64, 32))
    stored.paste((255, 0, 0), (0, 16, 16, 32))  # bottom left as stored: top left upright
    stored.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    crop = np.asarray(load_image(region_path(tmp_path / "turned.jpg", 0, 0, 8, 8)))
    assert crop.shape == (8, 8, 3)
    assert crop[..., 0].min() > 200


def test_a_name_without_a_rectangle_is_itself() -> None:
    assert split_region("a#b.jpg") == ("a#b.jpg", None)
    assert split_region(region_path("a#b.jpg", 1, 2, 3, 4)) == ("a#b.jpg", (1, 2, 3, 4))


def test_images_without_any_box_are_refused(index: SourceIndex) -> None:
    with pytest.raises(NDSError, match="none of the 4 images of a has an annotated box.*NDS.UNIT image"):
        crop_objects(index, np.zeros(0, int), np.zeros((0, 4)), np.zeros(0, int), ObjectConfig())


def test_objects_of_another_index_are_refused(index: SourceIndex) -> None:
    other = SourceIndex.from_records([ImageRecord("a", "img#0", "x.png")])
    with pytest.raises(
        NDSError, match=r"2 objects are of images that the index does not hold, first object 'img#1"
    ):
        parents(crops(index), other)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"per_image": 0}, "objects per_image must be 1 or more"),
        ({"min_side": 0}, "objects min_side must be 1 or more"),
        ({"context": 0.9}, "objects context must be 1 or more"),
        ({"pool": "max"}, "unknown objects pool 'max'.*Known: mean, sum"),
    ],
)
def test_settings_out_of_range_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(NDSError, match=message):
        ObjectConfig(**values)  # type: ignore[arg-type]

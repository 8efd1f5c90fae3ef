"""The mapper: masks that some instances lack, label spaces, and files that cannot be read."""

from __future__ import annotations

import copy
import itertools
import json
import struct
import zlib

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import DatasetMapper, build_detection_train_loader
from detectron2.data import transforms as T
from detectron2.data.datasets import load_coco_json
from detectron2.modeling import build_model
from detectron2.structures import BoxMode
from detectron2.utils.events import EventStorage
from PIL import Image
from tiny_detector import tiny_config

from nds_plugin.d2.data.mapper import NDSDatasetMapper
from nds_plugin.errors import NDSError
from nds_plugin.images.reading import ImageError

torch.set_num_threads(1)

WIDTH, HEIGHT = 120, 100


@pytest.fixture
def photo(tmp_path):
    rng = np.random.Generator(np.random.PCG64(0))
    pixels = rng.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def annotation(box, category, *, mask=True, **more):
    x0, y0, x1, y1 = box
    anno = {"bbox": list(box), "bbox_mode": BoxMode.XYXY_ABS, "category_id": category, "iscrowd": 0}
    if mask:
        anno["segmentation"] = [[(x0 + x1) / 2, y0, x1, y1, x0, y1]]  # a triangle
    return {**anno, **more}


def record(path, annotations, **more):
    size = {"width": WIDTH, "height": HEIGHT}
    return {"file_name": str(path), "image_id": "7", **size, "annotations": annotations, **more}


def mapper(cls=NDSDatasetMapper, augmentations=(), mask_format="polygon", **more):
    return cls(
        is_train=True,
        augmentations=list(augmentations),
        image_format="BGR",
        use_instance_mask=True,
        instance_mask_format=mask_format,
        **more,
    )


FORMATS = pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
CROP = [T.CropTransform(30, 20, 60, 50), T.HFlipTransform(60)]
THREE = [annotation((10, 10, 50, 60), 0), annotation((40, 30, 80, 90), 2), annotation((100, 80, 118, 98), 1)]


def bitmaps(instances):
    masks = instances.gt_masks
    if hasattr(masks, "tensor"):
        return masks.tensor
    full = torch.tensor([[0.0, 0.0, 64.0, 64.0]]).repeat(len(masks), 1)
    return masks.crop_and_resize(full, 64)


@FORMATS
@pytest.mark.parametrize("augmentations", [[], CROP])
@pytest.mark.parametrize("recompute", [False, True])
def test_where_all_instances_have_masks_it_is_the_stock_mapper(photo, mask_format, augmentations, recompute):
    options = {"augmentations": augmentations, "mask_format": mask_format, "recompute_boxes": recompute}
    stock = mapper(DatasetMapper, **options)(record(photo, THREE))
    ours = mapper(**options)(record(photo, THREE))
    assert stock.keys() == ours.keys()
    assert torch.equal(stock["image"], ours["image"])
    one, other = stock["instances"], ours["instances"]
    assert torch.equal(one.gt_boxes.tensor, other.gt_boxes.tensor)
    assert torch.equal(one.gt_classes, other.gt_classes)
    assert torch.equal(bitmaps(one), bitmaps(other))
    assert other.gt_has_mask.all()
    assert len(other) == (2 if augmentations else 3)


@FORMATS
def test_an_instance_without_a_mask_keeps_its_box_and_is_marked(photo, mask_format):
    annotations = [THREE[0], annotation((40, 30, 80, 90), 2, mask=False), {**THREE[2], "segmentation": []}]
    for order in ([0, 1, 2], [1, 0, 2], [2, 1, 0]):
        instances = mapper(mask_format=mask_format)(record(photo, [annotations[i] for i in order]))[
            "instances"
        ]
        assert instances.gt_has_mask.tolist() == [i == 0 for i in order]
        assert instances.gt_boxes.tensor.tolist() == [annotations[i]["bbox"] for i in order]
        assert bitmaps(instances).flatten(1).any(dim=1).tolist() == [i == 0 for i in order]


@FORMATS
def test_a_crop_clips_the_box_without_a_mask_and_recomputes_the_one_with(photo, mask_format):
    annotations = [
        THREE[0],
        annotation((10, 10, 50, 60), 0, mask=False),
        annotation((0, 0, 9, 9), 1, mask=False),
    ]
    options = {"augmentations": CROP, "mask_format": mask_format, "recompute_boxes": True}
    instances = mapper(**options)(record(photo, annotations))["instances"]
    assert instances.gt_has_mask.tolist() == [True, False]  # the third lies outside the crop
    # The crop is x 30..90, y 20..70, then mirrored: x 30..50 becomes 40..60.
    assert instances.gt_boxes.tensor[1].tolist() == [40, 0, 60, 40]
    tight = instances.gt_boxes.tensor[0]
    assert 40 < float(tight[0]) + 1 < 50
    assert tight[1] >= 0
    stock = mapper(DatasetMapper, **options)(record(photo, annotations[:1]))["instances"]
    assert torch.equal(stock.gt_boxes.tensor[0], tight)


@FORMATS
def test_an_instance_whose_mask_leaves_the_image_goes_and_does_not_become_one_without(photo, mask_format):
    outside = annotation((10, 10, 50, 60), 0, segmentation=[[10, 10, 25, 10, 25, 60, 10, 60]])
    entry = record(photo, [outside, THREE[1]])
    for cls in (DatasetMapper, NDSDatasetMapper):
        instances = mapper(cls, augmentations=CROP, mask_format=mask_format)(entry)["instances"]
        assert instances.gt_classes.tolist() == [2]


def test_the_label_space_of_the_image_is_that_of_its_instances(photo):
    assert mapper()(record(photo, THREE))["instances"].gt_label_space.tolist() == [0, 0, 0]
    instances = mapper()(record(photo, THREE, label_space=2))["instances"]
    assert instances.gt_label_space.tolist() == [2, 2, 2]
    assert instances.gt_label_space.dtype == torch.int64


def test_keys_of_the_draw_pass_through_and_the_record_is_not_changed(photo):
    entry = record(photo, THREE, nds_cluster=4, nds_index=17, label_space=1)
    before = copy.deepcopy(entry)
    example = mapper(augmentations=CROP)(entry)
    assert (example["nds_cluster"], example["nds_index"]) == (4, 17)
    assert entry == before


def test_crowds_are_dropped_whatever_their_mask_is(photo):
    rle = mask_util.encode(np.asfortranarray(np.ones((HEIGHT, WIDTH), np.uint8)))
    crowd = {**annotation((0, 0, 99, 99), 1, mask=False), "segmentation": rle, "iscrowd": 1}
    instances = mapper()(record(photo, [crowd, THREE[0]]))["instances"]
    assert instances.gt_classes.tolist() == [0]


def test_run_length_masks_work_as_bitmasks_and_name_the_option_as_polygons(photo):
    bitmap = np.zeros((HEIGHT, WIDTH), np.uint8)
    bitmap[10:60, 10:50] = 1
    compressed = mask_util.encode(np.asfortranarray(bitmap))
    runs = [len(list(run)) for _, run in itertools.groupby(bitmap.flatten(order="F").tolist())]
    for rle in (compressed, {"size": [HEIGHT, WIDTH], "counts": runs}):
        entry = record(photo, [{**THREE[0], "segmentation": rle}, annotation((1, 1, 9, 9), 1, mask=False)])
        instances = mapper(mask_format="bitmask")(entry)["instances"]
        assert np.array_equal(instances.gt_masks.tensor[0].numpy(), bitmap.astype(bool))
        with pytest.raises(
            NDSError, match=r"annotations of .*photo.png: a mask is run-length encoded.*bitmask"
        ):
            mapper()(entry)


def test_an_annotation_that_cannot_be_used_names_its_image(photo):
    with pytest.raises(NDSError, match=r"annotations of .*photo.png: .*polygon from 4 coordinates") as caught:
        mapper()(record(photo, [{**THREE[0], "segmentation": [[1, 1, 5, 5]]}]))
    assert not isinstance(caught.value, ImageError)
    with pytest.raises(NDSError, match=r"annotations of .*photo.png: no key 'bbox'"):
        mapper()(record(photo, [{"category_id": 0}]))


def test_without_masks_there_are_boxes_only(photo):
    boxes = NDSDatasetMapper(is_train=True, augmentations=[], image_format="BGR")
    instances = boxes(record(photo, THREE))["instances"]
    assert set(instances.get_fields()) == {"gt_boxes", "gt_classes", "gt_label_space"}


def test_an_image_without_annotations_gives_no_instances(photo):
    instances = mapper()(record(photo, []))["instances"]
    assert len(instances) == 0


def broken_file(kind, photo):
    content = photo.read_bytes()
    if kind == "missing":
        photo.unlink()
        return
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")]
    bomb = b"".join(
        struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks
    )
    photo.write_bytes(
        {
            "empty": b"",
            "truncated": content[: len(content) // 2],
            "text": b"not an image",
            "bomb": b"\x89PNG\r\n\x1a\n" + bomb,
            "damaged": content[:33] + bytes(100) + content[133:],
        }[kind]
    )


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "no such image file"),
        ("empty", "the file is empty"),
        ("truncated", "the image is cut short"),
        ("text", "not an image"),
        ("bomb", "taken for a decompression bomb"),
        ("damaged", "not an image"),
    ],
)
def test_an_unreadable_image_is_an_image_error_that_names_it(photo, kind, message):
    broken_file(kind, photo)
    with pytest.raises(ImageError, match=rf"photo.png: .*{message}") as caught:
        mapper()(record(photo, THREE))
    assert "\n" not in str(caught.value)


def test_an_image_of_another_size_than_annotated_is_an_image_error(photo):
    with pytest.raises(ImageError, match=r"photo.png: the image is 120x100, its annotations say 64x64"):
        mapper()({**record(photo, THREE), "width": 64, "height": 64})


def test_an_error_that_is_not_the_images_stays_what_it_is(photo):
    class Broken(T.Augmentation):
        def get_transform(self, image):
            raise ValueError("a wrong augmentation")

    with pytest.raises(ValueError, match="a wrong augmentation") as caught:
        mapper(augmentations=[Broken()])(record(photo, THREE))
    assert not isinstance(caught.value, NDSError)


def test_it_is_built_from_a_config_as_the_stock_mapper_is(photo):
    cfg = tiny_config(3)
    cfg.INPUT.CROP.ENABLED = True
    built = NDSDatasetMapper(cfg, is_train=True)
    assert built.recompute_boxes
    assert built.use_instance_mask
    test_time = NDSDatasetMapper(cfg, is_train=False)(record(photo, THREE))
    assert "instances" not in test_time
    assert "annotations" not in test_time


@FORMATS
def test_loader_and_model_train_on_a_source_with_masks_and_one_without(photo, mask_format):
    dataset = [
        record(photo, [annotation((10, 10, 50, 60), 0), annotation((60, 30, 100, 90), 1)]),
        record(photo, [annotation((10, 10, 50, 60), 2, mask=False)], label_space=1),
    ]
    cfg = tiny_config(3, [[0, 1], [1, 2]])
    torch.manual_seed(0)
    model = build_model(cfg).train()
    loader = build_detection_train_loader(
        dataset, mapper=mapper(mask_format=mask_format), total_batch_size=2, num_workers=0
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with EventStorage():
        for _, batch in zip(range(2), loader):
            losses = model(batch)
            assert all(bool(torch.isfinite(v)) for v in losses.values())
            assert float(losses["loss_mask"].detach()) > 0
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()


def real_dicts(root, name, first_class, label_space, count):
    folder = root / "detection" / name
    dicts = load_coco_json(str(folder / "train.json"), str(folder / "images"))
    dicts = [d for d in dicts if d["annotations"]][:count]
    ids = [c["id"] for c in json.loads((folder / "train.json").read_text())["categories"]]
    for entry in dicts:
        entry["label_space"] = label_space
        for anno in entry["annotations"]:
            anno["category_id"] = first_class + sorted(ids).index(anno["category_id"])
    return dicts, list(range(first_class, first_class + len(ids)))


@pytest.mark.slow
def test_real_photographs_with_masks_and_with_boxes_only_train_together(nds_data):
    camvid, first = real_dicts(nds_data, "camvid", 0, 0, 4)
    openimages, second = real_dicts(nds_data, "openimages", len(first), 1, 4)
    cfg = tiny_config(len(first) + len(second), [first, second])
    torch.manual_seed(0)
    model = build_model(cfg).train()
    resize = [T.ResizeShortestEdge(96, 160)]
    loader = build_detection_train_loader(
        camvid + openimages, mapper=mapper(augmentations=resize), total_batch_size=4, num_workers=0
    )
    kinds = set()
    with EventStorage():
        for _, batch in zip(range(3), loader):
            losses = model(batch)
            assert all(bool(torch.isfinite(v)) for v in losses.values())
            kinds |= {bool(has) for x in batch for has in x["instances"].gt_has_mask}
            masked = any(bool(x["instances"].gt_has_mask.any()) for x in batch)
            assert (float(losses["loss_mask"].detach()) > 0) == masked
            sum(losses.values()).backward()
    assert kinds == {True, False}

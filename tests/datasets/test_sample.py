"""Laws of the embedded synthetic sample."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from nds_plugin.datasets.sample import generate as sample
from nds_plugin.datasets.sample.canvas import MIN_VISIBLE_PIXELS
from nds_plugin.datasets.sample.polygons import mask_to_polygons
from nds_plugin.errors import NDSError
from nds_plugin.files.artifacts import file_hash

SMALL = {"train_images": 6, "val_images": 2}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "sample"
    sample.generate(folder, seed=3, **SMALL)
    return folder


def contents(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): file_hash(path) for path in root.rglob("*") if path.is_file()}


def documents(root: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(root.glob("*/*.json"))]


def decoded(polygons: list[list[float]], height: int, width: int) -> np.ndarray:
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))).astype(bool)


@pytest.mark.slow
def test_same_seed_same_bytes_and_another_seed_other_pictures(root: Path, tmp_path: Path) -> None:
    sample.generate(tmp_path / "again", seed=3, **SMALL)
    assert contents(tmp_path / "again") == contents(root)
    sample.generate(tmp_path / "other", seed=4, **SMALL, domains=["street"])
    first = "street/images/train_000001.jpg"
    assert file_hash(tmp_path / "other" / first) != file_hash(root / first)


def test_a_picture_does_not_depend_on_how_many_are_made(root: Path, tmp_path: Path) -> None:
    sample.generate(tmp_path / "few", seed=3, train_images=2, val_images=1, domains=["farm"])
    few = contents(tmp_path / "few" / "farm" / "images")
    assert len(few) == 3
    assert few.items() <= contents(root / "farm" / "images").items()


def test_polygons_of_the_drawn_masks_decode_to_the_same_pixels() -> None:
    for domain in sample.DOMAINS.values():
        for number in range(4):
            picture, instances = sample.draw_image(domain, number, seed=1)
            assert picture.shape == (144, 192, 3)
            for instance in instances:
                again = decoded(mask_to_polygons(instance.mask), 144, 192)
                np.testing.assert_array_equal(again, instance.mask)


@pytest.mark.parametrize("density", [0.3, 0.6, 0.95])
def test_polygons_of_random_masks_with_holes_and_diagonals_are_exact(density: float) -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        mask = rng.random(rng.integers(3, 40, 2)) < density
        np.testing.assert_array_equal(decoded(mask_to_polygons(mask), *mask.shape), mask)


def test_visible_masks_do_not_overlap_and_are_large_enough() -> None:
    for domain in sample.DOMAINS.values():
        for number in range(4):
            masks = np.stack([instance.mask for instance in sample.draw_image(domain, number)[1]])
            assert masks.sum(axis=0).max() <= 1
            assert masks.sum(axis=(1, 2)).min() >= MIN_VISIBLE_PIXELS


def test_ids_are_unique_and_category_ids_name_one_class_in_all_domains(root: Path) -> None:
    names: dict[int, str] = {}
    for domain in sample.DOMAINS:
        train, val = (json.loads((root / domain / f"{part}.json").read_text()) for part in ("train", "val"))
        for kind in ("images", "annotations"):
            ids = [row["id"] for row in train[kind] + val[kind]]
            assert len(set(ids)) == len(ids)
        for category in train["categories"]:
            assert names.setdefault(category["id"], category["name"]) == category["name"]


def test_every_class_occurs_even_in_a_few_pictures(root: Path) -> None:
    for domain in sample.DOMAINS.values():
        train = json.loads((root / domain.name / "train.json").read_text())
        names = {category["id"]: category["name"] for category in train["categories"]}
        seen = {names[annotation["category_id"]] for annotation in train["annotations"]}
        assert seen == set(domain.classes)


def test_boxes_and_areas_are_those_of_the_decoded_masks(root: Path) -> None:
    for document in documents(root):
        assert document["annotations"]
        for annotation in document["annotations"]:
            rows, columns = np.nonzero(decoded(annotation["segmentation"], 144, 192))
            x, y, width, height = annotation["bbox"]
            assert (x, y, x + width, y + height) == (
                columns.min(), rows.min(), columns.max() + 1, rows.max() + 1,
            )  # fmt: skip
            assert annotation["area"] == len(rows)


def test_pycocotools_loads_it_and_every_picture_is_there_and_annotated(root: Path) -> None:
    for domain in sample.DOMAINS:
        for part, count in (("train", 6), ("val", 2)):
            coco = COCO(str(root / domain / f"{part}.json"))
            assert len(coco.getImgIds()) == count
            for image in coco.loadImgs(coco.getImgIds()):
                with Image.open(root / domain / "images" / image["file_name"]) as picture:
                    assert picture.size == (image["width"], image["height"]) == (192, 144)
                assert coco.getAnnIds([image["id"]])


def test_no_target_domain_is_a_source_and_its_classes_are_in_one() -> None:
    clients = [domain for domain in sample.DOMAINS.values() if domain.role == "client"]
    sources = [domain for domain in sample.DOMAINS.values() if domain.role == "source"]
    assert len(clients) == 2
    assert len(sources) == 6
    for client in clients:
        assert any(set(client.classes) == set(source.classes) for source in sources)


def test_it_says_that_it_is_synthetic_wherever_it_shows(root: Path) -> None:
    assert "SYNTHETIC" in (root / "README.md").read_text()
    for document in documents(root):
        assert "SYNTHETIC" in document["info"]["description"]
        assert document["licenses"][0]["name"] == "CC0 (synthetic)"


def small_squares(domain: sample.Domain, numbers: range) -> np.ndarray:
    """Pictures as 16 x 16 pixels, each of mean 0 and deviation 1."""
    pictures = [Image.fromarray(sample.draw_image(domain, n)[0]).crop((24, 0, 168, 144)) for n in numbers]
    small = np.stack([np.asarray(picture.resize((16, 16)), dtype=float) for picture in pictures])
    return (small - small.mean(axis=(1, 2, 3), keepdims=True)) / small.std(axis=(1, 2, 3), keepdims=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["street", "meadow", "room", "city"])
def test_up_can_be_learnt_the_nearest_turned_picture_tells_how_a_new_one_is_turned(name: str) -> None:
    domain = sample.DOMAINS[name]
    known = small_squares(domain, range(32))
    turned = np.stack([np.rot90(known, turn, axes=(1, 2)) for turn in range(4)])
    new = small_squares(domain, range(32, 44))
    distances = ((new[:, None, None] - turned[None]) ** 2).sum(axis=(3, 4, 5))
    upright = distances.min(axis=2).argmin(axis=1) == 0
    assert upright.mean() >= 0.8  # by chance 0.25


def test_light_above_dark_is_no_rule_that_fits_all_domains() -> None:
    """Else every expert would know "up" everywhere, and scores would not tell domains apart."""
    for name in ("street", "city", "meadow", "farm"):
        pictures = np.stack([sample.draw_image(sample.DOMAINS[name], n)[0] for n in range(24)]).astype(float)
        darker_above = pictures[:, :36].mean(axis=(1, 2, 3)) < pictures[:, 108:].mean(axis=(1, 2, 3))
        assert 0.1 < darker_above.mean() < 0.95, name


@pytest.mark.parametrize("size", [(96, 72), (288, 216), (160, 200)])
def test_scenes_look_alike_at_every_size(size: tuple[int, int]) -> None:
    for domain in sample.DOMAINS.values():
        for number in range(3):
            picture, instances = sample.draw_image(domain, number, size=size)
            assert picture.shape == (size[1], size[0], 3)
            assert all(instance.mask.shape == picture.shape[:2] for instance in instances)
    usual, _ = sample.draw_image(sample.DOMAINS["street"], 1)
    large, _ = sample.draw_image(sample.DOMAINS["street"], 1, size=(384, 288))
    halved = np.asarray(Image.fromarray(large).resize((192, 144), Image.Resampling.BOX))
    assert np.abs(halved.astype(float) - usual).mean() < 8


def test_counts_may_differ_by_role_and_by_domain(tmp_path: Path) -> None:
    counts = {"source": 1, "city": 3}
    sample.generate(tmp_path, train_images=counts, val_images=1, domains=["street", "city"])
    made = {name: len(list((tmp_path / name / "images").glob("train_*.jpg"))) for name in ("street", "city")}
    assert made == {"street": 1, "city": 3}


def test_a_complete_sample_is_left_alone_and_other_arguments_replace_it(tmp_path: Path) -> None:
    sample.generate(tmp_path, train_images=1, val_images=1, domains=["room"])
    picture = tmp_path / "room" / "images" / "train_000001.jpg"
    before = picture.stat().st_mtime_ns
    sample.generate(tmp_path, train_images=1, val_images=1, domains=["room"])
    assert picture.stat().st_mtime_ns == before
    sample.generate(tmp_path, train_images=2, val_images=1, domains=["room"])
    key = sample.sample_key(train_images=2, val_images=1, domains=["room"])
    assert sample.is_complete(tmp_path, key)
    assert not sample.is_complete(tmp_path, sample.sample_key())


def test_an_interrupted_generation_is_not_taken_for_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = {"train_images": 2, "val_images": 1, "domains": ["street", "room"]}
    sample.generate(tmp_path, **arguments)
    key = sample.sample_key(**arguments)
    assert sample.is_complete(tmp_path, key)
    drawn = sample.draw_image

    def killed(domain: sample.Domain, *rest: object) -> object:
        if domain.name == "room":
            raise KeyboardInterrupt
        return drawn(domain, *rest)

    monkeypatch.setattr(sample, "draw_image", killed)
    with pytest.raises(KeyboardInterrupt):
        sample.generate(tmp_path, seed=9, **arguments)
    assert not sample.is_complete(tmp_path)
    monkeypatch.setattr(sample, "draw_image", drawn)
    sample.generate(tmp_path, seed=9, **arguments)
    assert sample.is_complete(tmp_path)
    assert not (tmp_path / ".partial").exists()


@pytest.mark.parametrize("damage", ["picture", "annotations", "marker"])
def test_a_damaged_sample_is_not_complete(tmp_path: Path, damage: str) -> None:
    sample.generate(tmp_path, train_images=1, val_images=1, domains=["room"])
    assert sample.is_complete(tmp_path)
    if damage == "picture":
        (tmp_path / "room" / "images" / "val_000001.jpg").unlink()
    elif damage == "annotations":
        (tmp_path / "room" / "val.json").write_text("{}")
    else:
        (tmp_path / "sample.json").write_text('{"kind":')
    assert not sample.is_complete(tmp_path)


def test_a_folder_of_somebody_else_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "street").mkdir()
    (tmp_path / "street" / "mine.txt").write_text("mine")
    with pytest.raises(NDSError, match="exists and is no synthetic sample"):
        sample.generate(tmp_path, train_images=1, val_images=1, domains=["street"])
    assert (tmp_path / "street" / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"domains": ["stret"]}, "unknown sample domain 'stret'. Did you mean 'street'"),
        ({"train_images": 0}, "train_images of the synthetic sample: expected 1 to 400000, got 0"),
        ({"val_images": {"sauce": 3}}, "unknown key of val_images 'sauce'. Did you mean 'source'"),
        ({"size": (32, 32)}, "expected at least 96 x 72, got 32 x 32"),
        ({"seed": -1}, "expected 0 or more, got -1"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(
    tmp_path: Path, arguments: dict, message: str
) -> None:
    with pytest.raises(NDSError, match=message):
        sample.generate(tmp_path / "new", **arguments)
    assert not (tmp_path / "new").exists()


def test_a_root_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NDSError, match="cannot write the synthetic sample to"):
        sample.generate(tmp_path / "file" / "root", train_images=1, val_images=1, domains=["room"])

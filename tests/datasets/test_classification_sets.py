"""Cars, pets, flowers, dogs and birds, in trees of the published form that the tests write."""

from __future__ import annotations

import hashlib
import inspect
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from as_user import User, cut
from classification_builds import boxes, built, pairs
from classification_trees import (
    BIRDS,
    CARS,
    DOGS,
    PETS,
    SIZE,
    TREES,
    cub_200,
    flowers_102,
    oxford_pets,
    photo,
    stanford_cars,
    stanford_cars_whole,
    stanford_dogs,
)
from PIL import Image
from scipy.io import loadmat
from store_objects import objects_of
from tiny_experts import trained

from nds_plugin.datasets.catalogue import find
from nds_plugin.datasets.store_index import index_store
from nds_plugin.datasets.whole_images.image_classification import ImageClassification
from nds_plugin.errors import NDSError
from nds_plugin.experts.scores import Scores
from nds_plugin.images.reading import load_image
from nds_plugin.store import open_or_build

# torchvision 0.18's datasets take no loader.
LOADER = "loader" in inspect.signature(torchvision.datasets.StanfordCars.__init__).parameters
needs_loader = pytest.mark.skipif(not LOADER, reason="this torchvision's datasets take no loader")

# Against independent readers.


@needs_loader
@pytest.mark.parametrize("split", ["train", "test"])
def test_cars_are_those_that_torchvision_gives(tmp_path: Path, split: str) -> None:
    stanford_cars(tmp_path)
    theirs = torchvision.datasets.StanfordCars(tmp_path, split, loader=str)
    assert pairs(f"stanford_cars_{split}", tmp_path) == {path: int(label) for path, label in theirs}
    assert built(f"stanford_cars_{split}", tmp_path).classes == list(theirs.classes) == CARS


def test_boxes_of_cars_are_those_that_scipy_gives(tmp_path: Path) -> None:
    folder = stanford_cars(tmp_path)
    rows = loadmat(folder / "devkit" / "cars_train_annos.mat", squeeze_me=True)["annotations"]
    ours = boxes("stanford_cars_train", tmp_path)
    assert len(ours) == len(rows)
    for row in rows:
        x0, y0, x1, y1 = (int(row[f"bbox_{corner}"]) for corner in ("x1", "y1", "x2", "y2"))
        # the first pixel has the number 1, both corners are inside: an image-wide box is (1, 1, W, H)
        assert ours[row["fname"]] == [[x0 - 1, y0 - 1, x1 - x0 + 1, y1 - y0 + 1]]


@pytest.mark.parametrize("split", ["train", "test"])
def test_both_published_forms_of_cars_give_the_same_labels_and_boxes(tmp_path: Path, split: str) -> None:
    stanford_cars(tmp_path / "apart")
    stanford_cars_whole(tmp_path / "whole")
    apart, whole = (built(f"stanford_cars_{split}", tmp_path / form) for form in ("apart", "whole"))
    assert apart.column("label").tolist() == whole.column("label").tolist()
    assert objects_of(apart).bbox.tolist() == objects_of(whole).bbox.tolist()
    assert apart.classes == whole.classes
    assert all(Path(path).is_file() for path in pairs(f"stanford_cars_{split}", tmp_path / "whole"))


@pytest.mark.parametrize("split", ["trainval", "test"])
def test_pets_are_those_that_torchvision_gives(tmp_path: Path, split: str) -> None:
    oxford_pets(tmp_path)
    theirs = torchvision.datasets.OxfordIIITPet(tmp_path, split)
    ours = pairs(f"oxford_pets_{split}", tmp_path)
    # torchvision's public interface gives the pixels, and not where they are from
    given = {hashlib.sha256(image.tobytes()).hexdigest(): label for image, label in theirs}
    assert given == {
        hashlib.sha256(Image.open(path).convert("RGB").tobytes()).hexdigest(): label
        for path, label in ours.items()
    }
    assert len(ours) == len(theirs)
    assert built(f"oxford_pets_{split}", tmp_path).classes == [name.replace("_", " ") for name in PETS]


@needs_loader
def test_flowers_are_those_that_torchvision_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = flowers_102(tmp_path)
    files = dict(torchvision.datasets.Flowers102._file_dict)
    for key in ("label", "setid"):  # torchvision reads the published files alone, by their checksums
        name = files[key][0]
        files[key] = (name, hashlib.md5((folder / name).read_bytes()).hexdigest())
    monkeypatch.setattr(torchvision.datasets.Flowers102, "_file_dict", files)
    theirs = {
        split: dict(torchvision.datasets.Flowers102(tmp_path, split, loader=str))
        for split in ("train", "val", "test")
    }
    assert pairs("flowers_102_trainval", tmp_path) == {**theirs["train"], **theirs["val"]}
    assert pairs("flowers_102_test", tmp_path) == theirs["test"]
    assert built("flowers_102_test", tmp_path).classes == torchvision.datasets.Flowers102.classes


def test_dogs_are_those_of_the_lists_and_of_their_folders(tmp_path: Path) -> None:
    folder = stanford_dogs(tmp_path)
    by_folder = torchvision.datasets.ImageFolder(str(folder / "Images"))
    names = {path: by_folder.classes[label] for path, label in by_folder.samples}
    for split in ("train", "test"):
        rows = loadmat(folder / f"{split}_list.mat", squeeze_me=True)
        ours = pairs(f"stanford_dogs_{split}", tmp_path)
        assert ours == {
            str(folder / "Images" / name): int(label) - 1
            for name, label in zip(rows["file_list"], rows["labels"])
        }
        classes = built(f"stanford_dogs_{split}", tmp_path).classes
        for path, label in ours.items():
            assert names[path].partition("-")[2].replace("_", " ") == classes[label]
    assert classes == ["Chihuahua", "Maltese dog", "Afghan hound"]


def test_boxes_of_dogs_are_those_that_torchvision_parses(tmp_path: Path) -> None:
    from xml.etree.ElementTree import parse

    folder = stanford_dogs(tmp_path)
    found = boxes("stanford_dogs_train", tmp_path)
    assert sum(map(len, found.values())) == 7
    for name, given in found.items():
        tree = parse(folder / "Annotation" / name.removesuffix(".jpg")).getroot()
        objects = torchvision.datasets.VOCDetection.parse_voc_xml(tree)["annotation"]["object"]
        for box, item in zip(given, objects, strict=True):
            x0, y0, x1, y1 = (int(item["bndbox"][key]) for key in ("xmin", "ymin", "xmax", "ymax"))
            assert box == [x0 - 1, y0 - 1, x1 - x0 + 1, y1 - y0 + 1]
    assert max(map(len, found.values())) == 2
    assert [len(given) for given in boxes("stanford_dogs_test", tmp_path).values()].count(0) == 1


def test_birds_are_those_of_their_folders_and_boxes_those_of_the_list(tmp_path: Path) -> None:
    folder = cub_200(tmp_path)
    by_folder = torchvision.datasets.ImageFolder(str(folder / "images"))
    ours = {**pairs("cub_200_train", tmp_path), **pairs("cub_200_test", tmp_path)}
    assert ours == dict(by_folder.samples)
    table = np.loadtxt(folder / "bounding_boxes.txt")
    names = dict(line.split(maxsplit=1) for line in (folder / "images.txt").read_text().splitlines())
    given = {**boxes("cub_200_train", tmp_path), **boxes("cub_200_test", tmp_path)}
    assert given == {names[str(int(row[0]))]: [row[1:].tolist()] for row in table}
    flags = dict(line.split() for line in (folder / "train_test_split.txt").read_text().splitlines())
    assert len(built("cub_200_train", tmp_path)) == sum(flag == "1" for flag in flags.values())


# What a store of whole images is.


@pytest.mark.parametrize("key", TREES)
def test_sizes_are_those_of_the_images_as_they_are_shown(tmp_path: Path, key: str) -> None:
    TREES[key](tmp_path)
    for split in find(key).splits:
        store = open_or_build(split.spec(tmp_path))
        index = index_store(store, split.image_root(tmp_path), split.name)
        for i in range(len(index)):
            assert load_image(index[i].file_name).size == (index[i].width, index[i].height)


def test_a_photograph_turned_by_exif_has_the_size_that_is_shown(tmp_path: Path) -> None:
    oxford_pets(tmp_path)
    index = index_store(built("oxford_pets_test", tmp_path), "", "pets")
    assert (SIZE[1], SIZE[0]) in set(zip(index.column("width").tolist(), index.column("height").tolist()))


@pytest.mark.parametrize("key", TREES)
def test_the_quick_count_is_the_count_of_the_store(tmp_path: Path, key: str) -> None:
    TREES[key](tmp_path)
    for split in find(key).splits:
        assert split.quick_count is not None
        images, counted = split.quick_count(tmp_path)
        assert images == len(open_or_build(split.spec(tmp_path)))
        assert counted


@pytest.mark.parametrize("key", TREES)
def test_the_index_labels_each_image_with_its_class(tmp_path: Path, key: str) -> None:
    TREES[key](tmp_path)
    for split in find(key).splits:
        view = ImageClassification.of_split(split, tmp_path)
        index = index_store(open_or_build(split.spec(tmp_path)), split.image_root(tmp_path), split.name)
        assert list(index.column("label")) == view.targets.tolist()
        assert list(index.column("file_name")) == [path for path, _ in view]
        assert list(index.classes) == view.classes


def test_torch_loads_a_store_in_worker_processes(tmp_path: Path) -> None:
    cub_200(tmp_path)
    view = ImageClassification.of_split(find("cub_200").splits[0], tmp_path, loader=_pixels)
    again = pickle.loads(pickle.dumps(view))
    loader = torch.utils.data.DataLoader(again, batch_size=4, num_workers=2)
    images, labels = next(iter(loader))
    assert images.shape == (4, SIZE[1], SIZE[0], 3)
    assert labels.tolist() == view.targets.tolist()
    with pytest.raises(IndexError):
        view[len(view)]


def _pixels(path: str) -> np.ndarray:
    return np.array(load_image(path))  # torch wants its own, writable


def test_a_detection_store_is_no_classification_dataset(tmp_path: Path) -> None:
    from coco_files import document, write_coco

    from nds_plugin.datasets.coco.store import coco_spec

    path = write_coco(tmp_path / "coco.json", document())
    with pytest.raises(NDSError, match="it is a detection dataset"):
        ImageClassification(open_or_build(coco_spec(path, "coco")), tmp_path)


def test_labels_do_not_depend_on_which_classes_a_split_has(tmp_path: Path) -> None:
    stanford_dogs(tmp_path, train=6, test=1)
    store = built("stanford_dogs_test", tmp_path)
    assert store.classes == [name.partition("-")[2].replace("_", " ") for name in DOGS.values()]
    oxford_pets(tmp_path, trainval=6, test=1)
    assert len(built("oxford_pets_test", tmp_path).classes) == len(PETS)


def test_an_image_that_cannot_be_read_is_counted_and_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = cub_200(tmp_path)
    path = sorted((folder / "images").rglob("*.jpg"))[0]
    cut(path, 10)
    stores = [built(f"cub_200_{split}", tmp_path) for split in ("train", "test")]
    assert sum(map(len, stores)) == 7
    assert re.search(
        r"cub_200_\w+: 1 of \d images cannot be read, first .*jpg \(.*; their sizes", caplog.text
    )
    assert sum(int((store.column("width") == 0).sum()) for store in stores) == 1


def test_a_folder_that_was_moved_keeps_its_stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stanford_dogs(tmp_path / "a")
    built("stanford_dogs_train", tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "b")
    monkeypatch.setattr("nds_plugin.store.opening._build", None)
    assert built("stanford_dogs_train", tmp_path / "b").classes


def test_a_changed_list_makes_the_store_anew(tmp_path: Path) -> None:
    folder = cub_200(tmp_path)
    assert len(built("cub_200_train", tmp_path)) == 4
    photo(folder / "images" / BIRDS[1] / "new.jpg")
    for name, line in (
        ("images", f"8 {BIRDS[1]}/new.jpg"),
        ("image_class_labels", "8 1"),
        ("train_test_split", "8 1"),
        ("bounding_boxes", "8 1 1 5 5"),
    ):
        with open(folder / f"{name}.txt", "a", encoding="utf-8") as file:
            file.write(line + "\n")
    assert len(built("cub_200_train", tmp_path)) == 5


# As targets.


@pytest.mark.slow
def test_experts_are_scored_on_a_target_by_its_name(
    tmp_path: Path, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    stanford_cars_whole(tmp_path, train=6, test=0)
    trained(tmp_path / "made", count=4)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    inputs = ["--experts", tmp_path / "made" / "experts", "--output", tmp_path / "scores.json"]
    options = ["--device", "cpu", "--num-workers", "0"]
    printed = user.runs("score_experts", *inputs, "--dataset", "stanford_cars_train", *options)
    assert "6 images scored, 0 unreadable" in printed
    by_name = Scores.load(tmp_path / "scores.json")
    user.runs("score_experts", *inputs, "--images", tmp_path / "stanford_cars" / "car_ims", *options)
    np.testing.assert_allclose(Scores.load(tmp_path / "scores.json").z, by_name.z)
    line = user.fails("score_experts", *inputs, "--dataset", "flowers_102_test", *options)
    assert re.search(r"Flowers 102: .*setid\.mat is not there\. Expected below", line)
    line = user.fails("score_experts", *inputs, "--dataset", "stanford_cars_trian", *options)
    assert "unknown dataset 'stanford_cars_trian'. Did you mean 'stanford_cars_train'" in line


def test_a_target_is_a_registered_dataset_with_its_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nds_plugin.d2.data.known_datasets import register_all
    from nds_plugin.d2.data.registration import index_dataset
    from nds_plugin.pipeline.files_host import FilesHost

    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    cub_200(tmp_path)
    register_all()
    try:
        assert index_dataset("cub_200_test").hash == FilesHost().dataset("cub_200_test").index().hash
    finally:
        monkeypatch.undo()
        register_all()


def test_real_photographs_in_a_providers_layout_are_read(tmp_path: Path, nds_data: Path) -> None:
    birds = nds_data / "classification" / "cub_birds"
    folder = tmp_path / "CUB_200_2011"
    (folder / "images").mkdir(parents=True)
    classes = sorted(path.name for path in birds.iterdir())[:5]
    rows: list[tuple[int, str, int]] = []
    for label, name in enumerate(classes, start=1):
        (folder / "images" / f"{label:03d}.{name}").symlink_to(birds / name)
        for path in sorted((birds / name).glob("*.jpg")):
            rows.append((len(rows) + 1, f"{label:03d}.{name}/{path.name}", label))
    sizes = {name: Image.open(folder / "images" / name).size for _, name, _ in rows}
    lists = {
        "images": [f"{i} {name}" for i, name, _ in rows],
        "image_class_labels": [f"{i} {label}" for i, _, label in rows],
        "train_test_split": [f"{i} {i % 2}" for i, _, _ in rows],
        "classes": [f"{label} {label:03d}.{name}" for label, name in enumerate(classes, start=1)],
        "bounding_boxes": [f"{i} 0.0 0.0 {sizes[name][0]}.0 {sizes[name][1]}.0" for i, name, _ in rows],
    }
    for key, lines in lists.items():
        (folder / f"{key}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    store = built("cub_200_train", tmp_path)
    assert len(store) == sum(i % 2 for i, _, _ in rows)
    whole = np.stack(
        [np.zeros(len(store)), np.zeros(len(store)), store.column("width"), store.column("height")], 1
    )
    assert (objects_of(store).bbox == whole).all()

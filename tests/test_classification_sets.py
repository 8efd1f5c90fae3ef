from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from as_user import User, cut
from classification_trees import (
    BIRDS,
    CARS,
    DOGS,
    PETS,
    SIZE,
    TREES,
    car_columns,
    cells,
    cub_200,
    flowers_102,
    oxford_pets,
    photo,
    stanford_cars,
    stanford_cars_whole,
    stanford_dogs,
    struct,
)
from PIL import Image
from scipy.io import loadmat, savemat
from tiny_experts import trained

from nds_plugin.datasets.catalogue import find, find_split
from nds_plugin.datasets.image_classification import ImageClassification
from nds_plugin.datasets.store_index import index_store
from nds_plugin.errors import NDSError
from nds_plugin.images import load_image
from nds_plugin.scores import Scores
from nds_plugin.store import AnnotationStore, open_or_build
from nds_plugin.store.records import RecordDecoder


def built(name: str, root: Path) -> AnnotationStore:
    split = find_split(name)
    assert split is not None
    return open_or_build(split.spec(root))


def pairs(name: str, root: Path) -> dict[str, int]:
    """Path and class of every image of a split."""
    split = find_split(name)
    assert split is not None
    return dict(ImageClassification.of_split(split, root))


def boxes(name: str, root: Path) -> dict[str, list[list[float]]]:
    """File name and boxes of every image of a split, as records give them."""
    store = built(name, root)
    decode = RecordDecoder(store, "", 1, lambda path: (0, 0))
    records = [decode(i) for i in range(len(store))]
    return {record["file_name"]: [a["bbox"] for a in record["annotations"]] for record in records}


def refused(name: str, root: Path) -> str:
    with pytest.raises(NDSError) as caught:
        built(name, root)
    assert not list(root.glob("nds_stores/*.arrow"))
    return " ".join(str(caught.value).split())


# Against independent readers.


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
    assert apart.object_column("bbox").tolist() == whole.object_column("bbox").tolist()
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
    return np.asarray(load_image(path))


def test_a_detection_store_is_no_classification_dataset(tmp_path: Path) -> None:
    from coco_files import document, write_coco

    from nds_plugin.datasets.coco_store import coco_spec

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


# Bad input.


def edit(name: str, change: Callable[[str], str]) -> Callable[[Path], Any]:
    def spoil(folder: Path) -> None:
        path = folder / name
        path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")

    return spoil


def resave(name: str, **variables: Any) -> Callable[[Path], Any]:
    def spoil(folder: Path) -> None:
        kept = {k: v for k, v in loadmat(folder / name).items() if not k.startswith("__")}
        savemat(folder / name, {**kept, **variables})

    return spoil


def remove(pattern: str) -> Callable[[Path], Any]:
    return lambda folder: next(iter(sorted(folder.glob(pattern)))).unlink()


def truncate(name: str) -> Callable[[Path], Any]:
    return lambda folder: cut(folder / name)


SPOILED: dict[str, tuple[str, str, Callable[[Path], Any], str]] = {
    "dogs: no list": (
        *("stanford_dogs", "stanford_dogs_train", remove("train_list.mat")),
        r"Stanford Dogs: .*train_list\.mat is not there\. Expected below .*stanford_dogs/; Images/.* Download images\.tar",
    ),
    "dogs: truncated list": (
        *("stanford_dogs", "stanford_dogs_train", truncate("train_list.mat")),
        r"train_list\.mat: cut short: \d+ bytes are missing at least: download it again",
    ),
    "dogs: fewer labels": (
        *("stanford_dogs", "stanford_dogs_train", resave("train_list.mat", labels=np.uint8([[1], [2]]))),
        r"train_list\.mat: file_list has 6 entries, labels 2",
    ),
    "dogs: fewer annotations": (
        *("stanford_dogs", "stanford_dogs_train", resave("train_list.mat", annotation_list=cells(["a"]))),
        r"train_list\.mat: file_list has 6 entries, annotation_list 1",
    ),
    "dogs: labels of another list": (
        *("stanford_dogs", "stanford_dogs_train", resave("train_list.mat", labels=np.uint8([[1]] * 6))),
        r"label 1 is of 'n02085620-Chihuahua' and of 'n02085936-Maltese_dog'",
    ),
    "dogs: no image": (
        *("stanford_dogs", "stanford_dogs_train", remove("Images/*/*_10001.jpg")),
        r"stanford_dogs_train: 1 of 6 images are not there, first .*n02085620_10001\.jpg: unpack",
    ),
    "dogs: no annotation": (
        *("stanford_dogs", "stanford_dogs_train", remove("Annotation/*/*_10001")),
        r"cannot read the annotation .*n02085620_10001: No such file",
    ),
    "dogs: truncated annotation": (
        *("stanford_dogs", "stanford_dogs_train", truncate("Annotation/n02085620-Chihuahua/n02085620_10001")),
        r"n02085620_10001 is not complete XML",
    ),
    "dogs: a path that leaves the folder": (
        *("stanford_dogs", "stanford_dogs_test", lambda folder: _leave(folder)),
        r"image 'n02085620-Chihuahua/\.\./\.\./\.\./x\.jpg' lies outside the dataset's folder",
    ),
    "cars: no classes": (
        *("stanford_cars", "stanford_cars_train", remove("devkit/cars_meta.mat")),
        r"Stanford Cars: .*cars_meta\.mat is not there",
    ),
    "cars: the test list without classes": (
        *("stanford_cars", "stanford_cars_test", lambda folder: _without_classes(folder)),
        r"no field 'class' \(cars_test_annos\.mat has no classes: take cars_test_annos_withlabels\.mat\)",
    ),
    "cars: a class beyond the names": (
        *(
            "stanford_cars",
            "stanford_cars_train",
            resave("devkit/cars_meta.mat", class_names=cells(CARS[:2]).T),
        ),
        r"stanford_cars_train: image '00003\.jpg' is of class 3, expected one of the 2 classes 1 to 2",
    ),
    "cars: a corner that is no number": (
        *("stanford_cars", "stanford_cars_train", lambda folder: _text_corner(folder)),
        r"cars_train_annos\.mat: entry 1 of bbox_x1 must be a whole number, got 'a'",
    ),
    "pets: truncated list": (
        *("oxford_pets", "oxford_pets_test", edit("annotations/test.txt", lambda text: text[:-4] + "\n")),
        r"test\.txt, line 4: expected name class species breed, got 'Abyssinian_104 1'",
    ),
    "pets: not text": (
        *("oxford_pets", "oxford_pets_test"),
        lambda folder: (folder / "annotations/test.txt").write_bytes(b"\xff\xfe\x00"),
        r"test\.txt is not a text file in UTF-8",
    ),
    "pets: a class that is no number": (
        *(
            "oxford_pets",
            "oxford_pets_test",
            edit("annotations/test.txt", lambda text: text.replace(" 1 1", " one 1")),
        ),
        r"test\.txt: the class of Abyssinian_\d+ must be a whole number, got 'one'",
    ),
    "pets: a class twice": (
        *(
            "oxford_pets",
            "oxford_pets_test",
            edit("annotations/list.txt", lambda text: text + "Sphynx_1 1 1 1\n"),
        ),
        r"list\.txt: class 1 is of 'Abyssinian' and of 'Sphynx'",
    ),
    "pets: a class that the list of all does not have": (
        *(
            "oxford_pets",
            "oxford_pets_test",
            edit("annotations/test.txt", lambda text: text + "Sphynx_1 9 1 1\n"),
        ),
        r"image 'Sphynx_1\.jpg' is of class 9, expected one of the 3 classes 1 to 3",
    ),
    "pets: an image twice": (
        *(
            "oxford_pets",
            "oxford_pets_test",
            edit("annotations/test.txt", lambda text: text + text.splitlines()[0]),
        ),
        r"1 ids of 'images' occur more than once, first 'Abyssinian_101'",
    ),
    "pets: no images": (
        *("oxford_pets", "oxford_pets_test", lambda folder: (folder / "images").rename(folder / "pictures")),
        r"Oxford-IIIT Pets: .*oxford-iiit-pet/images is not there\. Expected",
    ),
    "pets: an empty list": (
        *("oxford_pets", "oxford_pets_test", edit("annotations/test.txt", lambda text: "")),
        r"oxford_pets_test lists no images",
    ),
    "flowers: a number beyond the labels": (
        *("flowers_102", "flowers_102_test", resave("setid.mat", tstid=np.uint16([[3, 900]]))),
        r"setid\.mat names image 900, imagelabels\.mat has labels of 1 to 9: they do not belong together",
    ),
    "flowers: a class beyond the names": (
        *("flowers_102", "flowers_102_test", resave("imagelabels.mat", labels=np.uint8([[103] * 9]))),
        r"is of class 103, expected one of the 102 classes 1 to 102",
    ),
    "flowers: no set": (
        *("flowers_102", "flowers_102_test", lambda folder: savemat(folder / "setid.mat", {"trnid": [1]})),
        r"setid\.mat has no variable 'tstid'",
    ),
    "birds: a list that lacks an image": (
        *("cub_200", "cub_200_train", edit("image_class_labels.txt", lambda text: text.partition("\n")[2])),
        r"images\.txt lists 7 images, image_class_labels\.txt 6; image 1 is in one of them only",
    ),
    "birds: truncated boxes": (
        *(
            "cub_200",
            "cub_200_train",
            edit("bounding_boxes.txt", lambda text: text.strip().rpartition(" ")[0]),
        ),
        r"bounding_boxes\.txt, line 7: expected image_id x y width height, got '7 7\.0 2\.5 20\.0'",
    ),
    "birds: a box that is none": (
        *("cub_200", "cub_200_train", edit("bounding_boxes.txt", lambda text: text.replace("1.0", "nan", 1))),
        r"bounding_boxes\.txt: the box of image 1 must be four numbers, got 'nan 2\.5 20\.0 10\.5'",
    ),
    "birds: an unknown class": (
        *(
            "cub_200",
            "cub_200_train",
            edit("image_class_labels.txt", lambda text: text.replace("1 2\n", "1 77\n", 1)),
        ),
        r"is of class 77, expected one of the 2 classes 1 to 2",
    ),
    "birds: an image twice": (
        *("cub_200", "cub_200_train", edit("images.txt", lambda text: text + "1 again.jpg\n")),
        r"images\.txt: image_id 1 is listed twice",
    ),
    "birds: neither training nor test": (
        *(
            "cub_200",
            "cub_200_train",
            edit("train_test_split.txt", lambda text: text.replace("1 1", "1 2", 1)),
        ),
        r"train_test_split\.txt: image 1 must be 1 \(training\) or 0 \(test\), got '2'",
    ),
}


def _leave(folder: Path) -> None:
    lists = {"file_list": cells([f"{DOGS[1]}/../../../x.jpg"]), "labels": np.uint8([[1]])}
    savemat(folder / "test_list.mat", {**lists, "annotation_list": cells([f"{DOGS[1]}/n02085620_10001"])})


def _without_classes(folder: Path) -> None:
    columns = {k: v for k, v in car_columns(4).items() if k != "class"}
    rows = struct({**columns, "fname": [f"{i:05d}.jpg" for i in range(1, 5)]})
    savemat(folder / "cars_test_annos_withlabels.mat", {"annotations": rows})


def _text_corner(folder: Path) -> None:
    columns = {**car_columns(6), "bbox_x1": ["a"] * 6, "fname": [f"{i:05d}.jpg" for i in range(1, 7)]}
    savemat(folder / "devkit" / "cars_train_annos.mat", {"annotations": struct(columns)})


@pytest.mark.parametrize("case", SPOILED)
def test_what_is_wrong_with_a_dataset_is_told_in_one_line(tmp_path: Path, case: str) -> None:
    key, name, spoil, message = SPOILED[case]
    spoil(TREES[key](tmp_path))
    line = refused(name, tmp_path)
    assert re.search(message, line), line


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
    from nds_plugin.cli import index_named
    from nds_plugin.d2.registration import index_dataset, register_all

    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    cub_200(tmp_path)
    register_all()
    try:
        assert index_dataset("cub_200_test").hash == index_named("cub_200_test").hash
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
    assert (store.object_column("bbox") == whole).all()

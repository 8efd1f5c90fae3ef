"""OpenImages V4 to V6 from the files that its provider publishes: boxes of 601 classes, masks of 300.

Boxes are shares of the sides of the image as it is stored. Detectron2 shows an image as its EXIF
orientation says, and the provider's images kept theirs; so where the image is there while the store is
built, its boxes and masks are turned along. (The list's "Rotation" says how the photographer meant an
image to be seen, whether the file says so or not; the provider leaves it to the user to turn image and
boxes by it, and nothing here does.) Images need not be there: then their sizes are looked up in their
headers when they are used. A box of a group (IsGroupOf) is a crowd.

``openimages_v6_SPLIT`` has all boxes. ``openimages_v6_SPLIT_masks`` has the images with masks and in them
the objects with masks, so that any Mask R-CNN can train on it (with ``INPUT.MASK_FORMAT`` "bitmask").
:func:`openimages_split` makes further ones.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from nds_plugin.datasets.openimages.files import FOLDER, HEX, Files
from nds_plugin.datasets.openimages.mask_read import read_mask_split
from nds_plugin.datasets.openimages.read import Job, read_box_split
from nds_plugin.datasets.public import PublicDataset, Split, missing_tree, store_path
from nds_plugin.datasets.seen_files import SeenFiles, note_path, what_changed
from nds_plugin.errors import NDSError, unknown_name
from nds_plugin.store import Inputs, StoreSpec, StoreWriter

READER = 1  # of what the readers make of the same files; a store of another one is made again
IMAGES = {"train": 1_743_042, "validation": 41_620, "test": 125_436}

TREE = """\
openimages/
  annotations/
    class-descriptions-boxable.csv               601 classes
    bbox_labels_600_hierarchy.json               (for boxes expanded to parent classes)
    oidv6-train-annotations-bbox.csv             or train-annotations-bbox.csv
    validation-annotations-bbox.csv, test-annotations-bbox.csv
    train-images-boxable-with-rotation.csv       or train-images-boxable.csv
    validation-images-with-rotation.csv, test-images-with-rotation.csv
    train-annotations-object-segmentation.csv, validation-..., test-...   (for masks)
    challenge-2019-classes-description-segmentable.csv   (300 classes) or classes-segmentation.txt (350)
  masks/
    train-masks-0.zip ... train-masks-f.zip, validation-..., test-...     or what they unpack to
  train/0000..., validation/, test/              images IMAGEID.jpg; or train_0/ ... train_f/; may be absent"""


@dataclass(frozen=True)
class Variant:
    """What of a split is read.

    Attributes:
        split: "train", "validation" or "test".
        masks: the images that have masks, instead of all.
        expand: every box also for the classes that its class is a kind of, as the evaluation of the
            OpenImages challenge has it.
        unmasked: with masks: also those boxes of the masks' classes that have no mask; a trainer must
            then be able to leave the mask loss to the others, as this package's does.
    """

    split: str
    masks: bool = False
    expand: bool = False
    unmasked: bool = False

    @property
    def name(self) -> str:
        """Name of the dataset."""
        kinds = (("_masks", self.masks), ("_expanded", self.expand), ("_unmasked", self.unmasked))
        return f"openimages_v6_{self.split}" + "".join(text for text, wanted in kinds if wanted)


def openimages_split(split: str, masks: bool = False, expand: bool = False, unmasked: bool = False) -> Split:
    """A split of OpenImages; see :class:`Variant`.

    Raises:
        NDSError: unknown split, or unmasked boxes wanted without masks.
    """
    if split not in IMAGES:
        raise unknown_name("split of OpenImages", split, IMAGES)
    if unmasked and not masks:
        raise NDSError("OpenImages: unmasked boxes are an addition to masks: set masks, too, or neither.")
    variant = Variant(split, masks, expand, unmasked)
    plain = split == "train" and not masks
    return Split(
        name=variant.name,
        split={"validation": "val"}.get(split, split),
        spec=functools.partial(_spec, variant),
        image_root=_image_root,
        paper_images=IMAGES[split] if plain else None,
        images=None if masks else IMAGES[split],
        quick_count=None if masks else functools.partial(_quick_count, split),
    )


def _image_root(root: Path) -> Path:
    return root / FOLDER


def _quick_count(split: str, root: Path) -> tuple[int, str]:
    path, lines = Files(root, split).images, 0
    with open(path, "rb") as file:
        while block := file.read(1 << 24):
            lines += block.count(b"\n")
    return max(0, lines - 1), f"lines of {path.name}"


def _spec(variant: Variant, root: Path) -> StoreSpec:
    return StoreSpec(
        name=variant.name,
        path=store_path(root, variant.name),
        inputs=functools.partial(_inputs, variant, root),
        read=functools.partial(_read, variant, root),
        normalised=True,
        companions=_companions,
        outdated=functools.partial(_outdated, root),
    )


def _companions(store: Path) -> list[Path]:
    return [note_path(store)]


def _outdated(root: Path, store: Path) -> str | None:
    return what_changed(note_path(store), root / FOLDER)


def _inputs(variant: Variant, root: Path) -> Inputs:
    files = Files(root, variant.split)
    needed = [files.classes, files.images, files.boxes]
    needed += [files.hierarchy] if variant.expand else []
    needed += [files.masks] if variant.masks else []
    for path in needed:
        if not path.is_file():
            raise missing_tree(OPENIMAGES, root, path)
    if variant.masks:
        places = dict.fromkeys(place for digit in HEX for place in files.mask_places(digit))
        needed += [place for place in places if place.is_file()]
        needed += [files.mask_classes] if files.mask_classes else []
        if not places:
            raise missing_tree(OPENIMAGES, root, files.mask_archive("0"))
    # Whether images are there decides whether the store knows their sizes. Single images and masks in
    # folders are too many to be inputs: see seen_files.
    settings = ["openimages", READER, variant.name, files.image_pattern() or "no images"]
    return Inputs(files=needed, settings=settings)


def _read(
    variant: Variant, root: Path, writer: StoreWriter, parts: Path, target: Path
) -> list[tuple[int, str]]:
    seen = SeenFiles(root / FOLDER)
    job = Job(
        files=Files(root, variant.split),
        name=variant.name,
        expand=variant.expand,
        unmasked=variant.unmasked,
        missing=functools.partial(missing_tree, OPENIMAGES, root),
        seen=seen,
        writer=writer,
        parts=parts,
    )
    categories = read_mask_split(job) if variant.masks else read_box_split(job)
    seen.write(note_path(target))
    return categories


OPENIMAGES = PublicDataset(
    key="openimages",
    title="OpenImages",
    task="detection",
    role="source",
    num_classes=601,
    paper_classes="601(bbox) / 300(mask)",
    page="https://storage.googleapis.com/openimages/web/download_v6.html",
    licence="annotations CC BY 4.0; images CC BY 2.0, as the list says of each",
    tree=TREE,
    download="the CSV files of boxes, of image ids and of segmentations, the class names, and the mask zip files",
    splits=tuple(openimages_split(split, masks) for masks in (False, True) for split in IMAGES),
    remarks=(
        "The newer list of training boxes adds the clicks that they were drawn by, which are not read. If "
        "only V4's list is there, it is read. A group (IsGroupOf) is a crowd. Links are to the originals, "
        "with licence, author and MD5 ('md5:' and hexadecimal digits) from the list of images. The images may "
        "be missing; their sizes are then looked up when they are used. Boxes are of the image as stored. If "
        "an image is there while the store is built, its boxes are turned with it by its EXIF orientation, as "
        "Detectron2 turns it; the list's Rotation is not read. V5 and V6 publish masks of 350 classes. The "
        "300 of the paper are those of the challenge of 2019, and are used if its list of classes is there; "
        "without either list all 601 classes are the classes of the masks. A mask is resized to its image by "
        "nearest pixels. The splits with masks hold only the objects that have masks, so that any Mask R-CNN "
        "can train on them (INPUT.MASK_FORMAT bitmask). For boxes expanded to parent classes, or masks "
        "together with the boxes that have none: register_split(openimages_split('train', expand=True)), or "
        "masks=True, unmasked=True."
    ),
)

"""What main jobs refuse at the start, whoever trains: settings of the selection, images, classes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from nds_plugin.errors import NDSError, few, unknown_name
from nds_plugin.images.damage import unreadable_images
from nds_plugin.pipeline.config_lookup import NO_PRETRAINING
from nds_plugin.selection.config import LoaderConfig
from nds_plugin.selection.selectors import SELECTORS
from nds_plugin.settings import named
from nds_plugin.source.class_names import match_classes
from nds_plugin.source.folder import check_files
from nds_plugin.source.index import NO_LABEL, SourceIndex
from nds_plugin.store.parts import default_processes

logger = logging.getLogger(__name__)
Spell = Callable[[str], str]  # how the host's configs write a key of Detectron2's: str or str.lower


def check_settings(nds: Any, spell: Spell = str) -> None:
    """See that what a config says of selection and loading can be, and goes together.

    Args:
        nds: ``cfg.NDS``, or what another host has of it.
        spell: for messages.

    Raises:
        NDSError: an unknown selector, numbers out of range, or experts that cannot be scored again.
    """
    if nds.SELECTOR not in (*SELECTORS, NO_PRETRAINING):
        raise unknown_name(spell("NDS.SELECTOR"), nds.SELECTOR, (*SELECTORS, NO_PRETRAINING))
    if nds.SEED < 0:
        raise NDSError(
            f"{spell('NDS.SEED')} must be 0 or more, got {nds.SEED}: selections are kept by their seed."
        )
    if nds.TARGET.NUM_IMAGES < 0:
        raise NDSError(
            f"{spell('NDS.TARGET.NUM_IMAGES')} must be 0 (all images) or more, got {nds.TARGET.NUM_IMAGES}."
        )
    setting = named(LoaderConfig, "max_unreadable")
    setting.check(nds.LOADER.MAX_UNREADABLE, spell("NDS.LOADER.MAX_UNREADABLE"))
    iters = spell("NDS.RESCORE.ITERS")
    if nds.RESCORE.ITERS and (nds.SELECTOR, nds.MODE, nds.UNIT) != ("nds", "stream", "image"):
        raise NDSError(
            f"{iters} needs {spell('NDS.SELECTOR')} nds, {spell('NDS.MODE')} stream and {spell('NDS.UNIT')} image: a "
            "subset is drawn already, and only weights of clusters of images can change during training."
        )
    if any(not isinstance(iteration, int) or iteration < 1 for iteration in nds.RESCORE.ITERS):
        raise NDSError(f"{iters} must be whole numbers of 1 or more, got {list(nds.RESCORE.ITERS)}.")


def warn_of_seen_tests(sources: Sequence[str], tests: Sequence[str], key: str) -> None:
    """Say where a dataset that is tested on is one of those that are selected from; ``key`` is the setting of the tests."""
    seen = [name for name in tests if name in sources]
    if seen:
        logger.warning(
            "%s names %s, which is selected from, too: the network may be tested on images that it was trained on.",
            key, few(seen, 3),
        )  # fmt: skip


def check_same_classes(name: str, classes: Sequence[str], trained_on: str, expected: Sequence[str]) -> None:
    """See that a dataset of the target has the classes of the one that is trained on.

    Raises:
        NDSError: it has others.
    """
    if list(classes) != list(expected):
        raise NDSError(
            f"dataset {name!r} has the classes {few(classes)}, but {trained_on!r}, which is trained on, has "
            f"{few(expected)}: they must be the same, in the same order."
        )


def check_images(name: str, index: SourceIndex, share: float) -> None:
    """See that the images of a dataset are there, but for a share of them.

    Raises:
        NDSError: more are missing.
    """
    missing, allowed = check_files(index), int(share * len(index))
    if len(missing) > allowed:
        raise NDSError(
            f"dataset {name!r}: {len(missing)} of {len(index)} image files are missing ({allowed} allowed), first "
            f"{missing[0]}: get them again, or point DETECTRON2_DATASETS at the right folder."
        )


def check_annotated(name: str, index: SourceIndex, why: Callable[[], str]) -> None:
    """See that an image of a dataset has an object; ``why`` none has is asked where none has.

    Raises:
        NDSError: none has.
    """
    if (index.column("label") == NO_LABEL).all():
        raise NDSError(
            f"dataset {name!r}: none of its {len(index)} images has an annotation to learn from: {why()}."
        )


def check_decodable(name: str, index: SourceIndex) -> None:
    """See that all images of a test dataset can be read: the evaluation skips none, and a damaged one would end the job.

    Raises:
        NDSError: some cannot.
    """
    files = [str(file) for file in index.column("file_name")]
    broken = unreadable_images(files, f"test images of {name}", default_processes())
    if broken:
        listed = "; ".join(broken[:5]) + ("; ..." if len(broken) > 5 else "")
        raise NDSError(
            f"dataset {name!r}: {len(broken)} of {len(files)} test images cannot be read, and the evaluation needs "
            f"them all: {listed}: get them again, or take them out of the annotations."
        )


def check_shared_classes(source: Sequence[str], target: Sequence[str], nds: Any, spell: Spell = str) -> None:
    """See that fine-tuning can take over class-specific rows by name.

    Args:
        source, target: names of the classes.
        nds, spell: see :func:`check_settings`.

    Raises:
        NDSError: no class is shared and NDS.TRANSFER.REQUIRE_SHARED_CLASSES is set; without it a WARNING.
    """
    if any(match.source for match in match_classes(source, target, loose=nds.TRANSFER.LOOSE_NAMES)):
        return
    message = (
        f"source and target share no class (source: {few(source)}; target: {few(target)}): only backbone, proposals "
        "and the heads' class-independent layers can be taken over"
    )
    if nds.TRANSFER.REQUIRE_SHARED_CLASSES:
        raise NDSError(
            f"{message}; name them alike by {spell('NDS.SOURCE.LABEL_MAPPING')}, or drop "
            f"{spell('NDS.TRANSFER.REQUIRE_SHARED_CLASSES')}."
        )
    logger.warning("%s.", message)

"""Open the store of a dataset, building it first where it is missing or out of date."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nds_plugin.artifacts import cannot_write, content_hash
from nds_plugin.errors import NDSError
from nds_plugin.locking import build_once
from nds_plugin.store.inputs import Inputs, built_from, with_hashes
from nds_plugin.store.reader import AnnotationStore
from nds_plugin.store.schema import FORMAT
from nds_plugin.store.writer import StoreWriter

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoreSpec:
    """How the store of a dataset is made.

    Attributes:
        name: of the dataset, for messages and progress bars.
        path: of the store.
        inputs: the files that it is made from; called whenever the store is to be checked, and to
            raise the error that shows the expected tree where they are missing.
        read: feeds a writer with the whole dataset and returns its categories, (id, name); is given
            the writer and a folder for parts of the work, which survives an interruption.
        normalised: see :class:`StoreWriter`.
        where: what the data are called in messages; by default the name.
        companions: files that ``read`` leaves beside the store; without them it is not whole.
        outdated: says, in words, why the store is to be made again though its inputs are the same;
            None if it is not. Default: never.
    """

    name: str
    path: Path
    inputs: Callable[[], Inputs]
    read: Callable[[StoreWriter, Path], list[tuple[int, str]]]
    normalised: bool = False
    where: str = ""
    companions: Sequence[Path] = ()
    outdated: Callable[[], str | None] | None = None


def open_or_build(spec: StoreSpec) -> AnnotationStore:
    """The dataset's store; many processes may ask at once, one builds.

    Raises:
        NDSError: the inputs are missing or broken, or the store cannot be written.
    """
    inputs = spec.inputs()
    # Looked at once where nothing is to be built: a check stats every input.
    opened: list[AnnotationStore] = []

    def is_ready() -> bool:
        opened[:] = [store for store in [_valid(spec, inputs)] if store is not None]
        return bool(opened)

    build_once(spec.path, is_ready, lambda: _build(spec, inputs))
    return opened[0] if opened else AnnotationStore(spec.path)


def is_built(spec: StoreSpec) -> bool:
    """Whether the store is there, whole and up to date. Inputs that are missing count as not built."""
    try:
        return _valid(spec, spec.inputs()) is not None
    except NDSError:
        return False


def _valid(spec: StoreSpec, inputs: Inputs) -> AnnotationStore | None:
    if not spec.path.exists():
        return None
    try:
        store = AnnotationStore(spec.path)
    except NDSError as error:
        logger.warning("%s: the store is made again: %s", spec.name, error)
        return None
    gone = [path for path in spec.companions if not path.exists()]
    if gone:
        logger.info("%s: the store is made again: %s is gone.", spec.name, gone[0])
        return None
    change = built_from(store.header["inputs"], inputs, spec.path)
    if change is None and spec.outdated is not None:
        change = spec.outdated()
    if change is not None:
        logger.info("%s: the store is made again: %s.", spec.name, change)
        return None
    return store


def _build(spec: StoreSpec, inputs: Inputs) -> None:
    before = inputs.state()
    scratch = spec.path.with_name(f".{spec.path.name}.scratch")
    parts = spec.path.with_name(f".{spec.path.name}.parts")
    shutil.rmtree(scratch, ignore_errors=True)  # of a build that was killed
    try:
        scratch.mkdir(parents=True)
    except OSError as error:
        raise cannot_write(scratch, error) from error
    logger.info("%s: building its annotation store, %s.", spec.name, spec.path)
    writer = StoreWriter(scratch, spec.where or spec.name, spec.normalised)
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, scratch, ignore_errors=True)
        stack.callback(writer.close)
        categories = spec.read(writer, parts)
        if inputs.state() != before:
            raise NDSError(f"{spec.name}: its annotation files changed while they were read: start again.")
        recorded = with_hashes(before)
        key = content_hash(
            [FORMAT, [f["sha256"] for f in recorded["files"]], before["tree"], before["settings"]]
        )
        writer.write(spec.path, categories, key, {"name": spec.name, "inputs": recorded})
    shutil.rmtree(parts, ignore_errors=True)
    logger.info("%s: %d images, %d annotations.", spec.name, writer.num_images, writer.num_annotations)

"""Open the store of a dataset, building it first where it is missing or out of date."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from nds_plugin.errors import NDSError
from nds_plugin.files.artifacts import cannot_write, content_hash
from nds_plugin.files.locking import build_once, can_write, user_cache
from nds_plugin.store.inputs import Inputs, built_from, file_stamp, with_hashes
from nds_plugin.store.reader import AnnotationStore
from nds_plugin.store.schema import FORMAT
from nds_plugin.store.writer import StoreWriter

logger = logging.getLogger(__name__)

STORES = "nds_stores"  # folder of stores, beside what they are made from and in the user's cache


@dataclass(frozen=True)
class StoreSpec:
    """How the store of a dataset is made.

    Attributes:
        name: of the dataset, for messages and progress bars.
        path: of the store; where it cannot be written, and none that is valid lies there, the store
            is built in the user's cache instead (:func:`in_cache`).
        inputs: the files that it is made from; called whenever the store is to be checked, and to
            raise the error that shows the expected tree where they are missing.
        read: feeds a writer with the whole dataset and returns its categories, (id, name); is given
            the writer, a folder for parts of the work, which survives an interruption, and the store's
            path, which may be another one than ``path``.
        normalised: see :class:`StoreWriter`.
        where: what the data are called in messages; by default the name.
        companions: the files that ``read`` leaves beside a store, given its path; without them it is not
            whole. Default: none.
        outdated: says, in words, why the store at a path is to be made again though its inputs are the
            same; None if it is not. Default: never.
    """

    name: str
    path: Path
    inputs: Callable[[], Inputs]
    read: Callable[[StoreWriter, Path, Path], list[tuple[int, str]]]
    normalised: bool = False
    where: str = ""
    companions: Callable[[Path], Sequence[Path]] | None = None
    outdated: Callable[[Path], str | None] | None = None


def store_place(path: Path) -> Path:
    """Where a store lies or will be built: ``path``, or the user's cache if nothing is there and it is read-only."""
    return path if path.exists() or can_write(path.parent) else in_cache(path)


def in_cache(path: Path) -> Path:
    """The place in the user's cache of a store that cannot be written where it should lie."""
    # Two read-only folders must not share a store, or each would rebuild the other's.
    folder = content_hash(os.path.realpath(path.parent))[:12]
    return user_cache() / STORES / folder / path.name


def open_or_build(spec: StoreSpec) -> AnnotationStore:
    """The dataset's store; many processes may ask at once, one builds.

    Raises:
        NDSError: the inputs are missing or broken, or the store cannot be written.
    """
    return _open(spec, spec.inputs())


def _open(spec: StoreSpec, inputs: Inputs) -> AnnotationStore:
    found: list[AnnotationStore] = []
    stale: list[_Stale] = []

    def is_ready() -> bool:
        store, why = _look(spec, inputs)
        found[:], stale[:] = [store] if store else [], why
        return store is not None

    def build() -> None:
        for why in stale:  # said once, by the process that builds
            logger.log(why.level, "%s: the store is made again: %s.", spec.name, why.text)
        found[:] = [_build(spec, inputs, target)]

    target = spec.path if can_write(spec.path.parent) else in_cache(spec.path)
    build_once(target, is_ready, build)
    return found[0]


def open_once(spec: StoreSpec) -> AnnotationStore:
    """The same as :func:`open_or_build`, but in one process its inputs are looked through once.

    Afterwards only the store's file and its annotation files are looked at, each by its stamp; a tree
    of thousands of files is not. A change among those is noticed by the next process.
    """
    known = _OPENED.get(spec.path)
    if known is not None and known.is_unchanged():
        return known.store
    inputs = spec.inputs()
    before = [(path, file_stamp(path)) for path in inputs.files]
    store = _open(spec, inputs)
    _OPENED[spec.path] = _Opened(store, ((store.path, file_stamp(store.path)), *before))
    return store


def open_built(spec: StoreSpec, inputs: Inputs) -> AnnotationStore | None:
    """The store if it is there, whole and up to date; nothing is built.

    Args:
        inputs: of the spec.
    """
    try:
        return _look(spec, inputs)[0]
    except NDSError:
        return None


@dataclass(frozen=True)
class _Opened:
    """A store that this process opened, and the stamps of the files that it depends on."""

    store: AnnotationStore
    stamps: tuple[tuple[str | os.PathLike[str], dict[str, Any]], ...]

    def is_unchanged(self) -> bool:
        try:
            return all(file_stamp(path) == stamp for path, stamp in self.stamps)
        except NDSError:
            return False


_OPENED: dict[Path, _Opened] = {}


class _Stale(NamedTuple):
    """Why a store that is there is not used."""

    level: int
    text: str


def _look(spec: StoreSpec, inputs: Inputs) -> tuple[AnnotationStore | None, list[_Stale]]:
    """The store that may be used, or why those that are there may not."""
    stale = []
    places = [spec.path] if can_write(spec.path.parent) else [spec.path, in_cache(spec.path)]
    for path in places:
        if path.exists():
            found = _valid(spec, inputs, path)
            if isinstance(found, AnnotationStore):
                return found, []
            stale.append(found)
    return None, stale


def _valid(spec: StoreSpec, inputs: Inputs, path: Path) -> AnnotationStore | _Stale:
    try:
        store = AnnotationStore(path)
        recorded = store.header["inputs"]
    except NDSError as error:
        return _Stale(logging.WARNING, str(error).rstrip("."))
    except (LookupError, TypeError, ValueError) as error:
        return _damaged(path, error)
    companions = spec.companions(path) if spec.companions else ()
    gone = [companion for companion in companions if not companion.exists()]
    if gone:
        return _Stale(logging.INFO, f"{gone[0]} is gone")
    try:
        change = built_from(recorded, inputs, path)
    except (LookupError, TypeError, AttributeError) as error:
        return _damaged(path, error)
    if change is None and spec.outdated is not None:
        change = spec.outdated(path)
    return store if change is None else _Stale(logging.INFO, change)


def _damaged(path: Path, error: Exception) -> _Stale:
    return _Stale(logging.WARNING, f"the header of {path} is damaged ({type(error).__name__}: {error})")


def _build(spec: StoreSpec, inputs: Inputs, path: Path) -> AnnotationStore:
    before = inputs.state()
    scratch = path.with_name(f".{path.name}.scratch")
    parts = path.with_name(f".{path.name}.parts")
    shutil.rmtree(scratch, ignore_errors=True)  # of a build that was killed; the caller holds the lock
    try:
        scratch.mkdir(parents=True)
    except OSError as error:
        raise cannot_write(scratch, error) from error
    logger.info("%s: building its annotation store, %s.", spec.name, path)
    writer = StoreWriter(scratch, spec.where or spec.name, spec.normalised)
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, scratch, ignore_errors=True)
        stack.callback(writer.close)
        categories = spec.read(writer, parts, path)
        if inputs.state() != before:
            raise NDSError(f"{spec.name}: its annotation files changed while they were read: start again.")
        recorded = with_hashes(before)
        key = content_hash(
            [FORMAT, [f["sha256"] for f in recorded["files"]], before["tree"], before["settings"]]
        )
        writer.write(path, categories, key, {"name": spec.name, "inputs": recorded})
    shutil.rmtree(parts, ignore_errors=True)
    store = AnnotationStore(path)
    logger.info("%s: %d images, %d annotations.", spec.name, len(store), store.num_annotations)
    return store

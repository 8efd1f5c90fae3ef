"""Published sets on disk: sources, partition and experts that a server hands out.

    STORE/current.json            the id of the current set
    STORE/sets/<id>/set.json      what the set holds, with sizes and hashes
        index.parquet, partition.parquet      the artefacts that selection is made from
        rows.arrow                            the same rows for streaming (rows.py)
        experts/manifest.json, *.safetensors  the experts
        description.json                      how they describe clusters that they were not trained on, if so

A set's folder is renamed into place whole and never changes afterwards. A search keeps the set that
it began with; only ``current.json`` moves on.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import re
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nds_plugin.errors import NDSError, one_line
from nds_plugin.experts.description import Description
from nds_plugin.experts.manifest import MANIFEST, read_manifest, set_files
from nds_plugin.files.artifacts import read_json, write_json
from nds_plugin.files.locking import held
from nds_plugin.service.published.rows import Rows
from nds_plugin.service.set_limits import MAX_EXPERTS

logger = logging.getLogger(__name__)

KIND = "published set"
CURRENT_KIND = "current set"
SETS, CURRENT, SET_FILE = "sets", "current.json", "set.json"
INDEX, PARTITION, ROWS, EXPERTS = "index.parquet", "partition.parquet", "rows.arrow", "experts"
DESCRIPTION = "description.json"
MAX_CLUSTERS = MAX_EXPERTS
SET_ID = re.compile(r"[0-9a-f]{16}")


def utc(seconds: float) -> str:
    """A time in seconds since 1970 as sets name theirs, which sorts as text."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


class NothingPublishedError(NDSError):
    """The store holds no current set yet."""

    code = "nothing-published"


class DamagedSetError(NDSError):
    """A set's files are not what was published: no fault of a client's."""

    code = "damaged-set"


@dataclass(frozen=True)
class SetRecord:
    """What is known of a published set without its images.

    Attributes:
        folder: where it is.
        info: content of ``set.json``.
        manifest: of the experts.
    """

    folder: Path
    info: dict[str, Any]
    manifest: dict[str, Any]

    @property
    def id(self) -> str:
        """The set's id: 16 hex digits."""
        return str(self.info["id"])

    @property
    def expert_hash(self) -> str:
        """Hash of the experts, which scores carry."""
        return str(self.manifest["hash"])

    @property
    def num_experts(self) -> int:
        """How many numbers a client sends."""
        return len(self.manifest["experts"])

    @property
    def num_clusters(self) -> int:
        """Clusters of the sources: one per expert, unless the experts only describe them."""
        return int(self.info.get("clusters", self.num_experts))

    @property
    def source_names(self) -> list[str]:
        """Names of the sources, in the order of the index."""
        return [str(entry["name"]) for entry in self.info["sources"]]

    @functools.cached_property
    def files(self) -> dict[str, dict[str, Any]]:
        """The experts' files by name: bytes and sha256. Only these are ever served."""
        return {str(entry["name"]): entry for entry in self.info["files"]}

    @property
    def fetched_bytes(self) -> int:
        """Size of what a client of ours fetches: the manifest and the files that it names."""
        names = [MANIFEST, *(str(entry["file"]) for entry in set_files(self.manifest))]
        return sum(int(self.files[name]["bytes"]) for name in names)

    def expert_path(self, name: str) -> Path:
        """The path of one of ``files``."""
        return self.folder / EXPERTS / str(self.files[name]["path"])

    @classmethod
    def read(cls, folder: Path) -> SetRecord:
        """Read what is known of a set.

        Raises:
            NDSError: a file is missing or cut short.
        """
        return cls(folder, read_json(folder / SET_FILE, KIND), read_manifest(folder / EXPERTS / MANIFEST))


@dataclass(frozen=True)
class PublishedSet(SetRecord):
    """A published set with the columns that selection needs in memory.

    Attributes:
        cluster: cluster of each image, -1 for none; shape (N,).
        source: position in ``source_names`` of each image; shape (N,).
        counts: images by source and cluster, shape (sources, K).
        rows: the images, on disk.
        description: how the experts describe the clusters; None where each was trained on one of them.
    """

    cluster: npt.NDArray[np.int16]
    source: npt.NDArray[np.uint16]
    counts: npt.NDArray[np.int64]
    rows: Rows
    description: Description | None = None

    @classmethod
    def load(cls, record: SetRecord) -> PublishedSet:
        """Read a set's columns.

        Raises:
            NDSError: the file of rows is missing, cut short, or not what ``set.json`` says.
        """
        rows, names, images = Rows(record.folder / ROWS), record.source_names, int(record.info["images"])
        cluster = np.empty(images, dtype=np.int16)
        source = np.empty(images, dtype=np.uint16)
        counts = np.zeros((len(names), record.num_clusters), dtype=np.int64)
        start = 0
        for batch in rows.columns(["source", "cluster"]):
            here = slice(start, start + len(batch))
            column = batch.column("source")
            lookup = np.array([names.index(name) for name in column.dictionary.to_pylist()])
            source[here] = lookup[column.indices.to_numpy()]
            cluster[here] = batch.column("cluster").to_numpy()
            inside = cluster[here] >= 0
            np.add.at(counts, (source[here][inside], cluster[here][inside]), 1)
            start += len(batch)
        if start != images:
            raise NDSError(
                f"{record.folder}: expected {images} images in {ROWS}, got {start}: publish it again."
            )
        described = DESCRIPTION in record.info.get("artefacts", ())
        description = Description.load(record.folder / DESCRIPTION) if described else None
        return cls(record.folder, record.info, record.manifest, cluster, source, counts, rows, description)

    def cluster_in(self, sources: Sequence[str]) -> npt.NDArray[np.int16]:
        """``cluster`` with -1 for the images of all other sources, shape (N,)."""
        names = self.source_names
        if len(set(sources)) == len(names):
            return self.cluster
        chosen = np.zeros(len(names), dtype=bool)
        chosen[[names.index(name) for name in sources]] = True
        return np.where(chosen[self.source], self.cluster, np.int16(-1))

    def sizes_in(self, sources: Sequence[str]) -> npt.NDArray[np.int64]:
        """Images of each cluster that are in these sources, shape (K,)."""
        names = self.source_names
        return np.asarray(self.counts[[names.index(name) for name in sorted(set(sources))]].sum(axis=0))


class Store:
    """A folder of published sets, and which of them is current.

    Sets are read when first asked for; the last few stay in memory. Safe for several threads.

    Args:
        root: the folder.
    """

    _KEPT = 3

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lock = threading.Lock()
        self._records: dict[str, SetRecord] = {}
        self._loaded: dict[str, PublishedSet] = {}
        self._seen: tuple[int, int] | None = None
        self._current = ""

    def ids(self) -> list[str]:
        """Ids of the published sets, the newest first.

        By the time that a set names itself, since the folders of a copied store have other times. These decide
        between sets of one second, and are all that is known of a damaged one.
        """
        folder = self.root / SETS
        times: dict[str, tuple[str, int]] = {}
        for path in folder.iterdir() if folder.is_dir() else ():
            if SET_ID.fullmatch(path.name):
                with contextlib.suppress(FileNotFoundError):  # removed since it was listed
                    stat = path.stat()
                    times[path.name] = self._created(path.name, stat.st_mtime), stat.st_mtime_ns
        return sorted(times, key=lambda set_id: times[set_id], reverse=True)

    def _created(self, set_id: str, folder_time: float) -> str:
        try:
            return str(self.record(set_id).info["created"])
        except (DamagedSetError, KeyError):
            return utc(folder_time)

    def records(self) -> Iterator[SetRecord]:
        """What is known of the published sets, the newest first; a damaged one is left out and logged."""
        for set_id in self.ids():
            try:
                yield self.record(set_id)
            except KeyError:
                continue  # removed since it was listed
            except DamagedSetError as error:
                logger.warning("%s", one_line(error))

    def current_id(self) -> str:
        """Id of the current set; read again where somebody published meanwhile.

        Raises:
            NothingPublishedError: there is none.
        """
        path = self.root / CURRENT
        try:
            stat = path.stat()
        except FileNotFoundError:
            raise NothingPublishedError(
                f"nothing is published in {self.root} yet: nds-serve publish --store {self.root} --index ..."
            ) from None
        seen = (stat.st_ino, stat.st_mtime_ns)
        if seen != self._seen:
            self._current = str(read_json(path, CURRENT_KIND)["id"])
            self._seen = seen
        return self._current

    def current(self) -> PublishedSet:
        """The current set."""
        return self.get(self.current_id())

    def has(self, set_id: str) -> bool:
        """Whether there is such a set now: an old one may be removed while the server runs."""
        return SET_ID.fullmatch(set_id) is not None and (self.root / SETS / set_id).is_dir()

    def record(self, set_id: str) -> SetRecord:
        """What is known of a set without its images.

        Raises:
            KeyError: there is no such set.
            DamagedSetError: its files are not what was published.
        """
        if not self.has(set_id):
            raise KeyError(set_id)
        if set_id not in self._records:
            with _damage_named(set_id):
                self._records[set_id] = SetRecord.read(self.root / SETS / set_id)
        return self._records[set_id]

    def get(self, set_id: str) -> PublishedSet:
        """A set by its id, with its columns.

        Raises:
            KeyError: there is no such set.
            DamagedSetError: its files are not what was published.
        """
        record = self.record(set_id)
        with self._lock, _damage_named(set_id):
            found = self._loaded.pop(set_id, None) or PublishedSet.load(record)
            self._loaded[set_id] = found  # last used, last dropped
            while len(self._loaded) > self._KEPT:
                del self._loaded[next(iter(self._loaded))]
            return found

    def resolve(self, name: str) -> str:
        """The id of the set that a client names by its id or by its experts' hash; newest first.

        Raises:
            KeyError: there is no such set.
        """
        if SET_ID.fullmatch(name):
            return self.record(name).id
        if self.record(current := self.current_id()).expert_hash == name:
            return current
        for found in self.records():
            if found.expert_hash == name:
                return found.id
        raise KeyError(name)

    def make_current(self, set_id: str) -> None:
        """Move on to a published set.

        Raises:
            KeyError: there is no such set.
            NDSError: it is damaged, or the folder cannot be written.
        """
        with self._current_lock():
            self.get(set_id)
            write_json(self.root / CURRENT, CURRENT_KIND, set_id, {"id": set_id})

    @contextlib.contextmanager
    def not_current(self, set_id: str) -> Iterator[bool]:
        """Whether a set is not the current one; nobody makes it current inside the block."""
        with self._current_lock():
            yield self.current_id() != set_id

    def _current_lock(self) -> contextlib.AbstractContextManager[None]:
        return held(self.root / ".current.lock", f"waiting for another process that changes {self.root}.")


@contextlib.contextmanager
def _damage_named(set_id: str) -> Iterator[None]:
    try:
        yield
    except NDSError as error:
        raise DamagedSetError(f"the set {set_id} is damaged: {error}") from None

"""Artefacts on disk: complete or absent, versioned, hashed, never unpickled.

Every file is written to a temporary name beside its destination, flushed to the disk and
renamed, so that a reader sees the old file or the whole new one; what killed writes left in the folder
is removed (:mod:`nds_plugin.files.temporary`). Two formats:

* JSON documents, ``{"kind": ..., "version": ..., "key": ..., ...payload}``;
* Parquet tables whose schema metadata holds the same header under ``b"nds"``.

``key`` is the hash of everything the artefact was made from. A step whose artefact exists
and carries the expected key is skipped (:func:`is_valid`).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from nds_plugin.errors import CannotWriteError, DamagedFileError, MissingFileError, NDSError
from nds_plugin.files import temporary

VERSION = 1
HEADER = b"nds"
HEADER_FIELDS = ("kind", "version", "key")
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What makes an artefact, for the error of one that is not there.
_MADE_BY = {
    "index": "nds partition",
    "partition": "nds partition",
    "experts": "nds experts",
    "scores": "nds score",
    "gate": "nds gate train",
    "image_weights": "nds weigh",
    "selection": "nds draw",
    "results": "nds train",
}
# What a failed write says of the disk and not of the program.
_UNWRITABLE = (*DISK_FULL, errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EPERM, errno.EEXIST, errno.EIO)
# What a file system without permissions, or one that cannot flush a folder, answers (FAT, CIFS, FUSE).
_UNSUPPORTED = (errno.EPERM, errno.EINVAL, errno.ENOTSUP)
_UMASK = os.umask(0o077)  # once, at import: it can only be read by a change, which all threads see
os.umask(_UMASK)


@contextlib.contextmanager
def atomic_write(
    path: str | os.PathLike[str], mode: str = "wb", *, permissions: int = 0o666 & ~_UMASK
) -> Iterator[IO[Any]]:
    """Open a temporary file that becomes ``path`` when the block ends without an error.

    Text is UTF-8, whatever the locale. No one but the owner can read the temporary file; ``permissions`` are those of ``path``.

    Raises:
        NDSError: the disk is full or the folder cannot be written; ``path`` is untouched.
    """
    path = Path(path)
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, name = stack.enter_context(temporary.new_file(path))
        except OSError as error:
            raise cannot_write(path, error) from error
        try:
            with os.fdopen(descriptor, mode, encoding=None if "b" in mode else "utf-8") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            if error.errno in _UNWRITABLE:
                raise cannot_write(path, error) from error
            raise
        _put_in_place(name, path, permissions)


def cannot_write(path: str | os.PathLike[str], error: OSError) -> CannotWriteError:
    """The error for a file or folder that the system does not let us write."""
    if error.errno in DISK_FULL:
        return CannotWriteError(
            f"disk full while writing {path}: nothing was changed; free some space and "
            "start again, finished steps are kept."
        )
    in_the_way = error.errno in (errno.EEXIST, errno.ENOTDIR)
    cause = "a file is where a folder should be" if in_the_way else error.strerror
    return CannotWriteError(f"cannot write {path}: {cause}.")


def check_writable(folder: str | os.PathLike[str]) -> None:
    """Make a folder if need be and see that files can be written in it.

    Raises:
        NDSError: they cannot.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise cannot_write(folder, error) from error


def nearest_existing(folder: str | os.PathLike[str]) -> Path:
    """A folder, or the nearest one above it that is there."""
    existing = Path(folder).absolute()
    while not existing.exists():
        existing = existing.parent
    return existing


def _put_in_place(name: str, path: Path, permissions: int) -> None:
    try:
        with _where_supported():
            os.chmod(name, permissions)
        os.replace(name, path)
        sync(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error


@contextlib.contextmanager
def _where_supported() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise


def sync(path: Path) -> None:
    """Flush a file or a folder to the disk, as far as its file system can."""
    fd = os.open(path, os.O_RDONLY)
    try:
        with _where_supported():
            os.fsync(fd)
    finally:
        os.close(fd)


def file_hash(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, as hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def content_hash(content: Any) -> str:
    """SHA-256 of a JSON-able value, independent of the order of dict keys."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def check_own_hash(path: Path, manifest: Mapping[str, Any], own: Callable[[Mapping[str, Any]], str]) -> None:
    """Refuse a manifest whose ``hash`` is not that of its content, which ``own`` computes.

    Raises:
        NDSError: it is another one, or a number in the content is not finite.
    """
    try:
        right = manifest["hash"] == own(manifest)
    except ValueError:  # NaN and infinities, which none of ours holds
        right = False
    if not right:
        raise NDSError(f"{path}: its hash is not that of its content; it was changed by hand: make it again.")


def array_hash(array: Any) -> str:
    """SHA-256 of the bytes of a NumPy array."""
    return hashlib.sha256(array.tobytes()).hexdigest()


def write_json(path: str | os.PathLike[str], kind: str, key: str, payload: Mapping[str, Any]) -> None:
    """Write a JSON artefact atomically. NaN and infinities are refused."""
    document = {"kind": kind, "version": VERSION, "key": key, **payload}
    text = json.dumps(document, indent=1, allow_nan=False)
    with atomic_write(path, "w") as file:
        file.write(text + "\n")


def read_json(path: str | os.PathLike[str], kind: str) -> dict[str, Any]:
    """Read a JSON artefact of the given kind.

    Raises:
        NDSError: missing, not JSON, of another kind or of another version.
    """
    try:
        with open(path, encoding="utf-8") as file:
            document = json.load(file)
    except (FileNotFoundError, NotADirectoryError):
        raise not_there(kind, path) from None
    except OSError as error:
        raise DamagedFileError(f"cannot read the {kind} file {path}: {error.strerror}.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DamagedFileError(f"{path} is not a complete JSON file ({error}): make it again.") from None
    if not isinstance(document, dict):
        raise DamagedFileError(
            f"{path}: expected a JSON object of kind {kind!r}, got a {type(document).__name__}."
        )
    check_header(document, kind, path)
    return document


def not_there(kind: str, path: str | os.PathLike[str]) -> MissingFileError:
    """The error for an artefact that is missing, with the command that makes it."""
    maker = _MADE_BY.get(kind)
    first = f", or make it first by {maker}" if maker else ""
    return MissingFileError(f"{kind} file not found: {path}: check the path{first}.")


def write_table(
    path: str | os.PathLike[str], kind: str, key: str, table: pa.Table, payload: Mapping[str, Any]
) -> None:
    """Write a Parquet artefact atomically; ``payload`` goes into the schema metadata."""
    table = table.replace_schema_metadata(table_metadata(kind, key, payload))
    with atomic_write(path) as file:
        pq.write_table(table, file, compression="zstd")


def table_metadata(kind: str, key: str, payload: Mapping[str, Any]) -> dict[bytes, bytes]:
    """The schema metadata of a Parquet artefact, for those who write one in pieces."""
    header = {"kind": kind, "version": VERSION, "key": key, **payload}
    return {HEADER: json.dumps(header, allow_nan=False).encode()}


def read_table(path: str | os.PathLike[str], kind: str) -> tuple[pa.Table, dict[str, Any]]:
    """Read a Parquet artefact of the given kind: the table and its header.

    Raises:
        NDSError: missing, cut short, not Parquet, of another kind or of another version.
    """
    if not os.path.isfile(path):
        raise not_there(kind, path)
    try:
        table = pq.read_table(path, partitioning=None)
    except (pa.ArrowInvalid, OSError) as error:
        raise DamagedFileError(f"{path} is not a complete Parquet file ({error}): make it again.") from None
    header = table_header(table.schema, path)
    check_header(header, kind, path)
    return table, header


def read_header(path: str | os.PathLike[str], kind: str) -> dict[str, Any]:
    """The header of a JSON or Parquet artefact, without reading a table's rows."""
    if str(path).endswith(".json"):
        return read_json(path, kind)
    if not os.path.isfile(path):
        raise not_there(kind, path)
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DamagedFileError(f"{path} is not a complete Parquet file ({error}): make it again.") from None
    header = table_header(schema, path)
    check_header(header, kind, path)
    return header


def is_valid(path: str | os.PathLike[str], kind: str, key: str) -> bool:
    """Whether ``path`` is a whole artefact of this kind made from exactly these inputs."""
    try:
        return bool(read_header(path, kind)["key"] == key)
    except NDSError:
        return False


def table_header(schema: pa.Schema, path: str | os.PathLike[str]) -> dict[str, Any]:
    """The header that an Arrow schema carries.

    Raises:
        NDSError: there is none, or it is damaged.
    """
    raw = (schema.metadata or {}).get(HEADER)
    if raw is None:
        raise DamagedFileError(f"{path} is a whole file, but not one that nds_plugin wrote.")
    try:
        header = json.loads(raw)
    except ValueError as error:
        raise DamagedFileError(f"the header of {path} is damaged ({error}): make the file again.") from None
    if not isinstance(header, dict):
        raise DamagedFileError(
            f"the header of {path} is damaged: expected a JSON object, got a {type(header).__name__}: "
            "make the file again."
        )
    return header


def check_header(header: Mapping[str, Any], kind: str, path: str | os.PathLike[str]) -> None:
    """Raise the error of a header of another kind or version."""
    if header.get("kind") != kind:
        raise DamagedFileError(f"{path}: expected a file of kind {kind!r}, got {header.get('kind')!r}.")
    if header.get("version") != VERSION:
        raise DamagedFileError(
            f"{path}: written in version {header.get('version')} of the format, this release reads "
            f"version {VERSION}: make it again."
        )
    if not isinstance(header.get("key"), str):
        raise DamagedFileError(
            f"{path}: its header has no key; it was not written by nds_plugin: make it again."
        )


def plain(value: Any) -> Any:
    """A JSON-able copy: tuples and arrays as lists, keys as text, NaN and infinities as None."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value

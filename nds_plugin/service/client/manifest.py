"""The images of a search: which links to fetch, and where each file goes."""

from __future__ import annotations

import csv
import hashlib
import os
import posixpath
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from nds_plugin.errors import NDSError

_NEEDED = ("source", "image_id", "url")
_LONGEST_NAME = 200  # bytes; file systems allow 255, and temporary files need some of them


class Wanted(NamedTuple):
    """One image to fetch.

    Attributes:
        source, image_id: its identity.
        url: the provider's link; empty where the provider publishes none.
        checksum: as the provider publishes it, or empty.
        size: in bytes, or 0 where it is not known.
        path: where the file goes, relative to the output folder, with forward slashes.
    """

    source: str
    image_id: str
    url: str
    checksum: str
    size: int
    path: str


def read_manifest(path: str | os.PathLike[str]) -> list[Wanted]:
    """The images of a manifest: the service's CSV or Parquet, or a selection drawn on this machine.

    Raises:
        NDSError: missing, of another kind, a needed column is missing, or an image occurs twice.
    """
    path = Path(path)
    if not path.is_file():
        raise NDSError(f"manifest not found: {path}: check the path, or download it by the verb manifest.")
    rows = list(_parquet_rows(path) if path.suffix == ".parquet" else _csv_rows(path))
    if not rows:
        raise NDSError(f"{path}: holds no image.")
    twice = [identity for identity, n in Counter((r["source"], r["image_id"]) for r in rows).items() if n > 1]
    if twice:
        raise NDSError(f"{path}: {len(twice)} images occur twice, first {twice[0][1]!r} of {twice[0][0]!r}.")
    return plan(rows, path)


def plan(rows: Iterable[dict[str, Any]], where: str | os.PathLike[str]) -> list[Wanted]:
    """Rows with a place for each: ``SOURCE/FILE_NAME``, the file names as in the source.

    Two images of a source that share a file name (in a source of folders, say) are told apart by their
    ids, whatever the order of the rows: an id that is a path ending in the name becomes the place,
    otherwise a part of the id's hash is put into the name.
    """
    rows = list(rows)
    names = [_file_name(row) for row in rows]
    # Without regard to case, as some file systems are.
    taken = Counter((row["source"], name.lower()) for row, name in zip(rows, names))
    found = []
    for row, name in zip(rows, names):
        if taken[row["source"], name.lower()] > 1:
            name = _distinct(row["image_id"], name)
        path = f"{_one_part(row['source'])}/{name}"
        found.append(
            Wanted(row["source"], row["image_id"], row["url"], row["checksum"], _size(row, where), path)
        )
    places = Counter(image.path for image in found)
    if len(places) < len(found):
        path, count = places.most_common(1)[0]
        raise NDSError(f"{where}: {count} images would go to the same file {path}: mend their file names.")
    return found


def _csv_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with open(path, encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            _check_columns(reader.fieldnames or (), path)
            for row in reader:
                if None in row or None in row.values():
                    raise NDSError(f"{path}, line {reader.line_num}: a row of another number of columns.")
                yield _row(row)
    except (csv.Error, UnicodeDecodeError) as error:
        raise NDSError(f"{path} is not a whole CSV file ({error}): fetch the manifest again.") from None


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        file = pq.ParquetFile(path)
        _check_columns(file.schema_arrow.names, path)
        known = (*_NEEDED, "checksum", "size", "file_name")
        for batch in file.iter_batches(columns=[name for name in file.schema_arrow.names if name in known]):
            yield from (
                _row({k: "" if v is None else str(v) for k, v in row.items()}) for row in batch.to_pylist()
            )
    except (pa.ArrowInvalid, OSError) as error:
        raise NDSError(f"{path} is not a whole Parquet file ({error}): fetch the manifest again.") from None


def _check_columns(names: Iterable[str], path: Path) -> None:
    missing = sorted(set(_NEEDED) - set(names))
    if missing:
        raise NDSError(
            f"{path}: no column {', '.join(missing)}; expected a manifest of the service (CSV or Parquet) or a "
            "selection drawn by nds draw."
        )


def _row(row: dict[str, Any]) -> dict[str, Any]:
    return {name: str(row.get(name) or "") for name in (*_NEEDED, "checksum", "size", "file_name")}


def _size(row: dict[str, Any], where: str | os.PathLike[str]) -> int:
    if not row["size"]:
        return 0
    if not (row["size"].isascii() and row["size"].isdigit()):
        raise NDSError(
            f"{where}: size of image {row['image_id'][:80]!r} is {row['size'][:40]!r}, not a number."
        )
    return int(row["size"][:15])


def _file_name(row: dict[str, Any]) -> str:
    """A relative path that stays where it is put: from the manifest, else the link's, else the id."""
    name = row["file_name"] or unquote(posixpath.basename(urlsplit(row["url"]).path)) or row["image_id"]
    parts = [_one_part(part) for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    return "/".join(parts) or _one_part(row["image_id"])


def _one_part(name: str) -> str:
    """A name for one file or folder, equal to ``name`` wherever that is safe on every file system."""
    safe = quote(name, safe=" ()+,;=@!&'[]{}~^#$") if not _is_plain(name) else name
    if not safe or safe.startswith(".") or safe != safe.rstrip(". "):
        safe = "_" + safe.rstrip(". ")  # empty, hidden, "..", or one that Windows would shorten
    if len(safe.encode()) > _LONGEST_NAME:
        stem, suffix = os.path.splitext(safe)
        safe = f"{stem[:100]}-{_short_hash(name)}{suffix[:20]}"
    return safe


def _is_plain(name: str) -> bool:
    """Printable, and without the signs that file systems give a meaning to."""
    return bool(name) and name.isprintable() and not set(name) & set('/\\:*?"<>|')


def _distinct(image_id: str, name: str) -> str:
    parts = [_one_part(part) for part in image_id.split("/") if part not in ("", ".")]
    if len(parts) > 1 and ("/" + "/".join(parts)).endswith("/" + name):
        return "/".join(parts)
    stem, suffix = posixpath.splitext(name)
    return f"{stem}-{_short_hash(image_id)}{suffix}"


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]

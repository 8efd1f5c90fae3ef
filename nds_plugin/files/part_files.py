"""The files of an artefact in parts: their names, which of them are there, and whether they are whole."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from nds_plugin.errors import DamagedFileError, MissingFileError, NDSError
from nds_plugin.files.artifacts import atomic_write, check_header, not_there, table_header
from nds_plugin.files.locations import (
    StrPath,
    is_file,
    is_url,
    join,
    listing,
    local_path,
    open_binary,
    read_bytes,
    upload,
)

HEAD = "_head.json"
_PART = re.compile(r"part-(\d{5,})\.parquet")


def part_name(number: int) -> str:
    """File name of a part, from 0."""
    return f"part-{number:05d}.parquet"


def is_in_parts(path: StrPath) -> bool:
    """Whether a name is that of a folder of parts and not of one file."""
    return not str(path).endswith(".parquet") and any(_PART.fullmatch(n) or n == HEAD for n in listing(path))


@dataclass(frozen=True)
class Found:
    """What :func:`find` found: the header of the whole, and the parts with the rows of each."""

    header: dict[str, Any]
    files: Sequence[str]
    rows: Sequence[int]


def find(path: StrPath, kind: str) -> Found:
    """The parts of an artefact, or the one file that it is.

    Raises:
        NDSError: missing, a part missing or half written, or another kind or version.
    """
    if str(path).endswith(".parquet"):
        return _one_file(path, kind)
    sizes = listing(path)
    if HEAD in sizes:
        return _sealed(path, kind, sizes)
    if not any(map(_PART.fullmatch, sizes)):
        raise not_there(kind, path)
    return without_head(path, kind, sizes)


def _one_file(path: StrPath, kind: str) -> Found:
    if not is_file(path):
        raise not_there(kind, path)
    header, rows = _footer(str(path), kind)
    return Found(header, [str(path)], [rows])


def _sealed(folder: StrPath, kind: str, sizes: Mapping[str, int]) -> Found:
    """The parts that a head names."""
    place = join(folder, HEAD)
    try:
        header = json.loads(_content(place))
        parts = [(int(entry["rows"]), int(entry["bytes"])) for entry in header.pop("parts")]
    except (ValueError, TypeError, KeyError, AttributeError):
        raise DamagedFileError(
            f"{place} is not the head of a folder of parts: make the {kind} again."
        ) from None
    check_header(header, kind, place)
    for number, (_, size) in enumerate(parts):
        name = part_name(number)
        if name not in sizes:
            raise MissingFileError(
                f"{join(folder, name)} is missing: the {kind} has {len(parts)} parts; copy it here or make the {kind} again."
            )
        if sizes[name] != size:
            raise DamagedFileError(
                f"{join(folder, name)} is not whole: {sizes[name]} bytes, expected {size}; copy it again or make the {kind} "
                "again."
            )
    known = set(map(part_name, range(len(parts))))
    if strange := sorted(name for name in sizes if _PART.fullmatch(name) and name not in known):
        raise DamagedFileError(
            f"{join(folder, strange[0])} is not a part of this {kind}, which has {len(parts)}: remove what an earlier one left."
        )
    files = [join(folder, part_name(i)) for i in range(len(parts))]
    return Found(header, files, [rows for rows, _ in parts])


def without_head(folder: StrPath, kind: str, sizes: Mapping[str, int]) -> Found:
    """Parts without a head, such as several processes leave them: the numbers must have no hole."""
    numbers = sorted(int(match[1]) for match in map(_PART.fullmatch, sizes) if match)
    count = numbers[-1] + 1 if numbers else 1
    header: dict[str, Any] = {}
    files: list[str] = []
    rows: list[int] = []
    for number in range(count):
        file = join(folder, part_name(number))
        if part_name(number) not in sizes:
            raise MissingFileError(
                f"{file} is missing: the {kind} has {count} parts or more: make that part again."
            )
        found, length = _footer(file, kind)
        count_told = found.pop("parts", None)
        if found.pop("part", number) != number or (count_told is not None and count_told < count):
            raise DamagedFileError(f"{file} is another part than its name says: make the {kind} again.")
        if count_told is not None and count_told > count:
            raise MissingFileError(
                f"{join(folder, part_name(count))} is missing: the {kind} has {count_told} parts: make that part again."
            )
        header = header or found
        if found["key"] != header["key"]:
            raise DamagedFileError(
                f"{file} was made from other inputs than {files[0]} (key {found['key'][:12]}, not {header['key'][:12]}): "
                f"make the {kind} again."
            )
        files.append(file)
        rows.append(length)
    return Found(header, files, rows)


def _footer(file: str, kind: str) -> tuple[dict[str, Any], int]:
    with opened_parquet(file) as opened:
        header = table_header(opened.schema_arrow, file)
        check_header(header, kind, file)
        return header, int(opened.metadata.num_rows)


@contextlib.contextmanager
def opened_parquet(file: str) -> Iterator[pq.ParquetFile]:
    """A Parquet file; what is wrong with it becomes one line, also where it comes to light in the block."""
    try:
        # Of a URL, the ranges of a row group's columns are fetched together.
        with contextlib.ExitStack() as stack:
            source = stack.enter_context(open_binary(file)) if is_url(file) else local_path(file)
            opened = pq.ParquetFile(source, pre_buffer=is_url(file), page_checksum_verification=True)
            yield stack.enter_context(opened)
    except FileNotFoundError:
        raise MissingFileError(
            f"{file} is missing: it was there a moment ago; is another process writing there?"
        ) from None
    except pa.ArrowMemoryError:
        raise
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # Arrow's own have none
            raise NDSError(f"{file} cannot be read: {error.strerror}.") from None
        text = " ".join(str(error).split())[:200]
        raise DamagedFileError(f"{file} is not a complete Parquet file ({text}): make it again.") from None


def _content(file: str) -> bytes:
    if is_url(file):
        return read_bytes(file)
    with open_binary(file) as opened:
        return opened.read()


@contextlib.contextmanager
def written_whole(file: str) -> Iterator[IO[bytes]]:
    """A file, of this machine or at a URL, that has its name once all of it is written."""
    # An object store shows a file once all of it is there.
    with upload(file) if is_url(file) else atomic_write(local_path(file)) as opened:
        yield opened

"""What a publisher says of the sources: homepage, licences, thumbnails, and links that the index lacks.

A YAML file, every source and every key optional::

    openimages_train:
      homepage: https://storage.googleapis.com/openimages/web/index.html
      licenses: [CC BY 2.0]
      thumbnails: true          # its licences allow to show its images
      link: https://host.example/train/{file_name}     # or {image_id}; for images without a link
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pyarrow as pa
import pyarrow.compute as pc
import yaml

from nds_plugin.errors import NDSError, unknown_name

_KEYS = {"homepage": str, "licenses": list, "thumbnails": bool, "link": str}
_PLACES = ("{file_name}", "{image_id}")


@dataclass(frozen=True)
class SourceNotes:
    """The notes of one source."""

    homepage: str = ""
    licenses: tuple[str, ...] = ()
    thumbnails: bool = False
    link: str = ""


def read_notes(path: str | os.PathLike[str] | None, sources: Sequence[str]) -> dict[str, SourceNotes]:
    """The notes of every source; empty ones where the file says nothing.

    Raises:
        NDSError: not such a YAML file, an unknown source or key, or a link that is not http(s).
    """
    found = {name: SourceNotes() for name in sources}
    if path is None:
        return found
    try:
        document = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise NDSError(f"cannot read the notes on the sources {path}: {error}") from None
    if not isinstance(document, dict):
        raise NDSError(f"{path}: expected a mapping of source names, got a {type(document).__name__}.")
    for name, entry in document.items():
        if name not in found:
            raise unknown_name("source", str(name), found)
        found[name] = _notes(path, str(name), entry)
    return found


def _notes(path: str | os.PathLike[str], name: str, entry: Any) -> SourceNotes:
    if not isinstance(entry, Mapping):
        raise NDSError(f"{path}: expected a mapping under {name!r}, got a {type(entry).__name__}.")
    for key, value in entry.items():
        if key not in _KEYS:
            raise unknown_name(f"key of source {name}", str(key), _KEYS)
        if not isinstance(value, _KEYS[key]):
            raise NDSError(f"{path}: {name}.{key} should be a {_KEYS[key].__name__}, got {value!r}.")
    values = {**entry, "licenses": tuple(str(text) for text in entry.get("licenses", ()))}
    for key in ("homepage", "link"):
        if entry.get(key) and not is_web_link(entry[key]):
            raise NDSError(f"{path}: {name}.{key} should be an http or https address, got {entry[key]!r}.")
    if entry.get("link") and not any(place in entry["link"] for place in _PLACES):
        raise NDSError(
            f"{path}: {name}.link names neither {' nor '.join(_PLACES)}, so all would be one link."
        )
    return SourceNotes(**values)


def is_web_link(text: str) -> bool:
    """Whether a link may be handed to a browser: http or https, with a host, without blanks."""
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.netloc) and not any(c.isspace() for c in text)


def with_links(table: pa.Table, notes: Mapping[str, SourceNotes]) -> pa.Table:
    """An index's table whose missing links are filled from the notes.

    Raises:
        NDSError: a link that is not http(s), such as ``javascript:``.
    """
    urls = table.column("url")
    for name, about in notes.items():
        if not about.link:
            continue
        empty = pc.and_(pc.equal(table.column("source").cast(pa.string()), name), pc.equal(urls, ""))
        urls = pc.if_else(empty, _filled(table, about.link), urls)
    odd = pc.and_(pc.not_equal(urls, ""), pc.invert(pc.match_substring_regex(urls, r"^https?://[^\s/]+\S*$")))
    if (count := pc.sum(odd).as_py() or 0) > 0:
        first = table.append_column("link", urls).filter(odd).slice(0, 1).to_pylist()[0]
        raise NDSError(
            f"{count} images have a link that is not http or https, first {first['link'][:80]!r} of image "
            f"{first['image_id']!r} of source {first['source']!r}: correct the index."
        )
    return table.set_column(table.column_names.index("url"), "url", urls)


def _filled(table: pa.Table, link: str) -> pa.Array:
    names = table.column("file_name").to_pylist()
    ids = table.column("image_id").to_pylist()
    return pa.array(
        [
            link.replace("{file_name}", quote(name)).replace("{image_id}", quote(image_id, safe=""))
            for name, image_id in zip(names, ids)
        ],
        pa.string(),
    )

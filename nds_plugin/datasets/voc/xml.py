"""One annotation file of PASCAL VOC: what it says of an image and its objects."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from defusedxml import DTDForbidden
from defusedxml.ElementTree import ParseError, parse

from nds_plugin.errors import NDSError
from nds_plugin.store.schema import DIFFICULT, MAX_SIDE, OCCLUDED, TRUNCATED

_FLAGS = {"difficult": DIFFICULT, "truncated": TRUNCATED, "occluded": OCCLUDED}
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class VocObject:
    """One object: its class, its box as x, y, width, height in pixels, the store's flags."""

    name: str
    bbox: tuple[float, float, float, float]
    flags: int


@dataclass(frozen=True)
class VocImage:
    """One image: its size in pixels (0 where the file does not say), its link and photographer ("")."""

    width: int
    height: int
    url: str
    author: str
    objects: tuple[VocObject, ...]


def read_voc_xml(path: str | os.PathLike[str]) -> VocImage:
    """Read an annotation file.

    VOC's corners are numbers of pixels, counted from 1, both inside the box. As in Detectron2's own
    loader a box goes from (xmin - 1, ymin - 1) to (xmax, ymax) in coordinates: one with xmin 1 and
    xmax W covers the whole width. Boxes of an object's parts (head, hand, foot) are left out.

    Raises:
        NDSError: missing, not whole XML, with a document type (which could declare entities), or
            without what an annotation must have.
    """
    try:
        root: Element = parse(path, forbid_dtd=True).getroot()
    except OSError as error:
        raise NDSError(f"VOC: cannot read the annotation {path}: {error.strerror}.") from None
    except DTDForbidden as error:
        raise NDSError(
            f"VOC: {path} declares a document type ({error.name}), which annotations do not have and which could make "
            "a small file expand without end: it is not read."
        ) from None
    except (ParseError, LookupError, ValueError) as error:
        raise NDSError(
            f"VOC: {path} is not complete XML ({error}): it was cut short or damaged, get it again."
        ) from None
    if root.tag != "annotation":
        raise NDSError(f"VOC: {path} is not an annotation: expected <annotation>, got <{root.tag}>.")
    flickr_id = root.findtext("source/flickrid", "").strip()
    return VocImage(
        width=_side(root, "size/width", path),
        height=_side(root, "size/height", path),
        url=f"https://www.flickr.com/photo.gne?id={flickr_id}" if flickr_id.strip("0") else "",
        author=_author(root),
        objects=tuple(_object(element, path) for element in root.findall("object")),
    )


def _object(element: Element, path: str | os.PathLike[str]) -> VocObject:
    name = element.findtext("name", "").strip()
    if not name:
        raise NDSError(f"VOC: {path}: an object has no <name>.")
    x0, y0, x1, y1 = (_number(element, f"bndbox/{corner}", path) for corner in _CORNERS)
    flags = sum(bit for key, bit in _FLAGS.items() if _number(element, key, path, 0.0))
    return VocObject(name, (x0 - 1, y0 - 1, x1 - x0 + 1, y1 - y0 + 1), flags)


def _number(element: Element, key: str, path: str | os.PathLike[str], default: float | None = None) -> float:
    text = element.findtext(key)
    if text is None or not text.strip():
        if default is None:
            raise NDSError(f"VOC: {path}: an {element.tag} has no <{key}>.")
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise NDSError(f"VOC: {path}: <{key}> must be a number, got {text.strip()!r}.")
    return value


def _author(root: Element) -> str:
    for key in ("owner/name", "owner/flickrid"):
        author = root.findtext(key, "").strip()
        if author.strip("?"):  # VOC's word for "not known"
            return author
    return ""


def _side(root: Element, key: str, path: str | os.PathLike[str]) -> int:
    value = _number(root, key, path, 0.0)
    if not 0 <= value <= MAX_SIDE:
        raise NDSError(f"VOC: {path}: <{key}> must be 0 (not known) to {MAX_SIDE} pixels, got {value:g}.")
    return int(value)

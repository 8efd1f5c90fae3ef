"""The files that the names of a store mean: one that is a URL or a whole path stays, others lie below the image root.

Images that a dataset has in no files (Downsampled ImageNet) are written together with its store, into a
folder beside it, wherever that is.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from nds_plugin.files.locations import URL
from nds_plugin.store.reader import AnnotationStore

_WHOLE = re.compile(f"{re.escape(os.sep)}|{URL.pattern}")

OWN_IMAGES = "own_images"  # in the header's info: the images were written with the store


def own_images(store: Path) -> Path:
    """The folder of the images that are written with a store."""
    return store.with_suffix("")


def image_root(store: AnnotationStore, given: str | os.PathLike[str]) -> str:
    """The folder, or URL, that a store's names are relative to: ``given`` but for images that were written with it."""
    return os.fspath(own_images(store.path) if store.header["info"].get(OWN_IMAGES) else given)


def join_name(root: str, name: str) -> str:
    """The file of a name."""
    return name if _WHOLE.match(name) else os.path.join(root, name)


def join_names(root: str, names: pa.Array) -> pa.Array:
    """The same for many names."""
    below = pc.binary_join_element_wise(os.path.join(root, ""), names, "")
    return pc.if_else(pc.match_substring_regex(names, f"^(?:{_WHOLE.pattern})"), names, below)

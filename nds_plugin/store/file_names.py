"""The files that the names of a store mean: one that is a URL or a whole path stays, others lie below the image root."""

from __future__ import annotations

import os
import re

import pyarrow as pa
import pyarrow.compute as pc

from nds_plugin.files.locations import URL

_WHOLE = re.compile(f"{re.escape(os.sep)}|{URL.pattern}")


def join_name(root: str, name: str) -> str:
    """The file of a name."""
    return name if _WHOLE.match(name) else os.path.join(root, name)


def join_names(root: str, names: pa.Array) -> pa.Array:
    """The same for many names."""
    below = pc.binary_join_element_wise(os.path.join(root, ""), names, "")
    return pc.if_else(pc.match_substring_regex(names, f"^(?:{_WHOLE.pattern})"), names, below)

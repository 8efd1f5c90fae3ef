"""The node FOLDERS of a config: folders of classes by the name of the dataset that each is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nds_plugin.errors import NDSError, did_you_mean

# Keys of a folder, and the arguments of ClassFolder that they are.
KEYS = {"FOLDER": "folder", "CLASSES": "classes_like", "PART": "part", "TEST_EVERY": "test_every"}


def check_folder(name: Any, told: Any) -> None:
    """Refuse keys that a folder does not have, and values of another type; reads no folder.

    Raises:
        NDSError: no FOLDER, an unknown key, or a value of another type.
    """
    if not isinstance(name, str):
        raise NDSError(f"FOLDERS: the name of a dataset must be text, got {name!r}: write it in quotes.")
    if not isinstance(told, Mapping) or "FOLDER" not in told:
        raise NDSError(
            f"FOLDERS.{name}: expected FOLDER: path, and CLASSES, PART, TEST_EVERY beside it, got {told!r}."
        )
    for key in told:
        if key not in KEYS:
            raise NDSError(f"FOLDERS.{name}: unknown key {key}.{did_you_mean(str(key), KEYS)}")
        kind, words = (int, "a whole number") if key == "TEST_EVERY" else (str, "text")
        if type(told[key]) is not kind:
            raise NDSError(f"FOLDERS.{name}.{key} must be {words}, got {told[key]!r}.")

"""Where the files lie that are installed with the package."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
# An installed package holds them; in a checkout, which editable installs point at, they lie beside it.
_INSTALLED = _PACKAGE / "configs" / "detectron2"
CONFIG_DIR = _INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parent / "configs" / "detectron2"
# The checkout that the package is imported from; None for an installed package.
CHECKOUT = _PACKAGE.parent if (_PACKAGE.parent / "pyproject.toml").is_file() else None

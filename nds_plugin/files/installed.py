"""Where the files lie that are installed with the package."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
# The checkout that the package is imported from; None for an installed package.
CHECKOUT = _PACKAGE.parent if (_PACKAGE.parent / "pyproject.toml").is_file() else None


def config_folder(host: str) -> Path:
    """The configs of a host, ``detectron2`` or ``mmdetection``.

    An installed package holds them; in a checkout, which editable installs point at, they lie beside it.
    """
    installed = _PACKAGE / "configs" / host
    return installed if installed.is_dir() else _PACKAGE.parent / "configs" / host

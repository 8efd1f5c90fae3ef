"""Where the package's configs lie, and what the name of one stands for."""

from __future__ import annotations

from pathlib import Path

from nds_plugin.errors import unknown_name
from nds_plugin.selection.selectors import SELECTORS

_PACKAGE = Path(__file__).resolve().parents[2]
# An installed package holds them; in a checkout, which editable installs point at, they lie beside it.
_INSTALLED = _PACKAGE / "configs" / "detectron2"
CONFIG_DIR = _INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parent / "configs" / "detectron2"
NO_PRETRAINING = "none"  # in the place of a selector


def find_config(name: str) -> tuple[str, list[str]]:
    """The path of a config, and the overrides that its name stands for beside it.

    A file as given, else one of configs/detectron2/, else ``SELECTOR_NAME.yaml``: that is
    ``nds_NAME.yaml`` with ``NDS.SELECTOR SELECTOR``.

    Raises:
        NDSError: none of them; the known files are listed.
    """
    places = (Path(name), CONFIG_DIR / name, CONFIG_DIR / f"{name}.yaml")
    for path in places:
        if path.is_file():
            return str(path), []
    for path in places:
        for selector in (*SELECTORS, NO_PRETRAINING):
            if path.name.startswith(f"{selector}_"):
                ours = path.with_name(f"nds_{path.name.removeprefix(f'{selector}_')}")
                if ours.is_file():
                    return str(ours), ["NDS.SELECTOR", selector]
    raise unknown_name(
        "config file", name, [str(p.relative_to(CONFIG_DIR)) for p in CONFIG_DIR.rglob("*.yaml")]
    )


def default_output(path: str, selector: str) -> str:
    """``OUTPUT_DIR`` where neither the config nor the command line names one: ``output/<config>/<selector>``."""
    return str(Path("output", Path(path).stem, selector))

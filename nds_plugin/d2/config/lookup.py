"""Where the package's configs lie, and what the name of one stands for."""

from __future__ import annotations

from pathlib import Path

from nds_plugin.errors import UnknownNameError, did_you_mean
from nds_plugin.files.installed import CONFIG_DIR
from nds_plugin.selection.selectors import SELECTORS

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
    raise _unknown(name)


def _unknown(name: str) -> UnknownNameError:
    """The line of a name that stands for no config: the nearest of all names, and the files."""
    files = sorted(path.stem for path in CONFIG_DIR.glob("nds_*.yaml"))
    twins = [
        f"{selector}_{file.removeprefix('nds_')}"
        for file in files
        for selector in (*SELECTORS, NO_PRETRAINING)
    ]
    near = did_you_mean(Path(name).name.removesuffix(".yaml"), twins)
    return UnknownNameError(
        f"unknown config {name!r}: no such file, and none of that name is installed.{near} Known: {', '.join(files)}; "
        f"for each nds_NAME also uniform_NAME, full_NAME, {NO_PRETRAINING}_NAME and so for every selector."
    )


def default_output(path: str, selector: str) -> str:
    """``OUTPUT_DIR`` where neither the config nor the command line names one: ``output/<config>/<selector>``."""
    return str(Path("output", Path(path).stem, selector))

"""Where the package's configs lie, and what the name of one stands for."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from nds_plugin.errors import NDSError, UnknownNameError, did_you_mean
from nds_plugin.files.installed import config_folder
from nds_plugin.selection.selectors import SELECTORS

NO_PRETRAINING = "none"  # in the place of a selector


@dataclass(frozen=True)
class Configs:
    """The configs of a host.

    Attributes:
        host: name of their folder in configs/.
        suffix: of their files, with the dot.
    """

    host: str
    suffix: str

    @property
    def folder(self) -> Path:
        """Where they lie."""
        return config_folder(self.host)

    def find(self, name: str) -> tuple[str, str | None]:
        """The path of a config, and the selector that its name stands for beside it.

        A file as given, else one of the folder, else ``SELECTOR_NAME``: that is ``nds_NAME`` with the
        selector SELECTOR.

        Raises:
            NDSError: none of them; the known files are listed.
        """
        places = (Path(name), self.folder / name, self.folder / f"{name}{self.suffix}")
        for path in places:
            if path.is_file():
                return str(path), None
        for path in places:
            for selector in (*SELECTORS, NO_PRETRAINING):
                if path.name.startswith(f"{selector}_"):
                    ours = path.with_name(f"nds_{path.name.removeprefix(f'{selector}_')}")
                    if ours.is_file():
                        return str(ours), selector
        raise self._unknown(name)

    def _unknown(self, name: str) -> UnknownNameError:
        """The line of a name that stands for no config: the nearest of all names, and the files."""
        files = sorted(path.stem for path in self.folder.glob(f"nds_*{self.suffix}"))
        twins = [
            f"{selector}_{file.removeprefix('nds_')}"
            for file in files
            for selector in (*SELECTORS, NO_PRETRAINING)
        ]
        near = did_you_mean(Path(name).name.removesuffix(self.suffix), twins)
        return UnknownNameError(
            f"unknown config {name!r}: no such file, and none of that name is installed.{near} Known: {', '.join(files)}; "
            f"for each nds_NAME also uniform_NAME, full_NAME, {NO_PRETRAINING}_NAME and so for every selector."
        )


def read_document(path: str | os.PathLike[str], origin: str = "") -> dict[str, Any]:
    """The keys of a YAML config file; nothing in it is executed.

    Args:
        origin: which file names it as its base, for messages.

    Raises:
        NDSError: it cannot be read, or is no plain YAML with keys.
    """
    try:
        document = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        named = f", the _BASE_ of {origin}" if origin else ""
        raise NDSError(f"cannot read the config {path}{named}: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise NDSError(f"config {path} is not a text file (byte {error.start} is not UTF-8).") from None
    except yaml.YAMLError as error:
        raise NDSError(f"config {path} is not plain YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(document, dict):
        got = "nothing" if document is None else f"a {type(document).__name__}"
        raise NDSError(f"config {path}: expected lines of KEY: value, got {got}.")
    return document


def default_output(path: str, selector: str, ending: str = "") -> str:
    """Where a run goes that names no folder: ``output/<config>/<selector>``; ``ending`` tells two hosts apart."""
    return str(Path("output", Path(path).stem + ending, selector))

"""Where the package's configs lie, and what the name of one stands for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nds_plugin.errors import unknown_name
from nds_plugin.selection.selectors import SELECTORS

_PACKAGE = Path(__file__).resolve().parents[1]
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
        """An installed package holds them; in a checkout, which editable installs point at, they lie beside it."""
        installed = _PACKAGE / "configs" / self.host
        return installed if installed.is_dir() else _PACKAGE.parent / "configs" / self.host

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
        known = [str(p.relative_to(self.folder)) for p in self.folder.rglob(f"*{self.suffix}")]
        raise unknown_name("config file", name, known)


def default_output(path: str, selector: str) -> str:
    """Where a run goes that names no folder: ``output/<config>/<selector>``."""
    return str(Path("output", Path(path).stem, selector))

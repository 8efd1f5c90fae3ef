"""What a transfer kept, mapped, dropped and left as it was: for the log and for JSON."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tabulate import tabulate

from nds_plugin.errors import few
from nds_plugin.files.artifacts import read_json, write_json
from nds_plugin.source.class_names import LOOSE, ClassMatch

FILE, KIND = "transfer.json", "transfer"
GROUP_DEPTH = 3  # "backbone.bottom_up.res2" is one row of the log's table


@dataclass
class TransferReport:
    """Which parameters and classes a transfer took from where.

    Attributes:
        source_classes, target_classes: the two label spaces.
        matches: one per target class, with the source class that it got its rows from.
        kept: parameters copied whole.
        mapped: parameters copied by class, each row as ``matches`` says.
        dropped: parameters of the checkpoint that were not used, with the reason.
        missing: parameters that were allowed to be missing, and keep their initialisation.
    """

    source_classes: tuple[str, ...]
    target_classes: tuple[str, ...]
    matches: tuple[ClassMatch, ...]
    kept: list[str] = field(default_factory=list)
    mapped: list[str] = field(default_factory=list)
    dropped: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    @property
    def shared(self) -> list[tuple[str, str]]:
        """Pairs (target class, source class) of the classes that were mapped."""
        return [(m.target, m.source) for m in self.matches if m.source is not None]

    @property
    def loose(self) -> list[tuple[str, str]]:
        """The pairs where the source class is only the nearest thing."""
        return [(m.target, m.source) for m in self.matches if m.source is not None and m.how == LOOSE]

    @property
    def initialised(self) -> list[str]:
        """Target classes without a source class: they keep the model's own initialisation."""
        return [m.target for m in self.matches if m.source is None]

    def nothing_shared(self) -> str:
        """The one line that says that no class is shared."""
        return (
            f"no class of the source ({few(self.source_classes, 10)}) is one of the target's "
            f"({few(self.target_classes, 10)}): the class-specific rows start from scratch"
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        return {
            "source_classes": list(self.source_classes),
            "target_classes": list(self.target_classes),
            "classes": [{"target": m.target, "source": m.source, "how": m.how} for m in self.matches],
            "kept": list(self.kept),
            "mapped": list(self.mapped),
            "dropped": dict(self.dropped),
            "initialised": self.initialised,
            "missing": list(self.missing),
        }

    def save(self, folder: Path) -> None:
        """Keep it in the folder of the training that begins with the transfer."""
        write_json(folder / FILE, KIND, "", self.to_dict())

    def table(self) -> str:
        """Two tables as text: the classes, and the parameters in groups of modules."""
        classes = [(m.target, m.source or "-", m.how) for m in self.matches]
        rows = [
            (what, group, count, reason)
            for what, groups in (
                ("kept", _groups((name, "") for name in self.kept)),
                ("mapped", _groups((name, "by class") for name in self.mapped)),
                ("dropped", _groups(self.dropped.items())),
                ("missing", _groups((name, "allowed; own initialisation") for name in self.missing)),
            )
            for (group, reason), count in groups.items()
        ]
        return (
            tabulate(classes, headers=("target class", "source class", "by"), tablefmt="github")
            + "\n\n"
            + tabulate(rows, headers=("", "module", "parameters", "note"), tablefmt="github")
        )

    def log(self, logger: logging.Logger, source: str) -> None:
        """Log the tables at INFO, and one WARNING line if the label spaces share nothing."""
        logger.info(
            "Transfer from %s: %d parameters kept, %d mapped by class, %d dropped, %d missing; "
            "%d of %d target classes have a source class.\n%s",
            source,
            len(self.kept),
            len(self.mapped),
            len(self.dropped),
            len(self.missing),
            len(self.shared),
            len(self.target_classes),
            self.table(),
        )
        if not self.shared:
            logger.warning("%s.", self.nothing_shared())


def kept_report(folder: Path) -> dict[str, Any] | None:
    """The report of the transfer into a training; None where there was none."""
    return read_json(folder / FILE, KIND) if (folder / FILE).is_file() else None


def _groups(items: Iterable[tuple[str, str]]) -> Counter[tuple[str, str]]:
    return Counter((".".join(name.split(".")[:GROUP_DEPTH]), reason) for name, reason in items)

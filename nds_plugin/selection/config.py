"""How a selection is drawn: by which selector, of how many images, under which seed; and how its images are loaded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from nds_plugin.selection.selectors import Selector
from nds_plugin.selection.selectors.nds import NDS
from nds_plugin.settings import Settings, setting

MODES = ("subset", "stream")


@dataclass(frozen=True)
class LoaderConfig(Settings):
    """What the loading of a selection's images may meet."""

    what: ClassVar[str] = "loader"

    max_unreadable: float = setting(
        0.01,
        "share of images that may be unreadable before the run stops; the others are replaced from their cluster",
        least=0,
        most=1,
        decides=False,
    )


@dataclass(frozen=True)
class SelectionConfig(Settings):
    """How to select.

    Attributes:
        selector: what weighs, with its settings; the class alone where images are weighed already.
    """

    what: ClassVar[str] = "selection"

    selector: Selector | type[Selector] = field(default_factory=NDS)
    mode: str = setting(
        "subset",
        "subset: a fixed draw without replacement; stream: draws by p for as long as it trains",
        choices=MODES,
        config=".MODE",
    )
    count: int = setting(0, "budget of a subset as a number of images", config=".BUDGET.IMAGES")
    share: float = setting(
        0.0, "budget of a subset as a share of the source, above 0 and up to 1", config=".BUDGET.SHARE"
    )
    seed: int = setting(0, "seed of the draw", least=0, config=".SEED")

    def identity(self) -> dict[str, Any]:
        """What decides a draw: the selector with its settings, and those of the draw."""
        return {"selector": self.selector.name, **self.selector_settings(), **super().identity()}

    def selector_settings(self) -> dict[str, Any]:
        """The selector's own settings; none where it is the class alone."""
        return {} if isinstance(self.selector, type) else self.selector.identity()

    @property
    def needs_budget(self) -> bool:
        """Whether images are drawn and their number must be given."""
        return self.mode == "subset" and not self.selector.whole

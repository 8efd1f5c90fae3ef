"""A frozen network by name, as the settings of a step; without torch."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from nds_plugin.errors import NDSError
from nds_plugin.settings import Settings, setting

PACKAGE = "package:"
# What looks at images where nothing else is named: small, quick on a CPU, and its ImageNet weights are on the package
# index (the extra `experts` brings them).
DEFAULT_NETWORK = "package:efficientnet-lite0"
NAMES = (
    "a file of a ResNet (shared.safetensors, too), package:efficientnet-lite0, or timm's name of a network"
)
_FILES = (".pth", ".pkl", ".safetensors", ".pt", ".ckpt", ".tar", ".pyth", ".bin")
_WEIGHTS = (
    "the network's weights: a file (of a ResNet, where no network is named) or package:efficientnet-lite0; a name of "
    "timm's without them takes those of timm's hub, with a file it should have the tag whose weights the file holds "
    "(vit_small_patch16_224.dino), on which the input depends"
)


def names_weights(text: str) -> bool:
    """Whether a network's name stands for weights, from which the network follows."""
    return text.startswith(PACKAGE) or os.sep in text or text.endswith(_FILES)


_WORD = re.compile(r"[A-Za-z]\w+:([\w.-]+)")


def check_spelling(text: str) -> None:
    """Refuse what looks like ``package:NAME`` with a mistake in its first word.

    Raises:
        NDSError: it does, and there is no file of that name.
    """
    found = _WORD.fullmatch(text)
    if found and not text.startswith(PACKAGE) and not Path(text).exists():
        raise NDSError(f"{text!r} is no file. Did you mean {PACKAGE + found[1]!r}?")


@dataclass(frozen=True)
class NamedNetwork(Settings):
    """Which network looks at images.

    What is made from its features has the weights themselves in its key, not how they are called.
    """

    what: ClassVar[str] = "network"

    network: str = setting(
        "", f"{NAMES}; {DEFAULT_NETWORK} where neither network nor weights are given", decides=False
    )
    weights: str = setting("", _WEIGHTS, decides=False)

    @property
    def is_named(self) -> bool:
        """Whether there is one."""
        return bool(self.network or self.weights)

    def or_default(self) -> NamedNetwork:
        """Itself, or the default network where none is named."""
        return self if self.is_named else replace(self, network=DEFAULT_NETWORK)

    @property
    def file(self) -> str:
        """The file of the weights; empty where they are of a package or of timm's hub."""
        found = self.weights or (self.network if names_weights(self.network) else "")
        return "" if found.startswith(PACKAGE) else found

    def check_file(self, node: str) -> None:
        """See that the file of the weights is there.

        Args:
            node: of the config that names it, as an error calls it.

        Raises:
            NDSError: it is not, or it is a mistyped package:NAME.
        """
        for text in (self.network, self.weights):
            check_spelling(text)
        if self.file and not Path(self.file).is_file():
            key = "WEIGHTS" if self.weights else "NETWORK"
            raise NDSError(f"{node}.{key}: no such file: {self.file}.")

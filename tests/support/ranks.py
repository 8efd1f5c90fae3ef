"""The ranks of a launcher, one after the other in this process: none waits for the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """One of several processes whose shards are all it does."""

    rank: int
    world_size: int

    def barrier(self) -> None:
        """The others come later."""

    def all_gather(self, value: T) -> list[T]:
        """Its own value for all."""
        return [value] * self.world_size

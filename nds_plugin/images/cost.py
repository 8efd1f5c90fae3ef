"""What a selector costs the client: forward passes over its images, and time."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Cost:
    """A client's cost.

    Attributes:
        images: of the client (or object crops of them) that networks looked at.
        forward_passes: network inputs, one for each network, image and rotation.
        seconds: of reading the images and running the networks on them, as it was measured when
            it was done; the only field that another run of the same inputs does not repeat.
    """

    images: int = 0
    forward_passes: int = 0
    seconds: float = 0.0

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Cost:
        """From the fields in a file; those that are missing are 0."""
        return cls(**{f.name: values.get(f.name, f.default) for f in dataclasses.fields(cls)})

    def __str__(self) -> str:
        return f"{self.forward_passes} forward passes over {self.images} images, {self.seconds:.1f} s"

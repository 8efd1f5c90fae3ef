"""What a selector costs the client: forward passes over its images, and time.

An artefact holds what another run of the same inputs repeats; the seconds, which it does not, lie beside
it in ``NAME.cost.json``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nds_plugin.errors import NDSError
from nds_plugin.files.artifacts import read_json, write_json

KIND = "cost"
SUFFIX = ".cost.json"


@dataclass(frozen=True)
class Cost:
    """A client's cost.

    Attributes:
        images: of the client (or object crops of them) that networks looked at.
        forward_passes: network inputs, one for each network, image and rotation.
        seconds: of reading the images and running the networks on them, as it was measured when
            it was done; None where that is not known.
    """

    images: int = 0
    forward_passes: int = 0
    seconds: float | None = 0.0

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Cost:
        """From the fields of a file; counts that are missing are 0, seconds are not known then."""
        passes = values.get("forward_passes", 0)
        return cls(values.get("images", 0), passes, values.get("seconds", None if passes else 0.0))

    @property
    def counts(self) -> dict[str, int]:
        """What an artefact holds."""
        return {"images": self.images, "forward_passes": self.forward_passes}

    def __str__(self) -> str:
        time = "in a time that is not known" if self.seconds is None else f"{self.seconds:.1f} s"
        return f"{self.forward_passes} forward passes over {self.images} images, {time}"


def beside(artefact: str | os.PathLike[str]) -> Path:
    """Where the seconds of an artefact are kept."""
    path = Path(artefact)
    return path.with_name(path.name + SUFFIX)


def keep_seconds(artefact: str | os.PathLike[str], key: str, cost: Cost) -> None:
    """Write what was measured beside an artefact that is about to be written under a key."""
    if cost.forward_passes and cost.seconds is not None:
        write_json(beside(artefact), KIND, key, {"seconds": cost.seconds})
    else:
        beside(artefact).unlink(missing_ok=True)


def with_seconds(artefact: str | os.PathLike[str], key: str, counts: Mapping[str, Any]) -> Cost:
    """The cost of an artefact: what it holds, and the seconds beside it where they are of the same key.

    Files of before the seconds were kept beside them hold them themselves.
    """
    try:
        measured = read_json(beside(artefact), KIND)
    except NDSError:  # copied without, or damaged: nothing depends on it
        return Cost.from_dict(counts)
    seconds = measured.get("seconds")
    if measured["key"] != key or isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        return Cost.from_dict(counts)
    return Cost.from_dict({**counts, "seconds": float(seconds)})

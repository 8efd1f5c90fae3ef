"""Sampling probabilities of the single images of a source, from a selector that knows no clusters."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nds_plugin.errors import NDSError
from nds_plugin.files.artifacts import content_hash, read_table, write_table
from nds_plugin.images.cost import Cost, keep_seconds, with_seconds
from nds_plugin.selection.weights import normalise_probabilities
from nds_plugin.source.index import SourceIndex, same_identities

KIND = "image_weights"


@dataclass(frozen=True)
class ImageWeights:
    """p(x) of every image of an index, and what it took to know them.

    Attributes:
        p: shape (N,), sums to one; an image with 0 is never drawn.
        identities: columns source and image_id, one row per image.
        selector: name of the selector.
        sees_target: whether the selector looked at the client's images or at features of them.
        cost: on the client.
        details: the selector's settings and what else belongs in the record.
    """

    p: npt.NDArray[np.float64]
    identities: pa.Table
    selector: str
    sees_target: bool
    cost: Cost = field(default_factory=Cost)
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def hash(self) -> str:
        """Hash of the probabilities and of the record."""
        numbers = hashlib.sha256(self.p.astype("<f8").tobytes()).hexdigest()
        return content_hash([self.selector, self.sees_target, self.details, numbers])

    def check_matches(self, index: SourceIndex) -> None:
        """Refuse weights of other images than those of an index, in its order.

        Raises:
            NDSError: they are.
        """
        if not same_identities(self.identities, index.table):
            raise NDSError(
                f"the weights by {self.selector} are of {len(self.p)} images, which are not the {len(index)} of "
                "the index in the same order: weigh the images of this index."
            )

    def save(self, path: str | os.PathLike[str], key: str) -> None:
        """Write the artefact; the time that it took the client goes beside it."""
        payload = {
            "selector": self.selector,
            "sees_target": self.sees_target,
            "cost": self.cost.counts,
            "details": self.details,
        }
        keep_seconds(path, key, self.cost)
        columns = {name: self.identities.column(name) for name in ("source", "image_id")}
        write_table(path, KIND, key, pa.table({**columns, "p": pa.array(self.p)}), payload)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ImageWeights:
        """Read the artefact.

        Raises:
            NDSError: missing, cut short, not weights of images, or numbers that are no probabilities.
        """
        table, header = read_table(path, KIND)
        missing = [name for name in ("source", "image_id", "p") if name not in table.column_names]
        missing += [name for name in ("selector", "sees_target", "cost", "details") if name not in header]
        if missing:
            raise NDSError(f"{path}: weights of images need {', '.join(missing)} too: weigh them again.")
        p = normalise_probabilities(table.column("p").to_numpy(), str(path))
        cost = with_seconds(path, header["key"], header["cost"])
        identities = table.select(["source", "image_id"])
        return cls(p, identities, header["selector"], bool(header["sees_target"]), cost, header["details"])

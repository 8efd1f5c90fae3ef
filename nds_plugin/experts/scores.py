"""The scores z of one client: K numbers and their standard errors, all that leaves the client."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from nds_plugin.errors import NDSError, unknown_name
from nds_plugin.files.artifacts import content_hash, read_json, write_json
from nds_plugin.images.cost import Cost, keep_seconds, with_seconds

KIND = "scores"
METRICS = ("accuracy", "log_likelihood", "relative_accuracy", "relative_log_likelihood")  # of experts
_BY_CHANCE = 1.5  # deviation in standard errors; our choice
# Of other scorers, each of which has but one.
GATE_METRIC, SHARE_METRIC, SIMILARITY_METRIC = "posterior", "share", "similarity"
# What a score of a metric may be, where that is bounded; a likelihood is at most 1.
_RANGES = {"accuracy": (0.0, 1.0), "log_likelihood": (-math.inf, 0.0)}
_ALL_METRICS = (*METRICS, GATE_METRIC, SHARE_METRIC, SIMILARITY_METRIC)


def check_range(z: Sequence[float], metric: str) -> None:
    """Refuse numbers that cannot be scores of a metric, so that those of another are not taken for them.

    Raises:
        NDSError: an accuracy outside [0, 1], or a log-likelihood above 0.
    """
    least, most = _RANGES.get(metric, (-math.inf, math.inf))
    for k, value in enumerate(z):
        if not least <= value <= most:
            expected = "0 to 1" if metric == "accuracy" else f"at most {most:g}"
            raise NDSError(
                f"the score of cluster {k} is {value:g}, which is no {metric} ({expected}): name the metric that the "
                f"scores are of, one of {', '.join(METRICS)}."
            )


def into_range(z: Sequence[float], metric: str) -> list[float]:
    """Numbers to which noise was added, cut to what scores of the metric may be."""
    least, most = _RANGES.get(metric, (-math.inf, math.inf))
    return [min(max(value, least), most) for value in z]


def differ_by_chance(values: npt.ArrayLike, errors: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Whether values differ hardly more than by their standard errors; False for a single one.

    By their standard deviation, not their range: the range of pure noise grows with their number
    (2.8 standard errors of 8 values, 4.5 of 50).

    Args:
        values, errors: of the same shape; along the first axis they are compared.
    """
    table, noise = (np.asarray(numbers, dtype=np.float64) for numbers in (values, errors))
    if len(table) < 2:
        return np.zeros(table.shape[1:], dtype=bool)
    return np.asarray(table.std(axis=0, ddof=1) <= _BY_CHANCE * noise.mean(axis=0))


@dataclass(frozen=True)
class Scores:
    """Transfer performance z_k of each expert on a client's images.

    Attributes:
        clusters: the experts' clusters, ascending.
        z: the chosen metric of each, the higher the better: ``accuracy`` in [0, 1],
            ``log_likelihood`` (mean log-probability of the right answer, nats, at most 0), or
            ``relative_*``: the same minus the shared network's on the same images; of a gate, the
            ``posterior``: the mean probability of the cluster, in [0, 1]; by nearest centroid, the ``share``
            of the images; of a source that other experts describe, the ``similarity``.
        stderr: standard error of each z; the image is the unit, its rotations are averaged first.
        metric: one of ``METRICS``, ``GATE_METRIC``, ``SHARE_METRIC`` or ``SIMILARITY_METRIC``.
        images: scored images.
        expert_set: hash of the experts.
        task: the proxy task.
        unreadable: how many images could not be read; which ones, the client's log says. A file
            name is the client's own affair.
        details: each metric's values and standard errors under its name, the shared network's
            under ``shared``, and how they were computed.
        partition: hash of the partition that the experts belong to; empty where it is not known.
        cost: on the client; two scorings that differ in nothing else are equal.
    """

    clusters: list[int]
    z: list[float]
    stderr: list[float]
    metric: str
    images: int
    expert_set: str
    task: str
    unreadable: int = 0
    details: dict[str, Any] = field(default_factory=dict)
    partition: str = ""
    cost: Cost = field(default_factory=Cost, compare=False)

    def __post_init__(self) -> None:
        if self.metric not in _ALL_METRICS:
            raise unknown_name("metric", self.metric, METRICS)

    @property
    def indistinct(self) -> bool:
        """The scores differ hardly more than by their errors, so that a draw by them follows chance."""
        return bool(differ_by_chance(self.z, self.stderr))

    def save(self, path: str | os.PathLike[str], key: str | None = None) -> None:
        """Write the scores as JSON, the same bytes for the same inputs; the time that they took goes beside them.

        Args:
            path: the file.
            key: hash of what they were made from; by default of the scores themselves.

        Raises:
            NDSError: a score is not finite.
        """
        _refuse_not_finite(self, "the scores")
        payload = asdict(self)
        decisive = {name: value for name, value in payload.items() if name != "cost"}
        key = key if key is not None else content_hash(decisive)
        keep_seconds(path, key, self.cost)
        write_json(path, KIND, key, {**decisive, "cost": self.cost.counts})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Scores:
        """Read scores.

        Raises:
            NDSError: missing, not scores, a field missing or of another type, or a NaN.
        """
        document = read_json(path, KIND)
        kinds = {"clusters": list, "z": list, "stderr": list, "metric": str, "images": int,
                 "expert_set": str, "task": str, "unreadable": int, "details": dict,
                 "partition": str, "cost": dict}  # fmt: skip
        document.setdefault("cost", {})  # files of before costs were kept
        for name, kind in kinds.items():
            if not isinstance(document.get(name), kind):
                raise NDSError(f"{path}: field {name!r} should be a {kind.__name__}: score again.")
        fields = {name: document[name] for name in kinds}
        cost = with_seconds(path, document["key"], document["cost"])
        scores = cls(**{**fields, "cost": cost})
        _refuse_not_finite(scores, path)
        return scores

    def with_metric(self, metric: str) -> Scores:
        """The same scoring under another metric; nothing is computed again.

        Raises:
            NDSError: an unknown metric, or a relative one where no shared network was scored.
        """
        if metric not in _ALL_METRICS:
            raise unknown_name("metric", metric, METRICS)
        if metric not in self.details and not {metric, self.metric} <= set(METRICS):
            raise NDSError(f"scores of a {self.task} are of metric {self.metric!r} alone, not {metric!r}.")
        if metric not in self.details:
            raise NDSError(
                f"scores of task {self.task!r} hold no {metric!r}: the experts have no shared network; use "
                "'accuracy' or 'log_likelihood'."
            )
        values: Mapping[str, list[float]] = self.details[metric]
        return dataclasses.replace(self, metric=metric, z=values["z"], stderr=values["stderr"])

    def check_matches(self, expert_set: str, clusters: Sequence[int]) -> None:
        """Refuse scores that are not of these experts.

        Args:
            expert_set: hash of the experts.
            clusters: the clusters that must each have one score.

        Raises:
            NDSError: scores that are not finite, of another set, or of too few or too many clusters.
        """
        _refuse_not_finite(self, "the scores")
        if self.expert_set != expert_set:
            raise NDSError(
                f"the scores are of another expert set: expected {expert_set[:12]}, got "
                f"{self.expert_set[:12]}; score the client with these experts."
            )
        if list(self.clusters) != sorted(set(self.clusters)):
            raise NDSError("the scores' clusters are not ascending or occur twice: score again.")
        missing = sorted(set(clusters) - set(self.clusters))
        extra = sorted(set(self.clusters) - set(clusters))
        if missing or extra:
            raise NDSError(
                f"the scores do not cover the {len(set(clusters))} clusters: missing {missing or 'none'}, "
                f"unknown {extra or 'none'}; score again."
            )


def _refuse_not_finite(scores: Scores, where: str | os.PathLike[str]) -> None:
    if not len(scores.clusters) == len(scores.z) == len(scores.stderr) > 0:
        raise NDSError(
            f"{where}: expected one z and one stderr for each cluster, got {len(scores.clusters)} clusters, "
            f"{len(scores.z)} z and {len(scores.stderr)} stderr."
        )
    for name, values in (("z", scores.z), ("stderr", scores.stderr)):
        for cluster, value in zip(scores.clusters, values):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise NDSError(f"{where}: {name} of cluster {cluster} is {value!r}, not a finite number.")

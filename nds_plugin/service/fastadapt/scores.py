"""Scores of the paper authors' client, NeuralDataServer-FastAdapt (2019), read without executing them.

That client goes through a folder of experts, each ``torch.save({"network": state_dict})`` of a ResNet-18
with 4 outputs, and writes ``z.pickle``: a dict of file name -> rotation accuracy in percent. The experts
that we hand out in this form carry the hash of their set in their file names, so that a ``z.pickle`` says
itself which experts it is of.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from nds_plugin.errors import NDSError, few
from nds_plugin.files.pickles import read_numbers
from nds_plugin.service.set_limits import MAX_BODY, MAX_EXPERTS

HASH_DIGITS = 16
_NAME = re.compile(r"nds_([0-9a-f]{16})_expert_([0-9]{4,6})\.pth")


def expert_name(expert_hash: str, cluster: int) -> str:
    """File name of a cluster's expert in the authors' form.

    Args:
        expert_hash: ``ExpertSet.hash``, of which the first 16 digits are kept.
        cluster: the cluster's number.
    """
    return f"nds_{expert_hash[:HASH_DIGITS]}_expert_{cluster:04d}.pth"


def convert(data: bytes, expert_hash: str, clusters: Sequence[int]) -> dict[str, Any]:
    """The content of a ``z.pickle`` as scores of a known set of experts.

    Args:
        data: the file's bytes, at most ``MAX_BODY``.
        expert_hash: hash of the expert set that the scores must be of.
        clusters: the set's clusters.

    Returns:
        ``{"clusters": [...], "z": [...]}``, clusters ascending, z as a share in [0, 1].

    Raises:
        NDSError: not such a pickle, one of other experts, or not exactly one score for each cluster.
    """
    percent = by_cluster(read_percentages(data), expert_hash)
    wanted = sorted(set(clusters))
    missing = [k for k in wanted if k not in percent]
    extra = sorted(percent.keys() - set(wanted))
    if missing or extra:
        raise NDSError(
            f"z.pickle does not cover the {len(wanted)} experts: missing {few(missing, 8)}, unknown {few(extra, 8)}; "
            "run the client on the whole folder of experts."
        )
    return {"clusters": wanted, "z": [percent[k] / 100 for k in wanted]}


def read_percentages(data: bytes) -> dict[str, float]:
    """The dict of file name -> accuracy in percent in a ``z.pickle``.

    Raises:
        NDSError: too large, not a pickle of that one shape, or an accuracy outside 0 to 100.
    """
    if len(data) > MAX_BODY:
        raise NDSError(f"z.pickle is of {len(data)} bytes or more, at most {MAX_BODY} are read.")
    content = read_numbers(data, "z.pickle")
    if not isinstance(content, dict) or not content:
        raise NDSError(
            "z.pickle should hold a dict of expert file name -> accuracy, got "
            f"{'an empty dict' if content == {} else type(content).__name__}."
        )
    if len(content) > MAX_EXPERTS:
        raise NDSError(f"z.pickle holds {len(content)} entries, at most {MAX_EXPERTS} are read.")
    for name, value in content.items():
        if not isinstance(name, str):
            raise NDSError(f"z.pickle: expected file names as keys, got {str(name)[:40]!r}.")
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise NDSError(f"z.pickle: the score of {name[:80]!r} is a {type(value).__name__}, not a number.")
        if not 0 <= value <= 100:  # NaN fails this, too
            raise NDSError(
                f"z.pickle: the score of {name[:80]!r} is {value!r:.40}, not a percentage (0 to 100)."
            )
    return {name: float(value) for name, value in content.items()}


def by_cluster(percentages: Mapping[str, float], expert_hash: str) -> dict[int, float]:
    """Percentages by the cluster that each file name tells.

    Raises:
        NDSError: a file name that is none of ours, of another expert set, or a cluster that occurs twice.
    """
    found: dict[int, float] = {}
    for name, value in percentages.items():
        match = _NAME.fullmatch(name)
        if match is None:
            raise NDSError(
                f"z.pickle: {name[:80]!r} is not a file of the experts that this service hands out (like "
                f"{expert_name(expert_hash, 0)}): keep the names as downloaded, and nothing else in the folder."
            )
        if match[1] != expert_hash[:HASH_DIGITS]:
            raise NDSError(
                f"z.pickle is of another expert set: expected {expert_hash[:HASH_DIGITS]}, got {match[1]}; "
                "download the current experts and run the client again."
            )
        cluster = int(match[2])
        if cluster in found:
            raise NDSError(f"z.pickle: cluster {cluster} occurs twice.")
        found[cluster] = value
    return found


def to_percentages(clusters: Sequence[int], z: Sequence[float], expert_hash: str) -> dict[str, float]:
    """What the authors' client would write for these accuracies; it rounds to 4 decimals of a percent."""
    if any(not math.isfinite(value) for value in z):
        raise NDSError("scores must be finite to be written as percentages.")
    return {expert_name(expert_hash, k): round(100 * value, 4) for k, value in zip(clusters, z)}

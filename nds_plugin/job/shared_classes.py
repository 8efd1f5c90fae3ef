"""Source and target under one roof of names: what a pretrained detector can be tested on before fine-tuning."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from nds_plugin.files.artifacts import plain
from nds_plugin.job.results import summarise
from nds_plugin.source.class_names import NAME, SPELLING, SYNONYM, match_classes

logger = logging.getLogger(__name__)
KIND = "pretrained_results"  # of the file that keeps what such a test found


def shared_classes(source: Sequence[str], target: Sequence[str]) -> tuple[list[int], list[str]]:
    """The target's class of each source class (-1: none), and the names of the target's shared classes.

    By the same rules of names and synonyms as the transfer, without its loose pairs, but for one target
    each: a detection cannot be of two classes.
    """
    position = {name: i for i, name in reversed(list(enumerate(source)))}
    matches = [
        (i, match) for i, match in enumerate(match_classes(source, target)) if match.source is not None
    ]
    target_of = [-1] * len(source)
    for how in (NAME, SPELLING, SYNONYM):  # the target of the equal name has the first right to a class
        for i, match in matches:
            place = position[str(match.source)]
            if match.how == how and target_of[place] == -1:
                target_of[place] = i
    return target_of, [target[i] for i, _ in matches if i in target_of]


def over_shared(results: Mapping[str, Any], shared: Sequence[str], classes: Sequence[str]) -> dict[str, Any]:
    """AP of each shared class and their means, from the results of Detectron2's evaluators."""
    summary = summarise(results, classes)
    found: dict[str, Any] = {"classes": list(shared)}
    for mean, kind in (("AP_bb", "per_category_bb"), ("AP", "per_category")):
        values = {name: summary[kind].get(name) for name in shared}
        known = [value for value in values.values() if value is not None]
        found[mean] = sum(known) / len(known) if known else None
        found[kind] = values
    return dict(plain(found))


def renamed_classes(
    source: Sequence[str], target_of: Sequence[int], target: Sequence[str]
) -> list[dict[str, str]]:
    """The classes whose detections count for a class of another name; logged, too."""
    found = [
        {"source": name, "target": target[i]}
        for name, i in zip(source, target_of)
        if i >= 0 and name != target[i]
    ]
    for pair in found:
        logger.info("detections of %(source)r count for %(target)r.", pair)
    return found

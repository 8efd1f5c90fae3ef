"""A search: what is sent, said before it is sent; sent once, whatever breaks on the way."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from nds_plugin.errors import NDSError
from nds_plugin.experts.scores import Scores, into_range
from nds_plugin.selection.drawing import check_budget
from nds_plugin.selection.select import needs_scores
from nds_plugin.selection.selectors import SELECTORS
from nds_plugin.selection.selectors.nds import NDS
from nds_plugin.service.client.folders import secret
from nds_plugin.service.client.http import Service, listed, printable
from nds_plugin.service.client.privacy import FIXED_TASKS, Step, apply_privacy, statement
from nds_plugin.service.searchable import NORMALISATION, TEMPERATURE
from nds_plugin.settings import settings_of

SECRET = "privacy.secret"


@dataclass(frozen=True)
class SearchOptions:
    """What a search is for, beside the scores.

    Attributes:
        budget, share: images to draw, as a number or a share of the chosen sources; one of them.
        sources: names of the sources to draw from; None for all.
        temperature, normalisation, seed: see :class:`nds_plugin.selection.config.SelectionConfig`.
        selector: one of ``SEARCHABLE``.
        title: for the user's own list of searches.
        privacy: steps put on the scores.
    """

    budget: int = 0
    share: float = 0.0
    sources: tuple[str, ...] | None = None
    temperature: float = TEMPERATURE.default
    normalisation: str = NORMALISATION.default
    selector: str = NDS.name
    seed: int = 0
    title: str = ""
    privacy: tuple[Step, ...] = ()

    def __post_init__(self) -> None:
        check_budget(self.budget, self.share)
        for item in settings_of(SELECTORS[self.selector]):
            item.check(getattr(self, item.name), item.flag)


def make_request(scores: Scores | None, expert_set: str, options: SearchOptions) -> dict[str, Any]:
    """The body of a search, and all of it: what is sent holds nothing else of the scores.

    Args:
        scores: left out for the selector ``uniform``, which needs none.
        expert_set: hash of the experts.
    """
    sent: dict[str, Any] | None = None
    if needs_scores(SELECTORS[options.selector]):
        if scores is None:
            raise NDSError(f"selector {options.selector!r} needs scores: give --scores (nds-client score).")
        z = [float(value) for value in scores.z]
        if options.privacy:
            # Cutting what has the noise already reveals nothing more.
            z = into_range(apply_privacy(z, options.privacy, secret(SECRET)), scores.metric)
        sent = {"clusters": list(scores.clusters), "z": z, "metric": scores.metric}
    return {
        "expert_set": expert_set,
        "scores": sent,
        "sources": None if options.sources is None else list(options.sources),
        "budget": options.budget or None,
        "share": options.share or None,
        "temperature": options.temperature,
        "normalisation": options.normalisation,
        "selector": options.selector,
        "seed": options.seed,
        "title": options.title,
    }


def disclosure(body: dict[str, Any], scores: Scores | None, options: SearchOptions, server: str) -> str:
    """Everything that will leave the machine, for people to read before it does."""
    size = f"{body['budget']} images" if body["budget"] else f"a share of {body['share']:g}"
    lines = [
        f"This leaves the machine, to {server}:",
        f"  expert set   {body['expert_set']}",
        *_about_scores(body, scores, options),
        f"  budget       {size}",
        f"  sources      {'all' if body['sources'] is None else ', '.join(body['sources'])}",
        f"  options      selector {body['selector']}, temperature {body['temperature']:g}, normalisation "
        f"{body['normalisation']}, seed {body['seed']}",
        f"  title        {body['title'] or '(none)'}",
        f"and a token that tells your searches from others'. {len(json.dumps(body))} bytes in all: no image and no "
        "file name.",
    ]
    if body["scores"] is not None and scores is not None and not options.privacy:
        if scores.metric == "accuracy":
            unit = "1/(4n)" if scores.task in FIXED_TASKS else "1/n"
            lines.append(
                f"Exact accuracies are multiples of {unit}, which can tell the number n of your images; noise hides it "
                "(--privacy laplace:0.01)."
            )
        elif scores.task in FIXED_TASKS:
            lines.append("For a guarantee score with --metric accuracy, and give --privacy laplace:0.01.")
    return "\n".join(lines)


def _about_scores(body: dict[str, Any], scores: Scores | None, options: SearchOptions) -> list[str]:
    if body["scores"] is None or scores is None:
        return ["  scores       none"]
    z = body["scores"]["z"]
    promise = statement(options.privacy, len(z), scores.images, scores.metric, scores.task)
    return [
        f"  scores       {scores.metric}, {len(z)} numbers, one per expert: {' '.join(f'{value:.6g}' for value in z)}",
        f"  privacy      {', '.join(map(str, options.privacy)) or 'none'} ({promise})",
    ]


def current_experts(service: Service) -> tuple[str, str]:
    """Id of the server's current set, and the hash of its experts."""
    sets = service.get("expert-sets")
    found = [entry for entry in listed(sets, "expert_sets") if entry.get("current")]
    if not found or not all(isinstance(found[0].get(name), str) for name in ("id", "hash")):
        raise NDSError(f"{service.address} names no current expert set: is this a server of nds_plugin?")
    return found[0]["id"], found[0]["hash"]


def check_current(scores: Scores, current: str, server: str) -> None:
    """Refuse scores of experts that the server has replaced, before anything of them is sent."""
    if current != scores.expert_set:
        raise NDSError(
            f"the scores are of expert set {scores.expert_set[:16]}, {server} now has {printable(current, 16)}: "
            "score the current experts (nds-client score). Nothing was sent."
        )


def send(service: Service, body: dict[str, Any], set_id: str) -> tuple[dict[str, Any], bool]:
    """Create the search, or find the one that an earlier try of the same request created.

    Args:
        set_id: of the current set. The body names its experts alone, whose sources or notes may be published anew:
            the same request is then another search.

    Returns:
        The search, and whether it is new.
    """
    content = json.dumps({**body, "set": set_id}, sort_keys=True)
    status, answer = service.post("searches", body, hashlib.sha256(content.encode()).hexdigest())
    if (
        not isinstance(answer, dict)
        or not isinstance(answer.get("result"), dict)
        or not _is_id(answer.get("id"))
    ):
        raise NDSError(f"{service.address}: the answer is no search: is this a server of nds_plugin?")
    return answer, status != 200


def own_searches(service: Service) -> Iterator[dict[str, Any]]:
    """The user's searches on a server, the newest first."""
    cursor: str | None = None
    while True:
        page = service.get("searches", {"cursor": cursor} if cursor else None, private=True)
        yield from listed(page, "searches")
        following = page.get("next")
        if not isinstance(following, str) or following == cursor:
            return
        cursor = following


def read_search(service: Service, search_id: str) -> dict[str, Any]:
    """One of the user's searches.

    Raises:
        NDSError: there is none of that id.
    """
    found = service.get(f"searches/{checked_id(search_id)}", private=True)
    if not isinstance(found, dict) or not isinstance(found.get("result"), dict):
        raise NDSError(f"{service.address}: the answer is no search: is this a server of nds_plugin?")
    return found


def checked_id(search_id: str) -> str:
    """The id of a search, which becomes part of an address.

    Raises:
        NDSError: it is none.
    """
    if not _is_id(search_id):
        raise NDSError(f"{search_id[:80]!r} is no id of a search; nds-client searches lists them.")
    return search_id


def _is_id(value: object) -> bool:
    return isinstance(value, str) and 8 <= len(value) <= 64 and value.isascii() and value.isalnum()

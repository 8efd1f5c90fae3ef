"""What all requests of a server share, and how a request proves whose it is."""

from __future__ import annotations

import hmac
import time
from typing import Annotated, Any

from fastapi import Request, Security
from fastapi.security import HTTPBearer

from nds_plugin.experts.scores import check_range
from nds_plugin.service.published.store import PublishedSet, SetRecord, Store
from nds_plugin.service.server.draws import Draws
from nds_plugin.service.server.problems import ProblemError
from nds_plugin.service.server.schemas import SearchRequest
from nds_plugin.service.server.searches import Search, SearchBook
from nds_plugin.service.server.selecting import Query, make_query
from nds_plugin.service.server.settings import Settings, token_hash
from nds_plugin.service.server.streaming import Places

API = "/api/v1"
_MAX_TOKEN = 200


class Context:
    """Store, database and caches of one server."""

    def __init__(self, settings: Settings, store: Store, book: SearchBook) -> None:
        self.settings, self.store, self.book = settings, store, book
        self.draws = Draws()
        self.places = Places(settings.limits.downloads, settings.limits.encoders)
        self.started = time.monotonic()

    def published(self, set_id: str) -> PublishedSet:
        """A published set by its id.

        Raises:
            ProblemError: 404.
        """
        try:
            return self.store.get(set_id)
        except KeyError:
            raise ProblemError(404, f"no expert set {set_id[:16]!r} is published here.") from None

    def record(self, set_id: str) -> SetRecord:
        """What is known of a published set without its images.

        Raises:
            ProblemError: 404.
        """
        try:
            return self.store.record(set_id)
        except KeyError:
            raise ProblemError(404, f"no expert set {set_id[:16]!r} is published here.") from None

    def current(self, named: str) -> PublishedSet:
        """The current set, if it is the one that a client names.

        Raises:
            ProblemError: 404 where no such set was ever published, 409 where it is an older one.
        """
        try:
            found = self.store.resolve(named)
        except KeyError:
            raise ProblemError(404, f"no expert set {named[:16]!r} is published here.") from None
        current = self.store.current()
        if found != current.id:
            same = self.record(found).expert_hash == current.expert_hash
            advice = (
                "its experts are the same, name their hash in place of the set's id."
                if same
                else "download the current experts and score again."
            )
            raise ProblemError(
                409,
                f"the scores are of the expert set {found}, the current one is {current.id}: {advice}",
                expert_set=found,
                current=current.id,
            )
        return current

    def query(self, published: PublishedSet, request: SearchRequest) -> Query:
        """A new request as a query of a set.

        Raises:
            NDSError: it does not fit the set, or its scores are not of the metric that it names.
        """
        if request.scores is not None:
            check_range(request.scores.z, request.scores.metric)
        return self._query(published, request)

    @staticmethod
    def _query(published: PublishedSet, request: SearchRequest) -> Query:
        scores = request.scores
        return make_query(
            published,
            request.config(),
            scores.clusters if scores else None,
            scores.z if scores else None,
            request.sources,
            scores.metric if scores else "",
        )

    def query_of(self, search: Search) -> tuple[PublishedSet, Query]:
        """The set that a search began with, and what was asked of it."""
        published = self.published(search.expert_set)
        return published, self._query(published, SearchRequest.model_validate(search.request))


def context_of(request: Request) -> Context:
    """The context, as a dependency."""
    found: Context = request.app.state.context
    return found


def link(request: Request, path: str) -> str:
    """The address of a path of the API as clients see it, below the prefix that a proxy takes away."""
    return f"{request.scope.get('root_path', '')}{API}/{path}"


def bearer(request: Request) -> str | None:
    """The token of the Authorization header, or None without one.

    Raises:
        ProblemError: 401 for a header that is not a bearer token.
    """
    header = request.headers.get("authorization")
    if header is None:
        return None
    scheme, _, token = header.partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token or len(token) > _MAX_TOKEN or not token.isascii():
        raise unauthorised("expected the header Authorization: Bearer TOKEN.")
    return token


# For the OpenAPI document alone: bearer() reads the header and says what is wrong with it.
_SCHEME = HTTPBearer(auto_error=False, scheme_name="token")


def owner(request: Request, _: Annotated[Any, Security(_SCHEME)]) -> str:
    """The known token of a request, as a dependency.

    Raises:
        ProblemError: 401.
    """
    token = bearer(request)
    if token is None:
        raise unauthorised("this needs the token that came with the search: Authorization: Bearer TOKEN.")
    if not context_of(request).book.knows(token):
        raise unauthorised("unknown token.")
    return token


def admin(request: Request, _: Annotated[Any, Security(_SCHEME)]) -> None:
    """Lets only the admin pass, as a dependency.

    Raises:
        ProblemError: 401, or 403 where the server has no admin.
    """
    expected = context_of(request).settings.admin_hash
    if not expected:
        raise ProblemError(403, "this server was started without an admin token.")
    token = bearer(request)
    if token is None or not hmac.compare_digest(token_hash(token), expected):
        raise unauthorised("this needs the admin token: Authorization: Bearer TOKEN.")


def unauthorised(detail: str) -> ProblemError:
    """A 401."""
    return ProblemError(401, detail, {"WWW-Authenticate": "Bearer"})

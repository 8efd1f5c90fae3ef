"""The book of searches: who may read which, and that a repeated request makes no second one."""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from nds_plugin.experts.scores import METRICS
from nds_plugin.service.server.database import clear_log, searches, tokens
from nds_plugin.service.server.settings import token_hash

TOKEN_PREFIX = "nds_"
# In this order: a token goes after its searches.
_TABLES = {"searches": searches, "tokens": tokens}


@dataclass(frozen=True)
class Search:
    """One search as it is kept: never a client's token, and never its images."""

    id: str
    expert_set: str
    created: float
    request: dict[str, Any]
    result: dict[str, Any]
    number: int


class TooManyError(Exception):
    """A token has as many searches as are kept of one."""


class SearchBook:
    """Searches and tokens in a database. Safe for several threads and processes.

    Args:
        engine: of :func:`nds_plugin.service.server.database.connect`.
        most: searches kept of one token.
    """

    def __init__(self, engine: sa.Engine, most: int = 1000) -> None:
        self._engine = engine
        self._most = most

    def new_token(self) -> str:
        """A fresh token; only its hash is kept."""
        token = TOKEN_PREFIX + secrets.token_urlsafe(32)
        with self._engine.begin() as connection:
            connection.execute(tokens.insert().values(hash=token_hash(token), created=time.time()))
        return token

    def knows(self, token: str) -> bool:
        """Whether a token was given out by :meth:`new_token`."""
        query = sa.select(tokens.c.hash).where(tokens.c.hash == token_hash(token))
        with self._engine.connect() as connection:
            return connection.execute(query).first() is not None

    def add(
        self,
        token: str,
        expert_set: str,
        request: dict[str, Any],
        result: dict[str, Any],
        key: str | None = None,
    ) -> tuple[Search, bool]:
        """Keep a search.

        Args:
            token: a known token.
            key: a repeated request carries the same; the search that is there already is returned.

        Returns:
            The search, and whether it is new.

        Raises:
            TooManyError: the token has as many searches as are kept of one.
        """
        owner, search_id, created = token_hash(token), secrets.token_hex(16), time.time()
        values = {
            "id": search_id,
            "token": owner,
            "client_key": None if key is None else token_hash(key),
            "expert_set": expert_set,
            "created": created,
            "request": json.dumps(request, allow_nan=False),
            "result": json.dumps(result, allow_nan=False),
        }
        try:
            with self._engine.begin() as connection:
                count = sa.select(sa.func.count()).where(searches.c.token == owner)
                if (connection.execute(count).scalar() or 0) >= self._most:
                    raise TooManyError
                done = connection.execute(searches.insert().values(values))
                number = int((done.inserted_primary_key or (0,))[0])
        except sa.exc.IntegrityError:
            if key is None or (known := self.by_key(token, key)) is None:
                raise
            return known, False
        return Search(search_id, expert_set, created, request, result, number), True

    def by_key(self, token: str, key: str) -> Search | None:
        """The search that a token made under a key."""
        return self._one(searches.c.client_key == token_hash(key), token)

    def get(self, token: str, search_id: str) -> Search | None:
        """A token's own search, or None: also where it is somebody else's."""
        return self._one(searches.c.id == search_id, token)

    def _one(self, condition: sa.ColumnElement[bool], token: str) -> Search | None:
        query = sa.select(searches).where(condition, searches.c.token == token_hash(token))
        with self._engine.connect() as connection:
            row = connection.execute(query).first()
        return None if row is None else _search(row)

    def own(self, token: str, before: int | None, limit: int) -> list[Search]:
        """A token's searches, the newest first.

        Args:
            before: only those with a smaller number.
        """
        query = sa.select(searches).where(searches.c.token == token_hash(token))
        if before is not None:
            query = query.where(searches.c.number < before)
        with self._engine.connect() as connection:
            rows = connection.execute(query.order_by(searches.c.number.desc()).limit(limit)).all()
        return [_search(row) for row in rows]

    def delete(self, token: str, search_id: str) -> bool:
        """Forget a token's own search; whether there was one."""
        condition = sa.and_(searches.c.id == search_id, searches.c.token == token_hash(token))
        with self._engine.begin() as connection:
            found = connection.execute(searches.delete().where(condition)).rowcount > 0
        if found:
            clear_log(self._engine)
        return found

    def by_set(self, since: float = 0.0) -> dict[str, int]:
        """How many searches, made since a time, refer to each set that any refers to."""
        query = sa.select(searches.c.expert_set, sa.func.count()).where(searches.c.created >= since)
        with self._engine.connect() as connection:
            found = connection.execute(query.group_by(searches.c.expert_set))
            return {str(set_id): int(count) for set_id, count in found}

    def forget(self, before: float, *, dry_run: bool = False) -> dict[str, int]:
        """Delete the searches made before a time (seconds since 1970), and older tokens that have none left.

        Args:
            dry_run: only count them.

        Returns:
            The numbers of deleted ``searches`` and ``tokens``.
        """
        used = sa.exists().where(searches.c.token == tokens.c.hash, searches.c.created >= before)
        old = {"searches": searches.c.created < before, "tokens": sa.and_(tokens.c.created < before, ~used)}
        if dry_run:
            return self._count(old)
        with self._engine.begin() as connection:
            gone = {
                name: connection.execute(_TABLES[name].delete().where(condition)).rowcount
                for name, condition in old.items()
            }
        clear_log(self._engine)
        return gone

    def count(self) -> dict[str, int]:
        """Searches and tokens in all."""
        return self._count(dict.fromkeys(_TABLES, sa.true()))

    def _count(self, conditions: dict[str, sa.ColumnElement[bool]]) -> dict[str, int]:
        with self._engine.connect() as connection:
            return {
                name: int(
                    connection.execute(
                        sa.select(sa.func.count()).select_from(_TABLES[name]).where(condition)
                    ).scalar()
                    or 0
                )
                for name, condition in conditions.items()
            }


def _search(row: Any) -> Search:
    request, result = json.loads(row.request), json.loads(row.result)
    if request.get("scores"):
        # The first servers kept none, and took all scores for accuracies.
        request["scores"].setdefault("metric", METRICS[0])
    return Search(row.id, row.expert_set, row.created, request, result, row.number)

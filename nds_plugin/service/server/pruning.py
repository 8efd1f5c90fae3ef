"""Take old sets out of a store beside its running servers: only those that no search refers to.

A set is first renamed aside, then the databases are asked whether a search refers to it. A server goes the
other way round: it keeps a search, then looks whether the set is still there (``api_searches.create``). So
one of the two notices the other, and no search is left without its set.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import sqlalchemy as sa

from nds_plugin.files.artifacts import cannot_write, read_json, write_json
from nds_plugin.files.locking import held
from nds_plugin.service.published.publishing import only_publisher
from nds_plugin.service.published.store import SET_ID, SETS, Store
from nds_plugin.service.server.database import connect
from nds_plugin.service.server.searches import SearchBook
from nds_plugin.service.server.settings import SQLITE, Settings

DATABASES, _KIND = "databases.json", "databases of a store"
_ASIDE = ".pruning-"


def remember_database(root: Path, database: str) -> None:
    """Note in the store which database, other than its own, a server keeps searches in."""
    with held(root / ".databases.lock", f"waiting for another server that starts on {root}."):
        known = _known(root)
        if (name := _name(database)) not in known:
            write_json(root / DATABASES, _KIND, name, {"databases": [*known, name]})


def unnamed(root: Path, databases: Sequence[str]) -> list[str]:
    """Databases that servers used on this store and that are not among these URLs."""
    named = {_name(url) for url in databases}
    return [name for name in _known(root) if name not in named]


def books(root: Path, databases: Sequence[str]) -> list[SearchBook]:
    """The searches of a store: those in the named databases and in its own SQLite file.

    Args:
        databases: URLs as for ``Settings.database``.

    Raises:
        NDSError: one does not answer.
    """
    urls = [Settings(root, database=url).database_url for url in databases]
    if not urls or (root / SQLITE).is_file():
        urls.append(Settings(root).database_url)
    return [SearchBook(connect(url)) for url in dict.fromkeys(urls)]


def searches_by_set(found: Iterable[SearchBook], since: float = 0.0) -> Counter[str]:
    """How many searches of all books, made since a time, refer to each set."""
    total: Counter[str] = Counter()
    for book in found:
        total.update(book.by_set(since))
    return total


def prune(
    root: Path, keep: int, found: Sequence[SearchBook], *, dry_run: bool = False, since: float = 0.0
) -> list[str]:
    """Remove sets that are not current, not among the newest and that no search refers to.

    Args:
        keep: how many of the newest stay in any case.
        found: all searches of the store (:func:`books`).
        dry_run: only tell which.
        since: searches that were made before this time count as forgotten; to tell what goes with them.

    Returns:
        Ids of the removed sets, the newest first.

    Raises:
        NDSError: nothing is published, or a folder cannot be removed.
    """
    store = Store(root)
    with only_publisher(root):
        stay = {store.current_id(), *store.ids()[:keep], *searches_by_set(found, since)}
        old = [set_id for set_id in store.ids() if set_id not in stay]
        if dry_run:
            return old
        for left in sorted((root / SETS).glob(f"{_ASIDE}*")):  # by a prune that was killed
            _decide(left, found)
        return [
            set_id for set_id in old if _set_aside(store, set_id) and _decide(_aside(root, set_id), found)
        ]


def _set_aside(store: Store, set_id: str) -> bool:
    """Rename a set so that nobody finds it, unless it has become the current one."""
    with store.not_current(set_id) as free:
        if free:
            os.rename(store.root / SETS / set_id, _aside(store.root, set_id))
        return free


def _decide(aside: Path, found: Iterable[SearchBook]) -> bool:
    """Delete a set that was renamed aside, or put it back where a search refers to it after all."""
    set_id = aside.name[len(_ASIDE) :]
    if SET_ID.fullmatch(set_id) and searches_by_set(found)[set_id]:
        os.rename(aside, aside.parent / set_id)
        return False
    try:
        shutil.rmtree(aside)
    except OSError as error:
        raise cannot_write(aside, error) from error
    return True


def _aside(root: Path, set_id: str) -> Path:
    return root / SETS / f"{_ASIDE}{set_id}"


def _known(root: Path) -> list[str]:
    path = root / DATABASES
    return [str(name) for name in read_json(path, _KIND)["databases"]] if path.is_file() else []


def _name(database: str) -> str:
    """A database's URL without user, password and most options."""
    url = sa.make_url(Settings(Path(), database=database).database_url)
    where = {key: value for key, value in url.query.items() if key in ("host", "port")}
    return sa.URL.create(
        url.get_backend_name(), host=url.host, port=url.port, database=url.database, query=where
    ).render_as_string()

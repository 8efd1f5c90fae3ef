"""The database of searches and tokens: SQLite in the store, or PostgreSQL by a URL."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

from nds_plugin.errors import NDSError

SCHEMA_VERSION = 1
metadata = sa.MetaData()

meta = sa.Table("nds_meta", metadata, sa.Column("version", sa.Integer, nullable=False))

tokens = sa.Table(
    "nds_tokens",
    metadata,
    sa.Column("hash", sa.String(64), primary_key=True),
    sa.Column("created", sa.Float, nullable=False),
)

searches = sa.Table(
    "nds_searches",
    metadata,
    sa.Column("number", sa.Integer().with_variant(sa.BigInteger, "postgresql"), primary_key=True),
    sa.Column("id", sa.String(32), nullable=False, unique=True),
    sa.Column("token", sa.String(64), sa.ForeignKey("nds_tokens.hash"), nullable=False),
    # A repeated POST of the same search: the client's key, and what was asked under it.
    sa.Column("client_key", sa.String(64), nullable=True),
    sa.Column("expert_set", sa.String(16), nullable=False),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("request", sa.Text, nullable=False),
    sa.Column("result", sa.Text, nullable=False),
    sa.UniqueConstraint("token", "client_key", name="nds_searches_once"),
    sa.Index("nds_searches_own", "token", "number"),
)


def connect(url: str) -> sa.Engine:
    """An engine on the database, whose tables are there.

    Raises:
        NDSError: a URL that SQLAlchemy does not know, a database that cannot be reached, or one
            of another release.
    """
    try:
        parsed = sa.make_url(url)
        shown = parsed.render_as_string(hide_password=True)
        engine = _engine(parsed)
        metadata.create_all(engine)
        _check_version(engine, shown)
    except sa.exc.NoSuchModuleError as error:
        raise NDSError(
            f"database: {error}; expected sqlite:///FILE or postgresql://USER@HOST/NAME."
        ) from None
    except sa.exc.ArgumentError:
        raise NDSError(
            "database: expected a URL such as sqlite:///FILE or postgresql://USER@HOST/NAME."
        ) from None
    except sa.exc.SQLAlchemyError as error:
        cause = " ".join(str(getattr(error, "orig", None) or error).split())[:300]
        raise NDSError(f"database {shown}: {cause}") from None
    return engine


def _engine(url: sa.URL) -> sa.Engine:
    if url.get_backend_name() != "sqlite":
        return sa.create_engine(url, pool_size=8, max_overflow=8, pool_timeout=10, pool_pre_ping=True)
    engine = sa.create_engine(url, connect_args={"timeout": 10})

    @event.listens_for(engine, "connect")
    def _set_up(connection: Any, _: Any) -> None:
        # Readers and the writer do not wait for each other; a committed search survives a power cut.
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        # What is deleted is overwritten, not only marked as free.
        connection.execute("PRAGMA secure_delete=ON")

    return engine


def clear_log(engine: sa.Engine) -> None:
    """Empty the file next to an SQLite database that still holds what was deleted, as far as readers let it."""
    if engine.dialect.name == "sqlite":
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")


def _check_version(engine: sa.Engine, shown: str) -> None:
    with engine.begin() as connection:
        found = connection.execute(sa.select(meta.c.version)).scalars().all()
        if not found:
            connection.execute(meta.insert().values(version=SCHEMA_VERSION))
        elif set(found) != {SCHEMA_VERSION}:
            raise NDSError(
                f"database {shown}: its tables are of version {found[0]}, this release has {SCHEMA_VERSION}: use "
                "another database, or the release that made it."
            )

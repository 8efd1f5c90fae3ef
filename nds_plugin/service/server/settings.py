"""How a server runs: where things are, who may do what, and the limits."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

from nds_plugin.errors import NDSError
from nds_plugin.service.set_limits import MAX_BODY

ADMIN_TOKEN = "NDS_ADMIN_TOKEN"
MIN_ADMIN_TOKEN = 16
SQLITE = "searches.sqlite"


@dataclass(frozen=True)
class Limits:
    """What one client, one request and the whole server may use.

    Attributes:
        body_bytes: of a request's body.
        requests_per_minute: of one address, on average; 0 for no limit.
        burst: requests that an address may make at once before the average counts.
        heavy_per_minute: likewise for creating searches and starting manifests and mosaics.
        receive_s: seconds for a request's body to arrive.
        respond_s: seconds for an answer to begin.
        stall_s: seconds that a download may stand still.
        downloads: manifests that are sent at the same time; the others get a 503.
        encoders: manifests that are encoded at the same moment; the others wait for their next piece.
        searches_per_token: searches that are kept of one token.
    """

    body_bytes: int = MAX_BODY
    requests_per_minute: int = 600
    burst: int = 120
    heavy_per_minute: int = 120
    receive_s: float = 10.0
    respond_s: float = 30.0
    stall_s: float = 60.0
    downloads: int = 200
    encoders: int = 4
    searches_per_token: int = 1000


@dataclass(frozen=True)
class Settings:
    """A server's settings.

    Attributes:
        store: folder of published sets.
        database: URL of the database of searches; SQLite in the store by default.
        thumbnails: whether the page may show the providers' images where their licence allows it.
        admin_hash: SHA-256 of the admin token, hex; empty for no admin.
        limits: see :class:`Limits`.
    """

    store: Path
    database: str = ""
    thumbnails: bool = False
    admin_hash: str = ""
    limits: Limits = field(default_factory=Limits)

    @property
    def database_url(self) -> str:
        """The database's URL for SQLAlchemy."""
        if not self.database:
            return f"sqlite:///{self.store.absolute() / SQLITE}"
        for scheme in ("postgresql://", "postgres://"):
            if self.database.startswith(scheme):
                return "postgresql+psycopg://" + self.database[len(scheme) :]
        return self.database


def token_hash(token: str) -> str:
    """SHA-256 of a token, hex. Tokens are 256 random bits, so that no salt and no slow hash is needed."""
    return hashlib.sha256(token.encode()).hexdigest()


def admin_hash(token_file: str | None = None) -> str:
    """The hash of the admin token of a file or of ``NDS_ADMIN_TOKEN``; empty without either.

    Raises:
        NDSError: the file cannot be read, or a token that is too short to be one.
    """
    if token_file:
        try:
            token = Path(token_file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise NDSError(f"cannot read the admin token {token_file}: {error}") from None
    else:
        token = os.environ.get(ADMIN_TOKEN, "").strip()
        if not token:
            return ""
    if len(token) < MIN_ADMIN_TOKEN:
        raise NDSError(
            f"the admin token has {len(token)} characters, expected {MIN_ADMIN_TOKEN} or more: make one by "
            "python -c 'import secrets; print(secrets.token_urlsafe(32))'."
        )
    return token_hash(token)

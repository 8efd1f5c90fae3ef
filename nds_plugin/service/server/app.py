"""The web service as an ASGI app."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import FileResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.types import Scope

from nds_plugin import __version__
from nds_plugin.errors import NDSError
from nds_plugin.service.published.store import Store
from nds_plugin.service.server import api_admin, api_searches, api_sets, problems
from nds_plugin.service.server.context import API, Context
from nds_plugin.service.server.database import connect
from nds_plugin.service.server.openapi_docs import ALWAYS
from nds_plugin.service.server.rate_limit import RateLimit
from nds_plugin.service.server.searches import SearchBook
from nds_plugin.service.server.security import (
    BodyLimit,
    Defects,
    SecurityHeaders,
    Timeouts,
    content_security_policy,
)
from nds_plugin.service.server.settings import Settings

STATIC = Path(__file__).parents[1] / "page"


def create_app(settings: Settings) -> FastAPI:
    """The app of a server.

    Raises:
        NDSError: the database cannot be reached. A store without a set is no error: one may be
            published while the server runs.
    """
    store = Store(settings.store)
    context = Context(
        settings, store, SearchBook(connect(settings.database_url), settings.limits.searches_per_token)
    )
    app = FastAPI(
        title="Neural Data Server",
        version=__version__,
        description="Experts of indexed sources out, K scores in, links to the images' providers back.",
        openapi_url=f"{API}/openapi.json",
        # The stock pages load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        responses=ALWAYS,
        redirect_slashes=False,
    )
    app.state.context = context
    problems.add_handlers(app)
    for router in (api_sets.router, api_searches.router, api_admin.router):
        app.include_router(router, prefix=API)
    _add_page(app)
    # The last added is the outermost.
    app.add_middleware(BodyLimit, limits=settings.limits)
    app.add_middleware(Timeouts, limits=settings.limits)
    app.add_middleware(RateLimit, limits=settings.limits, heavy=is_heavy, free=is_page)
    app.add_middleware(Defects)
    app.add_middleware(SecurityHeaders, policy=_Policy(context))
    return app


def is_heavy(scope: Scope) -> bool:
    """Whether a request draws or sends much."""
    path, method = _own_path(scope), scope["method"]
    return (method == "POST" and path == f"{API}/searches") or path.endswith(("/manifest", "/mosaic"))


def is_page(scope: Scope) -> bool:
    """Whether a request is for the page itself: some thirty small files at each visit."""
    path = _own_path(scope)
    return scope["method"] in ("GET", "HEAD") and (path == "/" or path.startswith("/static/"))


def _own_path(scope: Scope) -> str:
    return str(scope["path"]).removeprefix(scope.get("root_path", ""))


class _Policy:
    """The content security policy, made anew where another set is current."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._made: dict[str, str] = {"": content_security_policy()}

    def __call__(self) -> str:
        try:
            current = self._context.store.current_id() if self._context.settings.thumbnails else ""
            if current not in self._made:
                sources = self._context.store.record(current).info["sources"]
                hosts = [host for entry in sources if entry["thumbnails"] for host in entry["hosts"]]
                self._made = {"": self._made[""], current: content_security_policy(hosts)}
        except (NDSError, KeyError):
            current = ""
        return self._made[current]


class _PageFiles(StaticFiles):
    """The page's files; a browser keeps them, and asks whether they are still the same."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = "no-cache"
        return response


def _add_page(app: FastAPI) -> None:
    @app.head("/", include_in_schema=False)
    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(STATIC / "index.html", headers={"Cache-Control": "no-cache"})

    app.mount("/static", _PageFiles(directory=STATIC), name="static")

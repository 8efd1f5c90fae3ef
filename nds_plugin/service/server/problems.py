"""Errors as application/problem+json (RFC 9457): what, where, what to do; of what was sent, names of fields alone."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from nds_plugin.errors import NDSError, one_line
from nds_plugin.service.published.store import DamagedSetError, NothingPublishedError
from nds_plugin.service.server.draws import BusyError

logger = logging.getLogger(__name__)
MEDIA_TYPE = "application/problem+json"
_MOST_ERRORS = 20


class ProblemError(Exception):
    """An answer with an error status.

    Args:
        status: HTTP status, 400 or more.
        detail: one line for the client's user.
        headers: further headers, such as ``Retry-After``.
    """

    def __init__(
        self, status: int, detail: str, headers: dict[str, str] | None = None, **members: Any
    ) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers, self.members = status, detail, headers, members


def problem_document(status: int, detail: str, instance: str, **members: Any) -> dict[str, Any]:
    """The body of a problem."""
    title = HTTPStatus(status).phrase
    return {
        "type": "about:blank", "title": title, "status": status, "detail": detail, "instance": instance, **members
    }  # fmt: skip


def problem_response(
    status: int, detail: str, instance: str, headers: dict[str, str] | None = None, **members: Any
) -> JSONResponse:
    """A whole answer."""
    document = problem_document(status, detail, instance, **members)
    return JSONResponse(document, status, headers=headers, media_type=MEDIA_TYPE)


def add_handlers(app: FastAPI) -> None:
    """Turn every foreseen error of an app into a problem; ``security.Defects`` has the others."""
    app.add_exception_handler(ProblemError, _on_problem)  # type: ignore[arg-type]
    app.add_exception_handler(HTTPException, _on_http)  # type: ignore[arg-type]
    app.add_exception_handler(RequestValidationError, _on_validation)  # type: ignore[arg-type]
    app.add_exception_handler(NDSError, _on_nds)  # type: ignore[arg-type]
    app.add_exception_handler(BusyError, _on_busy)  # type: ignore[arg-type]
    app.add_exception_handler(SQLAlchemyError, _on_database)


def _path(request: Request) -> str:
    return request.url.path


async def _on_problem(request: Request, error: ProblemError) -> Response:
    return problem_response(error.status, error.detail, _path(request), error.headers, **error.members)


async def _on_http(request: Request, error: HTTPException) -> Response:
    detail = error.detail
    if error.status_code == 400 and detail == "There was an error parsing the body":
        detail = "the body is not JSON that can be read: it is nested too deeply, or not text in UTF-8."
    return problem_response(error.status_code, detail, _path(request), dict(error.headers or {}))


async def _on_validation(request: Request, error: RequestValidationError) -> Response:
    errors = [
        {"field": ".".join(str(part) for part in entry["loc"]), "message": entry["msg"]}
        for entry in error.errors()[:_MOST_ERRORS]
    ]
    if any(entry["type"] == "json_invalid" for entry in error.errors()):
        return problem_response(400, "the body is not JSON.", _path(request), errors=errors)
    if errors and errors[0]["field"] == "body" and not _is_json(request) and request.method == "POST":
        return problem_response(415, "expected a body of Content-Type application/json.", _path(request))
    detail = "; ".join(f"{entry['field']}: {entry['message']}" for entry in errors[:3])
    return problem_response(422, detail, _path(request), errors=errors)


def _is_json(request: Request) -> bool:
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


async def _on_nds(request: Request, error: NDSError) -> Response:
    if isinstance(error, NothingPublishedError):
        logger.warning("%s", one_line(error))
        return problem_response(503, "nothing is published here yet.", _path(request), {"Retry-After": "30"})
    if isinstance(error, DamagedSetError):
        logger.error("%s", one_line(error))
        detail = "this expert set is damaged on the server, whose log says more."
        return problem_response(503, detail, _path(request), {"Retry-After": "300"})
    return problem_response(422, one_line(error), _path(request))


async def _on_busy(request: Request, error: BusyError) -> Response:
    return problem_response(503, str(error), _path(request), {"Retry-After": "10"})


async def _on_database(request: Request, error: Exception) -> Response:
    logger.error("database: %s", " ".join(str(error).split())[:500])
    return problem_response(
        503, "the database does not answer; try again.", _path(request), {"Retry-After": "5"}
    )

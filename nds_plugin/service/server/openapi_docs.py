"""What the OpenAPI document says of errors."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from nds_plugin.service.server.problems import MEDIA_TYPE
from nds_plugin.service.server.schemas import ProblemOut


def _problem(status: int) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/ProblemOut"}
    return {"description": HTTPStatus(status).phrase, "content": {MEDIA_TYPE: {"schema": schema}}}


def problems(*statuses: int) -> dict[Any, dict[str, Any]]:
    """A route's ``responses`` of these statuses."""
    return {status: _problem(status) for status in statuses}


# What any request may get.
ALWAYS: dict[Any, dict[str, Any]] = {
    400: {**_problem(400), "model": ProblemOut},
    **problems(408, 413, 415, 422, 429, 503),
}

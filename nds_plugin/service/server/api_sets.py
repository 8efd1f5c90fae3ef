"""Sources, expert sets and expert files."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import FileResponse, Response

from nds_plugin import __version__
from nds_plugin.experts.manifest import expert_kind
from nds_plugin.service.published.store import SetRecord
from nds_plugin.service.server import schemas
from nds_plugin.service.server.context import Context, context_of, link
from nds_plugin.service.server.openapi_docs import problems
from nds_plugin.service.server.problems import ProblemError

router = APIRouter(tags=["expert sets"])
Shared = Annotated[Context, Depends(context_of)]


@router.head("/health", include_in_schema=False)
@router.get("/health")
async def health(context: Shared) -> schemas.Health:
    """Whether the server can answer."""
    return schemas.Health(status="ok", expert_set=context.store.current_id(), version=__version__)


@router.get("/sources")
def sources(context: Shared) -> schemas.SourcesOut:
    """The sources that the current set indexes. Their images stay with their providers."""
    published = context.record(context.store.current_id())
    return schemas.SourcesOut(
        expert_set=published.id,
        sources=[
            schemas.SourceOut(
                thumbnails_allowed=context.settings.thumbnails and entry["thumbnails"], **_public(entry)
            )
            for entry in published.info["sources"]
        ],
    )


def _public(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: entry[name] for name in schemas.SourceOut.model_fields if name in entry}


@router.get("/expert-sets")
def expert_sets(context: Shared) -> schemas.ExpertSetsOut:
    """The published sets, the newest first."""
    current = context.store.current_id()
    return schemas.ExpertSetsOut(
        expert_sets=[schemas.ExpertSetOut(**_summary(found, current)) for found in context.store.records()]
    )


@router.get("/expert-sets/{set_id}", responses=problems(404))
def expert_set(set_id: str, request: Request, context: Shared) -> schemas.ExpertSetDetail:
    """One set: its manifest and files."""
    published = context.record(set_id)
    files = [
        schemas.FileOut(
            name=name,
            bytes=entry["bytes"],
            sha256=entry["sha256"],
            url=link(request, f"expert-sets/{published.id}/files/{name}"),
        )
        for name, entry in published.files.items()
    ]
    summary = _summary(published, context.store.current_id())
    return schemas.ExpertSetDetail(manifest=published.manifest, files=files, **summary)


def _summary(published: SetRecord, current: str) -> dict[str, Any]:
    return {
        "id": published.id,
        "hash": published.expert_hash,
        "created": published.info["created"],
        "current": published.id == current,
        "kind": expert_kind(published.manifest),
        "task": published.manifest["task"],
        "num_clusters": published.num_clusters,
        "num_experts": published.num_experts,
        "crop_size": published.manifest["crop_size"],
        "images": published.info["images"],
        "bytes": published.fetched_bytes,
    }


_FILE_ANSWERS: dict[Any, Any] = {
    200: {"content": {"application/octet-stream": {}}},
    206: {"description": "a range", "content": {"application/octet-stream": {}, "multipart/byteranges": {}}},
    304: {"description": "the client has it already"},
    416: {"description": "a range outside the file", "content": {"text/plain": {}}},
    400: {"description": "a malformed range", "content": {"text/plain": {}}},
    **problems(404),
}


@router.head("/expert-sets/{set_id}/files/{name}", include_in_schema=False)
@router.get("/expert-sets/{set_id}/files/{name}", response_class=FileResponse, responses=_FILE_ANSWERS)
def expert_file(set_id: str, name: str, request: Request, context: Shared) -> Response:
    """A file of a set; ETag is its SHA-256, ranges resume a download."""
    published = context.record(set_id)
    if name not in published.files:
        raise ProblemError(404, f"the expert set {set_id} has no file of this name.")
    etag = f'"{published.files[name]["sha256"]}"'
    headers = {
        "ETag": etag,
        "Cache-Control": "public, max-age=31536000, immutable",
        "X-Robots-Tag": "noindex",
    }
    given = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if etag in given or given == ["*"]:
        return Response(status_code=304, headers=headers)
    return FileResponse(
        published.expert_path(name), media_type="application/octet-stream", headers=headers, filename=name
    )

"""Searches: previews, create, read, list, delete; their images in pages and as streams."""

import re
import time
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import anyio.to_thread
from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import PlainTextResponse, StreamingResponse

from nds_plugin.service.fastadapt import scores as fastadapt
from nds_plugin.service.server import manifests, schemas, selecting
from nds_plugin.service.server.context import Context, bearer, context_of, link, owner, unauthorised
from nds_plugin.service.server.d2_snippet import snippet
from nds_plugin.service.server.openapi_docs import problems
from nds_plugin.service.server.problems import ProblemError
from nds_plugin.service.server.searches import Search, TooManyError
from nds_plugin.service.server.streaming import ManifestResponse

router = APIRouter(tags=["searches"])
Shared = Annotated[Context, Depends(context_of)]
Owner = Annotated[str, Depends(owner)]
MAX_PAGE = 1000
SEARCH_ID = re.compile(r"[0-9a-f]{32}")


@router.post("/preview", responses=problems(404, 409))
def preview(request: schemas.SearchRequest, context: Shared) -> schemas.Preview:
    """What a search would give, in expectation. Nothing is kept."""
    published = context.current(request.expert_set)
    return schemas.Preview(**selecting.preview(published, context.query(published, request)))


@router.post("/tokens", status_code=201)
def new_token(context: Shared) -> schemas.TokenOut:
    """A fresh token, shown once; searches that are sent with it belong to its holder."""
    return schemas.TokenOut(token=context.book.new_token())


_CREATED: dict[Any, dict[str, Any]] = {201: {"headers": {"Location": {"schema": {"type": "string"}}}}}


@router.post(
    "/searches",
    status_code=201,
    responses={
        200: {"model": schemas.SearchOut, "description": "it was there already"},
        **_CREATED,
        **problems(401, 404, 409),
    },
    response_model_exclude_none=False,
)
def create(
    body: schemas.SearchRequest,
    request: Request,
    response: Response,
    context: Shared,
    idempotency_key: Annotated[
        str | None, Header(pattern=r"^[!-~]{8,128}$", description="repeats of one request carry the same")
    ] = None,
) -> schemas.SearchOut:
    """Draw and keep a selection. Without a token, a fresh one comes with the answer, shown once."""
    token = bearer(request)
    if token is not None and not context.book.knows(token):
        raise unauthorised("unknown token.")
    known = context.book.by_key(token, idempotency_key) if token and idempotency_key else None
    if known is not None:
        return _repeated(known, body, request, response, context)
    published = context.current(body.expert_set)
    query = context.query(published, body)
    result = selecting.preview(published, query)
    result |= selecting.shares(published, query, context.draws.get(published, query))
    fresh = context.book.new_token() if token is None else None
    asked = {**body.model_dump(), "expert_set": published.id}
    try:
        search, new = context.book.add(token or fresh or "", published.id, asked, result, idempotency_key)
    except TooManyError:
        most = context.settings.limits.searches_per_token
        raise ProblemError(422, f"this token has {most} searches already: delete some.") from None
    if not new:
        return _repeated(search, body, request, response, context)
    if not context.store.has(published.id):
        # It was replaced and pruned since it was looked up. Asked after the search is kept: see pruning.py.
        context.book.delete(token or fresh or "", search.id)
        raise ProblemError(
            409, f"the expert set {published.id} was removed meanwhile: look what is current now."
        )
    response.headers["Location"] = _here(search, request)
    return _shown(search, request, fresh)


def _repeated(
    search: Search, body: schemas.SearchRequest, request: Request, response: Response, context: Context
) -> schemas.SearchOut:
    """The search that an earlier request with this key made."""
    names = (search.expert_set, context.record(search.expert_set).expert_hash)
    asked = {**body.model_dump(), "expert_set": search.expert_set}
    if asked != search.request or body.expert_set not in names:
        raise ProblemError(422, "this Idempotency-Key came with another request before: use a fresh one.")
    response.status_code = 200
    response.headers["Location"] = _here(search, request)
    return _shown(search, request)


def _here(search: Search, request: Request) -> str:
    return link(request, f"searches/{search.id}")


def _shown(search: Search, request: Request, token: str | None = None) -> schemas.SearchOut:
    here = _here(search, request)
    links = {
        "self": here,
        "images": f"{here}/images",
        "mosaic": f"{here}/mosaic",
        "config": f"{here}/config",
        "manifest": {name: f"{here}/manifest?format={name}" for name in manifests.FORMATS},
    }
    return schemas.SearchOut(
        id=search.id,
        expert_set=search.expert_set,
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(search.created)),
        request=search.request,
        result=schemas.Result(**search.result, links=links),
        token=token,
    )


@router.get("/searches", responses=problems(401))
def own(
    request: Request,
    context: Shared,
    token: Owner,
    cursor: Annotated[str | None, Query(pattern=r"^[0-9]{1,18}$")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> schemas.SearchesOut:
    """The token's own searches, the newest first."""
    found = context.book.own(token, int(cursor) if cursor else None, limit + 1)
    following = str(found[limit - 1].number) if len(found) > limit else None
    return schemas.SearchesOut(searches=[_shown(search, request) for search in found[:limit]], next=following)


def own_search(search_id: str, context: Shared, token: Owner) -> Search:
    """The search of the path, if it is the token's own, as a dependency."""
    search = context.book.get(token, search_id) if SEARCH_ID.fullmatch(search_id) else None
    if search is None:
        raise ProblemError(404, "no such search of this token.")
    return search


Own = Annotated[Search, Depends(own_search)]
_OWN = problems(401, 404)


@router.get("/searches/{search_id}", responses=_OWN)
def read(search: Own, request: Request) -> schemas.SearchOut:
    """One search."""
    return _shown(search, request)


@router.delete("/searches/{search_id}", status_code=204, responses=_OWN)
def delete(search_id: str, context: Shared, token: Owner) -> None:
    """Forget a search and its scores."""
    if not SEARCH_ID.fullmatch(search_id) or not context.book.delete(token, search_id):
        raise ProblemError(404, "no such search of this token.")


@router.get("/searches/{search_id}/images", responses=_OWN)
def images(
    search: Own,
    context: Shared,
    cursor: Annotated[str | None, Query(pattern=r"^[0-9]{1,15}$")] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 100,
) -> schemas.ImagesOut:
    """The images, a page at a time."""
    published, query = context.query_of(search)
    drawn = context.draws.get(published, query)
    start = int(cursor or 0)
    stop = min(start + limit, len(drawn.rows))
    rows = manifests.image_rows(published, drawn, start, stop) if start < stop else []
    following = str(stop) if start < stop < len(drawn.rows) else None
    return schemas.ImagesOut(images=[schemas.ImageOut(**row) for row in rows], next=following)


@router.get(
    "/searches/{search_id}/manifest",
    response_class=StreamingResponse,
    responses={
        200: {"content": {media.split(";")[0]: {} for media, _ in manifests.FORMATS.values()}},
        **_OWN,
    },
)
async def manifest(
    search: Own,
    context: Shared,
    format: Annotated[Literal["csv", "json", "parquet", "coco"], Query()] = "csv",
) -> StreamingResponse:
    """All images as one file, streamed."""

    def start() -> Iterator[bytes]:
        published, query = context.query_of(search)
        head = {"search": search.id, "expert_set": search.expert_set, "seed": query.config.seed}
        return manifests.stream(format, published, context.draws.get(published, query), head)

    pieces = await anyio.to_thread.run_sync(start)
    media_type, suffix = manifests.FORMATS[format]
    disposition = f'attachment; filename="nds-{search.id}.{suffix}"'
    return ManifestResponse(pieces, context.places, media_type, {"Content-Disposition": disposition})


@router.get(
    "/searches/{search_id}/config",
    response_class=PlainTextResponse,
    responses={200: {"content": {"text/yaml": {}}}, **_OWN},
)
def config(search: Own, context: Shared) -> Response:
    """A Detectron2 config that trains on the images."""
    _, query = context.query_of(search)
    text = snippet(search.id, list(query.sources), search.result)
    return Response(text, media_type="text/yaml")


@router.get("/searches/{search_id}/mosaic", responses=_OWN)
def mosaic(search: Own, context: Shared) -> schemas.MosaicOut:
    """Nine random images of each of the eight heaviest clusters, as links to their providers."""
    published, query = context.query_of(search)
    allowed = {
        entry["name"]
        for entry in published.info["sources"]
        if context.settings.thumbnails and entry["thumbnails"]
    }
    found = selecting.mosaic_rows(published, query)
    z, w = query.z, search.result["w"]
    clusters = []
    for k, rows in found:
        shown = [_tile(row, allowed) for row in manifests.rows_at(published, rows)]
        clusters.append(schemas.MosaicCluster(cluster=k, z=z[k] if z else None, w=w[k], images=shown))
    return schemas.MosaicOut(clusters=clusters)


def _tile(row: dict[str, Any], allowed: set[str]) -> schemas.MosaicImage:
    thumbnail = row["url"] if row["url"] and row["source"] in allowed else None
    return schemas.MosaicImage(
        source=row["source"], image_id=row["image_id"], url=row["url"], thumbnail=thumbnail
    )


_Z_FILE = {"requestBody": {"required": True, "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}}  # fmt: skip


@router.post("/scores/fastadapt", responses=problems(404, 409), openapi_extra=_Z_FILE)
async def from_fastadapt(
    request: Request,
    expert_set: Annotated[str, Query(pattern=r"^([0-9a-f]{16}|[0-9a-f]{64})$")],
    context: Shared,
) -> schemas.FastAdaptOut:
    """The ``z.pickle`` of the paper authors' client as scores. It is read as data; nothing in it is executed."""
    if request.headers.get("content-type", "").split(";")[0].strip() != "application/octet-stream":
        raise ProblemError(
            415, "expected the bytes of a z.pickle with Content-Type application/octet-stream."
        )
    data = await request.body()

    def convert() -> schemas.FastAdaptOut:
        published = context.current(expert_set)
        found = fastadapt.convert(data, published.expert_hash, list(range(published.num_experts)))
        return schemas.FastAdaptOut(expert_set=published.id, **found)

    return await anyio.to_thread.run_sync(convert)

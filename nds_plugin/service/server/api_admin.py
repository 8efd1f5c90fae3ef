"""What only the holder of the admin token may do."""

import logging
import time
from typing import Annotated

from fastapi import APIRouter, Depends

from nds_plugin import __version__
from nds_plugin.service.server import schemas
from nds_plugin.service.server.context import Context, admin, context_of
from nds_plugin.service.server.openapi_docs import problems
from nds_plugin.service.server.problems import ProblemError

logger = logging.getLogger(__name__)
router = APIRouter(
    prefix="/admin", tags=["admin"], dependencies=[Depends(admin)], responses=problems(401, 403)
)
Shared = Annotated[Context, Depends(context_of)]


@router.post("/current", responses=problems(404))
def make_current(body: schemas.CurrentIn, context: Shared) -> schemas.CurrentOut:
    """Move on, or back, to a published set. Searches keep the set that they began with."""
    try:
        context.store.make_current(body.expert_set)
    except KeyError:
        raise ProblemError(404, f"no expert set {body.expert_set} is published here.") from None
    logger.info("the current expert set is now %s", body.expert_set)
    return schemas.CurrentOut(expert_set=body.expert_set)


@router.get("/stats")
def stats(context: Shared) -> schemas.Stats:
    """Numbers of the running server."""
    return schemas.Stats(
        version=__version__,
        expert_set=context.store.current_id(),
        expert_sets=context.store.ids(),
        rss_mb=_rss_mb(),
        uptime_s=time.monotonic() - context.started,
        **context.book.count(),
    )


def _rss_mb() -> float:
    with open("/proc/self/status", encoding="ascii") as status:
        line = next(line for line in status if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024

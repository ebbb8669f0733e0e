"""Endpoints of the media library."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from service.accounts.sessions import CurrentAccount, MaybeAccount, Writer
from service.documented import UNREADABLE, problems
from service.etags import tagged
from service.idempotency import IdempotencyKey
from service.media import changes, downloads, listing, public, uploads
from service.media.openapi import (
    ACCEPTED,
    ALSO_ANONYMOUS,
    CONTENT,
    IF_MATCH,
    IF_NONE_MATCH,
    LISTED,
    NOT_CHANGED,
    PUBLIC_LISTED,
    SENT_ON,
    TAGGED,
    UPLOAD_BODY,
)
from service.media.schemas import CURSOR, MediaChanges, MediaPage, MediaView, PublicPage
from service.media.views import item_json, page_json
from service.resources import Provided
from service.routing import readable
from service.settings import Settings

router = APIRouter(tags=["media"])

UPLOAD_PATH = "/api/media"
PUBLIC_PATH = "/api/public/media"
Limit = Annotated[int, Query(ge=1, le=100)]
Cursor = Annotated[Annotated[str, listing.CURSOR] | None, Query(examples=[CURSOR])]


def body_limits(settings: Settings) -> dict[tuple[str, str], int]:
    """What a request may bring where that is more than usual, in bytes."""
    return {("POST", UPLOAD_PATH): settings.max_content_length}


@router.post(
    UPLOAD_PATH,
    status_code=202,
    openapi_extra=UPLOAD_BODY,
    response_model=MediaView,
    responses=ACCEPTED | problems(*UNREADABLE, 401, 403, 503),
)
async def upload(
    identity: Writer,
    request: Request,
    resources: Provided,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Upload a file. It is safe once this answers; `status` tells when it is processed. 429 also
    where too many of the account's uploads wait for that, 413 also where its items take all that
    they may."""
    answer = await uploads.receive(resources, identity, request, idempotency_key)
    return answer.response()


@readable(
    router,
    "/api/media",
    response_model=MediaPage,
    openapi_extra=IF_NONE_MATCH,
    responses=LISTED | NOT_CHANGED | problems(401, 422, 503),
)
async def list_media(
    identity: CurrentAccount,
    request: Request,
    resources: Provided,
    limit: Limit = 20,
    cursor: Cursor = None,
) -> Response:
    """Own items, newest first."""
    rows, following = await listing.page(resources, identity, limit, cursor)
    link = listing.next_link("/api/media", limit, following)
    return tagged(page_json(rows, following), asked=request.headers, headers=link)


@readable(
    router,
    "/api/media/{item_id}",
    response_model=MediaView,
    openapi_extra=IF_NONE_MATCH,
    responses=TAGGED | NOT_CHANGED | problems(401, 404, 422, 503),
)
async def get_media(
    item_id: UUID, identity: CurrentAccount, request: Request, resources: Provided
) -> Response:
    """One own item."""
    row = await listing.find_own(resources, identity, item_id)
    return tagged(item_json(row), asked=request.headers)


@router.patch(
    "/api/media/{item_id}",
    response_model=MediaView,
    openapi_extra=IF_MATCH,
    responses=TAGGED | problems(*UNREADABLE, 401, 403, 404, 412, 503),
)
async def change_media(
    item_id: UUID,
    changed: MediaChanges,
    identity: Writer,
    request: Request,
    resources: Provided,
) -> Response:
    """Change what an own item says (JSON merge patch). `url` ends with the new file name."""
    row = await changes.change(resources, identity, item_id, changed, request.headers)
    return tagged(item_json(row))


@router.delete(
    "/api/media/{item_id}",
    status_code=204,
    response_class=Response,
    openapi_extra=IF_MATCH,
    responses=problems(401, 403, 404, 412, 422, 503),
)
async def delete_media(
    item_id: UUID, identity: Writer, request: Request, resources: Provided
) -> Response:
    """Delete an own item, its bytes and its preview. There is no way back."""
    await changes.remove(resources, identity, item_id, request.headers)
    return Response(status_code=204)


@readable(
    router,
    PUBLIC_PATH,
    response_model=PublicPage,
    openapi_extra=IF_NONE_MATCH,
    responses=PUBLIC_LISTED | NOT_CHANGED | problems(422, 503),
)
async def list_public_media(
    request: Request, resources: Provided, limit: Limit = 20, cursor: Cursor = None
) -> Response:
    """What its owners made public and is ready, newest first. May be some seconds old."""
    content, following = await public.page(resources, limit, cursor)
    link = listing.next_link(PUBLIC_PATH, limit, following)
    return tagged(content, asked=request.headers, caching=public.CACHING, headers=link)


@readable(
    router,
    "/media/{item_id}/thumbnail",
    response_class=Response,
    openapi_extra=ALSO_ANONYMOUS,
    responses=CONTENT | problems(401, 404, 412, 416, 422, 503),
)
async def get_thumbnail(
    item_id: UUID, identity: MaybeAccount, resources: Provided, request: Request
) -> Response:
    """The preview of an image (WebP, at most 320 x 320 pixels)."""
    return await downloads.thumbnail(resources, identity, item_id, request)


@readable(
    router,
    "/media/{item_id}/{name}",
    response_class=Response,
    openapi_extra=ALSO_ANONYMOUS,
    responses=CONTENT | SENT_ON | problems(401, 404, 412, 416, 422, 503),
)
async def get_original(
    item_id: UUID, name: str, identity: MaybeAccount, resources: Provided, request: Request
) -> Response:
    """The bytes as uploaded, or the way to them; private ones for their owner alone."""
    return await downloads.original(resources, identity, item_id, name, request)

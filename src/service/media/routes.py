"""Endpoints of the media library."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from service.accounts.sessions import CurrentAccount, MaybeAccount, Writer
from service.documented import problems
from service.media import downloads, listing, uploads
from service.media.schemas import MediaPage, MediaView, UploadForm
from service.middleware import FORM_OVERHEAD_BYTES
from service.resources import Provided
from service.routing import readable
from service.settings import Settings

router = APIRouter(tags=["media"])

UPLOAD_PATH = "/api/media"
# The body is read by the use case, after the token was checked: FastAPI's own File() reads first.
UPLOAD_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"multipart/form-data": {"schema": UploadForm.model_json_schema()}},
    }
}
ACCEPTED: dict[int | str, dict[str, Any]] = {
    202: {"headers": {"Location": {"description": "The item", "schema": {"type": "string"}}}},
}
BYTES = {"*/*": {"schema": {"type": "string", "format": "binary"}}}
CONTENT: dict[int | str, dict[str, Any]] = {
    200: {"content": BYTES},
    206: {"description": "The range asked for", "content": BYTES},
    304: {"description": "Not changed"},
}
ALSO_ANONYMOUS: dict[str, Any] = {"security": [{}]}  # beside the bearer token: public items


def body_limits(settings: Settings) -> dict[tuple[str, str], int]:
    """Where a request's body may be larger than usual, in bytes."""
    return {("POST", UPLOAD_PATH): settings.max_content_length + FORM_OVERHEAD_BYTES}


@router.post(
    UPLOAD_PATH,
    status_code=202,
    openapi_extra=UPLOAD_BODY,
    responses=ACCEPTED | problems(400, 401, 403, 422, 503),
)
async def upload(
    identity: Writer, request: Request, resources: Provided, response: Response
) -> MediaView:
    """Upload a file. It is safe once this answers; `status` tells when it is processed."""
    item = await uploads.receive(resources, identity, request)
    response.headers["Location"] = f"/api/media/{item.id}"
    return MediaView.of(item)


@readable(router, "/api/media", responses=problems(401, 422, 503))
async def list_media(
    identity: CurrentAccount,
    resources: Provided,
    response: Response,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> MediaPage:
    """Own items, newest first."""
    items, following = await listing.page(resources, identity, limit, cursor)
    if following:
        response.headers["Link"] = f'</api/media?limit={limit}&cursor={following}>; rel="next"'
    return MediaPage(items=[MediaView.of(item) for item in items], next_cursor=following)


@readable(router, "/api/media/{item_id}", responses=problems(401, 404, 422, 503))
async def get_media(item_id: UUID, identity: CurrentAccount, resources: Provided) -> MediaView:
    """One own item."""
    return MediaView.of(await listing.find_own(resources, identity, item_id))


@readable(
    router,
    "/media/{item_id}/thumbnail",
    response_class=Response,
    openapi_extra=ALSO_ANONYMOUS,
    responses=CONTENT | problems(401, 404, 416, 422, 503),
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
    responses=CONTENT | problems(401, 404, 416, 422, 503),
)
async def get_original(
    item_id: UUID, name: str, identity: MaybeAccount, resources: Provided, request: Request
) -> Response:
    """The bytes as uploaded; private ones for their owner alone."""
    return await downloads.original(resources, identity, item_id, name, request)

"""Serving an item's bytes: to whom, as what, and which part of them."""

import re
from urllib.parse import quote
from uuid import UUID

from starlette.datastructures import Headers
from starlette.responses import Response, StreamingResponse

from service.accounts.sessions import Identity
from service.errors import ServiceError
from service.media.listing import MediaNotFound, find
from service.media.models import MediaItem
from service.resources import Resources

THUMBNAIL_TYPE = "image/webp"
UNKNOWN_TYPE = "application/octet-stream"
# Shown in the browser; everything else is offered as a download.
INLINE_TYPES = frozenset(("image/jpeg", "image/png", "image/gif", "image/webp"))
# Uploaded HTML or SVG must not run on this origin, whatever the browser makes of it.
SAFE = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; sandbox; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Accept-Ranges": "bytes",
}


class RangeNotSatisfiable(ServiceError):
    status = 416

    def __init__(self, size: int) -> None:
        super().__init__(f"The content has {size} bytes.")
        self.headers = {"Content-Range": f"bytes */{size}"}


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """(start, end) of a single byte range, end excluded; None for the whole content.

    RFC 9110 section 14.2: what is malformed or asks for several ranges is ignored. Raises
    RangeNotSatisfiable.
    """
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", (header or "").strip(), re.IGNORECASE | re.ASCII)
    if match is None or match[1] == match[2] == "":
        return None
    first, last = match[1], match[2]
    if first == "":
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < start:
            return None
    if start >= end:
        raise RangeNotSatisfiable(size)
    return start, end


async def _visible(resources: Resources, identity: Identity | None, item_id: UUID) -> MediaItem:
    item = await find(resources, item_id)
    if not item.public and (identity is None or identity.id != item.account_id):
        raise MediaNotFound
    return item


async def original(
    resources: Resources, identity: Identity | None, item_id: UUID, name: str, headers: Headers
) -> Response:
    """The bytes as they were uploaded. Raises MediaNotFound, RangeNotSatisfiable."""
    item = await _visible(resources, identity, item_id)
    if name != item.filename:
        raise MediaNotFound
    content_type = item.content_type or UNKNOWN_TYPE
    disposition = "inline" if content_type in INLINE_TYPES else "attachment"
    own = {"Content-Disposition": f"{disposition}; filename*=UTF-8''{quote(name, safe='')}"}
    return await _serve(resources, item, item.original_key, content_type, headers, own)


async def thumbnail(
    resources: Resources, identity: Identity | None, item_id: UUID, headers: Headers
) -> Response:
    """The preview of an image that is ready. Raises MediaNotFound, RangeNotSatisfiable."""
    item = await _visible(resources, identity, item_id)
    if not item.has_thumbnail:
        raise MediaNotFound
    return await _serve(resources, item, item.thumbnail_key, THUMBNAIL_TYPE, headers, {})


async def _serve(
    resources: Resources,
    item: MediaItem,
    key: str,
    content_type: str,
    asked: Headers,
    own: dict[str, str],
) -> Response:
    size = await resources.storage.size(key)
    if size is None:
        raise MediaNotFound
    etag = f'"{item.id.hex}-{size:x}"'  # bytes never change under an id
    caching = "public, max-age=60" if item.public else "private, no-cache"
    sent = {**SAFE, **own, "ETag": etag, "Cache-Control": caching}
    if etag in asked.get("if-none-match", ""):
        return Response(status_code=304, headers=sent)
    usable = asked.get("if-range", etag) == etag
    part = parse_range(asked.get("range"), size) if usable else None
    start, end = part or (0, size)
    sent["Content-Length"] = str(end - start)
    if part:
        sent["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    chunks = resources.storage.read(key, start, end)
    return StreamingResponse(chunks, 206 if part else 200, sent, media_type=content_type)

"""Serving an item's bytes: to whom, as what, and which part of them."""

import logging
from collections.abc import AsyncIterator
from urllib.parse import quote
from uuid import UUID
from zlib import crc32

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from service.accounts.sessions import Identity
from service.etags import not_modified
from service.media.conditional import parse_range, wanted_range
from service.media.listing import MediaNotFound, find
from service.media.models import MediaItem
from service.resources import Resources

log = logging.getLogger(__name__)

THUMBNAIL_TYPE = "image/webp"
UNKNOWN_TYPE = "application/octet-stream"
LINK_TYPE = "text/uri-list"
# Shown in the browser; everything else is offered as a download.
INLINE_TYPES = frozenset(("image/jpeg", "image/png", "image/gif", "image/webp"))
# Uploaded HTML or SVG must not run on this origin, whatever the browser makes of it.
SAFE = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; sandbox; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
}
PUBLIC_SECONDS = 60  # in caches; a link is good for longer
ACCEL_PREFIX = "/_media/"  # where the nginx configuration has UPLOAD_FOLDER, for itself alone


class PreviewNotFound(MediaNotFound):
    """To anybody. nginx keeps previews that were public, as long as the app may be away, unless it
    gets something else to keep in their place."""

    headers = {"Cache-Control": "public, max-age=1"}


async def _visible(resources: Resources, identity: Identity | None, item_id: UUID) -> MediaItem:
    item = await find(resources, item_id)
    if not item.public and (identity is None or identity.id != item.account_id):
        raise MediaNotFound
    return item


async def original(
    resources: Resources, identity: Identity | None, item_id: UUID, name: str, request: Request
) -> Response:
    """The bytes as they were uploaded. Raises MediaNotFound, RangeNotSatisfiable,
    StorageUnavailable."""
    item = await _visible(resources, identity, item_id)
    if name != item.filename:
        raise MediaNotFound
    content_type = item.content_type or UNKNOWN_TYPE
    disposition = "inline" if content_type in INLINE_TYPES else "attachment"
    own = {"Content-Disposition": f"{disposition}; filename*=UTF-8''{quote(name, safe='')}"}
    if link := await _link(resources, item, content_type, request.method, own):
        return _sent_on(item, link, request)
    return await _serve(resources, item, item.original_key, content_type, request, own)


async def _link(
    resources: Resources, item: MediaItem, content_type: str, method: str, own: dict[str, str]
) -> str | None:
    """Where the object store itself sends the original, to a client that comes with this link."""
    # It cannot send SAFE: so no type but those that a browser can only show as a picture.
    shown = content_type if content_type in INLINE_TYPES else UNKNOWN_TYPE
    headers = {"Content-Type": shown, "Cache-Control": _caching(item), **own}
    return await resources.storage.link(method, item.original_key, headers)


def _sent_on(item: MediaItem, link: str, request: Request) -> Response:
    """Without an ETag, as a 304 would send the client to a link that has expired.

    A page's script cannot see where a redirect leads, and its policy does not let it follow: it
    asks for the link itself (RFC 2483 section 5), and goes there.
    """
    caching = _caching(item) if item.public else "private, no-store"
    sent = {**SAFE, "Cache-Control": caching, "Referrer-Policy": "no-referrer", "Vary": "Accept"}
    if LINK_TYPE in request.headers.get("accept", ""):
        return Response(f"{link}\r\n", headers={**sent, "Content-Type": LINK_TYPE})
    return Response(status_code=307, headers={**sent, "Location": link})


def _caching(item: MediaItem) -> str:
    return f"public, max-age={PUBLIC_SECONDS}" if item.public else "private, no-cache"


async def thumbnail(
    resources: Resources, identity: Identity | None, item_id: UUID, request: Request
) -> Response:
    """The preview of an image that is ready. Raises as `original` does.

    Small, and sent from here: nginx keeps in its cache what it has been sent, and no redirect.
    """
    try:
        return await _thumbnail(resources, identity, item_id, request)
    except MediaNotFound:
        if identity is None:
            raise PreviewNotFound from None
        raise


async def _thumbnail(
    resources: Resources, identity: Identity | None, item_id: UUID, request: Request
) -> Response:
    item = await _visible(resources, identity, item_id)
    if not item.has_thumbnail:
        raise MediaNotFound
    key = item.thumbnail_key
    return await _serve(resources, item, key, THUMBNAIL_TYPE, request, {}, accelerated=False)


async def _serve(
    resources: Resources,
    item: MediaItem,
    key: str,
    content_type: str,
    request: Request,
    own: dict[str, str],
    *,
    accelerated: bool = True,
) -> Response:
    size = await resources.storage.size(key)
    if size is None:
        raise _missing(item, key)
    sent = {**SAFE, **own, "Cache-Control": _caching(item)}
    if accelerated and resources.settings.x_accel_redirect:
        # nginx answers in place of this, conditions and ranges too, and always: what goes through
        # it from here it keeps on its disk for as long as a client takes to read it.
        _check_range(request, size)
        if item.status != "ready":
            # Its ETag is made of the file alone, and the type may change yet, also of what failed.
            sent["Cache-Control"] = "no-store"
        sent |= {"Content-Type": content_type, "X-Accel-Redirect": ACCEL_PREFIX + quote(key)}
        return Response(headers=sent)
    # The bytes never change under an id, but what is known of their type does.
    etag = f'"{item.id.hex}-{size:x}-{crc32(content_type.encode()):x}"'
    sent |= {"ETag": etag, "Accept-Ranges": "bytes"}
    if not_modified(request.headers, etag):
        return Response(status_code=304, headers=sent)
    sent["Content-Type"] = content_type  # not as media_type, which adds a charset nobody knows
    try:
        return await _send(resources, key, size, request, sent)
    except FileNotFoundError:
        raise _missing(item, key) from None


def _missing(item: MediaItem, key: str) -> MediaNotFound:
    log.error("media_bytes_missing", extra={"media_id": str(item.id), "key": key})
    return MediaNotFound()


def _check_range(request: Request, size: int) -> None:
    """Raises RangeNotSatisfiable, unless a condition comes first: nginx's ETag and date decide it.
    A 416 of nginx would have the file's Cache-Control beside that of an error."""
    conditional = any(name.startswith("if-") for name in request.headers)
    if request.method == "GET" and not conditional:
        parse_range(request.headers.get("range"), size)


async def _send(
    resources: Resources, key: str, size: int, request: Request, sent: dict[str, str]
) -> Response:
    """The bytes from storage, or the part of them that is asked for. What keeps them from being
    read is raised before anything is answered, while it can still be told."""
    if request.method == "HEAD":  # RFC 9110 section 14.2: only GET has ranges
        return Response(headers={**sent, "Content-Length": str(size)})
    part = wanted_range(request.headers, sent["ETag"], size)
    start, end = part or (0, size)
    sent["Content-Length"] = str(end - start)
    if part:
        sent["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    chunks = resources.storage.read(key, start, end)
    first = await anext(chunks, b"")
    return StreamingResponse(_all(first, chunks), 206 if part else 200, sent)


async def _all(first: bytes, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for chunk in chunks:
        yield chunk

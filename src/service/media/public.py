"""What everybody may see: public items that are ready, a page at a time, the first from a cache."""

from service.media.listing import keyset_page, read_page
from service.media.models import IS_PUBLIC
from service.media.views import PUBLIC_COLUMNS, public_page_json
from service.resources import Resources

GROUP = "public-media"
KEPT_SECONDS = 30
# nginx and browsers are not told of a change: this long they may not know of it.
CACHING = "public, max-age=10, stale-while-revalidate=30"

_PAGE = keyset_page(*PUBLIC_COLUMNS, where=IS_PUBLIC)


async def page(resources: Resources, limit: int, cursor: str | None) -> tuple[bytes, str | None]:
    """A page as JSON, and the cursor of the next one.

    Kept are first pages alone: anybody can make up cursors, and what is kept for as many as that
    would push everything else out of Redis, such as what limits have counted.
    """
    if cursor is not None:
        return await _read(resources, limit, cursor)
    name = str(limit)
    look = await resources.cache.look(GROUP, name)
    if look.content is not None:
        following, _, content = look.content.partition(b"\n")
        return content, following.decode() or None
    content, next_cursor = await _read(resources, limit, None)
    kept = (next_cursor or "").encode() + b"\n" + content
    await resources.cache.keep(GROUP, name, look, kept, seconds=KEPT_SECONDS)
    return content, next_cursor


async def _read(resources: Resources, limit: int, cursor: str | None) -> tuple[bytes, str | None]:
    rows, next_cursor = await read_page(resources, _PAGE, limit, cursor)
    return public_page_json(rows, next_cursor), next_cursor


async def listing_changed(resources: Resources) -> None:
    """Call after the commit of a change to an item that is or was public."""
    await resources.cache.changed(GROUP)

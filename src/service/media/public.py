"""What everybody may see: public items that are ready, a page at a time and from a cache."""

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
    """A page as JSON, and the cursor of the next one."""
    name = f"{limit}:{cursor or ''}"
    look = await resources.cache.look(GROUP, name)
    if look.content is not None:
        following, _, content = look.content.partition(b"\n")
        return content, following.decode() or None
    rows, next_cursor = await read_page(resources, _PAGE, limit, cursor)
    content = public_page_json(rows, next_cursor)
    kept = (next_cursor or "").encode() + b"\n" + content
    await resources.cache.keep(GROUP, name, look, kept, seconds=KEPT_SECONDS)
    return content, next_cursor


async def listing_changed(resources: Resources) -> None:
    """Call after the commit of a change to an item that is or was public."""
    await resources.cache.changed(GROUP)

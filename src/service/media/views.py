"""Items as JSON, written straight from their rows; `schemas` says of what shape it is.

A model of pydantic for each row would cost more than the query.
"""

from collections.abc import Sequence
from operator import attrgetter
from typing import Any
from urllib.parse import quote

from pydantic_core import to_json

from service.media.models import MediaItem

NAMES = (
    *("id", "title", "filename", "public", "status", "progress", "reason", "size"),
    *("content_type", "sha256", "width", "height", "has_thumbnail", "created_at", "updated_at"),
)
COLUMNS = tuple(getattr(MediaItem, name) for name in NAMES)
row_of = attrgetter(*NAMES)

Row = Sequence[Any]


def item_json(row: Row) -> bytes:
    """An item as its owner sees it, from COLUMNS in their order."""
    return to_json(_item(row))


def page_json(rows: Sequence[Row], next_cursor: str | None) -> bytes:
    return to_json({"items": [_item(row) for row in rows], "next_cursor": next_cursor})


def _item(row: Row) -> dict[str, Any]:
    item_id, title, filename, public, status, progress, reason, size = row[:8]
    content_type, sha256, width, height, has_thumbnail, created_at, updated_at = row[8:]
    base = f"/media/{item_id}"
    return {
        "id": item_id,
        "title": title,
        "filename": filename,
        "public": public,
        "status": status,
        "progress": progress,
        "reason": reason,
        "size": size,
        "content_type": content_type,
        "sha256": sha256.hex() if sha256 else None,
        "width": width,
        "height": height,
        "url": f"{base}/{quote(filename, safe='')}",
        "thumbnail_url": f"{base}/thumbnail" if has_thumbnail else None,
        "created_at": created_at,
        "updated_at": updated_at,
    }

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
    *("created_at", "id", "title", "filename", "public", "status", "progress", "reason"),
    *("size", "content_type", "sha256", "width", "height", "has_thumbnail", "updated_at"),
)
PUBLIC_NAMES = (
    *("created_at", "id", "title", "filename"),
    *("size", "content_type", "width", "height", "has_thumbnail"),
)
COLUMNS = tuple(getattr(MediaItem, name) for name in NAMES)
PUBLIC_COLUMNS = tuple(getattr(MediaItem, name) for name in PUBLIC_NAMES)
row_of = attrgetter(*NAMES)

Row = Sequence[Any]


def item_json(row: Row) -> bytes:
    """An item as its owner sees it, from COLUMNS in their order."""
    return to_json(_item(row))


def page_json(rows: Sequence[Row], next_cursor: str | None) -> bytes:
    return to_json({"items": [_item(row) for row in rows], "next_cursor": next_cursor})


def public_page_json(rows: Sequence[Row], next_cursor: str | None) -> bytes:
    """Of PUBLIC_COLUMNS in their order."""
    return to_json({"items": [_public_item(row) for row in rows], "next_cursor": next_cursor})


def _item(row: Row) -> dict[str, Any]:
    created_at, item_id, title, filename, public, status, progress, reason = row[:8]
    size, content_type, sha256, width, height, has_thumbnail, updated_at = row[8:]
    text_id = str(item_id)  # made once: the encoder takes a microsecond for each
    return {
        "id": text_id,
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
        "url": _url(text_id, filename),
        "thumbnail_url": _thumbnail_url(text_id, has_thumbnail),
        "created_at": created_at,
        "updated_at": updated_at,
    }


def _public_item(row: Row) -> dict[str, Any]:
    """What strangers may know: neither the owner nor anything that leads to one."""
    created_at, item_id, title, filename, size, content_type, width, height, has_thumbnail = row
    text_id = str(item_id)
    return {
        "id": text_id,
        "title": title,
        "size": size,
        "content_type": content_type,
        "width": width,
        "height": height,
        "url": _url(text_id, filename),
        "thumbnail_url": _thumbnail_url(text_id, has_thumbnail),
        "created_at": created_at,
    }


def _url(item_id: str, filename: str) -> str:
    return f"/media/{item_id}/{quote(filename, safe='')}"


def _thumbnail_url(item_id: str, has_thumbnail: bool) -> str | None:
    return f"/media/{item_id}/thumbnail" if has_thumbnail else None

"""Bodies of the media requests and answers."""

from datetime import datetime
from typing import Self
from urllib.parse import quote
from uuid import UUID

from pydantic import BaseModel, Field

from service.media.models import MediaItem, Status


class MediaView(BaseModel):
    """An item as its owner sees it."""

    id: UUID
    title: str
    filename: str
    public: bool
    status: Status
    progress: int = Field(ge=0, le=100, description="percent")
    reason: str | None = Field(description="why processing failed")
    size: int = Field(description="bytes")
    content_type: str | None = Field(description="found in the content, once processed")
    sha256: str | None = Field(description="hexadecimal, once processed")
    width: int | None = Field(description="pixels, of an image")
    height: int | None = Field(description="pixels, of an image")
    url: str
    thumbnail_url: str | None
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, item: MediaItem) -> Self:
        base = f"/media/{item.id}"
        return cls(
            **{name: getattr(item, name) for name in _COPIED},
            sha256=item.sha256.hex() if item.sha256 else None,
            url=f"{base}/{quote(item.filename, safe='')}",
            thumbnail_url=f"{base}/thumbnail" if item.has_thumbnail else None,
        )


_COPIED = tuple(set(MediaView.model_fields) - {"sha256", "url", "thumbnail_url"})


class MediaPage(BaseModel):
    """Newest first. `next_cursor` is also in the `Link` header, as a relative URL."""

    items: list[MediaView]
    next_cursor: str | None


class UploadForm(BaseModel):
    """multipart/form-data of an upload."""

    file: bytes = Field(json_schema_extra={"format": "binary"})
    title: str = Field("", max_length=200, description="default: the file's name")
    public: bool = False

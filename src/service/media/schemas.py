"""Bodies of the media requests and answers."""

import unicodedata
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool
from pydantic_core import PydanticCustomError

from service.media.models import Status


def _title(value: str) -> str:
    value = value.strip()
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in value):
        raise PydanticCustomError("control_character", "Control characters are not allowed")
    return value


def _something(value: str) -> str:
    if not value:
        raise PydanticCustomError("empty", "Expected at least one visible character")
    return value


Title = Annotated[str, Field(max_length=200), AfterValidator(_title)]


class MediaView(BaseModel):
    """An item as its owner sees it; `views` writes it."""

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


class MediaPage(BaseModel):
    """Newest first. `next_cursor` is also in the `Link` header, as a relative URL."""

    items: list[MediaView]
    next_cursor: str | None


class PublicItem(BaseModel):
    """An item as anybody sees it."""

    id: UUID
    title: str
    size: int = Field(description="bytes")
    content_type: str = Field(description="found in the content")
    width: int | None = Field(description="pixels, of an image")
    height: int | None = Field(description="pixels, of an image")
    url: str
    thumbnail_url: str | None
    created_at: datetime


class PublicPage(BaseModel):
    """Newest first. `next_cursor` is also in the `Link` header, as a relative URL."""

    items: list[PublicItem]
    next_cursor: str | None


class UploadForm(BaseModel):
    """multipart/form-data of an upload."""

    file: bytes = Field(json_schema_extra={"format": "binary"})
    title: str = Field("", max_length=200, description="default: the file's name")
    public: bool = False


class UploadFields(BaseModel):
    """What may stand beside the file."""

    title: Title = ""
    public: bool = False


def _absent(schema: dict[str, Any]) -> None:
    """What is not sent is not changed, so there is no default to show."""
    del schema["default"]


class MediaChanges(BaseModel):
    """JSON merge patch (RFC 7396): what is not there stays as it is. Nothing can be removed."""

    model_config = ConfigDict(extra="forbid")

    title: Annotated[Title, AfterValidator(_something)] = Field("", json_schema_extra=_absent)
    public: StrictBool = Field(False, json_schema_extra=_absent)
    filename: str = Field("", min_length=1, max_length=1000, json_schema_extra=_absent)

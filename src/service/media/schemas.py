"""Bodies of the media requests and answers."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool

from service.media.models import Status
from service.texts import LINE, VISIBLE_LINE

Title = Annotated[str, Field(max_length=200), LINE, AfterValidator(str.strip)]
VisibleTitle = Annotated[str, Field(max_length=200), VISIBLE_LINE, AfterValidator(str.strip)]

ID = "f8d885ed-db27-4eb3-b3c8-f6cf0234be13"
SHA256 = "39acf0b7bcad3d8f6550d8785c737e25d04e9410f17c251dbaea3e6272239911"
CURSOR = "1795451850327951-f8d885eddb274eb3b3c8f6cf0234be13"


class _Seen(BaseModel):
    """What everybody who sees an item is told."""

    id: UUID = Field(examples=[ID])
    title: str = Field(examples=["Sunrise"])
    size: int = Field(description="bytes", examples=[28231])
    content_type: str | None = Field(
        description="found in the content, once processed", examples=["image/jpeg"]
    )
    width: int | None = Field(description="pixels, of an image", examples=[1200])
    height: int | None = Field(description="pixels, of an image", examples=[800])
    url: str = Field(examples=[f"/media/{ID}/sunrise.jpg"])
    thumbnail_url: str | None = Field(examples=[f"/media/{ID}/thumbnail"])
    created_at: datetime = Field(examples=["2026-11-23T16:37:30.327951Z"])


class MediaView(_Seen):
    """An item as its owner sees it; `views` writes it."""

    filename: str = Field(examples=["sunrise.jpg"])
    public: bool = Field(examples=[False])
    status: Status = Field(examples=["ready"])
    progress: int = Field(ge=0, le=100, description="percent", examples=[100])
    reason: str | None = Field(description="why processing failed", examples=[None])
    sha256: str | None = Field(description="hexadecimal, once processed", examples=[SHA256])
    updated_at: datetime = Field(examples=["2026-11-23T16:37:31.104552Z"])


class PublicItem(_Seen):
    """An item as anybody sees it."""


class MediaPage(BaseModel):
    """Newest first. `next_cursor` is also in the `Link` header, as a relative URL."""

    items: list[MediaView]
    next_cursor: str | None = Field(examples=[CURSOR])


class PublicPage(BaseModel):
    """Newest first. `next_cursor` is also in the `Link` header, as a relative URL."""

    items: list[PublicItem]
    next_cursor: str | None = Field(examples=[CURSOR])


class UploadFields(BaseModel):
    """What may stand beside the file of an upload."""

    model_config = ConfigDict(extra="forbid")

    title: Title = Field("", description="default: the file's name", examples=["Sunrise"])
    public: bool = False


class UploadForm(UploadFields):
    """multipart/form-data of an upload."""

    file: bytes = Field(json_schema_extra={"format": "binary"})


def _absent(schema: dict[str, Any]) -> None:
    """What is not sent is not changed, so there is no default to show."""
    del schema["default"]


class MediaChanges(BaseModel):
    """JSON merge patch (RFC 7396): what is not there stays as it is. Nothing can be removed."""

    model_config = ConfigDict(extra="forbid")

    title: VisibleTitle = Field("", examples=["Dawn"], json_schema_extra=_absent)
    public: StrictBool = Field(False, examples=[True], json_schema_extra=_absent)
    filename: str = Field(
        "", min_length=1, max_length=1000, examples=["dawn.jpg"], json_schema_extra=_absent
    )

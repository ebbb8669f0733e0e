"""Receiving an upload: its bytes to storage first, then its row and its job in one transaction."""

import logging
import re
import unicodedata
from datetime import UTC, datetime
from uuid import uuid4

from pydantic import BaseModel, Field, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request

from service.accounts.sessions import Identity
from service.errors import ServiceError
from service.media.models import MediaItem
from service.resources import Resources

log = logging.getLogger(__name__)

PROCESS = "media.process"
MAX_FIELDS = 8
MAX_FIELD_BYTES = 4096
MAX_NAME_BYTES = 255


class UploadInvalid(ServiceError):
    status = 422


class FileTooLarge(ServiceError):
    status = 413

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"The file is larger than {limit_bytes} bytes.")


class _Fields(BaseModel):
    title: str = Field("", max_length=200)
    public: bool = False


def clean_name(name: str | None) -> str:
    """A file name that is safe in a path and a header, as close to the client's as can be."""
    base = re.split(r"[/\\]", unicodedata.normalize("NFC", name or ""))[-1]
    kept = "".join(c for c in base if unicodedata.category(c)[0] != "C").strip(" .")
    stem, dot, extension = kept.rpartition(".")
    while len(kept.encode()) > MAX_NAME_BYTES:
        stem = stem[:-1] if stem else ""
        extension = extension if stem else extension[:-1]
        kept = stem + dot + extension
    # The one name that is taken: /media/{id}/thumbnail.
    return {"": "file", "thumbnail": "thumbnail.file"}.get(kept, kept)


def _fields(form: FormData) -> tuple[UploadFile, _Fields]:
    file = form.get("file")
    if not isinstance(file, UploadFile):
        raise UploadInvalid("file: expected a file part with this name")
    given = {name: form[name] for name in _Fields.model_fields if name in form}
    try:
        return file, _Fields.model_validate(given)
    except ValidationError as error:
        mistakes = error.errors(include_input=False, include_url=False)
        detail = "; ".join(f"{mistake['loc'][0]}: {mistake['msg']}" for mistake in mistakes)
        raise UploadInvalid(detail) from None


async def receive(resources: Resources, identity: Identity, request: Request) -> MediaItem:
    """Store an upload and queue its processing. What this returns is durable.

    The body goes to an unnamed temporary file beyond 1 MiB, so that its size costs no memory and a
    client that gives up leaves nothing behind. Raises UploadInvalid, FileTooLarge,
    StorageUnavailable, DatabaseUnavailable.
    """
    limit = resources.settings.max_content_length
    async with request.form(
        max_files=1, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES
    ) as form:
        file, fields = _fields(form)
        if (file.size or 0) > limit:
            raise FileTooLarge(limit)
        name = clean_name(file.filename)
        now = datetime.now(UTC)
        item = MediaItem(
            id=uuid4(),
            account_id=identity.id,
            title=fields.title or name[:200],
            filename=name,
            public=fields.public,
            size=file.size or 0,
            status="received",
            progress=0,
            attempt=0,
            has_thumbnail=False,
            created_at=now,
            updated_at=now,
        )
        await file.seek(0)
        await resources.storage.put(item.original_key, file.file)
    await _commit(resources, item)
    log.info("upload_stored", extra={"media_id": str(item.id), "size": item.size})
    return item


async def _commit(resources: Resources, item: MediaItem) -> None:
    try:
        async with resources.database.transaction() as session:
            session.add(item)
            await session.flush()
            await resources.jobs.enqueue(session, PROCESS, item_id=str(item.id))
    except ServiceError:
        # The commit's fate may be unknown: the bytes stay for the sweep rather than be missing.
        log.warning("upload_without_row", extra={"media_id": str(item.id)})
        raise

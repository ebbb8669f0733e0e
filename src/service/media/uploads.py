"""Receiving an upload: its bytes to storage first, then its row and its job in one transaction."""

import asyncio
import hashlib
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from uuid import uuid4

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message

from service.accounts.sessions import Identity
from service.errors import ServiceError, Unavailable
from service.idempotency import Answer, Repeatable, Repeated, first_answer, keep
from service.jobs import SLOW
from service.media.allowance import AccountFull, check_before, check_stored, taken
from service.media.models import MediaItem
from service.media.names import clean_name
from service.media.revisions import record
from service.media.schemas import UploadFields
from service.media.views import item_json, row_of
from service.resources import Resources
from service.storage import StorageUnavailable

log = logging.getLogger(__name__)

PROCESS = "media.process"
MAX_FIELDS = 8
MAX_FIELD_BYTES = 4096
MOST_DELIMITERS = 100  # of some ten parts, and of content that begins a few lines like one


class FileTooLarge(ServiceError):
    status = 413

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"The file is larger than {limit_bytes} bytes.")


def _fields(form: FormData) -> tuple[UploadFile, UploadFields]:
    """The file and the fields beside it. Raises RequestValidationError, as FastAPI's forms do."""
    file = form.get("file")
    if not isinstance(file, UploadFile):
        missing = {"loc": ("body", "file"), "msg": "Expected a file part with this name"}
        raise RequestValidationError([missing])
    given = {name: value for name, value in form.items() if name != "file"}
    try:
        return file, UploadFields.model_validate(given)
    except ValidationError as error:
        mistakes = error.errors(include_input=False, include_url=False, include_context=False)
        raise RequestValidationError(
            [{**mistake, "loc": ("body", *mistake["loc"])} for mistake in mistakes]
        ) from None


def _with_few_delimiters(request: Request) -> Request:
    """Its parser looks hundreds of times longer at a line that begins with the boundary, and is
    none, which content may not have (RFC 2046 section 5.1.1). Raises HTTPException."""
    _, parameters = parse_options_header(request.headers.get("content-type"))
    delimiter = b"\r\n--" + parameters.get(b"boundary", b"")
    found = 0

    async def receive() -> Message:
        nonlocal found
        message = await request.receive()
        found += message.get("body", b"").count(delimiter)
        if found > MOST_DELIMITERS:
            raise HTTPException(400, "The body has too many lines that begin with its boundary.")
        return message

    return Request(request.scope, receive)


@asynccontextmanager
async def _received(request: Request) -> AsyncIterator[FormData]:
    """The form of a request; its file is unnamed, in a temporary directory beyond 1 MiB."""
    try:
        form = await _with_few_delimiters(request).form(
            max_files=1, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES
        )
    except OSError as error:  # such as a full disk
        raise StorageUnavailable from error
    try:
        yield form
    finally:
        await form.close()


async def receive(
    resources: Resources, identity: Identity, request: Request, key: str | None
) -> Answer:
    """Store an upload and queue its processing. What this answers is durable.

    The body goes to an unnamed temporary file beyond 1 MiB, so that its size costs no memory and a
    client that gives up leaves nothing behind. With a key, a request that came before is not done
    again. Raises NoSpaceLeft, TooManyUnfinished, AccountFull, RequestValidationError, FileTooLarge,
    KeyReused, StorageUnavailable, DatabaseUnavailable.
    """
    stored_bytes = await check_before(resources, identity.id)
    limit = resources.settings.max_content_length
    async with _received(request) as form:
        file, fields = _fields(form)
        if (file.size or 0) > limit:
            raise FileTooLarge(limit)
        item = _item(identity, file, fields)
        once = await _repeatable(identity, key, file, fields)
        if once and (first := await first_answer(resources, once)):
            return first
        check_stored(resources, stored_bytes + taken(item.size))
        await file.seek(0)
        await resources.storage.put(item.original_key, file.file)
    answer = Answer(202, f"/api/media/{item.id}", item_json(row_of(item)))
    try:
        await _commit(resources, item, answer, once)
    except Repeated as error:
        return await _answer_to_repeated(resources, item, error.request)
    log.info("upload_stored", extra={"media_id": str(item.id), "size": item.size})
    return answer


def _item(identity: Identity, file: UploadFile, fields: UploadFields) -> MediaItem:
    name = clean_name(file.filename)
    now = datetime.now(UTC)
    return MediaItem(
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


async def _repeatable(
    identity: Identity, key: str | None, file: UploadFile, fields: UploadFields
) -> Repeatable | None:
    if key is None:
        return None
    return Repeatable(identity.id, key, await asyncio.to_thread(_fingerprint, file, fields))


def _fingerprint(file: UploadFile, fields: UploadFields) -> bytes:
    """Of all that is asked for. Blocks while it reads the file."""
    file.file.seek(0)
    content = hashlib.file_digest(file.file, "sha256").hexdigest()  # type: ignore[arg-type]
    asked = ["upload", content, clean_name(file.filename), fields.title, fields.public]
    return hashlib.sha256(json.dumps(asked).encode()).digest()


async def _commit(
    resources: Resources, item: MediaItem, answer: Answer, once: Repeatable | None
) -> None:
    try:
        async with resources.database.transaction() as session:
            if once is not None:
                await keep(resources, session, once, answer)
            session.add(item)
            await session.flush()
            await resources.jobs.enqueue(session, PROCESS, priority=SLOW, item_id=str(item.id))
            stored_bytes = await record(
                resources, session, item.account_id, item.id, added_bytes=taken(item.size)
            )
            check_stored(resources, stored_bytes)
    except AccountFull:  # others of the account came at the same time
        await _take_back(resources, item)
        raise
    except ServiceError:
        # The commit's fate may be unknown: the bytes stay for the sweep rather than be missing.
        log.warning("upload_without_row", extra={"media_id": str(item.id), "seldom": ""})
        raise


async def _answer_to_repeated(resources: Resources, item: MediaItem, once: Repeatable) -> Answer:
    """Two came at once, and this is not the one that was faster."""
    await _take_back(resources, item)
    if first := await first_answer(resources, once):
        return first
    raise Unavailable  # forgotten at this very moment: the client may ask again


async def _take_back(resources: Resources, item: MediaItem) -> None:
    """The bytes of an item of which nothing was committed."""
    with suppress(StorageUnavailable):  # the sweep takes what is left
        await resources.storage.delete(item.original_key)

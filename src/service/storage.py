"""Where uploaded bytes are kept: a folder or an object store, through one API.

All calls are made in threads: obstore's own event loop aborted the interpreter at some exits.
"""

import asyncio
import io
import logging
import re
import secrets
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import ObjectStore, from_url

from service.errors import Unavailable
from service.folder import BATCH, Folder, Stored
from service.settings import Settings

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

log = logging.getLogger(__name__)

CHUNK_BYTES = 512 * 1024  # what one download holds in memory
PART_BYTES = 5 * 1024 * 1024  # of an upload; S3 takes no smaller ones
KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")
MISSING = (NotFoundError, FileNotFoundError, NotADirectoryError, IsADirectoryError)
# obstore would repeat a request for three minutes.
RETRIES: "RetryConfig" = {"max_retries": 2, "retry_timeout": timedelta(seconds=15)}
CLIENT: "ClientConfig" = {"connect_timeout": "3s", "timeout": "30s"}


class StorageUnavailable(Unavailable):
    """The bytes cannot be written or read for the moment."""


class Backend(Protocol):
    """What keeps the bytes. Calls block, and raise OSError or obstore's errors."""

    def put(self, key: str, file: IO[bytes]) -> None: ...
    def size(self, key: str) -> int: ...
    def read(self, key: str, start: int, end: int) -> bytes: ...
    def delete(self, key: str) -> None: ...
    def objects(self) -> Iterator[Sequence[Stored]]: ...
    def tidy(self) -> None: ...


class Bucket:
    """An object store."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store

    def put(self, key: str, file: IO[bytes]) -> None:
        obstore.put(self.store, key, file, chunk_size=PART_BYTES, max_concurrency=1)

    def size(self, key: str) -> int:
        return int(obstore.head(self.store, key)["size"])

    def read(self, key: str, start: int, end: int) -> bytes:
        return bytes(obstore.get_range(self.store, key, start=start, end=end))

    def delete(self, key: str) -> None:
        obstore.delete(self.store, key)

    def objects(self) -> Iterator[Sequence[Stored]]:
        for batch in obstore.list(self.store, chunk_size=BATCH):
            yield [Stored(found["path"], found["last_modified"].timestamp()) for found in batch]

    def tidy(self) -> None:
        """Unfinished uploads are the bucket's business: its lifecycle rules end them."""


@dataclass(frozen=True)
class Storage:
    """Objects by key, such as `3f…/original`: names of letters, digits and `._-`, none of which
    begins with a dot, and slashes between them. Any other key is a ValueError."""

    backend: Backend

    @property
    def folder(self) -> Path | None:
        """Where the files are, or None for an object store."""
        return self.backend.path if isinstance(self.backend, Folder) else None

    async def put(self, key: str, file: IO[bytes]) -> None:
        """Store a whole file under a key; visible at once and complete, or not at all.

        Raises StorageUnavailable where it cannot be written, such as on a full disk.
        """
        _check_key(key)
        with _translated(missing=StorageUnavailable):
            await asyncio.to_thread(self.backend.put, key, file)

    async def size(self, key: str) -> int | None:
        """Bytes stored under a key, or None. Raises StorageUnavailable."""
        _check_key(key)
        try:
            with _translated():
                return await asyncio.to_thread(self.backend.size, key)
        except FileNotFoundError:
            return None

    async def read(self, key: str, start: int, end: int) -> AsyncIterator[bytes]:
        """The bytes from start up to, not including, end.

        Raises StorageUnavailable, and FileNotFoundError where they are not all there.
        """
        _check_key(key)
        for position in range(start, end, CHUNK_BYTES):
            stop = min(position + CHUNK_BYTES, end)
            with _translated():
                chunk = await asyncio.to_thread(self.backend.read, key, position, stop)
            yield chunk

    async def delete(self, key: str) -> None:
        """Remove what is stored under a key; nothing happens where there is nothing.

        Raises StorageUnavailable.
        """
        _check_key(key)
        with suppress(FileNotFoundError), _translated():
            await asyncio.to_thread(self.backend.delete, key)

    async def older_than(self, seconds: float) -> AsyncIterator[list[str]]:
        """Keys of what was written longer ago than this, a batch at a time.

        Raises StorageUnavailable.
        """
        before = time.time() - seconds
        batches = self.backend.objects()
        while True:
            with _translated(missing=StorageUnavailable):
                batch = await asyncio.to_thread(next, batches, None)
            if batch is None:
                return
            if old := [stored.key for stored in batch if stored.written_at < before]:
                yield old

    async def tidy(self) -> None:
        """Remove what is not yet an object, and never will be. Raises StorageUnavailable."""
        with _translated(missing=StorageUnavailable):
            await asyncio.to_thread(self.backend.tidy)

    async def check(self) -> None:
        """Raises StorageUnavailable where nothing can be written and removed again."""
        key = f"check-{secrets.token_hex(8)}"
        await self.put(key, io.BytesIO(b"check"))
        await self.delete(key)


def _check_key(key: str) -> None:
    if not KEY.fullmatch(key):
        raise ValueError("not a storage key")


@contextmanager
def _translated(*, missing: type[Exception] = FileNotFoundError) -> Iterator[None]:
    """Turns what a backend raises into StorageUnavailable, or `missing` for what is not there."""
    try:
        yield
    except (OSError, BaseError) as error:
        if isinstance(error, MISSING) and missing is not StorageUnavailable:
            raise missing from error
        log.warning("storage_unavailable", extra={"error": f"{type(error).__name__}: {error}"})
        raise StorageUnavailable from error


@asynccontextmanager
async def open_storage(settings: Settings) -> AsyncIterator[Storage]:
    """The configured store. Opened after the fork only: its threads do not survive one."""
    url = settings.media_store_url.get_secret_value()
    if url:
        yield Storage(Bucket(from_url(url, client_options=CLIENT, retry_config=RETRIES)))
        return
    folder = Folder(Path(settings.upload_folder).resolve())
    try:
        await asyncio.to_thread(folder.prepare)
    except OSError as error:  # uploads answer 503; all else works
        log.warning("storage_unavailable", extra={"error": f"{type(error).__name__}: {error}"})
    yield Storage(folder)

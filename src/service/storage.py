"""Where uploaded bytes are kept: a folder or an object store, through one API.

All calls are made in threads: obstore's own event loop aborted the interpreter at some exits.
"""

import asyncio
import io
import logging
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol, TypeVar

from service.errors import Unavailable
from service.folder import Folder, Stored
from service.settings import Settings
from service.store_errors import ERRORS, described, is_missing, refusal

log = logging.getLogger(__name__)

KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")
THREADS = 16  # calls at once in a process
WAIT_SECONDS = 5  # for one of them, then 503

T = TypeVar("T")


class StorageUnavailable(Unavailable):
    """The bytes cannot be written or read for the moment."""


class Links(Protocol):
    """Signs URLs by which clients get objects from the store itself. Calls may block."""

    def sign(self, method: str, key: str, headers: Mapping[str, str]) -> str: ...


class Backend(Protocol):
    """What keeps the bytes. Calls block, and raise what `store_errors.ERRORS` has."""

    def put(self, key: str, file: IO[bytes]) -> None: ...
    def size(self, key: str) -> int: ...
    def chunks(self, key: str, start: int, end: int) -> Iterator[bytes]: ...
    def delete(self, key: str) -> None: ...
    def objects(self) -> Iterator[Sequence[Stored]]: ...
    def tidy(self) -> None: ...
    def ping(self) -> None: ...
    @property
    def links(self) -> Links | None: ...


class Threads:
    """Threads for blocking calls, so many and of their own: where the store hangs, its calls hold
    up neither each other for long nor anything else."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(THREADS, "storage")
        self._free = asyncio.Semaphore(THREADS)

    async def run(self, function: Callable[..., T], *arguments: object) -> T:
        """The result of a call. Raises StorageUnavailable where no thread gets free in time."""
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await self._free.acquire()
        except TimeoutError:
            log.warning("storage_busy", extra={"calls": THREADS, "seldom": ""})
            raise StorageUnavailable from None
        loop = asyncio.get_running_loop()

        def done(_: "Future[T]") -> None:
            with suppress(RuntimeError):  # the loop may have ended before the thread
                loop.call_soon_threadsafe(self._free.release)

        work = self._pool.submit(function, *arguments)
        work.add_done_callback(done)  # not when its caller gives up
        return await asyncio.wrap_future(work)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True)
class Storage:
    """Objects by key, such as `3f…/original`: names of letters, digits and `._-`, none of which
    begins with a dot, and slashes between them. Any other key is a ValueError."""

    backend: Backend
    threads: Threads = field(default_factory=Threads)

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
            await self.threads.run(self.backend.put, key, file)

    async def size(self, key: str) -> int | None:
        """Bytes stored under a key, or None. Raises StorageUnavailable."""
        _check_key(key)
        try:
            with _translated():
                return await self.threads.run(self.backend.size, key)
        except FileNotFoundError:
            return None

    async def read(self, key: str, start: int, end: int) -> AsyncIterator[bytes]:
        """The bytes from start up to, not including, end.

        Raises StorageUnavailable, and FileNotFoundError where they are not all there.
        """
        _check_key(key)
        chunks = self.backend.chunks(key, start, end)
        while True:
            with _translated():
                chunk = await self.threads.run(next, chunks, None)
            if chunk is None:
                return
            yield chunk

    async def delete(self, key: str) -> None:
        """Remove what is stored under a key; nothing happens where there is nothing.

        Raises StorageUnavailable.
        """
        _check_key(key)
        with suppress(FileNotFoundError), _translated():
            await self.threads.run(self.backend.delete, key)

    async def older_than(self, seconds: float) -> AsyncIterator[list[str]]:
        """Keys of what was written longer ago than this, a batch at a time.

        Raises StorageUnavailable.
        """
        before = time.time() - seconds
        batches = self.backend.objects()
        while True:
            with _translated(missing=StorageUnavailable):
                batch = await self.threads.run(next, batches, None)
            if batch is None:
                return
            if old := [stored.key for stored in batch if stored.written_at < before]:
                yield old

    async def link(self, method: str, key: str, headers: Mapping[str, str]) -> str | None:
        """A URL at which a client gets an object from the store itself, for a short time and with
        these headers; None where it has to come from here. Raises StorageUnavailable."""
        _check_key(key)
        if self.backend.links is None:
            return None
        with _translated(missing=StorageUnavailable):
            return await self.threads.run(self.backend.links.sign, method, key, headers)

    async def tidy(self) -> None:
        """Remove what is not yet an object, and never will be. Raises StorageUnavailable."""
        with _translated(missing=StorageUnavailable):
            await self.threads.run(self.backend.tidy)

    async def check(self) -> None:
        """Raises StorageUnavailable where nothing can be written, read and removed again."""
        key = f"check-{secrets.token_hex(8)}"
        await self.put(key, io.BytesIO(b"check"))
        with _translated(missing=StorageUnavailable):
            await self.threads.run(self.backend.ping)
        await self.delete(key)


def _check_key(key: str) -> None:
    if not KEY.fullmatch(key):
        raise ValueError("not a storage key")


@contextmanager
def _translated(*, missing: type[Exception] = FileNotFoundError) -> Iterator[None]:
    """Turns what a backend raises into StorageUnavailable, or `missing` for what is not there."""
    try:
        yield
    except ERRORS as error:
        if is_missing(error) and missing is not StorageUnavailable:
            raise missing from error
        if refused := refusal(error):  # until somebody mends it, and so an error
            extra = {"code": refused, "error": described(error), "seldom": refused}
            log.error("storage_refused", extra=extra)
        else:
            extra = {"error": described(error), "seldom": type(error).__name__}
            log.warning("storage_unavailable", extra=extra)
        raise StorageUnavailable from error


def _opened(settings: Settings) -> Backend:
    """Blocks while a folder is prepared."""
    if settings.media_store_url:
        # botocore takes 0.2 s and 16 MiB, which only those with a bucket should pay.
        from service.bucket import open_bucket  # noqa: PLC0415

        return open_bucket(settings)
    path = Path(settings.upload_folder).resolve()
    folder = Folder(path, shared=settings.x_accel_redirect)  # nginx may be another user
    try:
        folder.prepare()
    except OSError as error:  # uploads answer 503; all else works
        log.warning("storage_unavailable", extra={"error": described(error)})
    return folder


@asynccontextmanager
async def open_storage(settings: Settings) -> AsyncIterator[Storage]:
    """The configured store. Opened after the fork only: its threads do not survive one."""
    storage = Storage(await asyncio.to_thread(_opened, settings))
    try:
        yield storage
    finally:
        storage.threads.close()

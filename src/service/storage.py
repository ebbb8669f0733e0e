"""Where uploaded bytes are kept: a folder or an object store, through one API.

obstore's calls are made in threads: its own event loop aborted the interpreter at some exits.
"""

import asyncio
import errno
import io
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import obstore
from obstore.exceptions import NotFoundError
from obstore.store import LocalStore, ObjectStore, from_url

from service.errors import Unavailable
from service.settings import Settings

CHUNK_BYTES = 512 * 1024  # what one upload or download may hold in memory


class StorageUnavailable(Unavailable):
    """The bytes cannot be written or read for the moment."""


@dataclass(frozen=True)
class Storage:
    """Objects by key, such as `3f…/original`. `folder` is None for an object store."""

    store: ObjectStore
    folder: Path | None

    async def put(self, key: str, file: IO[bytes]) -> None:
        """Store a whole file under a key; visible at once and complete, or not at all.

        Raises StorageUnavailable where it cannot be written, such as on a full disk.
        """
        await asyncio.to_thread(self._put, key, file)

    def _put(self, key: str, file: IO[bytes]) -> None:
        chunk_bytes = CHUNK_BYTES if self.folder else 5 * 1024 * 1024  # S3's smallest part
        try:
            obstore.put(self.store, key, file, chunk_size=chunk_bytes, max_concurrency=1)
            if self.folder is not None:
                _make_durable(self.folder / key, self.folder)
        except (OSError, obstore.exceptions.BaseError) as error:
            raise StorageUnavailable from error

    async def size(self, key: str) -> int | None:
        """Bytes stored under a key, or None."""
        try:
            meta = await asyncio.to_thread(obstore.head, self.store, key)
        except (NotFoundError, FileNotFoundError):
            return None
        return int(meta["size"])

    async def read(self, key: str, start: int, end: int) -> AsyncIterator[bytes]:
        """The bytes from start up to, not including, end."""
        for position in range(start, end, CHUNK_BYTES):
            stop = min(position + CHUNK_BYTES, end)
            chunk = await asyncio.to_thread(
                obstore.get_range, self.store, key, start=position, end=stop
            )
            yield bytes(chunk)

    async def delete(self, key: str) -> None:
        """Remove what is stored under a key; nothing happens where there is nothing."""
        with suppress(NotFoundError, FileNotFoundError):
            await asyncio.to_thread(obstore.delete, self.store, key)

    async def check(self) -> None:
        """Raises where nothing can be written and removed again."""
        await self.put("check", io.BytesIO(b"check"))
        await self.delete("check")


def _make_durable(path: Path, top: Path) -> None:
    """What was accepted survives a power cut: the store itself does not flush to disk."""
    for target in (path, *(parent for parent in path.parents if parent.is_relative_to(top))):
        descriptor = os.open(target, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno != errno.EINVAL:  # file systems that cannot flush a directory
                raise
        finally:
            os.close(descriptor)


@asynccontextmanager
async def open_storage(settings: Settings) -> AsyncIterator[Storage]:
    """The configured store. Opened after the fork only: its threads do not survive one."""
    url = settings.media_store_url.get_secret_value()
    if url:
        yield Storage(from_url(url), None)
        return
    folder = Path(settings.upload_folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    yield Storage(LocalStore(folder, mkdir=True), folder)

"""Uploaded bytes as files in a folder: complete and on the disk, or not there at all."""

import errno
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import IO, NamedTuple

INCOMING = ".incoming"  # drafts; no key begins with a dot
ABANDONED_SECONDS = 24 * 3600
CHUNK_BYTES = 512 * 1024  # what one download or copy holds in memory
BATCH = 500


class Stored(NamedTuple):
    """An object's key, and when it was written, in seconds since 1970."""

    key: str
    written_at: float


class Folder:
    """A store like an object store. All calls block and raise OSError; where there is nothing under
    a key that is FileNotFoundError, or a word on the directories in its place."""

    links = None  # clients get files from nginx or the application

    def __init__(self, path: Path, *, shared: bool = False) -> None:
        """What it makes is for this user alone, or with `shared` for whom the umask leaves."""
        self.path = path
        self._folder_mode, self._file_mode = (0o777, 0o666) if shared else (0o700, 0o600)

    def prepare(self) -> None:
        """Make the folder, and what `tidy` does."""
        self._make(self.path / INCOMING)
        self.tidy()

    def tidy(self) -> None:
        """Remove drafts that processes left when they were killed."""
        incoming = self.path / INCOMING
        for draft in incoming.iterdir():
            with suppress(FileNotFoundError):  # another process may be at it
                if time.time() - draft.stat().st_mtime > ABANDONED_SECONDS:
                    draft.unlink()

    def put(self, key: str, file: IO[bytes]) -> None:
        """Store what is left to read of a file; its reader sees all of it or nothing."""
        draft = self.path / INCOMING / secrets.token_hex(16)
        target = self.path / key
        self._make(draft.parent)
        try:
            with open(draft, "xb", opener=self._open) as copy:
                shutil.copyfileobj(file, copy, CHUNK_BYTES)
                copy.flush()
                os.fsync(copy.fileno())  # survives a power cut
            self._make(target.parent)
            os.replace(draft, target)
        except BaseException:
            with suppress(OSError):
                draft.unlink()
            raise
        for parent in (target.parent, *target.parent.parents):
            _flush_directory(parent)
            if parent == self.path:
                break

    def _make(self, path: Path) -> None:
        if not path.is_dir():
            path.parent.mkdir(self._folder_mode, parents=True, exist_ok=True)
            path.mkdir(self._folder_mode, exist_ok=True)

    def _open(self, path: str, flags: int) -> int:
        return os.open(path, flags, self._file_mode)

    def size(self, key: str) -> int:
        """In bytes."""
        found = (self.path / key).stat()
        if not stat.S_ISREG(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, "Not a file")
        return found.st_size

    def read(self, key: str, start: int, end: int) -> bytes:
        """Raises FileNotFoundError where not all of these bytes are there."""
        with open(self.path / key, "rb") as file:
            file.seek(start)
            data = file.read(end - start)
        if len(data) < end - start:
            raise FileNotFoundError(errno.ENOENT, "The stored file is shorter")
        return data

    def chunks(self, key: str, start: int, end: int) -> Iterator[bytes]:
        """Bytes from start up to, not including, end. Raises as `read` does."""
        for position in range(start, end, CHUNK_BYTES):
            yield self.read(key, position, min(position + CHUNK_BYTES, end))

    def delete(self, key: str) -> None:
        """Remove an object, and the directories that it leaves empty."""
        target = self.path / key
        target.unlink(missing_ok=True)
        with suppress(OSError):
            for parent in target.parents:
                if parent == self.path:
                    break
                parent.rmdir()

    def objects(self) -> Iterator[list[Stored]]:
        """Every object, in batches."""
        found = _files(self.path)
        while batch := [*islice(found, BATCH)]:
            yield [Stored(str(path.relative_to(self.path)), when) for path, when in batch]

    def ping(self) -> None:
        """Raises OSError where the folder is away."""
        os.scandir(self.path).close()


def _files(folder: Path) -> Iterator[tuple[Path, float]]:
    """(path, time) of the files below, without drafts. The time is that of the inode: what a backup
    put back is new here."""
    with suppress(FileNotFoundError), os.scandir(folder) as entries:  # others may remove it
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _files(Path(entry.path))
            elif entry.is_file(follow_symlinks=False):
                with suppress(FileNotFoundError):
                    yield Path(entry.path), entry.stat(follow_symlinks=False).st_ctime


def _flush_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that cannot flush a directory
            raise
    finally:
        os.close(descriptor)

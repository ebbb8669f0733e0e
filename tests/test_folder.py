"""The folder that keeps uploads: whole or nothing, on the disk, within its own walls."""

import asyncio
import contextlib
import io
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from objects import content, keys_older_than
from servers import wait_until
from service import folder
from service.folder import ABANDONED_SECONDS, BATCH, INCOMING, Folder
from service.settings import Settings
from service.storage import Storage, StorageUnavailable, open_storage

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[Storage]:
    async with open_storage(Settings(upload_folder=str(tmp_path / "uploads"))) as storage:
        yield storage


def files(path: Path) -> list[str]:
    """Every file below, drafts included."""
    return sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())


async def test_what_was_put_can_be_read(storage: Storage, tmp_path: Path) -> None:
    data = os.urandom(3 * MIB + 17)
    await storage.put("ab12/original", io.BytesIO(data))
    assert await storage.size("ab12/original") == len(data)
    assert await content(storage, "ab12/original") == data
    assert files(tmp_path / "uploads") == ["ab12/original"]


def modes(path: Path) -> set[tuple[bool, str]]:
    """(whether it is a directory, its permissions) of a folder and all that is below."""
    found = [path, *path.rglob("*")]
    return {(each.is_dir(), f"{each.stat().st_mode & 0o777:o}") for each in found}


async def test_what_is_stored_is_for_this_user_alone(storage: Storage, tmp_path: Path) -> None:
    await storage.put("ab12/original", io.BytesIO(b"x"))
    assert modes(tmp_path / "uploads") == {(True, "700"), (False, "600")}


async def test_nginx_may_read_what_it_sends(tmp_path: Path) -> None:
    settings = Settings(upload_folder=str(tmp_path / "uploads"), x_accel_redirect=True)
    umask = os.umask(0o027)
    try:
        async with open_storage(settings) as storage:
            await storage.put("ab12/original", io.BytesIO(b"x"))
    finally:
        os.umask(umask)
    assert modes(tmp_path / "uploads") == {(True, "750"), (False, "640")}


async def test_the_size_of_what_is_missing_is_none(storage: Storage) -> None:
    assert await storage.size("missing") is None
    await storage.put("ab12/original", io.BytesIO(b"x"))
    assert await storage.size("ab12/original/deeper") is None
    assert await storage.size("ab12") is None, "a directory is no object"


async def test_deleting_leaves_no_empty_directories(storage: Storage, tmp_path: Path) -> None:
    """Each would take an inode."""
    await storage.put("ab12/original", io.BytesIO(b"x"))
    await storage.put("ab12/thumbnail", io.BytesIO(b"x"))
    await storage.delete("ab12/original")
    assert await content(storage, "ab12/thumbnail") == b"x"
    await storage.delete("ab12/thumbnail")
    assert sorted(path.name for path in (tmp_path / "uploads").iterdir()) == [INCOMING]


async def test_a_file_that_vanished_is_named_as_such(storage: Storage, tmp_path: Path) -> None:
    await storage.put("a", io.BytesIO(bytes(2 * MIB)))
    chunks = storage.read("a", 0, 2 * MIB)
    await anext(chunks)
    (tmp_path / "uploads" / "a").unlink()
    with pytest.raises(FileNotFoundError):
        await anext(chunks)


async def test_a_file_that_was_cut_off_is_named_as_such(storage: Storage, tmp_path: Path) -> None:
    await storage.put("a", io.BytesIO(bytes(100)))
    os.truncate(tmp_path / "uploads" / "a", 10)
    with pytest.raises(FileNotFoundError):
        await content(storage, "a", 0, 100)


async def test_put_flushes_the_file_and_every_directory_above_it(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[str] = []
    flush = os.fsync

    def fsync(descriptor: int) -> None:
        flushed.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        flush(descriptor)

    monkeypatch.setattr(folder.os, "fsync", fsync)
    await storage.put("ab12/original", io.BytesIO(b"x"))
    top = str(tmp_path / "uploads")
    assert flushed[0].startswith(f"{top}/{INCOMING}/")
    assert flushed[1:] == [f"{top}/ab12", top]


async def test_a_reader_sees_the_old_bytes_or_the_new_ones(storage: Storage) -> None:
    size = 2 * MIB
    await storage.put("a", io.BytesIO(b"0" * size))

    async def write() -> None:
        for digit in b"123456789":
            await storage.put("a", io.BytesIO(bytes([digit]) * size))

    writing = asyncio.create_task(write())
    while not writing.done():
        data = await asyncio.to_thread(storage.backend.read, "a", 0, size)
        assert len(set(data)) == 1
    await writing


class Stuck(io.RawIOBase):
    """A file that ends in an error."""

    def __init__(self) -> None:
        self.left = [b"x" * 100_000]

    def read(self, size: int = -1) -> bytes:
        if self.left:
            return self.left.pop()
        raise OSError(5, "Input/output error")


async def test_a_put_that_fails_leaves_nothing(storage: Storage, tmp_path: Path) -> None:
    with pytest.raises(StorageUnavailable):
        await storage.put("a", Stuck())  # type: ignore[arg-type]
    assert files(tmp_path / "uploads") == []


PUT_SLOWLY = """
import sys, time
from pathlib import Path
from service.folder import Folder

class Slow:
    def read(self, size=-1):
        time.sleep(0.01)
        return b"x" * size

Folder(Path(sys.argv[1])).put("a/original", Slow())
"""


def test_a_kill_in_the_middle_leaves_no_object(tmp_path: Path) -> None:
    top = tmp_path / "uploads"
    Folder(top).prepare()
    process = subprocess.Popen([sys.executable, "-c", PUT_SLOWLY, str(top)])
    wait_until(lambda: list((top / INCOMING).iterdir()), seconds=20)
    process.kill()
    process.wait()
    with pytest.raises(FileNotFoundError):
        Folder(top).size("a/original")
    assert [name.startswith(f"{INCOMING}/") for name in files(top)] == [True]


async def test_drafts_of_killed_processes_are_removed_at_a_later_start(tmp_path: Path) -> None:
    incoming = tmp_path / INCOMING
    incoming.mkdir()
    (incoming / "old").write_bytes(b"x")
    (incoming / "new").write_bytes(b"x")
    long_ago = time.time() - ABANDONED_SECONDS - 10
    os.utime(incoming / "old", (long_ago, long_ago))
    async with open_storage(Settings(upload_folder=str(tmp_path))):
        assert files(tmp_path) == [f"{INCOMING}/new"]


async def test_drafts_and_what_leads_out_of_the_folder_are_not_listed(
    storage: Storage, tmp_path: Path
) -> None:
    top = tmp_path / "uploads"
    await storage.put("a/b", io.BytesIO(b"x"))
    (top / INCOMING / "draft").write_bytes(b"x")
    (tmp_path / "secret").write_bytes(b"x")
    (top / "a" / "link").symlink_to(tmp_path / "secret")
    (top / "linked").symlink_to(tmp_path)
    assert await keys_older_than(storage, -60) == ["a/b"]


async def test_what_a_backup_put_back_is_not_old(storage: Storage, tmp_path: Path) -> None:
    await storage.put("a", io.BytesIO(b"x"))
    os.utime(tmp_path / "uploads" / "a", (0, 0))
    assert await keys_older_than(storage, 60) == []


async def test_objects_may_vanish_while_they_are_listed(storage: Storage) -> None:
    keys = [f"{n}/a" for n in range(2 * BATCH)]
    for key in keys:
        await storage.put(key, io.BytesIO(b""))
    async for batch in storage.older_than(-60):
        assert batch
        for key in keys:
            await storage.delete(key)


async def test_old_drafts_are_removed_and_new_ones_are_not(
    storage: Storage, tmp_path: Path
) -> None:
    incoming = tmp_path / "uploads" / INCOMING
    for name in ("old", "new"):
        (incoming / name).write_bytes(b"x")
    os.utime(incoming / "old", (0, 0))
    await storage.tidy()
    assert [path.name for path in incoming.iterdir()] == ["new"]


async def test_a_folder_that_cannot_be_listed_is_unavailable(
    storage: Storage, tmp_path: Path
) -> None:
    (tmp_path / "uploads" / INCOMING).rmdir()
    (tmp_path / "uploads").rmdir()
    (tmp_path / "uploads").write_text("in the way")
    with pytest.raises(StorageUnavailable):
        await keys_older_than(storage, 0)
    with pytest.raises(StorageUnavailable):
        await storage.tidy()


@contextlib.contextmanager
def small_disk(path: Path, mebibytes: int) -> Iterator[None]:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(path)],
        capture_output=True,
    )
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


async def test_a_full_disk_is_unavailable_and_keeps_no_part(tmp_path: Path) -> None:
    with small_disk(tmp_path, 4):
        async with open_storage(Settings(upload_folder=str(tmp_path))) as storage:
            await storage.put("small", io.BytesIO(bytes(MIB)))
            for _ in range(3):
                with pytest.raises(StorageUnavailable) as caught:
                    await storage.put("ab12/original", io.BytesIO(bytes(8 * MIB)))
            assert caught.value.status == 503
            assert caught.value.headers["Retry-After"]
            assert files(tmp_path) == ["small"]
            assert await storage.size("ab12/original") is None
            await storage.put("other", io.BytesIO(bytes(2 * MIB)))


PUT_TOO_MUCH = """
import io, resource, sys
from pathlib import Path
from service.folder import Folder

resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
try:
    Folder(Path(sys.argv[1])).put("a/original", io.BytesIO(bytes(8_000_000)))
except OSError as error:
    print(error.strerror)
"""


def test_a_write_that_stops_short_keeps_no_part(tmp_path: Path) -> None:
    """As on a full disk, where none can be mounted."""
    done = subprocess.run(
        [sys.executable, "-c", PUT_TOO_MUCH, str(tmp_path)], capture_output=True, text=True
    )
    assert done.stdout == "File too large\n"
    assert files(tmp_path) == []


async def test_a_folder_that_cannot_be_made_does_not_stop_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    async with open_storage(Settings(upload_folder=str(tmp_path / "file" / "x"))) as storage:
        with pytest.raises(StorageUnavailable):
            await storage.put("a", io.BytesIO(b"x"))
        with pytest.raises(StorageUnavailable):
            await storage.check()


async def test_a_folder_that_went_away_is_made_again(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "uploads" / INCOMING).rmdir()
    (tmp_path / "uploads").rmdir()
    await storage.put("a", io.BytesIO(b"x"))
    assert await content(storage, "a") == b"x"


async def test_the_check_leaves_nothing(storage: Storage, tmp_path: Path) -> None:
    await asyncio.gather(*(storage.check() for _ in range(5)))
    assert files(tmp_path / "uploads") == []


async def test_a_put_that_was_given_up_leaves_no_draft(storage: Storage, tmp_path: Path) -> None:
    """The thread goes on to its end: what it leaves is a whole object."""
    putting = asyncio.create_task(storage.put("a", io.BytesIO(bytes(16 * MIB))))
    await asyncio.sleep(0)
    putting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await putting
    top = tmp_path / "uploads"
    wait_until(lambda: files(top) in ([], ["a"]) and not list((top / INCOMING).iterdir()))

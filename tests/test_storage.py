"""What a folder and object stores have in common."""

import asyncio
import hashlib
import io
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from object_stores import STORES, ObjectStore
from objects import content, keys_older_than, settings_of
from servers import clean_environment
from service.folder import BATCH
from service.storage import Storage, StorageUnavailable, open_storage

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024


@pytest.fixture(params=["folder", *STORES])
def backend(request: pytest.FixtureRequest) -> ObjectStore | None:
    """None for a folder, and each kind of object store in turn."""
    if request.param == "folder":
        return None
    server: ObjectStore = request.getfixturevalue(f"{request.param}_store")
    return server


@pytest.fixture
def variables(backend: ObjectStore | None, tmp_path: Path) -> dict[str, str]:
    """Settings for a store that is empty."""
    return backend.variables() if backend else {"UPLOAD_FOLDER": str(tmp_path / "uploads")}


@pytest.fixture
def answers_ranges(backend: ObjectStore | None) -> bool:
    return backend is None or backend.answers_ranges


@pytest.fixture
async def storage(variables: dict[str, str]) -> AsyncIterator[Storage]:
    async with open_storage(settings_of(variables)) as storage:
        yield storage


async def test_what_was_put_can_be_read(storage: Storage) -> None:
    data = os.urandom(3 * MIB + 17)
    await storage.put("ab12/original", io.BytesIO(data))
    assert await storage.size("ab12/original") == len(data)
    assert await content(storage, "ab12/original") == data


async def test_an_empty_object_is_an_object(storage: Storage) -> None:
    await storage.put("empty", io.BytesIO())
    assert await storage.size("empty") == 0
    assert await content(storage, "empty") == b""


async def test_put_replaces(storage: Storage) -> None:
    await storage.put("a", io.BytesIO(b"long, long"))
    await storage.put("a", io.BytesIO(b"short"))
    assert await content(storage, "a") == b"short"


@pytest.mark.parametrize(
    ("start", "end"),
    [(0, 1), (5, 9), (0, 0), (1_000_000, 1_600_000), (512 * 1024, 1024 * 1024), (1_599_999, None)],
)
async def test_ranges_are_exact(
    storage: Storage, answers_ranges: bool, start: int, end: int | None
) -> None:
    data = os.urandom(1_600_000)
    await storage.put("a", io.BytesIO(data))
    if start and not answers_ranges:  # what the server says cannot be told from all of it
        with pytest.raises(StorageUnavailable):
            await content(storage, "a", start, end)
    else:
        assert await content(storage, "a", start, end) == data[start:end]


async def test_what_is_left_of_a_file_is_stored_in_as_many_parts_as_it_takes(
    storage: Storage,
) -> None:
    data = os.urandom(11 * MIB)
    with tempfile.SpooledTemporaryFile(max_size=MIB) as file:
        file.write(data)
        file.seek(17)
        await storage.put("a", file)  # type: ignore[arg-type]
    assert await storage.size("a") == len(data) - 17
    assert await content(storage, "a") == data[17:]


async def test_what_is_missing_has_no_size_and_cannot_be_read(storage: Storage) -> None:
    await storage.put("ab12/original", io.BytesIO(b"x"))
    for key in ("missing", "ab12", "ab12/thumbnail"):
        assert await storage.size(key) is None
        with pytest.raises(FileNotFoundError):
            await content(storage, key, 0, 1)


async def test_bytes_that_are_not_all_there_are_named_as_missing(storage: Storage) -> None:
    await storage.put("a", io.BytesIO(bytes(100)))
    with pytest.raises(FileNotFoundError):
        await content(storage, "a", 0, 101)


async def test_what_was_deleted_is_gone_and_the_rest_is_not(storage: Storage) -> None:
    await storage.put("ab12/original", io.BytesIO(b"x"))
    await storage.put("ab12/thumbnail", io.BytesIO(b"y"))
    await storage.delete("ab12/original")
    assert await storage.size("ab12/original") is None
    assert await content(storage, "ab12/thumbnail") == b"y"
    await storage.delete("ab12/original")


async def test_objects_are_listed_by_their_age(storage: Storage) -> None:
    keys = ["a", "b/c", *(f"many/{n:03}" for n in range(20))]
    for key in keys:
        await storage.put(key, io.BytesIO(b"x"))
    assert await keys_older_than(storage, 60) == []
    assert await keys_older_than(storage, -60) == keys


async def test_more_objects_than_a_page_has_are_listed(storage: Storage) -> None:
    """S3 names a thousand in one answer."""
    keys = [f"{number:04}/original" for number in range(1001)]
    assert len(keys) > 2 * BATCH
    for some in range(0, len(keys), 16):
        puts = [storage.put(key, io.BytesIO(b"")) for key in keys[some : some + 16]]
        await asyncio.gather(*puts)
    assert await keys_older_than(storage, -60) == keys


async def test_nothing_outside_the_prefix_is_seen(object_store: ObjectStore) -> None:
    variables = object_store.variables()
    beside = {**variables, "MEDIA_STORE_URL": variables["MEDIA_STORE_URL"] + "-beside"}
    async with (
        open_storage(settings_of(variables)) as storage,
        open_storage(settings_of(beside)) as other,
    ):
        await other.put("a", io.BytesIO(b"x"))
        await storage.put("b", io.BytesIO(b"x"))
        assert await keys_older_than(storage, -60) == ["b"]
        await storage.delete("a")
        assert await content(other, "a") == b"x"


async def test_the_check_leaves_nothing(storage: Storage) -> None:
    await asyncio.gather(*(storage.check() for _ in range(5)))
    assert await keys_older_than(storage, -60) == []


@pytest.mark.parametrize(
    "key",
    [
        *("", "/", "/etc/passwd", "../outside", "a/../../outside", "a/..", "..", ".", "a/./b"),
        *("a//b", "a/", "/a", ".incoming/x", "a/.hidden", "a\\..\\b", "a\0b", "a\nb", "~/x"),
        *("%2e%2e/x", "a b", "ä", "a#1", "a?b", "C:/x", "x" + "\n"),
    ],
)
async def test_a_key_cannot_leave_the_store(storage: Storage, key: str) -> None:
    for call in (storage.put(key, io.BytesIO(b"x")), storage.size(key), storage.delete(key)):
        with pytest.raises(ValueError, match="not a storage key"):
            await call
    with pytest.raises(ValueError, match="not a storage key"):
        await anext(storage.read(key, 0, 1))


async def test_an_empty_store_lists_nothing(storage: Storage) -> None:
    await storage.tidy()
    assert await keys_older_than(storage, -60) == []


async def test_many_at_once_do_not_disturb_each_other(storage: Storage) -> None:
    async def one(number: int) -> None:
        data = bytes([number]) * (200_000 + number)
        await storage.put(f"k{number}/original", io.BytesIO(data))
        assert await content(storage, f"k{number}/original") == data
        await storage.delete(f"k{number}/original")

    await asyncio.gather(*(one(number) for number in range(40)))


MEMORY = """
import asyncio, hashlib, os, sys
from service.settings import load
from service.storage import open_storage

def resident(name):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(name)) * 1024

async def main():
    async with open_storage(load(os.environ).settings) as storage:
        await storage.check()
        with open(sys.argv[1], "rb") as file:
            before = resident("VmRSS:")
            await storage.put("a", file)
            digest = hashlib.sha256()
            async for chunk in storage.read("a", 0, 64 * 1024 * 1024):
                digest.update(chunk)
    print(resident("VmHWM:") - before, digest.hexdigest())

asyncio.run(main())
"""


def test_64_mebibytes_cost_little_memory(variables: dict[str, str], tmp_path: Path) -> None:
    """A part of 5 MiB on its way, and what the client keeps of it."""
    data = os.urandom(MIB) * 64
    (tmp_path / "source").write_bytes(data)
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "source")]
    environment = clean_environment(**variables)
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=tmp_path, env=environment
    )
    grown, digest = done.stdout.split()
    assert digest == hashlib.sha256(data).hexdigest()
    assert int(grown) < (30 if "MEDIA_STORE_URL" in variables else 12) * MIB

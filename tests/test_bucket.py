"""Buckets: keys, links, refusals, and what happens while the object store is away."""

import asyncio
import io
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import IO, Any
from urllib.parse import parse_qs, urlsplit

import httpx2 as httpx
import pytest

from faulty_store import FaultyStore
from object_stores import BUCKET, KEY, SECRET, ObjectStore, RcloneByHost
from objects import content, settings_of
from servers import running, wait_until
from service import bucket
from service.bucket import LINK_SECONDS, Bucket
from service.storage import THREADS, Storage, StorageUnavailable, open_storage

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024
Lines = list[dict[str, Any]]


def opened(variables: dict[str, str]) -> AbstractAsyncContextManager[Storage]:
    return open_storage(settings_of(variables))


@pytest.fixture
async def storage(object_store: ObjectStore) -> AsyncIterator[Storage]:
    async with opened(object_store.variables()) as storage:
        yield storage


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines that a test can wait for."""
    monkeypatch.setitem(bucket.CLIENT, "read_timeout", "1s")


@pytest.fixture
def without_identity(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine that has no key of its own to offer."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


HEADERS = {
    "Content-Type": "image/png",
    "Content-Disposition": "inline; filename*=UTF-8''a%20b%C3%A4.png",
    "Cache-Control": "private, no-cache",
}


async def link(storage: Storage, method: str = "GET", key: str = "ab12/original") -> str:
    url = await storage.link(method, key, HEADERS)
    assert url is not None
    return url


async def test_a_link_gives_the_bytes_with_the_headers_asked_for(storage: Storage) -> None:
    data = os.urandom(MIB)
    await storage.put("ab12/original", io.BytesIO(data))
    answer = httpx.get(await link(storage))
    assert (answer.status_code, answer.content) == (200, data)
    assert {name: answer.headers[name] for name in HEADERS} == HEADERS


async def test_a_link_gives_ranges(storage: Storage) -> None:
    await storage.put("ab12/original", io.BytesIO(b"0123456789"))
    answer = httpx.get(await link(storage), headers={"Range": "bytes=2-5"})
    assert answer.content == b"2345"
    assert answer.headers["Content-Range"] == "bytes 2-5/10"


async def test_a_link_for_head_tells_the_size(storage: Storage) -> None:
    await storage.put("ab12/original", io.BytesIO(b"0123456789"))
    answer = httpx.head(await link(storage, "HEAD"))
    assert (answer.status_code, answer.headers["Content-Length"]) == (200, "10")


async def test_a_link_is_for_one_object_one_method_and_these_headers(
    rclone_store: ObjectStore,
) -> None:
    async with opened(rclone_store.variables()) as storage:
        for key in ("ab12/original", "cd34/original"):
            await storage.put(key, io.BytesIO(b"x"))
        url = await link(storage)
        assert httpx.get(url).status_code == 200
        assert httpx.get(url.replace("ab12", "cd34")).status_code == 403
        assert httpx.get(url.replace("image%2Fpng", "text%2Fhtml")).status_code == 403
        assert httpx.head(url).status_code == 403
        assert httpx.delete(url).status_code == 403


async def test_a_link_expires(rclone_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket, "LINK_SECONDS", 1)
    async with opened(rclone_store.variables()) as storage:
        await storage.put("ab12/original", io.BytesIO(b"x"))
        url = await link(storage)
        wait_until(lambda: httpx.get(url).status_code in (400, 403), seconds=20)


async def test_a_link_needs_no_network_and_has_no_secret(without_identity: None) -> None:
    variables = {
        "MEDIA_STORE_URL": "s3://uploads/some/prefix",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_SESSION_TOKEN": "t0ken",
    }
    async with opened(variables) as storage:
        url = await link(storage)
    assert url.startswith("http://127.0.0.1:9/uploads/some/prefix/ab12/original?")
    asked = parse_qs(urlsplit(url).query)
    assert asked["X-Amz-Expires"] == [str(LINK_SECONDS)]
    assert asked["X-Amz-Credential"][0].startswith(f"{KEY}/")
    assert asked["X-Amz-Credential"][0].endswith("/us-east-1/s3/aws4_request")
    assert asked["X-Amz-Security-Token"] == ["t0ken"]
    assert SECRET not in url


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, "https://uploads.s3.eu-west-1.amazonaws.com/p/"),
        ({"MEDIA_STORE_URL": "s3://up.loads"}, "https://s3.eu-west-1.amazonaws.com/up.loads/"),
        ({"MEDIA_STORE_PATH_STYLE": "true"}, "https://s3.eu-west-1.amazonaws.com/uploads/p/"),
        ({"AWS_ENDPOINT_URL": "http://minio:9000/"}, "http://minio:9000/uploads/p/"),
        (
            {"AWS_ENDPOINT_URL": "https://oss.example", "MEDIA_STORE_PATH_STYLE": "false"},
            "https://uploads.oss.example/p/",
        ),
        (
            {
                "AWS_ENDPOINT_URL": "http://minio:9000",
                "MEDIA_STORE_PUBLIC_URL": "https://media.example.org",
            },
            "https://media.example.org/uploads/p/",
        ),
    ],
)
async def test_a_link_leads_to_where_clients_reach_the_store(
    more: dict[str, str], expected: str
) -> None:
    variables = {
        "MEDIA_STORE_URL": "s3://uploads/p",
        "AWS_REGION": "eu-west-1",
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
    }
    async with opened(variables | more) as storage:
        assert (await link(storage)).startswith(f"{expected}ab12/original?")


async def test_a_public_address_is_what_is_signed(rclone_store: ObjectStore) -> None:
    """A proxy that keeps the host name may be between."""
    public = f"http://localhost:{rclone_store.port}"
    async with opened(rclone_store.variables(MEDIA_STORE_PUBLIC_URL=public)) as storage:
        await storage.put("ab12/original", io.BytesIO(b"x"))
        url = await link(storage)
        assert url.startswith(f"{public}/")
        assert httpx.get(url).content == b"x"
        assert httpx.get(url.replace("localhost", "127.0.0.1")).status_code == 403


async def test_the_bucket_may_be_in_the_name_of_the_host(tmp_path: Path) -> None:
    with running(RcloneByHost(tmp_path / "store")) as server:
        host = f"localhost:{server.port}"
        variables = server.variables(
            AWS_ENDPOINT_URL=f"http://{host}", MEDIA_STORE_PATH_STYLE="false"
        )
        file = server.directory / "kept" / BUCKET / variables["MEDIA_STORE_URL"].split("/", 3)[3]
        file.mkdir(parents=True)
        (file / "photo").write_bytes(b"x")
        async with opened(variables) as storage:
            url = await link(storage, key="photo")
        assert url.startswith(f"http://{BUCKET}.{host}/tests/")
        answer = httpx.get(  # no resolver has to know the name
            url.replace(f"{BUCKET}.{host}", f"127.0.0.1:{server.port}"),
            headers={"Host": f"{BUCKET}.{host}"},
        )
        assert (answer.status_code, answer.content) == (200, b"x")


async def test_nobody_is_sent_to_a_store_where_that_is_off(object_store: ObjectStore) -> None:
    async with opened(object_store.variables(MEDIA_STORE_REDIRECT="false")) as storage:
        assert await storage.link("GET", "ab12/original", HEADERS) is None


async def test_an_object_alone_is_a_download_of_unknown_type(moto_store: ObjectStore) -> None:
    """Were the bucket ever opened to the world, uploaded HTML would still not run there."""
    async with opened(moto_store.variables()) as storage:
        for data in (b"x", bytes(6 * MIB)):
            await storage.put("page", io.BytesIO(data))
            answer = httpx.get(await storage.link("GET", "page", {}) or "")
            assert answer.headers["Content-Type"] == "application/octet-stream"
            assert answer.headers["Content-Disposition"] == "attachment"


async def test_the_key_may_be_the_identity_of_a_container(
    moto_store: ObjectStore,
    without_identity: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As Kubernetes hands it out: a token to be changed for a key that expires."""
    (tmp_path / "token").write_text("token of the service account")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/uploads")
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", moto_store.url)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    variables = moto_store.variables(AWS_ACCESS_KEY_ID="", AWS_SECRET_ACCESS_KEY="", AWS_REGION="")
    async with opened(variables) as storage:
        await storage.put("ab12/original", io.BytesIO(b"x"))
        asked = parse_qs(urlsplit(await link(storage)).query)
        assert asked["X-Amz-Security-Token"]
        assert asked["X-Amz-Credential"][0].startswith("ASIA")
        assert "/eu-central-1/" in asked["X-Amz-Credential"][0]
        assert httpx.get(await link(storage)).content == b"x"


async def refused(storage: Storage) -> None:
    with pytest.raises(StorageUnavailable):
        await storage.put("a", io.BytesIO(b"x"))
    with pytest.raises(StorageUnavailable):
        await content(storage, "a", 0, 1)
    with pytest.raises(StorageUnavailable):
        [_ async for _ in storage.older_than(0)]
    with pytest.raises(StorageUnavailable):
        await storage.check()


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "an0ther-secret"}, "SignatureDoesNotMatch"),
        ({"AWS_ACCESS_KEY_ID": "AKIDUNKNOWN"}, "InvalidAccessKeyId"),
        ({"MEDIA_STORE_URL": "s3://no-such-bucket/prefix"}, "NoSuchBucket"),
    ],
)
async def test_what_is_refused_is_named_in_the_log_and_is_not_missing(
    rclone_store: ObjectStore, wrong: dict[str, str], code: str, log_lines: Lines
) -> None:
    async with opened(rclone_store.variables(**wrong)) as storage:
        await refused(storage)
    assert {line["code"] for line in log_lines} == {code}
    assert {(line["message"], line["level"]) for line in log_lines} == {
        ("storage_refused", "error")
    }
    assert not any(noise in str(log_lines) for noise in ("<?xml", "Debug", "StringToSign"))
    assert SECRET not in str(log_lines)
    assert "an0ther-secret" not in str(log_lines)


async def test_no_key_at_all_is_named_in_the_log(
    moto_store: ObjectStore, without_identity: None, log_lines: Lines
) -> None:
    variables = moto_store.variables(AWS_ACCESS_KEY_ID="", AWS_SECRET_ACCESS_KEY="")
    async with opened(variables) as storage:
        await refused(storage)
        with pytest.raises(StorageUnavailable):
            await link(storage)
    assert {line["code"] for line in log_lines} == {"NoCredentials"}
    assert "Traceback" not in str(log_lines)


async def test_a_store_that_is_gone_is_unavailable_at_once_and_good_again_later(
    own_object_store: ObjectStore, log_lines: Lines
) -> None:
    async with opened(own_object_store.variables()) as storage:
        await storage.put("a", io.BytesIO(b"x"))
        own_object_store.stop()
        began = time.monotonic()
        with pytest.raises(StorageUnavailable) as caught:
            await storage.put("a", io.BytesIO(b"x"))
        assert caught.value.headers["Retry-After"]
        assert time.monotonic() - began < 5
        own_object_store.start()
        await storage.put("a", io.BytesIO(b"y"))
        assert await content(storage, "a") == b"y"
    [line] = log_lines
    assert line["message"] == "storage_unavailable"
    assert line["error"].endswith("ConnectionRefused")


async def test_a_store_that_hangs_is_unavailable_in_bounded_time_and_holds_up_nothing_else(
    own_object_store: ObjectStore, impatient: None, log_lines: Lines
) -> None:
    async with opened(own_object_store.variables()) as storage:
        await storage.put("a", io.BytesIO(b"x"))
        own_object_store.freeze()
        began = time.monotonic()
        puts = [storage.put(f"k{n}", io.BytesIO(bytes(MIB))) for n in range(2 * THREADS)]
        waiting = asyncio.gather(*puts, return_exceptions=True)
        await asyncio.sleep(0.1)
        await asyncio.wait_for(asyncio.to_thread(time.sleep, 0.01), 5)
        assert not waiting.done()
        assert all(isinstance(outcome, StorageUnavailable) for outcome in await waiting)
        assert time.monotonic() - began < 30
        own_object_store.thaw()
        assert await content(storage, "a") == b"x"
    assert all(line["error"].endswith("Timeout") for line in log_lines)


async def test_calls_beyond_what_may_hang_are_refused_rather_than_queued(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, log_lines: Lines
) -> None:
    monkeypatch.setattr("service.storage.WAIT_SECONDS", 0.1)
    hanging = [storage.threads.run(time.sleep, 2) for _ in range(THREADS)]
    tasks = [asyncio.create_task(call) for call in hanging]
    await asyncio.sleep(0.2)
    for task in tasks[:4]:  # a caller that gave up does not free its thread
        task.cancel()
    with pytest.raises(StorageUnavailable):
        await storage.size("a")
    assert log_lines[-1]["message"] == "storage_busy"
    await asyncio.gather(*tasks, return_exceptions=True)
    monkeypatch.undo()
    assert await storage.size("a") is None


@pytest.fixture
def faulty_store() -> Iterator[FaultyStore]:
    with FaultyStore() as server:
        yield server


@pytest.mark.parametrize(
    ("status", "code"), [(500, "InternalError"), (503, "SlowDown"), (503, ""), (429, "SlowDown")]
)
async def test_errors_of_the_store_are_repeated_a_little_and_then_unavailable(
    faulty_store: FaultyStore, status: int, code: str, log_lines: Lines
) -> None:
    faulty_store.answer = (status, code)
    async with opened(faulty_store.variables()) as storage:
        for call in (storage.put("a", io.BytesIO(b"x")), storage.size("a"), storage.delete("a")):
            before = len(faulty_store.requests)
            with pytest.raises(StorageUnavailable):
                await call
            assert 1 <= len(faulty_store.requests) - before <= 3
    assert {line["message"] for line in log_lines} == {"storage_unavailable"}


async def test_a_put_that_fails_half_way_removes_its_parts(moto_store: ObjectStore) -> None:
    class Breaking(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() >= 6 * MIB:
                raise OSError(5, "Input/output error")
            return super().read(min(size or -1, MIB) if size else MIB)

    variables = moto_store.variables()
    prefix = variables["MEDIA_STORE_URL"].removeprefix("s3://")
    async with opened(variables) as storage:
        with pytest.raises(StorageUnavailable):
            await storage.put("ab12/original", Breaking(bytes(12 * MIB)))
        assert await storage.size("ab12/original") is None
    requests = [line for line in moto_store.log_path.read_text().splitlines() if prefix in line]
    assert any("PUT" in line and "partNumber=1" in line for line in requests)
    assert any("DELETE" in line and "uploadId=" in line for line in requests)
    assert "<Upload>" not in httpx.get(f"{moto_store.url}/{BUCKET}?uploads").text


def test_parts_grow_so_that_ten_thousand_are_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def put(store: Any, key: str, file: IO[bytes], *, chunk_size: int, **_: Any) -> None:
        sizes.append(chunk_size)

    monkeypatch.setattr("service.bucket.obstore.put", put)
    with open(tmp_path / "large", "w+b") as file:
        for gibibytes in (1, 60, 1024):
            file.truncate(gibibytes * 1024**3)
            Bucket(None).put("a", file)  # type: ignore[arg-type]
            assert sizes[-1] * 10_000 >= gibibytes * 1024**3
    assert sizes[0] == 5 * MIB

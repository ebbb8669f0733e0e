"""What no well-behaved client sends, byte by byte, and what bodies cost, on a real server."""

import http.client
import json
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from servers import Web, wait_until

pytestmark = pytest.mark.alone

MEBIBYTE = 1024 * 1024
LIMIT = 64 * MEBIBYTE
HOST = b"Host: localhost\r\n"
TOKEN = "token-of-the-raw-tests"


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory, migrated_sqlite: Path) -> Iterator[Web]:
    """One server for all tests of this module, with an account whose token is TOKEN."""
    directory = tmp_path_factory.mktemp("raw")
    database = directory / "service.sqlite3"
    database.write_bytes(migrated_sqlite.read_bytes())
    insert_account(database)
    web = Web(
        directory / "web",
        {"DATABASE_URL": f"sqlite:///{database}", "MAX_CONTENT_LENGTH": str(LIMIT)},
    )
    try:
        yield web.start()
    finally:
        web.stop()


def insert_account(database: Path) -> None:
    import hashlib
    import sqlite3
    from contextlib import closing

    account = "0" * 31 + "1"
    digest = hashlib.sha256(TOKEN.encode()).digest()
    now, later = "2026-01-01 00:00:00.000000", "2999-01-01 00:00:00.000000"
    with closing(sqlite3.connect(database)) as connection, connection:
        row = (account, "ada@example.org", "x", "x", now, now)
        connection.execute("INSERT INTO accounts VALUES (?, ?, ?, ?, ?, ?)", row)
        connection.execute(
            "INSERT INTO tokens (digest, account_id, created_at, expires_at) VALUES (?, ?, ?, ?)",
            (digest, account, now, later),
        )


@contextmanager
def connected(web: Web) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", web.port), 20) as connection:
        yield connection


def until_closed(connection: socket.socket) -> bytes:
    received = b""
    while chunk := connection.recv(65536):
        received += chunk
    return received


def answer_of(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """(status, headers, body) of the next answer."""
    response = http.client.HTTPResponse(connection)
    response.begin()
    return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()


@pytest.mark.parametrize(
    "request_line",
    [
        b"OPTIONS * HTTP/1.1",
        b"GET http://localhost/api/keys HTTP/1.1",
        b"GET http://localhost HTTP/1.1",
        b"CONNECT localhost:443 HTTP/1.1",
        b"GET /" + b"a" * 60_000 + b" HTTP/1.1",
        b"GET /%00%ff%c0%80 HTTP/1.1",
        b"GET /api/keys?limit=%ff&cursor=%00 HTTP/1.1",
        b"GET /../../etc/passwd HTTP/1.1",
        b"GET /\xff\xfe HTTP/1.1",
        b"GET  HTTP/1.1",
        b"GET / HTTP/9.9",
        b"PRI * HTTP/2.0",
        b"BREW /coffee HTTP/1.1",
        b"nonsense",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
    ids=lambda line: ascii(line)[2:30],
)
def test_an_odd_request_gets_an_error_and_harms_nobody(web: Web, request_line: bytes) -> None:
    with connected(web) as connection:
        connection.sendall(request_line + b"\r\n" + HOST + b"Connection: close\r\n\r\n")
        received = until_closed(connection)
    assert re.match(rb"HTTP/1\.[01] 4\d\d ", received), received[:100]
    assert web.status("/health/live") == 200
    assert "Traceback" not in web.log


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Content-Length: -1\r\n",
        b"Content-Length: +5\r\n",
        b"Content-Length: 5, 5\r\n",
        b"Content-Length: " + b"9" * 5000 + b"\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"Transfer-Encoding : chunked\r\n",
        b"X-Y: a\rb\r\n",
        b"Content-Length: 0x5\r\n",
    ],
    ids=lambda headers: ascii(headers)[2:40],
)
def test_a_body_whose_end_is_in_doubt_is_refused(web: Web, headers: bytes) -> None:
    """Two readings of where a request ends are how one is smuggled past a proxy."""
    body = b"0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with connected(web) as connection:
        connection.sendall(b"POST /login HTTP/1.1\r\n" + HOST + headers + b"\r\n" + body)
        received = until_closed(connection)
    assert received.startswith(b"HTTP/1.1 400 ")
    assert received.count(b"HTTP/1.1 ") == 1
    assert "/smuggled" not in web.log


def test_pipelined_requests_are_answered_in_order_each_under_its_own_id(web: Web) -> None:
    trace = b"Traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n"
    first = b"GET /pipelined/1 HTTP/1.1\r\n" + HOST + trace + b"X-Request-ID: pipelined-1\r\n\r\n"
    second = b"GET /pipelined/2 HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"
    with connected(web) as connection:
        connection.sendall(first + second)
        received = until_closed(connection)
    ids = re.findall(rb"x-request-id: (\S+)", received)
    assert ids[0] == b"pipelined-1"
    assert len(ids[1]) == 32
    wait_until(lambda: "/pipelined/2" in web.log)
    lines = {e["path"]: e for e in web.events("request") if "pipelined" in e["path"]}
    assert lines["/pipelined/1"]["trace_id"] == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert "trace_id" not in lines["/pipelined/2"]
    assert lines["/pipelined/2"]["request_id"] == ids[1].decode()


# media: from here
def head_of_upload(length: int, *more: bytes) -> bytes:
    lines = [
        b"POST /api/media HTTP/1.1",
        HOST.strip(),
        b"Content-Type: multipart/form-data; boundary=frontier",
        b"Content-Length: %d" % length,
        *more,
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n"


AUTHORIZATION = b"Authorization: Bearer " + TOKEN.encode()


@pytest.mark.parametrize(
    ("length", "more", "status"),
    [(LIMIT + MEBIBYTE, (AUTHORIZATION,), 413), (10**15, (), 413), (LIMIT, (), 401)],
)
def test_an_upload_is_refused_before_any_of_its_body_is_sent(
    web: Web, length: int, more: tuple[bytes, ...], status: int
) -> None:
    with connected(web) as connection:
        connection.sendall(head_of_upload(length, *more))
        found, headers, body = answer_of(connection)
    assert found == status
    assert headers["content-type"] == "application/problem+json"
    assert json.loads(body)["request_id"] == headers["x-request-id"]


@pytest.mark.parametrize(
    ("length", "more", "status"), [(LIMIT * 2, (AUTHORIZATION,), 413), (LIMIT, (), 401)]
)
def test_a_client_that_asks_first_is_not_told_to_go_on(
    web: Web, length: int, more: tuple[bytes, ...], status: int
) -> None:
    with connected(web) as connection:
        connection.sendall(head_of_upload(length, *more, b"Expect: 100-continue"))
        assert connection.recv(12) == b"HTTP/1.1 %d" % status


def test_a_client_that_asks_first_and_may_is_told_to_go_on(web: Web) -> None:
    with connected(web) as connection:
        connection.sendall(head_of_upload(4, AUTHORIZATION, b"Expect: 100-continue"))
        assert connection.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"----")
        assert answer_of(connection)[0] in (400, 422)


@pytest.mark.parametrize(("authorization", "status"), [(TOKEN, 413), ("nobody's", 401)])
def test_a_client_that_sends_everything_before_it_reads_still_reads_why_not(
    web: Web, authorization: str, status: int
) -> None:
    """As most HTTP libraries do; a connection reset would hide the answer."""
    size = LIMIT + MEBIBYTE if status == 413 else LIMIT
    connection = http.client.HTTPConnection("127.0.0.1", web.port, timeout=60)
    headers = {
        "Host": "localhost",
        "Content-Type": "multipart/form-data; boundary=frontier",
        "Authorization": f"Bearer {authorization}",
    }
    connection.request("POST", "/api/media", body=b"x" * size, headers=headers)
    answer = connection.getresponse()
    assert answer.status == status
    answer.read()
    connection.request("GET", "/api/media", headers={"Host": "localhost"})  # on the same connection
    assert connection.getresponse().status == 401
    connection.close()


def peak_mebibytes(web: Web) -> float:
    (worker,) = web.workers()
    status = Path(f"/proc/{worker}/status").read_text()
    peak = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert peak
    return int(peak[1]) / 1024


def upload(web: Web, size: int) -> dict[str, str]:
    chunk = b"x" * MEBIBYTE
    head = b'--frontier\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
    tail = b"\r\n--frontier--\r\n"
    with connected(web) as connection:
        connection.sendall(head_of_upload(len(head) + size + len(tail), AUTHORIZATION) + head)
        for _ in range(size // MEBIBYTE):
            connection.sendall(chunk)
        connection.sendall(tail)
        status, _, body = answer_of(connection)
    assert status == 202, body
    return dict(json.loads(body))


def download(web: Web, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", web.port, timeout=60)
    headers = {"Host": "localhost", "Authorization": f"Bearer {TOKEN}"}
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    assert answer.status == 200
    received = 0
    while chunk := answer.read(MEBIBYTE):
        received += len(chunk)
    connection.close()
    return received


def test_an_upload_and_a_download_cost_little_memory_whatever_their_size(web: Web) -> None:
    download(web, upload(web, MEBIBYTE)["url"])  # everything is imported and connected
    before = peak_mebibytes(web)
    item = upload(web, 48 * MEBIBYTE)
    assert download(web, item["url"]) == 48 * MEBIBYTE
    assert peak_mebibytes(web) - before < 16


def test_head_has_the_length_and_no_body(web: Web) -> None:
    url = upload(web, MEBIBYTE)["url"]
    request = b"HEAD %s HTTP/1.1\r\n" % url.encode() + HOST + AUTHORIZATION + b"\r\n"
    with connected(web) as connection:
        connection.sendall(request + b"Connection: close\r\n\r\n")
        received = until_closed(connection)
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert b"content-length: 1048576" in head
    assert body == b""


def test_a_client_that_leaves_in_the_middle_of_its_upload_is_no_error(web: Web) -> None:
    with connected(web) as connection:
        connection.sendall(
            head_of_upload(10_000_000, AUTHORIZATION, b"X-Request-ID: left-in-the-middle")
            + b'--frontier\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
            + b"x" * 100_000
        )
    ended: Callable[[], bool] = lambda: any(  # noqa: E731
        event.get("request_id") == "left-in-the-middle" for event in web.events("request")
    )
    wait_until(ended)
    events = [e for e in web.events() if e.get("request_id") == "left-in-the-middle"]
    assert [(e["message"], e["status"]) for e in events] == [("request", 499)]


# media: to here

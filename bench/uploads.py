"""What readers feel while others upload."""

import os
import shutil
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPSConnection
from itertools import chain
from pathlib import Path

from bench.account import Bearer
from bench.proxy import measured_nginx, web_behind
from bench.requests import migrate, web_for_bench
from bench.table import Row
from nginx import available
from servers import Postgresql, RedisServer, running, wait_until

ROUNDS = 5
SECONDS = 3
UPLOADERS = 8
READERS = 8
EVERY_SECONDS = 0.04  # each reader
UPLOAD_BYTES = 16 * 1024 * 1024
MULTIPART = {"Content-Type": "multipart/form-data; boundary=bench"}
HEAD = (
    b'--bench\r\nContent-Disposition: form-data; name="file"; filename="16MiB.bin"\r\n'
    b"Content-Type: application/octet-stream\r\n\r\n"
)
TAIL = b"\r\n--bench--\r\n"
KIND = "installed"


def reads_during_uploads(directory: Path, postgresql: Postgresql, redis: RedisServer) -> list[Row]:
    """`GET /api/accounts/me` 200 times a second, of two workers: while nothing else happens, and
    while 8 clients upload 16 MiB again and again, as fast as the machine can."""
    url = postgresql.new_database()
    bearer = Bearer()
    received = directory / "received"
    environment = {"DATABASE_URL": url, "REDIS_URL": redis.url, "WEB_CONCURRENCY": "2"}
    environment |= {"UPLOAD_FOLDER": str(received), "MEDIA_BYTES_PER_ACCOUNT": "0"}
    environment |= {"MEDIA_UNFINISHED_PER_ACCOUNT": "1000000"}
    web = web_for_bench(directory / "reads", "full", environment)
    migrate(web)
    bearer.insert(postgresql, url)
    with running(web):
        wait_until(lambda: len(web.workers()) == 2)
        clients = Clients(lambda: HTTPConnection("127.0.0.1", web.port, timeout=30), bearer)
        rows = [_row("the app alone", clients, received)]
    if not available(KIND):
        return rows
    nginx = measured_nginx(directory / "reads-nginx", KIND, "auto")
    with running(web_behind(nginx, environment), wait=None), running(nginx):
        wait_until(lambda: nginx.ask("/").is_success)
        tls = {"timeout": 30, "context": nginx.tls()}
        clients = Clients(lambda: HTTPSConnection("localhost", nginx.port, **tls), bearer)
        return [*rows, _row("through nginx", clients, received)]


class Clients:
    """Readers and uploaders, each on a connection of its own."""

    def __init__(self, connect: Callable[[], HTTPConnection], bearer: Bearer) -> None:
        self.connect = connect
        self.headers = {"Authorization": bearer.header}
        self.body = HEAD + os.urandom(UPLOAD_BYTES) + TAIL

    def read(self) -> float:
        """The p99 in milliseconds."""
        began = time.perf_counter()
        starts = [began + EVERY_SECONDS * number / READERS for number in range(READERS)]
        with ThreadPoolExecutor(READERS) as threads:
            taken = chain.from_iterable(threads.map(self._read, starts))
        return statistics.quantiles(taken, n=100)[-1] * 1000

    def read_during_uploads(self, received: Path) -> tuple[float, float]:
        """The p99 in milliseconds, and the megabytes a second that were uploaded."""
        enough = threading.Event()
        began = time.perf_counter()
        with ThreadPoolExecutor(UPLOADERS) as threads:
            uploads = [threads.submit(self._upload, enough) for _ in range(UPLOADERS)]
            try:
                p99 = self.read()
            finally:
                enough.set()
        count = sum(upload.result() for upload in uploads)
        seconds = time.perf_counter() - began
        for path in received.iterdir():
            shutil.rmtree(path)
        return p99, count * UPLOAD_BYTES / 1e6 / seconds

    def _read(self, due: float) -> list[float]:
        """Seconds from when each request was due: who waits for one is late with the next."""
        taken = []
        connection = self.connect()
        for _ in range(int(SECONDS / EVERY_SECONDS)):
            time.sleep(max(0, due - time.perf_counter()))
            self._ask(connection, "GET", "/api/accounts/me")
            taken.append(time.perf_counter() - due)
            due += EVERY_SECONDS
        connection.close()
        return taken

    def _upload(self, enough: threading.Event) -> int:
        """How many it were."""
        count = 0
        connection = self.connect()
        while not enough.is_set():
            self._ask(connection, "POST", "/api/media", self.body, MULTIPART)
            count += 1
        connection.close()
        return count

    def _ask(
        self,
        connection: HTTPConnection,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        connection.request(method, path, body, self.headers | (headers or {}))
        answer = connection.getresponse()
        content = answer.read()
        assert answer.status < 300, content


def _row(name: str, clients: Clients, received: Path) -> Row:
    clients.read(), clients.read_during_uploads(received)
    idle, busy, rates = [], [], []
    for _ in range(ROUNDS):
        idle.append(clients.read())
        p99, rate = clients.read_during_uploads(received)
        busy.append(p99)
        rates.append(rate)
    ratios = [b / a for a, b in zip(idle, busy, strict=True)]
    note = f"{statistics.median(busy):.1f} against {statistics.median(idle):.1f} ms"
    note += f", beside {statistics.median(rates):.0f} MB/s of uploads"
    return Row(f"p99 of reads during 8 uploads / idle, {name}", ratios, note=note)

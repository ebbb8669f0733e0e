"""Clients that hold on to what they have: dropped in bounded time, and holding up nobody.

With SHORT the deadlines are a tenth, so that a test can wait for them.
"""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator

from echo import Answer
from nginx import TEMPLATE, Change, Site, changed
from nginx_checks import new_path
from servers import wait_until

SHORT: tuple[Change, ...] = (
    ("client_header_timeout       10s;", "client_header_timeout       1s;"),
    ("client_body_timeout         15s;", "client_body_timeout         1500ms;"),
    ("send_timeout                15s;", "send_timeout                1500ms;"),
)
LARGE = bytes(30 * 1024 * 1024)
SLACK_SECONDS = 6


def deadline_seconds(site: Site, name: str) -> float:
    """What the configuration says; of a line that is gone, what SHORT says."""
    text = changed(TEMPLATE.read_text(), SHORT if SHORT[0] in site.nginx.changes else ())
    found = re.search(rf"^ +{name} +([0-9]+)(ms|s);", text, re.MULTILINE)
    assert found
    return int(found[1]) / (1000 if found[2] == "ms" else 1)


def dropped_within(connection: socket.socket, seconds: float) -> bool:
    """Whether the other side ends the connection, whatever it sends first."""
    end = time.monotonic() + seconds
    with contextlib.suppress(ConnectionError):
        while (left := end - time.monotonic()) > 0:
            connection.settimeout(left)
            try:
                if not connection.recv(65536):
                    return True
            except TimeoutError:
                break
        return False
    return True


def a_slow_head_is_dropped(site: Site) -> None:
    """Also one that goes on and on: the deadline is for all of it."""
    seconds = deadline_seconds(site, "client_header_timeout")
    with site.nginx.connect() as connection, trickling(connection, b"X-More: 1\r\n", seconds / 5):
        connection.sendall(site.nginx.head("GET", "/slow")[:-2])
        assert dropped_within(connection, seconds + SLACK_SECONDS)


def a_slow_head_on_the_plain_port_is_dropped(site: Site) -> None:
    seconds = deadline_seconds(site, "client_header_timeout")
    address = ("127.0.0.1", site.nginx.http_port)
    with socket.create_connection(address) as connection:
        connection.sendall(b"GET / HT")
        assert dropped_within(connection, seconds + SLACK_SECONDS)


def a_slow_body_is_dropped(site: Site) -> None:
    seconds = deadline_seconds(site, "client_body_timeout")
    with site.nginx.connect() as connection:
        head = site.nginx.head("POST", "/login", "Content-Length: 60000")
        connection.sendall(head + b"a beginning")
        assert dropped_within(connection, seconds + SLACK_SECONDS)


def a_slow_reader_is_dropped(site: Site) -> None:
    seconds = deadline_seconds(site, "send_timeout")
    path = new_path("/large-")
    site.echo.answers[path] = Answer(body=LARGE)
    with site.nginx.connect(receive_bytes=4096) as connection:
        connection.sendall(site.nginx.head("GET", path))
        wait_until(lambda: is_told(site, path), seconds=seconds + SLACK_SECONDS)
        connection.settimeout(5)
        got = 0
        with contextlib.suppress(OSError):
            while data := connection.recv(65536):
                got += len(data)
        assert got < len(LARGE)


def is_told(site: Site, path: str) -> bool:
    """Whether nginx has logged a request, which it does at its end."""
    return any(line["path"] == path for line in site.nginx.lines)


def a_slow_reader_does_not_hold_up_the_app(site: Site) -> None:
    """nginx has taken over all of the answer."""
    path = new_path("/large-")
    site.echo.answers[path] = Answer(body=LARGE)
    with site.nginx.connect(receive_bytes=4096) as connection:
        connection.sendall(site.nginx.head("GET", path))
        end = time.monotonic() + 20
        while path not in site.echo.sent and time.monotonic() < end:
            time.sleep(0.05)
        assert path in site.echo.sent


@contextlib.contextmanager
def trickling(connection: socket.socket, data: bytes, pause_seconds: float) -> Iterator[None]:
    """Somebody who sends a little now and then."""
    stop = threading.Event()

    def send() -> None:
        with contextlib.suppress(OSError):
            while not stop.wait(pause_seconds):
                connection.sendall(data)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(5)


def many_slow_clients_hold_up_nobody(site: Site) -> None:
    """200 of them, with half a request each."""
    address = ("127.0.0.1", site.nginx.http_port)
    slow = [socket.create_connection(address) for _ in range(100)]
    slow += [site.nginx.connect() for _ in range(100)]
    try:
        for connection in slow:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: exam")
        begun = time.monotonic()
        for _ in range(20):
            assert site.nginx.ask("/quick").status_code == 200
        assert time.monotonic() - begun < 5
    finally:
        for connection in slow:
            connection.close()


CHECKS: list[Callable[[Site], None]] = [
    a_slow_head_is_dropped,
    a_slow_head_on_the_plain_port_is_dropped,
    a_slow_body_is_dropped,
    a_slow_reader_is_dropped,
    a_slow_reader_does_not_hold_up_the_app,
]

"""Requests over HTTP/2 by hand: a body need not come before the answer, nor at all."""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import httpx2 as httpx
from h2.connection import H2Connection
from h2.events import DataReceived, ResponseReceived, StreamEnded, StreamReset

from nginx import Nginx


def ask(nginx: Nginx, method: str, path: str, *, length: int | None = None) -> httpx.Response:
    """The answer to a request's head; `length` is that of a body which never comes."""
    with _connected(nginx) as (http, connection):
        head = _head(nginx, method, path)
        if length is not None:
            head.append(("content-length", str(length)))
        http.send_headers(1, head, end_stream=length is None)
        connection.sendall(http.data_to_send())
        return _answer(http, connection)


@contextmanager
def uploading(nginx: Nginx, path: str, clients: Iterable[Mapping[str, str]]) -> Iterator[None]:
    """For a block: a POST for each of these headers, on one connection, of which no body comes."""
    with _connected(nginx) as (http, connection):
        for number, client in enumerate(clients):
            more = [(name.lower(), value) for name, value in client.items()]
            head = [*_head(nginx, "POST", path), ("content-length", "9"), *more]
            http.send_headers(2 * number + 1, head)
        connection.sendall(http.data_to_send())
        yield


@contextmanager
def _connected(nginx: Nginx) -> Iterator[tuple[H2Connection, ssl.SSLSocket]]:
    context = nginx.tls()
    context.set_alpn_protocols(["h2", "http/1.1"])
    with nginx.connect(context=context) as connection:
        assert connection.selected_alpn_protocol() == "h2"
        http = H2Connection()
        http.initiate_connection()
        yield http, connection


def _head(nginx: Nginx, method: str, path: str) -> list[tuple[str, str]]:
    host = f"{nginx.name}:{nginx.port}"
    return [(":method", method), (":scheme", "https"), (":authority", host), (":path", path)]


def _answer(http: H2Connection, connection: ssl.SSLSocket) -> httpx.Response:
    headers: list[tuple[bytes, bytes]] = []
    body = b""
    while data := connection.recv(65536):
        for event in http.receive_data(data):
            if isinstance(event, ResponseReceived):
                headers = list(event.headers)
            if isinstance(event, DataReceived):
                body += event.data
            if isinstance(event, StreamEnded | StreamReset):
                status = int(dict(headers)[b":status"])
                rest = [pair for pair in headers if not pair[0].startswith(b":")]
                return httpx.Response(status, headers=rest, content=body)
        connection.sendall(http.data_to_send())
    raise ConnectionError("the connection ended before the answer did")

"""A proxy in front of an object store, which answers with errors or not at all where it is told."""

from __future__ import annotations

import http.client
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

SILENT_LOOK_SECONDS = 0.05
STORE_SECONDS = 30

Mode = Literal["reliable", "500", "503", "silent", "done, and 500"]
ERROR = b"<?xml version='1.0'?><Error><Code>InternalError</Code></Error>"
OF_A_CONNECTION = ("connection", "keep-alive", "transfer-encoding", "content-length")


class UnreliableStore:
    """`mode` is what it does; in the last the store has done what was asked, and nobody knows."""

    def __init__(self, store_port: int) -> None:
        self.store_port = store_port
        self.mode: Mode = "reliable"
        proxy = self

        class Handler(_Handler):
            store = proxy

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> UnreliableStore:
        threading.Thread(target=self.server.serve_forever, args=[0.05], daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.mode = "reliable"
        self.server.shutdown()
        self.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: UnreliableStore

    def _relay(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        mode = self.store.mode
        if mode == "silent":
            while self.store.mode == "silent":
                time.sleep(SILENT_LOOK_SECONDS)
            self.close_connection = True
            return
        if mode in ("500", "503"):
            self._answer(int(mode), {"Content-Type": "application/xml"}, ERROR)
            return
        status, headers, found = self._ask(body)
        if mode == "done, and 500":
            status, headers, found = 500, {"Content-Type": "application/xml"}, ERROR
        self._answer(status, headers, found)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _relay  # noqa: N815

    def _ask(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(
            "127.0.0.1", self.store.store_port, timeout=STORE_SECONDS
        )
        try:
            connection.request(self.command, self.path, body, dict(self.headers))
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), response.read()
        finally:
            connection.close()

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response_only(status)
        length = str(len(body))
        for name, value in headers.items():
            if name.lower() == "content-length" and self.command == "HEAD":
                length = value
            if name.lower() not in OF_A_CONNECTION:
                self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""

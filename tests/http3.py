"""One request over HTTP/3."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from typing import Any

from aioquic.asyncio import QuicConnectionProtocol, connect
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import QuicEvent

from nginx import Nginx


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


class Client(QuicConnectionProtocol):
    """Asks once and gathers the answer."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.http = H3Connection(self._quic)
        self.ended = asyncio.Event()
        self.fields: list[tuple[bytes, bytes]] = []
        self.body = b""

    def quic_event_received(self, event: QuicEvent) -> None:
        for got in self.http.handle_event(event):
            if isinstance(got, HeadersReceived):
                self.fields += got.headers
            if isinstance(got, DataReceived):
                self.body += got.data
            if isinstance(got, HeadersReceived | DataReceived) and got.stream_ended:
                self.ended.set()

    async def get(self, host: str, path: str) -> Answer:
        fields = {":method": "GET", ":scheme": "https", ":authority": host, ":path": path}
        headers = [(name.encode(), value.encode()) for name, value in fields.items()]
        stream = self._quic.get_next_available_stream_id()
        self.http.send_headers(stream, headers, end_stream=True)
        self.transmit()
        await self.ended.wait()
        got = {name.decode(): value.decode() for name, value in self.fields}
        return Answer(int(got.pop(":status")), got, self.body)


def get(nginx: Nginx, path: str, *, host: str = "", sni: str = "") -> Answer:
    """Raises ConnectionError where the handshake fails."""

    async def ask() -> Answer:
        configuration = QuicConfiguration(
            alpn_protocols=H3_ALPN, server_name=sni or nginx.name, verify_mode=ssl.CERT_NONE
        )
        async with (
            asyncio.timeout(10),
            connect(
                "127.0.0.1", nginx.port, configuration=configuration, create_protocol=Client
            ) as client,
        ):
            assert isinstance(client, Client)
            return await client.get(host or f"{nginx.name}:{nginx.port}", path)

    return asyncio.run(ask())

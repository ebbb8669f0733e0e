"""Uvicorn's HTTP protocol with bounds on what the parser itself takes without end.

A proxy in front has bounds of its own. Without one, a header of 60 MB kept a worker busy for
seconds, and a client that sent half a request held its connection for ever.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service import logs
from service.errors import PROBLEM_JSON, phrase, problem_body
from service.socket_protocol import is_handshake

MAX_HEAD_BYTES = 64 * 1024
HEAD_SECONDS = 30.0
BODY_PAUSE_SECONDS = 30.0
MOST_PIPELINED = 100  # requests behind one that is not answered yet
FORWARDED = b"x-forwarded-"


class _Refused(Exception):
    """Raised through the parser, which then goes no further."""


class _Complete(list[tuple[bytes, bytes]]):
    """A head's fields, to which what comes behind the body adds nothing."""

    def append(self, _: tuple[bytes, bytes]) -> None:
        """A trailer is no header (RFC 9110 section 6.5.1): it might name a client or a host."""


class BoundedHttp(HttpToolsProtocol):
    """Answers 431 to a head that is too large, and to as much that is neither head nor body; closes
    a connection whose head takes too long, or whose body pauses.

    Behind a Unix socket the proxy is believed whatever it says of the client, as it has no address
    that could be listed. Whoever comes to PEER_BIND has one, and is not believed.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        settings = getattr(self.config.app, "settings", None)
        self._from_peer = settings and settings.on_unix_socket and self.client is not None
        self._request_id = logs.new_id()  # for what is no request
        self._in_head = self._in_message = True
        self._too_large = False
        self._bare_bytes = 0  # since a head began or a part of a body came
        self._last_read = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._served: Any = None  # the cycle that runs, or ran last
        self._await(HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)
        if self._served is not None:  # of pipelined requests Uvicorn tells only the last
            self._served.disconnected = True
            self._served.message_event.set()

    def data_received(self, data: bytes) -> None:
        logs.request_id.set(self._request_id)  # a request's own is set where it is served
        self._bare = True
        self._read_bytes = len(data)
        timer = self.timeout_keep_alive_task
        idle_until = timer.when() if timer and not self._in_message else None
        super().data_received(data)
        if self.transport.is_closing():
            return
        if not self._in_message:
            self._stay_idle(idle_until)
            return
        self._bare_bytes = self._bare_bytes + len(data) if self._bare else 0
        self._last_read = self.loop.time()
        if self._bare_bytes > MAX_HEAD_BYTES:
            self.logger.warning("Too much that is neither head nor body.")
            self._refuse(431)
        elif self._timer is None:
            self._await(HEAD_SECONDS if self._in_head else BODY_PAUSE_SECONDS)

    def _stay_idle(self, until: float | None) -> None:
        """Where Uvicorn ended that: blank lines do, and the rest of what is answered already."""
        if self.timeout_keep_alive_task is None and self._answered() and not self._upgrades:
            self.timeout_keep_alive_task = self.loop.call_at(
                until or self.loop.time() + self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._upgrades: bool | None = None  # not known yet
        self._bare = self._in_head  # what came before this head in the same read is not its own
        self._in_head = self._in_message = True
        self._bare_bytes = 0

    def on_headers_complete(self) -> None:
        self._stop_timer()
        if len(self.pipeline) >= MOST_PIPELINED:
            raise _Refused
        # Only then can it be too large: adding it up costs more than the rest of this.
        if (
            self._bare_bytes + self._read_bytes > MAX_HEAD_BYTES
            and self._head_size() > MAX_HEAD_BYTES
        ):
            self._too_large = True
            raise _Refused
        if self.parser.should_upgrade() and self._has_body():
            raise _Refused  # the parser skips it, and would read a request in its place
        if self._from_peer:
            self.headers = [pair for pair in self.headers if not pair[0].startswith(FORWARDED)]
            self.scope["headers"] = self.headers
        super().on_headers_complete()
        self._in_head = False  # not before: the address may still be none

    def _should_upgrade(self) -> bool:
        """Only with a whole handshake, and when no other answer is due. Any other offer is passed
        over, and its request is one like the rest (RFC 9110 section 7.8)."""
        if self._upgrades is None:
            offered = super()._should_upgrade() and self._answered()
            self._upgrades = offered and is_handshake(self._head())
        return self._upgrades

    def on_chunk_header(self) -> None:
        """Called by the parser where a body comes in chunks: only there are trailers."""
        if self.headers is self.scope["headers"]:
            self.headers = _Complete(self.headers)
            # Who knows no other coding may not see where the body ends (RFC 9112 section 6.1).
            if any(k == b"transfer-encoding" and v.lower() != b"chunked" for k, v in self.headers):
                raise _Refused

    def on_body(self, body: bytes) -> None:
        self._bare = False
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_message = False
        self._stop_timer()
        super().on_message_complete()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        """What the application refuses anyway is answered without a task.

        But where requests are pipelined: each answer would start the next, and soon too deep. And
        where the client does not read: it is a task that waits until the answers before are sent.
        """
        ask = getattr(self.config.app, "refusal", None)
        waits = self.pipeline or self.flow.write_paused
        refusal = ask(cycle.scope) if ask and not waits else None
        if refusal is None:
            self._served = cycle
            super()._start_asgi_task(cycle, app)
            return
        cycle.response_started = cycle.response_complete = True
        body = problem_body(refusal.status, detail=refusal.detail, request_id=refusal.request_id)
        self._write_problem(
            refusal.status,
            body,
            refusal.request_id,
            refusal.headers,
            keep_alive=cycle.keep_alive,
            head_only=cycle.scope["method"] == "HEAD",
        )
        self.on_response_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(431 if self._too_large else 400)

    def _unsupported_upgrade_warning(self) -> None:
        """The parser takes what follows for another protocol, so that this answer is the last."""
        self._end_with_this_answer()

    def _answered(self) -> bool:
        """Whether all requests are, as far as they have begun."""
        return self.cycle is None or self.cycle.response_complete

    def _head(self) -> bytes:
        line = (self.scope["method"].encode(), self.url, self.scope["http_version"].encode())
        fields = (b"%b: %b" % field for field in self.headers)
        return b"\r\n".join((b"%b %b HTTP/%b" % line, *fields, b"", b""))

    def _has_body(self) -> bool:
        return any(
            name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0"))
            for name, value in self.headers
        )

    def _head_size(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _await(self, seconds: float) -> None:
        self._timer = self.loop.call_later(seconds, self._check)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check(self) -> None:
        self._timer = None
        if not self._in_message or self.transport.is_closing():
            return
        now = self.loop.time()
        if self.flow.read_paused:  # the pause is the service's own
            self._last_read = now
        left = self._last_read + BODY_PAUSE_SECONDS - now
        if self._in_head or left <= 0:
            self.transport.close()
        else:
            self._await(left)

    def _refuse(self, status: int) -> None:
        """No request is answered twice, nor in the middle of the answer to the one before it."""
        in_body = self._in_message and not self._in_head
        if in_body and self.cycle.response_started:
            self.transport.close()
        elif in_body or self._answered():
            self._send_problem(status)
        else:
            self._end_with_this_answer()

    def _end_with_this_answer(self) -> None:
        self.cycle.keep_alive = False
        self.flow.pause_reading()
        if self.cycle.response_complete:
            self.transport.close()

    def _send_problem(self, status: int) -> None:
        """An answer to what is no request, under the id that its line in the log has."""
        body = problem_body(status, request_id=self._request_id)
        self._write_problem(status, body, self._request_id, {})

    def _write_problem(
        self,
        status: int,
        body: bytes,
        request_id: str,
        headers: Mapping[str, str],
        *,
        keep_alive: bool = False,
        head_only: bool = False,
    ) -> None:
        lines = {
            **dict(self.server_state.default_headers),  # in a drain they have that it closes
            b"content-type": PROBLEM_JSON.encode(),
            b"content-length": str(len(body)).encode(),
            b"x-request-id": request_id.encode(),
            **{name.lower().encode(): value.encode() for name, value in headers.items()},
        }
        if not keep_alive:
            lines[b"connection"] = b"close"
        head = b"".join([b"%b: %b\r\n" % line for line in lines.items()])
        title, sent = phrase(status).encode(), b"" if head_only else body
        self.transport.write(b"HTTP/1.1 %d %b\r\n%b\r\n%b" % (status, title, head, sent))
        if b"connection" in lines:
            self.transport.close()

"""The one layer around the application: host check, body limit, request id, metrics, access log
and the answer to what nobody caught. One plain ASGI layer costs less than a microsecond; five of
`BaseHTTPMiddleware` half a millisecond.
"""

import logging
import re
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import NamedTuple
from urllib.parse import quote

from prometheus_client import Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from service import logs, metrics, tracing
from service.bodies import (
    FORM_OVERHEAD_BYTES,
    OTHER_CHARACTERS,
    SMALL_BODY_BYTES,
    BodyTooLarge,
    counted,
    is_utf_8,
    too_large,
    waiting,
)
from service.database_time import begin_request
from service.exchange import Exchange, SocketExchange
from service.settings import Settings
from service.turns import Busy, Turns

log = logging.getLogger("service.access")

# https://www.w3.org/TR/trace-context/#traceparent-header: version ff and ids of zeros are invalid,
# and only versions after 00 may say more.
TRACEPARENT = re.compile(
    rb"(?!ff)(?!00-.{53})[0-9a-f]{2}"
    rb"-((?!0{32})[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?"
)
SMALL_BODY = (SMALL_BODY_BYTES, SMALL_BODY_BYTES)
UNMATCHED = "(unmatched)"
KNOWN_HOSTS = 1000
SINGLE = {b"host": "Host", b"content-type": "Content-Type"}
OTHER_HOST = "This service does not answer for that host."
PLACE = "service.place"  # in a scope: where its request already stands in line
LONGEST_HOST = 300  # a name has at most 253 characters; the rest is its port


class Refusal(NamedTuple):
    """What a server answers that asked first."""

    status: int
    detail: str | None
    request_id: str
    headers: Mapping[str, str]


def host_matcher(allowed: tuple[str, ...]) -> Callable[[bytes], bool]:
    """Whether a Host header names an allowed host; `*.example.org` allows its subdomains."""
    exact = {host for host in allowed if not host.startswith("*")}
    suffixes = tuple(host[1:] for host in allowed if host.startswith("*."))
    known: dict[bytes, bool] = {}

    def matches(header: bytes) -> bool:
        answer = known.get(header)
        if answer is None:
            host = header.decode("latin-1").lower()
            name = host if host.endswith("]") else re.sub(r":\d*$", "", host)
            answer = "*" in allowed or name in exact or bool(suffixes and name.endswith(suffixes))
            # Only what is allowed, and short: strangers cannot fill it.
            if answer and len(known) < KNOWN_HOSTS and len(header) < LONGEST_HOST:
                known[header] = answer
        return answer

    return matches


class RequestLayer:
    """Wraps the application.

    `body_limits` maps (method, path) to the bytes that a request may bring, where 64 KiB is too
    little; the framing of a form may come on top, and nobody has to reckon with it. `lines` maps
    them to the turns of what stands in a line of its own.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        body_limits: Mapping[tuple[str, str], int],
        lines: Mapping[tuple[str, str], Turns],
    ) -> None:
        self.app = app
        self.allows = host_matcher(settings.allowed_hosts)
        self.body_limits = {
            key: (limit, limit + FORM_OVERHEAD_BYTES) for key, limit in body_limits.items()
        }
        self.access_log = settings.access_log
        self.database_seconds = (
            settings.database_pool_timeout_seconds + settings.database_statement_timeout_seconds
        )
        self.turns = Turns("request", settings.request_concurrency)
        self.lines = lines
        self.running = 0
        self.answered = 0
        self.sockets = 0
        self._timers: dict[tuple[str, str, int], Histogram] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        began = perf_counter()
        headers = dict(scope["headers"])  # the last one wins, where a header is repeated
        given_id = headers.get(b"x-request-id", b"")
        begin_request(self.database_seconds)
        if scope["type"] == "websocket":
            await self._serve_socket(scope, headers, SocketExchange(send, receive, given_id), began)
            return
        exchange = Exchange(send, given_id)
        _identify(scope, headers, exchange)
        self.running += 1
        with tracing.request(scope["method"], scope["path"], headers):
            try:
                await self._serve(scope, headers, receive, exchange)
            finally:
                exchange.end_turn()
                self.running -= 1
                self._account(scope, exchange.status, perf_counter() - began)

    def refusal(self, scope: Scope) -> Refusal | None:
        """For a server that can answer without a task for the request, which is most of what it
        would cost to refuse it: under overload that leaves time for the others. Where this is none
        the request has a place in line."""
        if self.access_log:
            return None  # nobody has looked yet who the client is
        try:
            scope[PLACE] = self._line_of(scope).enter()
        except Busy as error:
            headers = dict(scope["headers"])
            exchange = Exchange(_to_nobody, headers.get(b"x-request-id", b""))
            _identify(scope, headers, exchange)
            self._account(scope, error.status, 0.0)
            return Refusal(error.status, error.detail, exchange.request_id, error.headers)
        return None

    def _line_of(self, scope: Scope) -> Turns:
        return self.lines.get((scope["method"], scope["path"]), self.turns)

    async def _serve(
        self, scope: Scope, headers: Mapping[bytes, bytes], receive: Receive, exchange: Exchange
    ) -> None:
        told, limit = self.body_limits.get((scope["method"], scope["path"]), SMALL_BODY)
        length = headers.get(b"content-length")
        mistake = self._mistake_of_host(scope, headers)
        if mistake is None:
            mistake = _mistake_of_body(headers, told, limit)
        turns = self._line_of(scope)
        if mistake is not None:
            if PLACE in scope:
                turns.leave(scope[PLACE])
            await exchange.send_problem(*mistake)
            return
        try:
            place = scope[PLACE] if PLACE in scope else turns.enter()
            await exchange.take_turn(turns, place)
            if b"transfer-encoding" in headers:
                receive = counted(waiting(receive, exchange), limit, BodyTooLarge(told))
            elif length is not None:
                receive = waiting(receive, exchange)
            await self.app(scope, receive, exchange.send)
        except Busy as error:
            await exchange.send_problem(error.status, error.detail, error.headers)
        except Exception:
            if exchange.status and not exchange.complete:
                raise  # the server logs it and cuts the connection, which tells the client
            extra = {"method": scope["method"], "path": _path(scope)}
            log.exception("unhandled_error", extra=extra)
            if not exchange.status:
                await exchange.send_problem(500)

    async def _serve_socket(
        self, scope: Scope, headers: Mapping[bytes, bytes], exchange: SocketExchange, began: float
    ) -> None:
        """Accounted for as a request when its handshake is answered, and once more at its end."""
        exchange.on_answer = lambda status: self._account(scope, status, perf_counter() - began)
        _identify(scope, headers, exchange)
        if mistake := self._mistake_of_host(scope, headers):
            await exchange.send_problem(*mistake)
            return
        self.sockets += 1
        try:
            await exchange.take_turn(self.turns, self.turns.enter())
            await self.app(scope, exchange.receive, exchange.send)
        except Busy as error:
            await exchange.send_problem(error.status, error.detail, error.headers)
        except WebSocketDisconnect:
            pass  # the client went while it was sent something
        except Exception:
            log.exception("unhandled_error", extra={"method": "GET", "path": _path(scope)})
            await exchange.fail()
        finally:
            exchange.end_turn()
            self.sockets -= 1
            if exchange.accepted:
                self._account_end(scope, exchange.closed or "client", perf_counter() - began)

    def _mistake_of_host(
        self, scope: Scope, headers: Mapping[bytes, bytes]
    ) -> tuple[int, str] | None:
        """(status, detail) where a request has not one Host header, of a host that is allowed; or
        several of another kind of which parsers would choose different ones."""
        if len(headers) < len(scope["headers"]) and (name := _repeated(scope)):
            return 400, f"A request has one {name} header."
        if not self.allows(headers.get(b"host", b"")):
            return 421, OTHER_HOST
        return None

    def _account_end(self, scope: Scope, reason: str, seconds: float) -> None:
        metrics.SOCKETS_CLOSED.labels(reason).inc()
        if self.access_log:
            extra = {"path": _path(scope), "reason": reason, "seconds": round(seconds, 1)}
            log.info("websocket_closed", extra=extra)

    def _account(self, scope: Scope, status: int, seconds: float) -> None:
        route = scope.get("route")
        template = route.path if route is not None else UNMATCHED
        key = (scope.get("method", "GET"), template, status)  # a WebSocket's handshake is a GET
        timer = self._timers.get(key)
        if timer is None:
            method = key[0] if key[0] in _METHODS else "OTHER"
            timer = self._timers[key] = metrics.REQUESTS.labels(method, template, str(status))
        timer.observe(seconds)
        self.answered += 1
        tracing.answered(*key)
        if self.access_log:
            client = scope.get("client")
            log.info(
                "request",
                extra={
                    "method": key[0],
                    "path": _path(scope),
                    "status": status,
                    "duration_ms": round(seconds * 1000, 1),
                    "client": client[0] if client else "",
                },
            )


def _mistake_of_body(
    headers: Mapping[bytes, bytes], told_bytes: int, limit_bytes: int
) -> tuple[int, str] | None:
    """(status, detail) where a body is refused by its headers alone."""
    length = headers.get(b"content-length")
    if length is not None and int(length) > limit_bytes:
        return 413, too_large(told_bytes)
    if not is_utf_8(headers.get(b"content-type")):
        return 415, OTHER_CHARACTERS
    return None


def _identify(scope: Scope, headers: Mapping[bytes, bytes], exchange: Exchange) -> None:
    """Tell the log and the application which request this is."""
    logs.request_id.set(exchange.request_id)
    # Also where there is none: a pipelined request runs in the context of the one before it.
    given = headers.get(b"traceparent")
    match = given and TRACEPARENT.fullmatch(given)
    logs.trace_id.set(match[1].decode() if match else "")
    scope.setdefault("state", {})["request_id"] = exchange.request_id


async def _to_nobody(_: Message) -> None:
    """The server sends it."""


def _repeated(scope: Scope) -> str:
    """The name of a header that is there more often than it may (RFC 9110 section 5.3)."""
    names = [name for name, _ in scope["headers"]]
    return next((told for name, told in SINGLE.items() if names.count(name) > 1), "")


def _path(scope: Scope) -> str:
    """As it was sent: decoded, it may hold line breaks that make two lines of one in the log."""
    raw_path: bytes = scope.get("raw_path") or quote(scope["path"]).encode()
    return raw_path.decode("latin-1")


_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))

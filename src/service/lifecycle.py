"""Starting, ready, draining; and the Gunicorn worker that drains before it stops.

A stock Uvicorn worker closes its connections as soon as it is told to stop. A proxy that is just
sending a request over one of them gets a reset: it repeats a GET and answers a POST with 502.
This worker first says `Connection: close` on everything it still answers, waits until the proxy
has let go of its idle connections, and only then stops accepting.
"""

import asyncio
import faulthandler
import logging
import math
import os
import signal
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from email.utils import formatdate
from types import FrameType
from typing import Any

from gunicorn.arbiter import Arbiter
from uvicorn.config import Config
from uvicorn.server import Server
from uvicorn_worker import UvicornWorker

from service import metrics
from service.master import replaced
from service.protocol import BoundedHttp
from service.rules import ACCEPTED_UNREAD_SECONDS, SHUTDOWN_MARGIN_SECONDS, SOCKETS_CLOSE_SECONDS
from service.socket_protocol import BoundedSocket

log = logging.getLogger(__name__)

SHORT_REQUEST_SECONDS = 1.0  # a recycled worker closes its listener on these, not on longer ones
RECYCLE_LIMIT_SECONDS = 3600  # a request that is still not answered then is given up
RESPAWN_PAUSE_SECONDS = 1.0
FORCED_LIFESPAN_SECONDS = 1.0
# uvloop accepts one connection a listener in each turn of its loop, which under load takes 20 ms:
# what came faster filled the backlog, waited there for seconds, and was refused by the kernel.
LISTENERS = 16


class Lifecycle:
    """Where this process stands. `draining` is final."""

    def __init__(self) -> None:
        self.draining = False
        self._drain = asyncio.Event()

    def begin_drain(self) -> None:
        """Readiness fails from now on, and long-lived connections are asked to end."""
        self.draining = True
        self._drain.set()

    def end_connections(self) -> None:
        """Ask long-lived connections to end: the worker is replaced, the service stays ready."""
        self._drain.set()

    @property
    def ending(self) -> bool:
        """Whether long-lived connections should end, and none begin."""
        return self._drain.is_set()

    async def wait_for_drain(self) -> None:
        """Returns when long-lived connections should end."""
        await self._drain.wait()


def _is_http(connection: Any) -> bool:
    return hasattr(connection, "cycle")  # a WebSocket protocol has none


def _running(connections: Iterable[Any]) -> set[Any]:
    """The requests that are not answered yet."""
    cycles = {connection.cycle for connection in connections if _is_http(connection)}
    return {cycle for cycle in cycles if cycle is not None and not cycle.response_complete}


def exit_in(seconds: float) -> None:
    """End this process then, with a stack dump, whatever still hangs in it: a thread, a task that
    ignores its cancellation, a lifespan. A later call replaces an earlier one."""
    faulthandler.dump_traceback_later(seconds, exit=True)


class DrainingServer(Server):
    """Uvicorn's server with a drain before its shutdown, and heartbeats until its very end."""

    def __init__(
        self,
        config: Config,
        lifecycle: Lifecycle,
        *,
        drain_seconds: float,
        grace_seconds: float,
        parent: int,
        replaced: Callable[[], bool] = lambda: False,
        exit_in: Callable[[float], None] = exit_in,
    ) -> None:
        super().__init__(config)
        self.lifecycle = lifecycle
        self.drain_seconds = drain_seconds
        self.grace_seconds = grace_seconds
        self.parent = parent
        self.replaced = replaced
        self.exit_in = exit_in
        self._orphaned = False
        self._end_by = math.inf
        self._old: set[Any] = set()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM drains; SIGINT and SIGQUIT end at once.

        A SIGTERM because others go on in this one's place is like a recycle: the service is not
        leaving, and readiness must not say so. Gunicorn repeats it every second if there are too
        many workers.
        """
        if sig == signal.SIGTERM and self.replaced():
            if not self.should_exit:
                self._give_up_after(self.grace_seconds)
        elif not self.lifecycle.draining:
            self.lifecycle.begin_drain()
            self._give_up_after(self.grace_seconds)
        if sig != signal.SIGTERM:
            self.force_exit = True
        # The process will end by the signal it got; of a SIGINT Gunicorn would warn.
        super().handle_exit(signal.SIGTERM if sig == signal.SIGINT else sig, frame)

    def _give_up_after(self, seconds: float) -> None:
        """Requests are cancelled a little before, so that resources can still be closed."""
        serving = max(self.drain_seconds + 1, seconds - SHUTDOWN_MARGIN_SECONDS)
        self._end_by = time.monotonic() + serving
        self.exit_in(seconds)

    async def on_tick(self, counter: int) -> bool:
        # A master that was killed leaves its workers holding the port.
        if counter % 10 == 0 and os.getppid() != self.parent and not self.should_exit:
            self._orphaned = True
            self.handle_exit(signal.SIGTERM, None)
        # By the wall clock Uvicorn would give no heartbeat for as long as that was set back, and
        # Gunicorn would take every worker for blocked.
        self.last_notified = 0.0
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[Any] | None = None) -> None:
        """Drain, then stop. After SIGTERM the drain lasts its full time, so that load balancers
        see readiness fail; a recycled worker serves on until it can stop without a failure."""
        reason = "stopped" if self.lifecycle.draining else "recycled"
        if reason == "recycled" and self.replaced():
            reason = "reloaded"
        metrics.worker_ending(reason)
        log.info("worker_draining", extra={"reason": reason})
        beat = asyncio.create_task(self._beat())
        try:
            if not self.force_exit:
                await self._drain(sockets)
            await self._stop(sockets)
        finally:
            beat.cancel()
            self.exit_in(SHUTDOWN_MARGIN_SECONDS)  # a thread that hangs holds nobody up
        log.info("worker_stopped", extra={"reason": reason})

    async def _drain(self, sockets: list[Any] | None) -> None:
        self._announce_close()
        self._old = {c for c in self.server_state.connections if _is_http(c)}
        for cycle in _running(self._old):
            if not cycle.response_started:
                cycle.keep_alive = False  # its headers will say so
        if self._orphaned:
            await self._stop_accepting(sockets)  # a new master waits for the port
        if not self.lifecycle.draining:
            if self._end_by == math.inf:
                self._give_up_after(RECYCLE_LIMIT_SECONDS)
            await self._serve_until_idle()
        if self.lifecycle.draining:
            await self._until(lambda: False, self.drain_seconds)
        self.lifecycle.end_connections()
        await self._stop_accepting(sockets)
        await self._until(lambda: not self._open_sockets(), SOCKETS_CLOSE_SECONDS)
        await self._until(lambda: not _running(self.server_state.connections))

    async def _stop(self, sockets: list[Any] | None) -> None:
        """Uvicorn's own shutdown: idle connections close, what else runs gets the time left."""
        left = min(self._end_by - time.monotonic(), self.grace_seconds - SHUTDOWN_MARGIN_SECONDS)
        seconds = 1 if self.force_exit else max(1, int(left))
        self.config.timeout_graceful_shutdown = seconds
        self.exit_in(seconds + SHUTDOWN_MARGIN_SECONDS)
        await super().shutdown(sockets)
        if self.force_exit:  # Uvicorn leaves the lifespan out, which then ends with a traceback
            with suppress(TimeoutError):
                async with asyncio.timeout(FORCED_LIFESPAN_SECONDS):
                    await self.lifespan.shutdown()

    async def _serve_until_idle(self) -> None:
        """Serve on until idle connections are gone and nothing runs, as the next worker starts
        when this one has ended: of a single worker, nobody would take what comes meanwhile."""
        began = time.monotonic()
        connections = self.server_state.connections
        since = dict.fromkeys(_running(connections), -math.inf)

        def settled() -> bool:
            nonlocal since
            now = time.monotonic()
            running = _running(connections)
            since = {cycle: since.get(cycle, now) for cycle in running}
            if self.lifecycle.draining:
                return True
            if now < began + self.drain_seconds:
                return not running and self._old.isdisjoint(connections)
            # Under steady load something always runs: it has to be short.
            return now - min(since.values(), default=now) < SHORT_REQUEST_SECONDS

        await self._until(settled)

    async def _stop_accepting(self, sockets: list[Any] | None) -> None:
        for server in self.servers:
            server.close()
        for sock in sockets or []:
            sock.close()
        await self._until(lambda: not self._accepted_unread(), ACCEPTED_UNREAD_SECONDS)

    def _open_sockets(self) -> bool:
        return not all(map(_is_http, self.server_state.connections))

    def _accepted_unread(self) -> bool:
        """Whether a connection accepted during the drain still waits for its first request."""
        new: Iterable[Any] = self.server_state.connections - self._old
        return any(c.cycle is None for c in new if _is_http(c))

    async def _until(self, done: Callable[[], bool], seconds: float = math.inf) -> None:
        """Wait for a condition; no longer than `seconds`, or than requests may take at all."""
        end = time.monotonic() + seconds
        while True:
            await asyncio.sleep(0.02)
            if done() or self.force_exit or time.monotonic() >= min(end, self._end_by):
                return

    async def _beat(self) -> None:
        """What `on_tick` did until now: Gunicorn's heartbeat and the Date header."""
        while True:
            if self.config.callback_notify is not None:
                await self.config.callback_notify()
            self._announce_close()
            await asyncio.sleep(1)

    def _announce_close(self) -> None:
        date = formatdate(time.time(), usegmt=True).encode()
        headers = [(b"date", date), *self.config.encoded_headers, (b"connection", b"close")]
        self.server_state.default_headers = headers


def duplicates(sockets: Iterable[socket.socket]) -> list[socket.socket]:
    """More descriptors of the same listeners, LISTENERS of each in all."""
    return [sock.dup() for sock in sockets for _ in range(LISTENERS - 1)]


class DrainingWorker(UvicornWorker):
    """Gunicorn's worker class. The application carries its `lifecycle` and `settings`."""

    CONFIG_KWARGS = {
        "loop": "uvloop",
        "http": BoundedHttp,  # on httptools: h11 answered a request smuggled by CL+TE
        "ws": BoundedSocket,
        "ws_ping_interval": 20,  # seconds; proxies close what is silent for longer than a minute
        "ws_ping_timeout": 20,
        "ws_max_size": 4096,  # bytes of a message from a client
        "ws_per_message_deflate": False,  # messages are short, and its buffers are not
        "lifespan": "on",
        "server_header": False,
        "ssl_version": ssl.PROTOCOL_TLS_SERVER,
    }

    def __init__(self, *arguments: Any, **named: Any) -> None:
        logger = logging.getLogger("uvicorn.error")
        level = logger.level  # as `logs` set it; UvicornWorker makes it Gunicorn's
        super().__init__(*arguments, **named)
        logger.setLevel(level)
        # Gunicorn's clock is a second old at most, so that only a loop blocked for the whole
        # timeout is taken for dead.
        self.config.timeout_notify = 0.5

    def init_process(self) -> None:
        """Serve to the end. A worker that cannot start ends the whole service with Gunicorn's code
        for that; but not where the service has run before: then it is tried again."""
        self.notify()  # the heartbeat's clock starts before the lifespan: one that hangs is ended
        try:
            super().init_process()
        except (Exception, SystemExit) as error:
            failed = not isinstance(error, SystemExit) or error.code == Arbiter.WORKER_BOOT_ERROR
            first = self.age <= self.cfg.workers and not replaced.up_to
            if not failed or first:
                raise
            log.exception("worker_failed_to_start")
            time.sleep(RESPAWN_PAUSE_SECONDS)
            sys.exit(1)

    async def _serve(self) -> None:
        app: Any = self.wsgi
        self.config.app = app
        server = DrainingServer(
            self.config,
            app.lifecycle,
            drain_seconds=app.settings.shutdown_drain_seconds,
            grace_seconds=self.cfg.graceful_timeout,
            parent=self.ppid,
            replaced=lambda: self.age <= replaced.up_to,
        )
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGQUIT, server.handle_exit, signal.SIGQUIT, None)
        # Not Gunicorn's wrappers: uvloop would close a file descriptor, and they again.
        sockets = [wrapper.sock for wrapper in self.sockets]
        await server.serve(sockets=[*sockets, *duplicates(sockets)])
        if not server.started:
            sys.exit(Arbiter.WORKER_BOOT_ERROR)

"""Starting, ready, draining; and the Gunicorn worker that drains before it stops.

A stock Uvicorn worker closes its connections as soon as it is told to stop. A proxy that is just
sending a request over one of them gets a reset: it repeats a GET and answers a POST with 502.
This worker first says `Connection: close` on everything it still answers, waits until the proxy
has let go of its idle connections, and only then stops accepting.
"""

import asyncio
import logging
import os
import signal
import sys
import time
from email.utils import formatdate
from types import FrameType
from typing import Any

from gunicorn.arbiter import Arbiter
from uvicorn.config import Config
from uvicorn.server import Server
from uvicorn_worker import UvicornWorker

from service import metrics

ACCEPTED_UNREAD_SECONDS = 1.0  # for connections accepted just before the listener closed
SHUTDOWN_MARGIN_SECONDS = 3  # resources close and the process ends before Gunicorn kills it


class Lifecycle:
    """Where this process stands. `draining` is final."""

    def __init__(self) -> None:
        self.draining = False
        self._drain = asyncio.Event()

    def begin_drain(self) -> None:
        """Readiness fails from now on, and long-lived connections are asked to end."""
        self.draining = True
        self._drain.set()

    async def wait_for_drain(self) -> None:
        await self._drain.wait()


def _is_http(connection: Any) -> bool:
    return hasattr(connection, "cycle")  # a WebSocket protocol has none


def _in_flight(connection: Any) -> bool:
    return connection.cycle is not None and not connection.cycle.response_complete


class DrainingServer(Server):
    """Uvicorn's server with a drain before its shutdown, and heartbeats until its very end."""

    def __init__(
        self,
        config: Config,
        lifecycle: Lifecycle,
        *,
        drain_seconds: float,
        recycle_grace_seconds: int,
        parent: int,
    ) -> None:
        super().__init__(config)
        self.lifecycle = lifecycle
        self.drain_seconds = drain_seconds
        self.recycle_grace_seconds = recycle_grace_seconds
        self.parent = parent

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM drains; SIGINT and SIGQUIT end at once."""
        self.lifecycle.begin_drain()
        if sig != signal.SIGTERM:
            self.force_exit = True
        super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        # A master that was killed leaves its workers holding the port.
        if counter % 10 == 0 and os.getppid() != self.parent and not self.should_exit:
            self.handle_exit(signal.SIGTERM, None)
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[Any] | None = None) -> None:
        """Drain, then stop. After SIGTERM the drain lasts its full time, so that load balancers
        see readiness fail; a recycled worker ends as soon as its old connections are gone."""
        beat = asyncio.create_task(self._beat())
        recycled = not self.lifecycle.draining
        if recycled:
            metrics.WORKER_EXITS.labels("recycled").inc()
            self.config.timeout_graceful_shutdown = self.recycle_grace_seconds
        try:
            if not self.force_exit:
                await self._drain(until_idle=recycled)
                await self._stop_accepting(sockets)
            await super().shutdown(sockets)
        finally:
            beat.cancel()

    async def _drain(self, *, until_idle: bool) -> None:
        loop = asyncio.get_running_loop()
        self._announce_close()
        old = [c for c in self.server_state.connections if _is_http(c)]
        for connection in old:
            if _in_flight(connection):
                connection.shutdown()  # ends after its response
        end = loop.time() + self.drain_seconds
        while loop.time() < end and not self.force_exit:
            await asyncio.sleep(0.05)
            if until_idle and not any(c in self.server_state.connections for c in old):
                return

    async def _stop_accepting(self, sockets: list[Any] | None) -> None:
        loop = asyncio.get_running_loop()
        known = set(self.server_state.connections)
        for server in self.servers:
            server.close()
        for sock in sockets or []:
            sock.close()
        end = loop.time() + ACCEPTED_UNREAD_SECONDS
        while loop.time() < end and not self.force_exit:
            await asyncio.sleep(0.02)
            accepted = [c for c in self.server_state.connections if _is_http(c)]
            if not any(c not in known and not _in_flight(c) for c in accepted):
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


class DrainingWorker(UvicornWorker):
    """Gunicorn's worker class. The application carries its `lifecycle` and `settings`."""

    CONFIG_KWARGS = {
        "loop": "uvloop",
        "http": "httptools",  # h11 answered a request smuggled by CL+TE
        "lifespan": "on",
        "server_header": False,
    }

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        # Each worker's comings and goings are Gunicorn's to tell.
        logger = logging.getLogger("uvicorn.error")
        logger.setLevel(max(logger.level, logging.WARNING))

    def init_process(self) -> None:
        self.notify()  # the heartbeat's clock starts before the lifespan: one that hangs is ended
        super().init_process()

    async def _serve(self) -> None:
        app: Any = self.wsgi
        settings = app.settings
        self.config.app = app
        budget = settings.shutdown_grace_seconds - settings.shutdown_drain_seconds
        self.config.timeout_graceful_shutdown = max(1, int(budget - SHUTDOWN_MARGIN_SECONDS))
        server = DrainingServer(
            self.config,
            app.lifecycle,
            drain_seconds=settings.shutdown_drain_seconds,
            recycle_grace_seconds=settings.worker_timeout_seconds,
            parent=self.ppid,
        )
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGQUIT, server.handle_exit, signal.SIGQUIT, None)
        await server.serve(sockets=self.sockets)
        if not server.started:
            sys.exit(Arbiter.WORKER_BOOT_ERROR)

"""A proxy that breaks in more ways than being slow or silent."""

import asyncio
import contextlib

from system.health_faults import Proxy


class BreakableProxy(Proxy):
    """A proxy that can end its connections, or the half of each that answers would come by."""

    half_closed = False

    def __init__(self, target_port: int) -> None:
        super().__init__(target_port)
        self._clients: set[asyncio.StreamWriter] = set()

    def half_close(self) -> None:
        self.half_closed = True
        self._loop.call_soon_threadsafe(self._end_answers)

    def cut(self) -> None:
        """Reset every connection there is; new ones are served."""
        self._loop.call_soon_threadsafe(self._reset)

    def _reset(self) -> None:
        for writer in self._clients:
            writer.transport.abort()

    def _end_answers(self) -> None:
        for writer in self._clients:
            with contextlib.suppress(OSError, RuntimeError):
                writer.write_eof()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.half_closed:
            writer.write_eof()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                while self.half_closed and await reader.read(65536):
                    pass
            writer.transport.abort()
            return
        self._clients.add(writer)
        try:
            await super()._serve(reader, writer)
        finally:
            self._clients.discard(writer)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delays: int
    ) -> None:
        with contextlib.suppress(RuntimeError):  # written to after its end
            await super()._pump(reader, writer, delays)

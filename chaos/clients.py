"""Clients that run beside what is done to a stack."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def running_clients(
    run: Callable[[], Coroutine[Any, Any, None]], stopping: threading.Event, seconds: float
) -> Iterator[None]:
    """Run them in a thread of their own until the end of the block, which sets `stopping`; what is
    under way then has so many `seconds`. Raises what they raised."""
    errors: list[BaseException] = []

    def run_all() -> None:
        try:
            asyncio.run(run())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run_all, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join(seconds)
    if errors:
        raise errors[0]

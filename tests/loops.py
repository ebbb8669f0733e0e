"""The end of an event loop that served: nothing that it had accepted is left half open."""

import asyncio

TURNS = 5  # from accept() over the transport and its protocol to the handler's first line


async def stop_listening(server: asyncio.Server) -> None:
    """Close the server once all that it has accepted are with their handlers.

    asyncio leaks a connection whose task begins after the close (gh-109564 of CPython), and tells
    of it when it next collects garbage, which is in some other test.
    """
    for listener in server.sockets:
        asyncio.get_running_loop().remove_reader(listener.fileno())
    for _ in range(TURNS):
        await asyncio.sleep(0)
    server.close()


async def end_tasks() -> None:
    """End all other tasks of this loop, once nothing listens in it."""
    while others := asyncio.all_tasks() - {asyncio.current_task()}:
        for task in others:
            task.cancel()
        await asyncio.wait(others)

"""The application with routes, and a background task, that fail in every way."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends
from starlette.background import BackgroundTask
from starlette.responses import Response, StreamingResponse

import service.app
from service.resources import background, open_resources

REASON = "a reason that is nobody's business"


def fail() -> None:
    raise RuntimeError(REASON)


async def in_the_handler() -> None:
    fail()


async def in_a_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(in_the_handler())


async def in_a_dependency(_: Annotated[None, Depends(fail)]) -> None:
    return None


def _failing_at_its_end() -> Iterator[None]:
    yield
    fail()


async def at_a_dependencys_end(_: Annotated[None, Depends(_failing_at_its_end)]) -> Response:
    return Response("all of it")


async def afterwards() -> Response:
    return Response("all of it", background=BackgroundTask(fail))


async def in_the_answer() -> dict[str, object]:
    return {"not": object()}


async def in_the_middle() -> StreamingResponse:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"the beginning"
        await asyncio.sleep(0)
        fail()

    return StreamingResponse(chunks())


ENDPOINTS = (in_the_handler, in_a_group, in_a_dependency, in_the_answer, in_the_middle)
LATE_ENDPOINTS = (at_a_dependencys_end, afterwards)


@asynccontextmanager
async def resources_beside_a_failing_task(settings: Any, health: Any) -> AsyncIterator[Any]:
    async with open_resources(settings, health) as resources, background(in_the_handler()):
        yield resources


def create_app() -> Any:
    failing = "FAILING_TASK" in os.environ
    opening = resources_beside_a_failing_task if failing else open_resources
    app = service.app.create_app(open_resources=opening)
    for endpoint in (*ENDPOINTS, *LATE_ENDPOINTS):
        app.api.add_api_route(f"/broken/{endpoint.__name__}", endpoint)
    return app

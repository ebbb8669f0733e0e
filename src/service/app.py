"""The web application: settings in, ASGI out. Imports and wiring, nothing else."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

import service.accounts.pages
import service.accounts.routes
import service.media.live
import service.media.pages
import service.media.routes
import service.media.sockets
import service.operations
from service import metrics, pages, static, tracing
from service.connections import tell_if_too_few
from service.details import Details
from service.documented import DescribedApi
from service.errors import exception_handlers
from service.health import Health, Probes
from service.lifecycle import Lifecycle
from service.middleware import Refusal, RequestLayer
from service.resources import (
    Resources,
    background,
    count_jobs,
    open_resources,
    refresh_gauges,
)
from service.routing import add_routes
from service.settings import Settings, load
from service.turns import Turns

ROUTERS = (
    service.accounts.routes.router,
    service.accounts.pages.router,
    service.operations.router,
    service.media.routes.router,
    service.media.sockets.router,
    static.router,
)
APPLICATIONS = (
    service.media.pages.LIBRARY,
    pages.OPERATIONS,
)
TITLE = "service"
DESCRIPTION = "A small media library: accounts, uploads and their previews."
TAGS = [
    {"name": "accounts", "description": "Accounts, logins and API keys"},
    {"name": "media", "description": "Uploads, their previews and what is public"},  # media
]

OpenResources = Callable[[Settings, Health], AbstractAsyncContextManager[Resources]]
OpenOwn = Callable[[Resources, Health], AbstractAsyncContextManager[Any]]

# What a slice keeps for each process, by its name in a connection's `state`.
OWN: dict[str, OpenOwn] = {
    "live": service.media.live.open_live,
}


class Service:
    """The outermost ASGI callable. Probes and metrics are answered before any middleware."""

    def __init__(self, settings: Settings, open_resources: OpenResources) -> None:
        self.settings = settings
        self.lifecycle = Lifecycle()
        self.health = Health(
            self.lifecycle,
            required=settings.health_required,
            interval_seconds=settings.health_interval_seconds,
            stale_seconds=settings.health_stale_seconds,
        )
        self.details = Details(settings, self.health)
        self.open_resources = open_resources
        self.tracer_provider = tracing.make_provider(settings)
        self.api = self._api()
        self.layer = RequestLayer(self.api, settings, body_limits(settings), lines())
        self.front = {
            **Probes(self.health).paths,
            **self.details.endpoints(self.layer),
            "/metrics": metrics.endpoint,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (endpoint := self.front.get(scope["path"])):
            await endpoint(scope, receive, send)
        else:
            await self.layer(scope, receive, send)

    def refusal(self, scope: Scope) -> Refusal | None:
        """Of a request that this process has no time for; asked by `protocol.BoundedHttp`, and then
        the others have to reach this application: what is around it and answers some has none."""
        return None if scope["path"] in self.front else self.layer.refusal(scope)

    def warm_up(self) -> None:
        """Make before the fork what every worker would otherwise make for itself."""
        self.api.openapi()  # kept by the application, which also reads there what a body may be

    def _api(self) -> FastAPI:
        documented = self.settings.docs_enabled
        api = DescribedApi(
            title=TITLE,
            description=DESCRIPTION,
            version=version("service"),
            debug=False,
            openapi_url=pages.OPENAPI if documented else None,
            docs_url=None,  # FastAPI's own loads its scripts from elsewhere
            redoc_url=None,
            redirect_slashes=False,
            openapi_tags=TAGS,
            lifespan=self._lifespan,
            exception_handlers=exception_handlers(debug=self.settings.debug),  # type: ignore[arg-type]
            telemetry={"tracing": False, "metrics": False, "logs": False},  # see tracing.py
        )
        shown = pages.routes(TITLE, DESCRIPTION, APPLICATIONS, self.settings)
        add_routes(api, (*ROUTERS, shown))
        return api

    @asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncIterator[dict[str, Any]]:
        async with AsyncExitStack() as stack:
            stack.enter_context(tracing.exporting(self.tracer_provider, self.settings))
            resources = await stack.enter_async_context(
                self.open_resources(self.settings, self.health)
            )
            gauges = partial(refresh_gauges, resources, self.layer)
            samples = (
                metrics.sample_forever(gauges),
                self.details.sample_forever(),
                self._watch_database(resources),
            )
            await stack.enter_async_context(background(*samples))
            if self.settings.embedded:
                # Imported here: a web process beside PostgreSQL has no use for image libraries.
                from service.embedded import run_jobs  # noqa: PLC0415

                await stack.enter_async_context(run_jobs(resources))
            own = {
                name: await stack.enter_async_context(open_own(resources, self.health))
                for name, open_own in OWN.items()
            }
            yield {"resources": resources, **own}

    async def _watch_database(self, resources: Resources) -> None:
        """One after the other, and so on one connection."""
        await tell_if_too_few(self.settings, resources.database, self.health, web_here=True)
        await count_jobs(resources, self.health)


def body_limits(settings: Settings) -> dict[tuple[str, str], int]:
    """What a request may bring where that is more than usual, in bytes, by (method, path)."""
    return {
        **service.media.routes.body_limits(settings),
    }


def lines() -> dict[tuple[str, str], Turns]:
    """What needs a core for so long that it would hold up the rest, by (method, path): each worker
    does fewer of it at once, and refuses more without a look at it."""
    # Strict: bodies that many clients held back would else all come to a hash at the same moment.
    hashing = Turns("password", service.accounts.routes.HASHES_AT_ONCE, strict=True)
    return {
        **dict.fromkeys(service.accounts.routes.HASHING, hashing),
    }


def create_app(
    settings: Settings | None = None, *, open_resources: OpenResources = open_resources
) -> Service:
    """The application for these settings, or for those of the environment.

    Raises ConfigurationError. Opens nothing: that is the lifespan's work, after the fork.
    """
    return Service(settings or load().settings, open_resources)

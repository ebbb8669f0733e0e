"""schemathesis asks a live service whatever OpenAPI allows, and what it does not, and finds that
everything is answered as OpenAPI says."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from api import running_api
from schema import SECONDS, answered, run_schemathesis
from servers import Web, Worker, running
from service.settings import Settings

# What schemathesis cannot do: read a mail, which has the token, and speak WebSocket.
BEYOND_IT = {
    ("POST", "/api/accounts/confirm"),
    ("POST", "/api/accounts/password/reset"),
    ("GET", "/ws/media"),  # media
}
pytestmark = [pytest.mark.alone, pytest.mark.timeout(SECONDS + 60)]


def tokens(settings: Settings, who: str) -> list[str]:
    """Of two accounts, a login or a key each, beside which there is one that may log out."""

    async def make() -> list[str]:
        async with running_api(settings) as api:
            await api.account("lin@example.org")
            accounts = [
                await api.account(email) for email in ("ada@example.org", "eve@example.org")
            ]
            give = api.key if who == "a program" else api.token
            headers = [await give(account) for account in accounts]
            return [each["Authorization"].removeprefix("Bearer ") for each in headers]

    return [] if who == "a stranger" else asyncio.run(make())


@pytest.fixture
def serve(make_web: Callable[..., Web], tmp_path: Path) -> Iterator[Callable[[Settings], Web]]:
    """Starts the service on some settings, with a worker where jobs need one."""
    with ExitStack() as stack:

        def start(settings: Settings) -> Web:
            environment = {
                "DATABASE_URL": settings.database_url.get_secret_value(),
                "UPLOAD_FOLDER": settings.upload_folder,
            }
            if not settings.embedded:
                environment["REDIS_URL"] = settings.redis_url.get_secret_value()
                environment["WEB_CONCURRENCY"] = "2"
                stack.enter_context(running(Worker(tmp_path / "worker", environment)))
            return make_web(environment, wait="/health/ready")

        yield start


def ask(web: Web, directory: Path, *options: str, given: list[str]) -> None:
    """Fails where schemathesis finds anything, or the service logs an error."""
    result = run_schemathesis(web, directory, *options, tokens=given)
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    assert [line for line in web.events() if line["level"] in ("error", "critical")] == []


def test_schemathesis_finds_nothing_and_sees_every_operation_succeed(
    settings: Settings, serve: Callable[[Settings], Web], tmp_path: Path
) -> None:
    given = tokens(settings, "a person")
    web = serve(settings)
    ask(web, tmp_path / "run", given=given)
    assert not_done(web) == BEYOND_IT


@pytest.mark.parametrize("who", ["a program", "a stranger"])
def test_schemathesis_finds_nothing_with_what_others_may(
    server_settings: Settings, serve: Callable[[Settings], Web], tmp_path: Path, who: str
) -> None:
    given = tokens(server_settings, who)
    # It warns of whoever is refused much.
    ask(serve(server_settings), tmp_path / "run", "--warnings", "off", given=given)


def not_done(web: Web) -> set[tuple[str, str]]:
    """The operations that never succeeded."""
    done = {(method, path) for method, path, status in answered(web) if status < 300}
    return operations(web.get("/openapi.json").json()) - done


def operations(schema: dict[str, Any]) -> set[tuple[str, str]]:
    paths = schema["paths"]
    return {(method.upper(), path) for path in paths for method in paths[path]}

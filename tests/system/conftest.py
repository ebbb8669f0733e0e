"""Fixtures of real processes: nginx and an upstream behind it, started once a module for each nginx
there is; and whole deployments."""

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from playwright.sync_api import Browser

from browser import CHROMIUM, Tab, running_browser
from deployments import Deployment, Person, migrate, working
from mail_server import mail_server
from nginx import KINDS, Change, Site, available, running_site
from nginx_checks import LIMITED, OPEN
from operations import MakeTab
from servers import Postgresql, RedisServer, Web, require, running

MakeSite = Callable[..., Site]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Not for longer: as long as it runs, this thread can run no other event loop."""
    require(CHROMIUM, "Chromium")
    with running_browser() as running:
        yield running


@pytest.fixture
def make_tab(browser: Browser) -> Iterator[MakeTab]:
    """Opens tabs, none of which may have complained by the end of the test."""
    tabs: list[Tab] = []

    def make(width: int = 1280, **options: Any) -> Tab:
        tabs.append(Tab(browser, viewport={"width": width, "height": 900}, **options))
        return tabs[-1]

    yield make
    for tab in tabs:
        tab.page.unroute_all(behavior="ignoreErrors")
        tab.close()
    assert [complaint for tab in tabs for complaint in tab.complaints] == []


@pytest.fixture
def tab(make_tab: MakeTab) -> Tab:
    return make_tab()


@pytest.fixture(scope="module", params=KINDS)
def nginx_kind(request: pytest.FixtureRequest) -> str:
    """The installed nginx and that of the container image in turn."""
    kind: str = request.param
    require(available(kind), f"nginx ({kind})")
    return kind


@pytest.fixture(scope="module")
def nginx_directory() -> Iterator[Path]:
    """Where nginx's workers, who are somebody else, can reach their files."""
    directory = Path(tempfile.mkdtemp(prefix="service-nginx-"))
    directory.chmod(0o777)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="module")
def site(nginx_kind: str, nginx_directory: Path) -> Iterator[Site]:
    """With rates that no test reaches, and clients that are who they say."""
    with running_site(nginx_directory / f"open-{nginx_kind}", nginx_kind, OPEN) as running:
        yield running


@pytest.fixture(scope="module")
def limited_site(nginx_kind: str, nginx_directory: Path) -> Iterator[Site]:
    """With the rates of production, behind a load balancer that is believed."""
    with running_site(nginx_directory / f"limited-{nginx_kind}", nginx_kind, LIMITED) as running:
        yield running


@pytest.fixture
def make_site(nginx_directory: Path, request: pytest.FixtureRequest) -> Iterator[MakeSite]:
    """Starts sites of a test's own."""
    with ExitStack() as stack:
        started: list[Site] = []

        def make(kind: str, environment: dict[str, str] | None = None, *changes: Change) -> Site:
            name = f"own-{abs(hash(request.node.nodeid))}-{len(started)}"
            running = running_site(nginx_directory / name, kind, environment or OPEN, changes)
            started.append(stack.enter_context(running))
            return started[-1]

        yield make


@pytest.fixture(scope="module")
def walk_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("walk")


@pytest.fixture(scope="module")
def embedded(walk_directory: Path) -> Iterator[Deployment]:
    environment = {"DATABASE_URL": f"sqlite:///{walk_directory}/service.sqlite3"}
    migrate(environment, walk_directory)
    with running(Web(walk_directory / "embedded", environment)) as web:
        yield Deployment(web, (web.log_path,))


@pytest.fixture(scope="module")
def distributed(
    walk_directory: Path, shared_postgresql: Postgresql, shared_redis: RedisServer
) -> Iterator[Deployment]:
    with mail_server() as mail:
        environment = {
            "DATABASE_URL": shared_postgresql.new_database(),
            "REDIS_URL": shared_redis.url,
            "REDIS_TIMEOUT_SECONDS": "5",
            "MAIL_SERVER": "127.0.0.1",
            "MAIL_PORT": str(mail.port),
            "MAIL_USE_TLS": "false",
            "SECRET_KEY": "k3y-0f-the-t3sts-k3y-0f-the-t3sts",
            "UPLOAD_FOLDER": str(walk_directory / "uploads"),
            "WEB_CONCURRENCY": "2",
        }
        migrate(environment, walk_directory)
        web = Web(walk_directory / "web", environment)
        with working(environment, walk_directory) as log, running(web):
            yield Deployment(web, (web.log_path, log), mail)


@pytest.fixture(params=["embedded", "distributed"])
def deployment(request: pytest.FixtureRequest) -> Deployment:
    chosen: Deployment = request.getfixturevalue(request.param)
    return chosen


@pytest.fixture
def person(deployment: Deployment, request: pytest.FixtureRequest) -> Iterator[Person]:
    name = re.sub(r"\W+", "-", request.node.name).strip("-")
    person = Person(deployment, f"{name[-60:].strip('-')}@example.org")
    with person.client:
        yield person


@pytest.fixture
def member(person: Person) -> Person:
    """Somebody with a confirmed account who is logged in."""
    person.join()
    return person


@pytest.fixture
def stranger(deployment: Deployment) -> Iterator[httpx.Client]:
    """Somebody without an account."""
    with httpx.Client(base_url=deployment.web.url, timeout=30) as client:
        yield client

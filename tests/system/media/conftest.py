"""A library in a browser, over https through nginx, with two web workers, a job worker and real
servers behind them."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from deployments import Deployment, migrate
from library import Library
from mail_server import mail_server
from nginx import Nginx, available
from nginx_checks import OPEN
from servers import (
    Postgresql,
    RedisServer,
    Web,
    Worker,
    require,
    run_service,
    running,
    service_command,
    wait_until,
)


@pytest.fixture(scope="module")
def library_postgresql(
    server_directory: Path, request: pytest.FixtureRequest
) -> Iterator[Postgresql]:
    name = request.module.__name__.rpartition(".")[2]
    with running(Postgresql(server_directory / name).create()) as server:
        yield server


@pytest.fixture
def library(
    nginx_directory: Path,
    library_postgresql: Postgresql,
    own_redis: RedisServer,
    browser: Browser,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> Iterator[Library]:
    """With rates that no test reaches, or with those of its parameter. No page may complain."""
    require(available("installed"), "nginx")
    name = re.sub(r"\W", "", request.node.name)[-40:]
    rates = getattr(request, "param", OPEN)
    nginx = Nginx(nginx_directory / name, "installed", rates, name="localhost")
    with mail_server() as mail, contextlib.ExitStack() as stack:
        environment = {
            "DATABASE_URL": library_postgresql.new_database(),
            "REDIS_URL": own_redis.url,
            "BIND": f"unix:{nginx.folder('run')}/web.sock",
            "ALLOWED_HOSTS": nginx.name,
            "PUBLIC_URL": f"https://{nginx.name}:{nginx.port}",
            "UPLOAD_FOLDER": str(nginx.folder("media")),
            "X_ACCEL_REDIRECT": "true",
            "WEB_CONCURRENCY": "2",
            "MAIL_SERVER": "127.0.0.1",
            "MAIL_PORT": str(mail.port),
            "MAIL_USE_TLS": "false",
            "SECRET_KEY": "k3y-0f-the-t3sts-k3y-0f-the-t3sts",
        }
        migrate(environment, tmp_path)
        web = Web(tmp_path / "web", environment)
        static = run_service(
            "static", str(nginx.folder("static")), environment=web.variables(), cwd=tmp_path
        )
        assert static.returncode == 0, static.stderr
        program = tuple(service_command("worker"))
        worker = stack.enter_context(running(Worker(tmp_path / "worker", environment, program)))
        stack.callback(web.stop)
        stack.callback(nginx.stop)
        web.start(wait=None)
        nginx.start()
        wait_until(lambda: nginx.ask("/library").status_code == 200, seconds=60)
        deployment = Deployment(web, (web.log_path, worker.log_path), mail)
        site = Library(
            deployment, nginx, library_postgresql, own_redis, worker, environment, browser, []
        )
        yield site
        for tab in site.tabs:
            tab.close()
        assert [text for tab in site.tabs for text in tab.complaints] == []

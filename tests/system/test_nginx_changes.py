"""What changes while the proxy serves: its configuration, and where the app is."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from echo import Echo
from name_server import NameServer
from nginx import Nginx, Site
from nginx_checks import OPEN, changes
from servers import free_port, wait_until

pytestmark = [
    pytest.mark.alone,
    pytest.mark.parametrize("nginx_kind", ["image"], indirect=True),
]


def test_a_reload_fails_no_request(site: Site) -> None:
    """As `keepalive_min_timeout` has it, which the oldest supported nginx does not know."""
    changes.a_reload_fails_no_request(site)


@pytest.fixture
def names() -> Iterator[NameServer]:
    with NameServer("127.0.0.1") as server:
        yield server


@pytest.fixture
def found_by_name(
    nginx_kind: str, nginx_directory: Path, names: NameServer, request: pytest.FixtureRequest
) -> Iterator[Nginx]:
    """An nginx whose upstream is a name."""
    port = free_port()
    environment = {"UPSTREAM": f"app.test:{port}", "RESOLVER": f"127.0.0.1:{names.port}"}
    nginx = Nginx(nginx_directory / request.node.originalname, nginx_kind, OPEN | environment)
    try:
        yield nginx.start()
    finally:
        nginx.stop()


def app_port(nginx: Nginx) -> int:
    return int(nginx.environment["UPSTREAM"].rpartition(":")[2])


def test_an_app_that_moved_is_found_again(found_by_name: Nginx, names: NameServer) -> None:
    """A container that is created anew comes back at another address."""
    nginx = found_by_name
    with Echo(("127.0.0.1", app_port(nginx)), "before"):
        wait_until(lambda: answered_by(nginx) == "before")
    with Echo(("127.0.0.2", app_port(nginx)), "after"):
        names.addresses = ("127.0.0.2",)
        begun = time.monotonic()
        wait_until(lambda: answered_by(nginx) == "after")
        assert time.monotonic() - begun < 5


def answered_by(nginx: Nginx) -> str:
    """Nobody while nginx does not know yet where the app is."""
    return str(nginx.ask("/").headers.get("x-answered-by", ""))


def test_nginx_starts_before_the_app_has_a_name(found_by_name: Nginx, names: NameServer) -> None:
    nginx = found_by_name
    names.addresses = ()
    wait_until(lambda: nginx.ask("/").status_code == 502, seconds=5)
    nginx.stop()
    nginx.start()
    assert nginx.ask("/").status_code == 502
    with Echo(("127.0.0.1", app_port(nginx)), "at last"):
        names.addresses = ("127.0.0.1",)
        wait_until(lambda: nginx.ask("/").status_code == 200, seconds=15)


def test_the_apps_of_peers_answer_while_ones_own_is_away(
    nginx_kind: str, nginx_directory: Path, names: NameServer
) -> None:
    """Among them it is itself, where nobody listens either. What is asked of this one alone, such
    as its metrics, is asked of no other."""
    port = free_port()
    names.addresses = ("127.0.0.2", "127.0.0.1")
    peers = {
        "UPSTREAM": f"unix:{nginx_directory}/nobody.sock",
        "UPSTREAM_BACKUP": f"peers.test:{port}",
        "RESOLVER": f"127.0.0.1:{names.port}",
    }
    nginx = Nginx(nginx_directory / "peers", nginx_kind, OPEN | peers)
    with Echo(("127.0.0.1", port), "peer"):
        try:
            nginx.start()
            wait_until(lambda: answered_by(nginx) == "peer", seconds=10)
            for method in ("GET", "POST", "PUT", "DELETE") * 5:
                answer = nginx.ask("/", method, content=b"x")
                assert (answer.status_code, answer.headers["x-answered-by"]) == (200, "peer")
            assert nginx.internal("/metrics").status_code == 502
        finally:
            nginx.stop()

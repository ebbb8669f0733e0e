"""compose.yaml on a real engine, as `make run` starts it for somebody who writes code."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import pytest

from pictures import halves, saved
from servers import wait_until
from stack import Person, Stack, docker, require_engine, stack_directory

PHOTO = saved(halves((600, 400)), "JPEG")  # media
pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(600),
    pytest.mark.xdist_group("containers-development"),
]


class Running:
    """`make run` in a terminal."""

    def __init__(self, stack: Stack, log: Path) -> None:
        self.stack = stack
        self.log = log
        self.process = stack.run(log)

    def printed(self, pattern: str, *, seconds: float = 240) -> re.Match[str]:
        """The first match in what is printed, once it is."""

        def find() -> re.Match[str] | None:
            text = self.log.read_text(errors="replace")
            if self.process.poll() is not None:
                raise RuntimeError(f"make run ended: {text[-4000:]}")
            return re.search(pattern, text)

        found: re.Match[str] = wait_until(find, seconds=seconds, every=0.3)
        return found

    def interrupt(self) -> None:
        """Ctrl-C, which the terminal sends to the whole group."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGINT)
        self.process.wait(60)


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    require_engine()
    with stack_directory() as directory:
        for path in (directory / "src").rglob("*"):
            path.chmod(path.stat().st_mode & 0o700)  # as a umask of 077 has it
        stack = Stack(directory, "development")
        running = Running(stack, directory / "run.log")
        try:
            running.printed(r"url:  https://")
            yield running
        finally:
            try:
                running.interrupt()
            finally:
                stack.remove()


def test_make_run_says_what_it_chose_and_where_it_serves(running: Running) -> None:
    printed = running.log.read_text(errors="replace")
    assert printed.startswith("mode: containers")
    assert f"url:  {running.stack.url} " in printed
    assert running.stack.status("/health") == 200


def test_the_walk_goes_with_the_mail_that_is_printed(running: Running) -> None:
    with running.stack.client() as client:
        ada = Person(client, "ada@example.org")
        ada.register()
        ada.confirm(running.printed(r"/confirm\?token=[\w.-]+(?=\s)")[0])
        ada.log_in()
        # media: from here
        item = ada.upload("sunrise.jpg", PHOTO)
        assert item["status"] == "ready"
        assert client.get(item["url"], headers=ada.bearer).content == PHOTO
        assert client.get(item["thumbnail_url"], headers=ada.bearer).status_code == 200
        # media: to here


def test_a_change_of_the_code_is_served_without_a_restart(running: Running) -> None:
    web = running.stack.containers()["web"]
    path = running.stack.directory / "src" / "service" / "app.py"
    path.write_text(re.sub(r"title=[^,]+,", 'title="changed",', path.read_text()))

    def title() -> str:
        try:
            with running.stack.client() as client:
                answer = client.get("/openapi.json")
        except httpx.HTTPError:
            return ""
        if answer.status_code != 200:  # nginx's, while the app starts again
            return ""
        found: str = answer.json()["info"]["title"]
        return found

    wait_until(lambda: title() == "changed", seconds=90, every=0.5)
    assert running.stack.containers()["web"] == web


def test_nginx_finds_a_container_that_changed_its_address(running: Running) -> None:
    stack = running.stack
    network = f"{stack.project}_default"

    def address() -> str:
        found: str = stack.inspect("web")["NetworkSettings"]["Networks"][network]["IPAddress"]
        return found

    before = address()
    stack.compose("rm", "--stop", "--force", "web")
    # Something else takes the address.
    squatter = f"{stack.project}-squatter"
    docker("run", "--detach", "--name", squatter, "--network", network, "redis:8")
    try:
        stack.compose("up", "--detach", "--no-deps", "--wait", "web")
        assert address() != before
        began = time.monotonic()
        wait_until(lambda: stack.status("/openapi.json") == 200, seconds=20, every=0.2)
        assert time.monotonic() - began < 10
    finally:
        docker("rm", "--force", squatter)


def test_servers_can_be_reached_from_this_machine_alone(running: Running) -> None:
    for service in ("web", "postgres", "redis", "nginx"):
        bound = running.stack.inspect(service)["NetworkSettings"]["Ports"]
        hosts = [place["HostIp"] for places in bound.values() for place in places or ()]
        assert hosts
        assert set(hosts) == {"127.0.0.1"}


def test_ctrl_c_stops_everything_it_started(running: Running) -> None:
    running.interrupt()
    assert running.stack.containers() == {}, running.log.read_text(errors="replace")[-3000:]
    left = docker("ps", "--all", "--quiet", "--filter", f"name={running.stack.project}").stdout
    assert left == ""


def test_containers_without_an_engine_are_refused_with_a_word() -> None:
    environment = {**os.environ, "DOCKER_HOST": "unix:///nowhere.sock"}
    result = subprocess.run(
        ["make", "--no-print-directory", "run", "MODE=containers"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode != 0
    assert "MODE=embedded needs none" in result.stderr

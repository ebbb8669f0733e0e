"""nginx and an upstream behind it, started once a module for each nginx there is."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from nginx import KINDS, Change, Site, available, running_site
from nginx_checks import LIMITED, OPEN
from servers import require

MakeSite = Callable[..., Site]


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

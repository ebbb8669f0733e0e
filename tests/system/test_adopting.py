"""docs/adopting.md, followed to the letter on a copy: without the media library, and then with a
slice of one's own, the checks and the tests pass.

DRILL_TESTS=tests runs all that are left in place of a choice, and takes as long as the whole suite.
"""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from drill import Copy, make_copy, section
from servers import ROOT

pytestmark = pytest.mark.timeout(3600)

PAGE = ROOT / "docs" / "adopting.md"
OF_MEDIA = (
    r"service\.media|/(api|api/public|ws)/media|Media(Item|NotFound)|media_items|media\.process"
    r"|# media\b"
)
OPENAPI = """
from service.app import create_app
from service.settings import Settings
print(create_app(Settings(secret_key="k" * 40)).api.openapi())
"""
# All modules of the benchmarks, some of which are imported by what they start.
BENCHMARKS = """
import importlib, pkgutil, sys
sys.path.insert(0, "tests")
import bench
for module in pkgutil.iter_modules(bench.__path__, "bench."):
    importlib.import_module(module.name)
"""
OUTSIDE = ("--", ".", ":!docs", ":!README.md")  # pages are rewritten by hand
MODELS = "tests/test_migrate.py::test_the_models_are_what_the_migrations_make"
# Migrations, wiring, errors, OpenAPI, on both databases, and walks through real processes.
CHOSEN = (
    *(MODELS, "tests/test_documented.py", "tests/test_errors.py", "tests/test_edges.py"),
    *("tests/test_app.py", "tests/test_pages.py", "tests/test_jobs.py", "tests/test_outbox.py"),
    *("tests/test_fanout.py", "tests/accounts/test_keys.py"),
    *("tests/system/test_walkthrough.py", "tests/system/test_api_lines.py"),
)
TESTS = os.environ.get("DRILL_TESTS", " ".join(CHOSEN)).split()


@pytest.fixture(scope="module")
def copy() -> Iterator[Copy]:
    with tempfile.TemporaryDirectory(prefix="service-drill-") as name:
        Path(name).chmod(0o755)
        yield make_copy(Path(name))


@pytest.fixture(scope="module")
def stripped(copy: Copy) -> Copy:
    """Without the media library, and checked."""
    for block in section(PAGE, "Take the media library out"):
        copy.follow(block)
    return copy


def test_the_copy_is_run_and_not_the_original(copy: Copy) -> None:
    found = copy.python("-c", "import service; print(service.__file__)").stdout
    assert found.strip() == f"{copy.directory}/src/service/__init__.py"
    path = copy.python("-c", "import sys; print(sys.path)").stdout
    assert f"{ROOT}/src" not in path


def test_nothing_of_the_media_library_is_left(stripped: Copy) -> None:
    found = stripped.run("git", "grep", "--untracked", "-nE", OF_MEDIA, *OUTSIDE, check=False)
    assert found.stdout == ""
    missing = stripped.python("-c", "import service.media", check=False)
    assert "No module named 'service.media'" in missing.stderr
    assert "media" not in stripped.python("-c", OPENAPI).stdout


def test_the_rest_can_be_imported(stripped: Copy) -> None:
    stripped.python("-m", "pytest", "--collect-only", "-q")
    stripped.python("-c", BENCHMARKS)


def test_the_rest_passes_its_tests(stripped: Copy) -> None:
    stripped.python("-m", "pytest", "-q", *TESTS)


def test_a_slice_of_ones_own_passes_the_checks_and_its_tests(stripped: Copy) -> None:
    for block in section(PAGE, "Write your own slice"):
        stripped.follow(block)
    stripped.python("-m", "pytest", "-q", MODELS, "tests/test_documented.py", "tests/test_edges.py")
    # All that OpenAPI allows is asked of it.
    stripped.python("-m", "pytest", "-q", "tests/system/test_schema.py", "-k", "embedded")

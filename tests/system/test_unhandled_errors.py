"""What nobody caught, on a real server: a problem with the request's id and one entry in the log,
and nothing of the reason to the caller, in DEBUG neither."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from broken_app import ENDPOINTS, LATE_ENDPOINTS, REASON
from servers import ROOT, Web, wait_until

NAMES = [endpoint.__name__ for endpoint in ENDPOINTS]
LATE = [endpoint.__name__ for endpoint in LATE_ENDPOINTS]


@pytest.fixture(scope="module", params=["false", "true"])
def web(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, migrated_sqlite: Path
) -> Iterator[Web]:
    """With DEBUG off and on."""
    directory = tmp_path_factory.mktemp("broken")
    database = directory / "service.sqlite3"
    database.write_bytes(migrated_sqlite.read_bytes())
    environment = {
        "DATABASE_URL": f"sqlite:///{database}",
        "DEBUG": request.param,
        "PYTHONPATH": str(ROOT / "tests"),
    }
    web = Web(directory / "web", environment, arguments=("broken_app:create_app()",))
    try:
        yield web.start()
    finally:
        web.stop()


def entries(web: Web, request_id: str) -> list[dict[str, Any]]:
    """What the log holds of a request, beside the line that every request has."""

    def ended() -> bool:
        return any(event.get("request_id") == request_id for event in web.events("request"))

    wait_until(ended)
    events = [event for event in web.events() if event.get("request_id") == request_id]
    return [event for event in events if event["message"] != "request"]


def assert_told_once(web: Web, request_id: str) -> None:
    wait_until(lambda: entries(web, request_id))
    (entry,) = entries(web, request_id)
    assert entry["level"] == "error"
    assert entry["exception"].count("Traceback (most recent call last)") >= 1
    anonymous = [e for e in web.events() if e["level"] == "error" and "request_id" not in e]
    assert anonymous == []


@pytest.mark.parametrize("name", [name for name in NAMES if name != "in_the_middle"])
def test_it_is_500_with_the_request_id_and_one_entry(web: Web, name: str) -> None:
    headers = {"X-Request-ID": f"id-of-{name}-{web.port}"}
    answer = web.get(f"/broken/{name}", headers=headers)
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json() == {
        "type": "about:blank",
        "title": "Internal Server Error",
        "status": 500,
        "detail": "Internal Server Error",
        "request_id": headers["X-Request-ID"],
    }
    assert_told_once(web, headers["X-Request-ID"])


@pytest.mark.parametrize("name", LATE)
def test_after_the_answer_it_is_one_entry_and_the_answer_stands(web: Web, name: str) -> None:
    headers = {"X-Request-ID": f"id-of-{name}-{web.port}"}
    assert web.get(f"/broken/{name}", headers=headers).text == "all of it"
    assert_told_once(web, headers["X-Request-ID"])


def test_in_the_middle_of_the_answer_the_connection_is_cut_and_it_is_one_entry(web: Web) -> None:
    headers = {"X-Request-ID": f"id-of-in_the_middle-{web.port}"}
    received = b""
    with (
        pytest.raises(httpx.RemoteProtocolError),
        httpx.stream("GET", f"{web.url}/broken/in_the_middle", headers=headers) as answer,
    ):
        for chunk in answer.iter_raw():
            received += chunk
    assert received == b"the beginning"
    assert_told_once(web, headers["X-Request-ID"])


def test_the_reason_is_in_the_log(web: Web) -> None:
    headers = {"X-Request-ID": f"id-with-the-reason-{web.port}"}
    assert REASON not in web.get("/broken/in_the_handler", headers=headers).text
    assert REASON in json.dumps(entries(web, headers["X-Request-ID"]))


def test_a_background_task_that_fails_is_one_entry_and_the_service_goes_on(
    make_web: Callable[..., Web], embedded_environment: dict[str, str]
) -> None:
    more = {"WEB_CONCURRENCY": "1", "FAILING_TASK": "1", "PYTHONPATH": str(ROOT / "tests")}
    web = make_web(
        embedded_environment | more,
        arguments=("broken_app:create_app()",),
        wait="/health/ready",
    )
    assert web.stop() == 0
    (entry,) = [event for event in web.events() if event["level"] == "error"]
    assert entry["message"] == "background_task_failed"
    assert REASON in entry["exception"]

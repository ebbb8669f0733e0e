"""One trace from a client's `traceparent` through nginx over the request, its statements, the job
that it left, and that job's mail, from four workers that were forked."""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx2 as httpx
import pytest

from collector import Collector, Span, running_collector
from mail_server import MailServer, mail_server
from nginx import Nginx, available
from nginx_checks import OPEN
from servers import (
    Postgresql,
    Web,
    Worker,
    free_port,
    require,
    running,
    service_command,
    wait_until,
)

MakeWeb = Callable[..., Web]
EMAIL = "grace@example.org"
PARENT = "00f067aa0ba902b7"
PASSWORD = "correct horse battery staple"
REGISTRATION = {"email": EMAIL, "password": PASSWORD}


@dataclass
class Site:
    web: Web
    worker: Worker
    mail: MailServer
    collector: Collector

    def post(self, path: str, trace_id: str, **more: object) -> httpx.Response:
        return httpx.post(f"{self.web.url}{path}", headers=traced(trace_id), timeout=30, **more)


def traced(trace_id: str) -> dict[str, str]:
    """The header of a client whose own span is PARENT."""
    return {"traceparent": f"00-{trace_id}-{PARENT}-01"}


@pytest.fixture
def environment(database_url: str) -> dict[str, str]:
    return {
        "DATABASE_URL": database_url,
        "SECRET_KEY": "k3y-0f-the-t3sts-k3y-0f-the-t3sts",
        "OTEL_BSP_SCHEDULE_DELAY": "200",  # milliseconds between batches; a variable of the SDK's
    }


@pytest.fixture
def site(make_web: MakeWeb, environment: dict[str, str], tmp_path: Path) -> Iterator[Site]:
    with running_collector() as collector, mail_server() as mail:
        environment |= {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "MAIL_SERVER": "127.0.0.1",
            "MAIL_PORT": str(mail.port),
            "MAIL_USE_TLS": "false",
        }
        web = make_web(environment | {"WEB_CONCURRENCY": "4"})
        worker = Worker(tmp_path / "worker", environment, tuple(service_command("worker")))
        with running(worker):
            yield Site(web, worker, mail, collector)


@pytest.fixture
def nginx(site: Site, nginx_directory: Path) -> Iterator[Nginx]:
    """Before its web process."""
    require(available("installed"), "nginx")
    server = Nginx(nginx_directory / "traced", name="localhost")
    server.environment = {**OPEN, "UPSTREAM": f"127.0.0.1:{site.web.port}"}
    with running(server):
        yield server


def registered(site: Site, answer: httpx.Response, trace_id: str) -> list[Span]:
    """The spans of a registration, once its mail is among them."""
    assert answer.status_code == 202, answer.text
    spans: list[Span] = wait_until(
        lambda: (found := site.collector.trace(trace_id)) and has_mail(found) and found
    )
    return spans


def test_a_trace_goes_through_nginx_from_the_request_to_the_mail(site: Site, nginx: Nginx) -> None:
    trace_id = secrets.token_hex(16)
    headers = traced(trace_id)
    answer = nginx.ask("/api/accounts", "POST", headers=headers, json=REGISTRATION)
    spans = registered(site, answer, trace_id)
    (request,) = (span for span in spans if span.parent_id == PARENT)
    assert request.name == "POST /api/accounts"
    assert request.attributes["http.route"] == "/api/accounts"
    assert request.attributes["request_id"] == nginx.line(path="/api/accounts")["request_id"]
    statements = [span for span in spans if span.parent_id == request.id and is_statement(span)]
    assert {"INSERT", "COMMIT;"} <= {span.name for span in statements}
    (job,) = (span for span in spans if span.name == "mail.deliver")
    assert job.parent_id in {span.id for span in spans}
    (mail,) = (span for span in spans if span.name == "SMTP")
    assert (mail.parent_id, mail.attributes["server.address"]) == (job.id, "127.0.0.1")
    assert any(span.parent_id == job.id and is_statement(span) for span in spans)
    everything = repr(spans)
    assert EMAIL not in everything
    assert PASSWORD not in everything


def has_mail(spans: list[Span]) -> bool:
    names = {span.name for span in spans}
    return {"SMTP", "mail.deliver", "POST /api/accounts"} <= names


def is_statement(span: Span) -> bool:
    return span.attributes.get("db.system.name") == "postgresql"


def test_every_request_of_four_workers_has_a_span_of_its_own(site: Site) -> None:
    """What is made before the fork would be shared: ids, or a thread that is gone."""
    ids: list[str] = []

    def all_have_answered() -> bool:
        more = [secrets.token_hex(16) for _ in range(80)]
        with ThreadPoolExecutor(16) as threads:
            answers = list(threads.map(lambda trace_id: site.post("/logout", trace_id), more))
        assert {answer.status_code for answer in answers} == {401}
        ids.extend(more)
        return answering(site.web) == set(site.web.workers())

    assert len(site.web.workers()) == 4
    wait_until(all_have_answered, every=0.5)
    wait_until(lambda: all(map(site.collector.trace, ids)))
    found = [span for trace_id in ids for span in site.collector.trace(trace_id)]
    assert len({span.id for span in found}) == len(found)
    requests = [span.name for span in found if span.parent_id == PARENT]
    assert requests == ["POST /logout"] * len(ids)


def answering(web: Web) -> set[int]:
    """The workers that have answered anything but probes, by what each tells twice a second."""
    counts = re.findall(r'^service_worker_requests{pid="(\d+)"} (\S+)', web.metrics(), re.MULTILINE)
    return {int(pid) for pid, count in counts if float(count)}


def test_probes_have_no_span(site: Site) -> None:
    trace_id = secrets.token_hex(16)
    for path in ("/health", "/health/live", "/health/ready", "/health/startup", "/metrics"):
        for _ in range(4):
            # 503 where a worker has not seen the end of its first check.
            assert site.web.get(path, headers=traced(trace_id)).status_code in (200, 503)
    # What each worker was asked later is there.
    later = [secrets.token_hex(16) for _ in range(40)]
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(lambda other: site.post("/logout", other), later))
    wait_until(lambda: all(map(site.collector.trace, later)))
    assert site.collector.trace(trace_id) == []


def test_the_token_of_a_mailed_link_is_in_no_span(site: Site) -> None:
    trace_id = secrets.token_hex(16)
    httpx.get(f"{site.web.url}/confirm?token=s3same-0pen", headers=traced(trace_id), timeout=30)
    (span,) = wait_until(lambda: site.collector.trace(trace_id))
    assert (span.name, span.attributes["url.path"]) == ("GET /confirm", "/confirm")
    assert "s3same" not in repr(site.collector.spans)


def test_what_fails_is_marked_without_its_words(site: Site, shared_postgresql: Postgresql) -> None:
    name = site.web.environment["DATABASE_URL"].rpartition("/")[2]
    shared_postgresql.psql(
        "INSERT INTO procrastinate_jobs (queue_name, task_name, args, attempts)"
        " VALUES ('default', 'mail.deliver', '{\"key\": \"none\"}', 100)",
        name,
    )
    span = wait_until(
        lambda: next((s for s in site.collector.spans if s.name == "mail.deliver"), None)
    )
    assert span.failed
    assert span.attributes["error.type"] == "JobAbandoned"
    assert span.words == ""


def test_what_a_mail_server_says_of_a_recipient_is_in_no_span(site: Site) -> None:
    site.mail.answers["RCPT"] = f"550 5.1.1 <{EMAIL}>: no such mailbox"
    trace_id = secrets.token_hex(16)
    answer = site.post("/api/accounts", trace_id, json=REGISTRATION)
    spans = registered(site, answer, trace_id)
    (mail,) = (span for span in spans if span.name == "SMTP")
    assert mail.failed
    assert mail.attributes["error.type"].startswith("SMTP")
    assert EMAIL not in repr(spans)
    assert "".join(span.words for span in spans) == ""


def test_a_collector_that_is_away_is_told_of_once_and_holds_up_nothing(
    make_web: MakeWeb, environment: dict[str, str]
) -> None:
    away = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}"}
    web = make_web(environment | away)
    for _ in range(3):
        assert web.get("/nowhere").status_code == 404
        time.sleep(0.5)
    workers = int(web.variables()["WEB_CONCURRENCY"])
    wait_until(lambda: web.events("traces_not_sent"))
    assert len(web.events("traces_not_sent")) <= workers
    began = time.monotonic()
    assert web.stop(signal.SIGTERM) == 0
    assert time.monotonic() - began < 15
    assert "Traceback" not in web.log


def test_nothing_of_it_is_loaded_where_it_is_off(database_url: str) -> None:
    """But for the SDK's metrics, which redis-py loads where they are installed."""
    program = (
        "import sys, redis.asyncio;"
        "of_it = 'opentelemetry.sdk', 'opentelemetry.exporter', 'google.protobuf';"
        "before = set(sys.modules);"
        "import service.worker; from service.app import create_app; create_app();"
        "print([name for name in set(sys.modules) - before if name.startswith(of_it)])"
    )
    environment = os.environ | {"DATABASE_URL": database_url, "SECRET_KEY": "k" * 40}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"

"""One mail an event, on both back ends, handed to a real SMTP server."""

import socket
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from anyio import fail_after, sleep
from sqlalchemy import select, update

from asgi import client_of
from embedded_jobs import embedded_jobs
from mail_server import MailServer, mail_server
from servers import free_port
from service import job_list, outbox
from service.app import create_app
from service.database_errors import DatabaseUnavailable
from service.health import Health
from service.jobs import Job, execute
from service.lifecycle import Lifecycle
from service.mail import MailDelayed
from service.outbox import DELIVER, TASKS, Mail, deliver, post
from service.resources import Resources, open_resources
from service.settings import Settings

pytestmark = pytest.mark.anyio

DELIVERY, EXPIRY = TASKS


@pytest.fixture
def server() -> Iterator[MailServer]:
    with mail_server() as server:
        yield server


def with_server(settings: Settings, server: MailServer, **more: Any) -> Settings:
    values = {"mail_server": "127.0.0.1", "mail_port": server.port, "mail_use_tls": False}
    return settings.model_copy(update=values | more)


@pytest.fixture
async def resources(settings: Settings, server: MailServer) -> AsyncIterator[Resources]:
    """On both back ends; nothing runs the jobs."""
    async with open_resources(with_server(settings, server), Health(Lifecycle())) as resources:
        yield resources


async def post_one(resources: Resources, *, key: str = "key-1", **more: str) -> None:
    values = {"to": "ann@example.org", "subject": "Hello", "text": "The link: x"} | more
    async with resources.database.transaction() as session:
        await post(resources, session, key=key, **values)


def job(key: str = "key-1", attempt: int = 1) -> Job:
    return Job(1, DELIVER, attempt, {"key": key})


async def mail(resources: Resources, key: str = "key-1") -> Mail:
    async with resources.database.transaction() as session:
        found = await session.get(Mail, key)
        assert found is not None
        return found


async def waiting(resources: Resources) -> int:
    return (await resources.jobs.counts()).get("todo", 0)


async def test_a_mail_is_delivered_once_and_its_text_removed(
    resources: Resources, server: MailServer
) -> None:
    await post_one(resources)
    await deliver(resources, job())
    await deliver(resources, job(attempt=2))
    assert [message["Subject"] for message in server.messages] == ["Hello"]
    sent = await mail(resources)
    assert (sent.text, sent.refused) == ("", None)
    assert sent.sent_at is not None


async def test_the_same_key_twice_is_one_mail(resources: Resources) -> None:
    await post_one(resources)
    await post_one(resources, subject="Hello again")
    assert await waiting(resources) == 1
    assert (await mail(resources)).subject == "Hello"


async def test_the_same_key_twice_at_once_is_one_mail(resources: Resources) -> None:
    async with resources.database.transaction() as session:
        for _ in range(2):
            await post(resources, session, key="k", to="ann@example.org", subject="s", text="t")
    assert await waiting(resources) == 1


async def test_a_key_is_free_again_after_a_rollback(resources: Resources) -> None:
    with pytest.raises(RuntimeError):
        async with resources.database.transaction() as session:
            await post(resources, session, key="key-1", to="a@b.example", subject="s", text="t")
            raise RuntimeError
    assert await waiting(resources) == 0
    await post_one(resources)
    assert await waiting(resources) == 1


@pytest.mark.parametrize("seconds", [20, 0])
async def test_a_mail_that_was_taken_is_recorded_once_the_database_is_back(
    resources: Resources, server: MailServer, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """Or it would be sent again. Not by waiting for ever, as a worker has to be able to stop."""
    record, failures = outbox._record, [DatabaseUnavailable(), DatabaseUnavailable()]

    async def away_at_first(resources: Resources, key: str, **outcome: Any) -> None:
        if failures:
            raise failures.pop()
        await record(resources, key, **outcome)

    monkeypatch.setattr(outbox, "_record", away_at_first)
    monkeypatch.setattr(outbox, "RECORD_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(outbox, "RECORD_SECONDS", seconds)
    await post_one(resources)
    outcome = await execute(DELIVERY, resources, job())
    assert (outcome.status, outcome.counted) == (("done", True) if seconds else ("again", False))
    failures.clear()
    await deliver(resources, job())
    assert len(server.messages) == 1
    assert (await mail(resources)).sent_at is not None


async def test_a_refused_mail_is_recorded_and_not_tried_again(
    resources: Resources, server: MailServer
) -> None:
    server.answers["RCPT"] = "550 5.1.1 no such user"
    await post_one(resources)
    assert (await execute(DELIVERY, resources, job())).status == "done"
    refused = await mail(resources)
    assert (refused.refused, refused.text, refused.sent_at) == (
        "SMTPRecipientsRefused 550",
        "",
        None,
    )
    server.answers.clear()
    await deliver(resources, job(attempt=2))
    assert server.contents == []


async def test_what_is_no_address_is_refused_without_asking_the_server(
    resources: Resources, server: MailServer
) -> None:
    await post_one(resources, to="ann@example.org\r\nBcc: eve@example.org")
    await deliver(resources, job())
    assert (await mail(resources)).refused == "not an address"
    assert server.contents == []


async def test_a_mail_that_is_delayed_keeps_its_text(
    resources: Resources, server: MailServer
) -> None:
    server.answers["RCPT"] = "451 4.7.1 greylisted"
    await post_one(resources)
    outcome = await execute(DELIVERY, resources, job())
    assert (outcome.status, outcome.delay_seconds) == ("again", 2)
    assert (await mail(resources)).text == "The link: x"
    server.answers.clear()
    assert (await execute(DELIVERY, resources, job(attempt=2))).status == "done"
    assert len(server.messages) == 1


async def test_a_mail_that_no_server_takes_is_given_up_after_a_day(
    resources: Resources, server: MailServer
) -> None:
    server.answers["RCPT"] = "451 4.7.1 greylisted"
    await post_one(resources)
    last = DELIVERY.max_attempts
    assert 22 < sum(map(DELIVERY.delay_seconds, range(1, last))) / 3600 < 26
    assert (await execute(DELIVERY, resources, job(attempt=last))).status == "failed"
    given_up = await mail(resources)
    assert given_up.refused == "given up: SMTPRecipientsRefused 451"
    assert given_up.text == ""


async def test_giving_up_does_not_touch_a_mail_that_was_sent(resources: Resources) -> None:
    await post_one(resources)
    await deliver(resources, job())
    await DELIVERY.give_up(resources, job(), MailDelayed("late"))
    assert (await mail(resources)).refused is None


async def make_older(resources: Resources, **much: float) -> None:
    created_at = datetime.now(UTC) - timedelta(**much)
    async with resources.database.transaction() as session:
        await session.execute(update(Mail).values(created_at=created_at))


async def keys(resources: Resources) -> set[str]:
    async with resources.database.transaction() as session:
        return set(await session.scalars(select(Mail.key)))


async def expire(resources: Resources) -> None:
    await EXPIRY.run(resources, Job(2, EXPIRY.name, 1, {}))


async def test_old_mails_are_removed_but_for_those_that_still_have_to_go(
    resources: Resources, server: MailServer
) -> None:
    await post_one(resources, key="sent")
    await deliver(resources, job("sent"))
    await post_one(resources, key="refused", to="nobody")
    await deliver(resources, job("refused"))
    await post_one(resources, key="waiting")
    await make_older(resources, days=90, hours=-1)
    await expire(resources)
    assert await keys(resources) == {"sent", "refused", "waiting"}
    await make_older(resources, days=90, hours=1)
    await expire(resources)
    assert await keys(resources) == {"waiting"}
    await deliver(resources, job("waiting"))
    assert len(server.messages) == 2


async def test_the_job_of_a_mail_that_was_removed_sends_nothing(
    resources: Resources, server: MailServer
) -> None:
    await post_one(resources)
    await deliver(resources, job())
    await make_older(resources, days=91)
    await expire(resources)
    await deliver(resources, job(attempt=2))
    assert len(server.messages) == 1


def test_a_mail_outlives_every_failed_job_that_could_post_it_again() -> None:
    """Or the same event would be told of twice."""
    assert job_list.FAILED_KEPT + timedelta(days=30) < outbox.KEPT
    assert EXPIRY.every_seconds == 24 * 3600


async def test_the_longest_values_fit(resources: Resources, server: MailServer) -> None:
    to = "a" * 64 + "@" + ".".join(["b" * 61] * 4)
    await post_one(resources, key="k" * 200, to=to, subject="ü" * 200, text="x" * 100_000)
    await deliver(resources, job("k" * 200))
    assert server.recipients == [to]


async def test_a_mail_is_delivered_by_itself_once_the_server_is_back(
    embedded_settings: Settings,
) -> None:
    """Through the application: the request is answered though nobody takes mail."""
    port = free_port()
    settings = embedded_settings.model_copy(
        update={"mail_server": "127.0.0.1", "mail_port": port, "mail_use_tls": False}
    )
    body = {"email": "ann@example.org", "password": "correct horse battery"}
    async with client_of(create_app(settings)) as client:
        answer = await client.post("/api/accounts", json=body)
        assert answer.status_code == 202
        with fail_after(20):
            while embedded_jobs(settings) != [("mail.deliver", "todo", 1)]:  # noqa: ASYNC110
                await sleep(0.05)
        with mail_server(port=port) as server:
            with fail_after(20):
                while not server.contents:  # noqa: ASYNC110
                    await sleep(0.05)
            assert [message["To"] for message in server.messages] == ["ann@example.org"]


async def test_a_request_does_not_wait_for_a_mail_server_that_hangs(
    embedded_settings: Settings,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        values = {"mail_server": "127.0.0.1", "mail_port": silent.getsockname()[1]}
        settings = embedded_settings.model_copy(update=values)
        body = {"email": "ann@example.org", "password": "correct horse battery"}
        async with client_of(create_app(settings)) as client:
            began = time.monotonic()
            assert (await client.post("/api/accounts", json=body)).status_code == 202
            assert time.monotonic() - began < settings.mail_timeout_seconds

"""Handing mail to a real SMTP server, and to none."""

import asyncio
import io
import json
import logging
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from mail_server import MailServer, mail_server, make_certificate, server_context
from servers import free_port
from service import logs, mail
from service.mail import MailDelayed, Mailer, MailRefused
from service.mail_html import html
from service.settings import Settings

pytestmark = pytest.mark.anyio

LINK = "https://service.example.org/confirm?token=" + "abcdefghij" * 20 + "=.+%20"


@pytest.fixture
def server() -> Iterator[MailServer]:
    with mail_server() as server:
        yield server


def mailer_for(server: MailServer, **more: Any) -> Mailer:
    values = {"mail_server": "127.0.0.1", "mail_port": server.port, "mail_use_tls": False}
    return Mailer(Settings(**(values | {"mail_from": "service@example.org"} | more)))


async def send(mailer: Mailer, *, to: str = "ann@example.org", **more: str) -> None:
    values = {"key": "key-1", "subject": "Hello", "text": "Hello.\n"} | more
    await mailer.send(mailer.compose(to=to, **values))


def part(message: EmailMessage, kind: str) -> str:
    """The text or the HTML of a message."""
    body = message.get_body((kind,))
    assert body is not None
    return str(body.get_content()).replace("\r\n", "\n")


async def test_a_message_has_an_html_part_with_links(server: MailServer) -> None:
    await send(mailer_for(server), subject="A & B", text=f"Open it:\n\n    {LINK}\n\n<b>\nbye\n")
    (message,) = server.messages
    assert message.get_content_type() == "multipart/alternative"
    page = part(message, "html")
    assert "<title>A &amp; B</title>" in page
    assert f'<p><a href="{LINK}">{LINK}</a></p>' in page
    assert "<p>&lt;b&gt;<br>\nbye</p>" in page


@pytest.mark.parametrize(
    ("text", "link"),
    [
        ("see https://example.org/a.", "https://example.org/a"),
        ("(https://example.org/?a=1&b=2)", "https://example.org/?a=1&amp;b=2"),
        ('"https://example.org"><script>', "https://example.org"),
    ],
)
def test_a_link_ends_where_its_sentence_goes_on(text: str, link: str) -> None:
    page = html("", text)
    assert f'<a href="{link}">{link}</a>' in page
    assert "<script>" not in page


def test_nothing_is_a_link_but_what_leads_to_the_web() -> None:
    assert "<a" not in html("", "javascript:alert(1) ftp://example.org data:text/html,x")


async def test_a_message_arrives_as_it_was_written(server: MailServer) -> None:
    await send(mailer_for(server), subject="Grüße ☃ 𝄞", text=f"Zeile é\n\n{LINK}\n")
    (message,) = server.messages
    assert message["Subject"] == "Grüße ☃ 𝄞"
    assert part(message, "plain") == f"Zeile é\n\n{LINK}\n"
    assert (message["From"], message["To"]) == ("service@example.org", "ann@example.org")
    assert message["Message-ID"] == "<key-1@example.org>"
    assert message["Auto-Submitted"] == "auto-generated"
    assert server.recipients == ["ann@example.org"]


async def test_an_address_in_another_alphabet_is_reached(server: MailServer) -> None:
    await send(mailer_for(server), to="jörg@bücher.example")
    assert server.recipients == ["jörg@xn--bcher-kva.example"]
    assert server.messages[0]["To"] == "jörg@xn--bcher-kva.example"


async def test_a_domain_in_another_alphabet_needs_nothing_of_the_server() -> None:
    with mail_server(enable_SMTPUTF8=False) as old:
        await send(mailer_for(old), to="joerg@bücher.example")
        assert old.recipients == ["joerg@xn--bcher-kva.example"]


async def test_a_name_in_another_alphabet_is_refused_where_the_server_cannot_take_it() -> None:
    with mail_server(enable_SMTPUTF8=False) as old:
        with pytest.raises(MailRefused):
            await send(mailer_for(old), to="jörg@example.org")
        assert old.contents == []


@pytest.mark.parametrize("line_break", ["\n", "\r", "\r\n", "\u2028", "\x0b", "\x85"])
async def test_a_subject_cannot_make_a_header(server: MailServer, line_break: str) -> None:
    await send(mailer_for(server), subject=f"Hello{line_break}Bcc: eve@example.org")
    (message,) = server.messages
    assert message["Bcc"] is None
    assert message["Subject"] == "Hello Bcc: eve@example.org"
    assert server.recipients == ["ann@example.org"]


@pytest.mark.parametrize(
    "to",
    [
        "ann@example.org\nBcc: eve@example.org",
        "ann@example.org\r\n\r\nbody",
        "ann@example.org, eve@example.org",
        "Ann <ann@example.org>",
        "<ann@example.org",
        "ann",
        "@example.org",
        "",
        "ann@exa mple.org",
        "ann@" + "ü" * 70 + ".example",
        "ann@example.org.",
        "ann@example..org",
        "a..nn@example.org",
        "=?utf-8?q?ann?=@example.org",
    ],
)
async def test_what_is_not_one_address_is_refused(server: MailServer, to: str) -> None:
    with pytest.raises(MailRefused):
        await send(mailer_for(server), to=to)
    assert server.contents == []


@pytest.mark.parametrize("command", ["RCPT", "DATA"])
async def test_a_5xx_answer_refuses_for_good(server: MailServer, command: str) -> None:
    server.answers[command] = "550 5.1.1 no such user ann@example.org"
    with pytest.raises(MailRefused) as caught:
        await send(mailer_for(server))
    assert "550" in str(caught.value)
    assert "ann" not in str(caught.value)


@pytest.mark.parametrize("command", ["RCPT", "DATA"])
async def test_a_4xx_answer_delays(server: MailServer, command: str) -> None:
    server.answers[command] = "451 4.7.1 greylisted"
    with pytest.raises(MailDelayed, match="451"):
        await send(mailer_for(server))


async def test_a_refused_sender_keeps_the_message(server: MailServer) -> None:
    """That is the operator's to mend."""
    server.answers["MAIL"] = "530 5.7.0 must issue a STARTTLS command first"
    with pytest.raises(MailDelayed, match="530"):
        await send(mailer_for(server))


def test_a_sender_that_is_none_refuses_no_message(server: MailServer) -> None:
    """It would be taken for the message's fault, and the text removed."""
    mailer = mailer_for(server)
    mailer.settings = mailer.settings.model_copy(update={"mail_from": "a\nBcc: b"})
    with pytest.raises(ValueError):
        mailer.compose("key-1", "ann@example.org", "Hello", "Hello.\n")


async def test_a_server_that_hangs_up_after_it_took_the_message_is_content(
    server: MailServer,
) -> None:
    """Or the message would be sent again."""
    server.answers["QUIT"] = "hang up"
    await send(mailer_for(server))
    assert len(server.messages) == 1


async def test_a_server_that_is_away_delays(server: MailServer) -> None:
    mailer = mailer_for(server, mail_port=free_port())
    with pytest.raises(MailDelayed):
        await send(mailer)


async def test_a_server_that_never_answers_delays_in_bounded_time(server: MailServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        mailer = mailer_for(server, mail_port=port, mail_timeout_seconds=0.3)
        with pytest.raises(MailDelayed):
            await send(mailer)


@asynccontextmanager
async def slow_server(**pauses: float) -> AsyncIterator[tuple[int, list[str]]]:
    """(port, what was said to it) of one that lets every answer wait, or those to some commands."""
    said: list[str] = []
    over = asyncio.Event()
    talks: list[asyncio.Task[None]] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talks.append(asyncio.current_task())
        await say(writer, "greeting", b"220 hello")
        while line := await reader.readline():
            command = line[:4].decode().strip()
            said.append(command)
            await say(writer, command, b"354 go on" if command == "DATA" else b"250 OK")
            if command == "DATA":
                await reader.readuntil(b"\r\n.\r\n")
                said.append("dot")
                await say(writer, "dot", b"250 OK")
        writer.close()

    async def say(writer: asyncio.StreamWriter, to: str, answer: bytes) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(over.wait(), pauses.get(to, pauses.get("each", 0)))
        writer.write(answer + b"\r\n")

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1], said
        over.set()
        await asyncio.wait(talks)


async def test_all_before_a_message_takes_no_longer_than_its_time(server: MailServer) -> None:
    async with slow_server(each=0.45) as (port, said):
        mailer = mailer_for(server, mail_port=port, mail_timeout_seconds=1)
        with pytest.raises(MailDelayed, match="TimeoutError"):
            await send(mailer)
        assert "DATA" not in said


async def test_a_server_has_that_time_again_to_take_a_message(server: MailServer) -> None:
    """It may have taken it, and would be sent it twice."""
    async with slow_server(greeting=1.6, dot=1.6) as (port, said):
        mailer = mailer_for(server, mail_port=port, mail_timeout_seconds=3)
        await send(mailer)
        assert "dot" in said


async def test_a_server_that_took_a_message_and_goes_on_waiting_is_left(
    server: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mail, "GOODBYE_SECONDS", 0.1)
    async with slow_server(QUIT=1000) as (port, said):
        began = time.monotonic()
        await send(mailer_for(server, mail_port=port, mail_timeout_seconds=60))
        assert time.monotonic() - began < 30
        assert said[-1] == "QUIT"


async def test_of_a_server_that_never_answers_one_message_at_a_time_waits(
    server: MailServer,
) -> None:
    """The others are delayed at once; and none is once it answers."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        mailer = mailer_for(server, mail_port=port, mail_timeout_seconds=0.3)
        with pytest.raises(MailDelayed):
            await send(mailer)
        mailer.settings = mailer_for(server, mail_port=port, mail_timeout_seconds=3).settings
        began = time.monotonic()
        waiting = asyncio.create_task(send(mailer))
        await asyncio.sleep(0.1)
        with pytest.raises(MailDelayed):
            await send(mailer)
        assert not waiting.done()
        with pytest.raises(MailDelayed):
            await waiting
        assert time.monotonic() - began >= 3
    mailer.settings = mailer_for(server).settings
    await send(mailer)
    await asyncio.gather(*(send(mailer) for _ in range(3)))
    assert len(server.messages) == 4


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def trusted(certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """As an operator adds a certificate authority."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    return certificate


async def test_starttls_and_a_login_are_used(trusted: tuple[Path, Path]) -> None:
    with mail_server(
        tls_context=server_context(*trusted), require_starttls=True, user="ann", password="s3same"
    ) as server:
        login = {"mail_username": "ann", "mail_password": "s3same", "mail_use_tls": True}
        await send(mailer_for(server, **login))
        assert (server.encrypted, server.logins) == ([True], 1)


async def test_no_password_leaves_before_the_certificate_is_verified(
    certificate: tuple[Path, Path],
) -> None:
    with mail_server(
        tls_context=server_context(*certificate), user="ann", password="s3same"
    ) as server:
        login = {"mail_username": "ann", "mail_password": "s3same", "mail_use_tls": True}
        with pytest.raises(MailDelayed):
            await send(mailer_for(server, **login))
        assert (server.contents, server.logins) == ([], 0)


async def test_nothing_is_sent_where_the_server_offers_no_encryption(server: MailServer) -> None:
    with pytest.raises(MailDelayed):
        await send(mailer_for(server, mail_use_tls=True))
    assert server.contents == []


async def test_a_refused_login_keeps_the_message(trusted: tuple[Path, Path]) -> None:
    with mail_server(tls_context=server_context(*trusted), user="ann", password="s3same") as server:
        login = {"mail_username": "ann", "mail_password": "wr0ng-0ne", "mail_use_tls": True}
        with pytest.raises(MailDelayed) as caught:
            await send(mailer_for(server, **login))
        assert "wr0ng" not in str(caught.value)


async def test_the_health_check_greets_without_a_login(trusted: tuple[Path, Path]) -> None:
    with mail_server(tls_context=server_context(*trusted), user="ann", password="s3same") as server:
        login = {"mail_username": "ann", "mail_password": "s3same", "mail_use_tls": True}
        await mailer_for(server, **login).check()
        assert server.logins == 0
        await mailer_for(server, **login).check_login()
        assert server.logins == 1


@pytest.mark.parametrize("log_format", ["text", "json"])
async def test_without_a_server_the_mail_can_be_read_in_the_log(log_format: str) -> None:
    settings = Settings(log_format=log_format)
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    formatter: Any = logs.configuration(settings)["formatters"]["line"]["()"]
    handler.setFormatter(formatter())
    logger = logging.getLogger("service.mail")
    logger.addHandler(handler)
    try:
        await send(Mailer(settings), subject="Grüße", text=f"Bitte öffnen:\n\n    {LINK}\n")
    finally:
        logger.removeHandler(handler)
    printed = stream.getvalue()
    text = json.loads(printed)["text"] if log_format == "json" else printed
    assert LINK in map(str.strip, text.splitlines())
    assert "Grüße" in text
    assert "Bitte öffnen" in text
    assert "ann@example.org" in printed

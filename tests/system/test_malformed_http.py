"""Malformed HTTP, through nginx and straight at the app: each is answered as the table says, nobody
is answered twice or in another's place, and nothing of it is written down but whole lines."""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from malformed import CANARY, FOLLOWER, Answer, Attack, Outcome, answers_in, http2
from malformed.bodies import CHUNKED
from malformed.heads import get, post
from malformed.stack import Target, running_service
from malformed.table import TABLE
from servers import wait_until

Targets = dict[str, Target]
ATTACKS = [
    pytest.param(attack, id=f"{group}: {attack.name}")
    for group, attacks in TABLE.items()
    for attack in attacks
]


@pytest.fixture(scope="module")
def targets(nginx_kind: str, nginx_directory: Path, migrated_sqlite: Path) -> Iterator[Targets]:
    """The real service, and nginx before it."""
    directory = nginx_directory / f"malformed-{nginx_kind}"
    with running_service(directory, nginx_kind, migrated_sqlite) as running:
        yield running


@pytest.mark.parametrize("name", ["nginx", "app"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_malformed_http_is_answered_as_the_table_says(
    targets: Targets, attack: Attack, name: str
) -> None:
    target = targets[name]
    outcome = target.send(attack)
    expected = getattr(attack, name)
    assert str(outcome) in expected.split(" or "), outcome
    for answer in outcome.answers:
        assert_harmless(answer)
    assert_written_once(target, outcome)
    if "404, 404, 404" not in expected:  # there it is a request of its own, however it is read
        assert f"/smuggled-{outcome.id}" not in target.everything_written()


def assert_harmless(answer: Answer) -> None:
    """No fault of the service's, in the form of its errors, without anything that was sent."""
    assert 400 <= answer.status < 500
    assert answer.values("content-type") == ["application/problem+json"]
    assert json.loads(answer.body)["status"] == answer.status
    assert CANARY not in repr(answer)
    assert "evil" not in repr(answer)
    assert "Traceback" not in repr(answer)


def assert_written_once(target: Target, outcome: Outcome) -> None:
    """One line a request, or what is none: that of its id."""
    ids = [id_ for answer in outcome.answers for id_ in answer.values("x-request-id")]
    assert len(ids) == len(outcome.answers)

    def written() -> bool:
        lines = [line.get("request_id") for line in target.lines()]
        return all(lines.count(id_) >= ids.count(id_) for id_ in ids)

    wait_until(written)
    lines = [line.get("request_id") for line in target.lines()]
    assert [lines.count(id_) for id_ in ids] == [ids.count(id_) for id_ in ids]


@pytest.mark.parametrize("attack", http2.ATTACKS, ids=lambda attack: attack.name)
def test_malformed_http2_is_answered_as_the_table_says(
    targets: Targets, attack: http2.Attack
) -> None:
    name, came_back = http2.send(targets["nginx"].nginx, attack)
    assert came_back in attack.nginx.split(" or ")
    written = targets["nginx"].everything_written()
    assert f"/smuggled-{name}" not in written
    assert "evil" not in targets["app"].web.log


@pytest.fixture(scope="module", autouse=True)
def nothing_leaked(targets: Targets) -> Iterator[None]:
    """After all of it the service is well, no secret was written, and no fault of its own."""
    yield
    app = targets["app"]
    wait_until(lambda: app.web.status("/health/ready") == 200)
    written = app.everything_written()
    assert CANARY not in written
    assert "Traceback" not in written
    assert "forged" not in {event["message"] for event in app.web.events()}
    assert {event["level"] for event in app.web.events()} <= {"info", "warning"}


def test_what_comes_behind_a_request_is_answered_after_it_or_not_at_all(targets: Targets) -> None:
    """The answer to nonsense must not be taken for that to the request before it."""
    app = targets["app"]
    with closing(app.connect()) as connection:
        connection.sendall(get() + b"\xde\xad\xbe\xef\r\n\r\n")
        received = read_all(connection)
    assert [answer.status for answer in answers_in(received)] == [404]


def test_a_body_that_turns_malformed_after_its_answer_gets_no_second_one(targets: Targets) -> None:
    app = targets["app"]
    with closing(app.connect()) as connection:
        connection.sendall(post(CHUNKED) + b"5\r\nhello\r\n")
        first = connection.recv(65536)
        connection.sendall(b"nonsense\r\n" + FOLLOWER)
        received = first + read_all(connection)
    assert [answer.status for answer in answers_in(received)] == [404]


def test_a_connection_ends_after_an_offer_to_speak_something_else(targets: Targets) -> None:
    """The parser would take all that follows for the other protocol."""
    offer = get(b"Connection: Upgrade", b"Upgrade: h2c")
    app = targets["app"]
    with closing(app.connect()) as connection:
        connection.sendall(offer)
        [answer] = answers_in(read_all(connection))
    assert answer.values("connection") == ["close"]


@pytest.mark.parametrize("name", ["nginx", "app"])
def test_trailers_are_no_headers(targets: Targets, name: str) -> None:
    """They may come past whoever checked the headers."""
    trailers = b"Host: evil.example\r\nX-Request-ID: from-a-trailer\r\nX-Forwarded-For: 6.6.6.6\r\n"
    target = targets[name]
    attack = Attack("trailers", post(CHUNKED) + b"0\r\n" + trailers + b"\r\n")
    first, _ = target.send(attack).answers
    assert first.status == 404
    assert "from-a-trailer" not in target.everything_written()
    assert "6.6.6.6" not in target.everything_written()


@pytest.mark.parametrize("piece", [b"X-Trailer: 1\r\n" * 1000, b"a" * 10_000], ids=["many", "long"])
def test_trailers_that_never_end_are_cut_off(targets: Targets, piece: bytes) -> None:
    app = targets["app"]
    with closing(app.connect()) as connection:
        connection.sendall(post(CHUNKED) + b"0\r\nX-First: ")
        with pytest.raises(OSError):
            for _ in range(2000):
                connection.sendall(piece)


def test_chunks_of_one_byte_are_a_body(targets: Targets) -> None:
    """There is more around them than in them."""
    chunks = b"".join(b"%x\r\n%b\r\n" % (1, b"a") for _ in range(30_000)) + b"0\r\n\r\n"
    for target in targets.values():
        attack = Attack("small chunks", post(CHUNKED) + chunks)
        assert str(target.send(attack)) == "404, 404"


def read_all(connection: object) -> bytes:
    received = b""
    while data := connection.recv(65536):  # type: ignore[attr-defined]
        received += data
    return received

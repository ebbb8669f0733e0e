"""Malformed HTTP: requests byte by byte, and what comes back to them.

`python -m malformed` prints the table; `tests/system/test_malformed_http.py` checks each row.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import itertools
import socket
import time
from dataclasses import dataclass, field
from typing import Any

CANARY = "Kanarienvogel"
HOST = b"example.org"
PATIENCE_SECONDS = 20.0
SILENCE_SECONDS = 1.0  # less than nginx lingers on a connection that it closes
ID = b"<an--id>"
FOLLOWER = b"GET /next-%b HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n" % (ID, HOST)
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Attack:
    """A request, and how it is answered: by nginx, and by the app where it is asked itself.

    ID in it is replaced by an id of its own, which is as long. Another request follows on the same
    connection. `400` means that this was answered and the connection closed, `404, 404` that both
    were answered, and `waits` that the rest of a body is waited for.
    """

    name: str
    request: bytes
    nginx: str = "400"
    app: str = "400"
    waits: bool = False


@dataclass
class Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name]


@dataclass
class Outcome:
    """What came back on a connection until the other side closed it."""

    id: str
    answers: list[Answer] = field(default_factory=list)
    received: bytes = b""
    waited: bool = False
    seconds: float = 0

    def __str__(self) -> str:
        said = [str(answer.status) for answer in self.answers]
        end = ["waits"] if self.waited else []
        return ", ".join([*said, *end]) or ("no HTTP/1" if self.received else "closed")


class _Whole(io.BytesIO):
    """What `http.client` reads one answer after the other from, in place of a socket."""

    def makefile(self, *_: Any) -> _Whole:
        return self

    def close(self) -> None:
        """Not yet."""


def new_id() -> str:
    """As long as ID."""
    return f"id-{next(_numbers):05}"


def answers_in(received: bytes) -> list[Answer]:
    """Every answer. Raises HTTPException where there is anything that is none."""
    stream, answers = _Whole(received), []
    while stream.tell() < len(received):
        response = http.client.HTTPResponse(stream)  # type: ignore[arg-type]
        response.begin()
        answers.append(Answer(response.status, response.getheaders(), response.read()))
    return answers


def exchange(connection: socket.socket, attack: Attack, *, silent: bool) -> Outcome:
    """Send an attack and the request that follows it, and read until the connection is closed; of
    one that `waits`, and says nothing before where it is `silent`, until nothing comes any more."""
    outcome = Outcome(new_id())
    whole = (attack.request + FOLLOWER).replace(ID, outcome.id.encode())
    began = time.monotonic()
    connection.settimeout(SILENCE_SECONDS if silent else PATIENCE_SECONDS)
    with contextlib.suppress(OSError):  # it may be refused before all of it is sent
        connection.sendall(whole)
    try:
        while data := connection.recv(65536):
            outcome.received += data
            connection.settimeout(SILENCE_SECONDS if attack.waits else PATIENCE_SECONDS)
    except TimeoutError:
        outcome.waited = True
    except OSError:
        pass  # what came before counts
    outcome.seconds = time.monotonic() - began
    if outcome.received.startswith(b"HTTP/1."):
        outcome.answers = answers_in(outcome.received)
    return outcome

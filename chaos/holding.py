"""What a crowd of clients that hold on to their connections does to the others: nothing."""

import re
import time
from collections import Counter
from collections.abc import Callable

from chaos.arrivals import Outcome
from chaos.crowds import Client, Socket, crowd, handshake
from chaos.parts import Options
from chaos.people import COUNT, add_people, address, bearer
from chaos.probing import Probing, probing
from chaos.stack import Stack
from chaos.table import Row
from chaos.vitals import pss_bytes

SLOW_CLIENTS = 300
SOCKETS = 5000
SHORT_SOCKETS = 500
LARGE_BYTES = 8 * 2**20
TOLD_SECONDS = 10.0
LET_GO_SECONDS = 30.0
ACCEPTED_SECONDS = 1.0

Ask = Callable[[], Outcome]
"""The usual load for some seconds"""


def slow_clients(stack: Stack, options: Options, ask: Ask) -> list[Row]:
    """Readers, writers and heads that are half sent, while others ask as usual."""
    item_id = upload_file(stack, bytes(LARGE_BYTES))
    token = bearer(stack.bearer.token)

    def text(*lines: str) -> bytes:
        return "\r\n".join(lines).encode()

    def reader(n: int) -> Client:
        head = (
            f"GET /media/{item_id}/a.bin HTTP/1.1",
            "Host: localhost",
            token,
            address(n),
            "",
            "",
        )
        return Client(text(*head), deaf=True)

    def writer(n: int) -> Client:
        body = ("Content-Type: multipart/form-data; boundary=b", "Content-Length: 1000000")
        head = ("POST /api/media HTTP/1.1", "Host: localhost", token, address(n), *body, "", "--b")
        return Client(text(*head))

    def half_open(n: int) -> Client:
        return Client(text("GET /api/media HTTP/1.1", "Host: local"))

    rows = []
    before = ask()
    for name, make in (("readers", reader), ("writers", writer), ("half a head", half_open)):
        with crowd(stack.nginx.port) as clients, probing(stack) as probes:
            clients.add(make, SLOW_CLIENTS)
            if make is writer:
                clients.trickle(b"more")
            found = ask()
            still = clients.open
        rows.append(_row(f"slow clients: {name}", SLOW_CLIENTS, still, before, found, probes))
    return rows


def many_sockets(stack: Stack, options: Options, ask: Ask) -> list[Row]:
    """Idle, and told of the one thing that happens; afterwards nothing is left of them."""
    count = SHORT_SOCKETS if options.short else SOCKETS
    tokens = add_people(stack)
    before, size = ask(), _pss_bytes(stack)
    with crowd(stack.nginx.port) as clients, probing(stack) as probes:
        clients.add(lambda n: Socket(handshake(tokens[n % COUNT], n), n % COUNT), count)
        grown = _pss_bytes(stack) - size
        found = ask()
        status = [client.status for client in clients.clients]
        own = [client for client in clients.clients if client.account == 0]
        upload_file(stack, b"hello", f"Bearer {tokens[0]}")
        end = time.monotonic() + TOLD_SECONDS
        while time.monotonic() < end and not all(len(c.messages) > 1 for c in own):
            time.sleep(0.05)
        told = sum(len(client.messages) > 1 for client in own)
        still = clients.open
    end = time.monotonic() + LET_GO_SECONDS
    while time.monotonic() < end and (left := _sockets(stack)):
        time.sleep(0.2)
    row = _row(f"{count} WebSockets", count, still, before, found, probes)
    wrong = status.count(101) < count or still < count or told < len(own) or left
    more = {
        "accepted": status.count(101),
        "answers": [dict(Counter(status))],
        "told": f"{told} of {len(own)}",
        "left": left,
        "KiB each": round(grown / count / 1024, 1),
    }
    return [row | more | {"met": "NO" if wrong else row["met"]}]


def _row(
    name: str, count: int, still: int, before: Outcome, found: Outcome, probes: Probing
) -> Row:
    share = found.good_per_second / before.good_per_second
    met = (
        share >= 0.8
        and found.quantile(0.99) <= ACCEPTED_SECONDS
        and not (found.other or found.refused or probes.wrong)
    )
    return {
        "scenario": name,
        "clients": count,
        "open at the end": still,
        "others: good / before": round(share, 2),
        "p99 before s": round(before.quantile(0.99), 2),
        "p99 s": round(found.quantile(0.99), 2),
        "refused": found.refused,
        "other answers": found.other,
        "probes": probes.count,
        "wrong probes": len(probes.wrong),
        "slowest live s": round(probes.slowest_live_seconds, 2),
        "met": "yes" if met else "NO",
        "first wrong probes": probes.wrong[:10],
    }


def upload_file(stack: Stack, content: bytes, token: str = "") -> str:
    answer = stack.nginx.ask(
        "/api/media",
        "POST",
        headers={"Authorization": token or stack.bearer.header},
        files={"file": ("a.bin", content)},
    )
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def _pss_bytes(stack: Stack) -> int:
    return sum(map(pss_bytes, stack.instances[0].workers()))


def _sockets(stack: Stack) -> int:
    """As the workers count them."""
    text = stack.instances[0].ask("/metrics").text
    found = re.search(r"^service_websockets_open ([0-9.]+)", text, re.MULTILINE)
    assert found
    return int(float(found[1]))

"""Part 6: an hour compressed. What the processes hold after many requests is what they held before.

Nothing is recycled. Each sample is taken once the queue is empty, garbage is collected, and idle
connections are closed. The first 70 % of the requests are the warm-up: heaps and pools get the size
that their bounds and the load give them. A worker of Python 3.13 takes some 4 MiB at once at about
200,000, and no more after that. Growth is that of what follows.
"""

import json
import signal
import sys
import time
from collections import Counter
from collections.abc import Mapping

import redis

from chaos.arrivals import Order, arrive
from chaos.crowds import Socket, crowd, handshake
from chaos.holding import upload_file
from chaos.mixture import SHARES, Mixture
from chaos.overload import running_stack
from chaos.parts import Options, Part
from chaos.people import COUNT, add_people
from chaos.stack import Stack
from chaos.table import Row
from chaos.vitals import open_files, pss_bytes, threads
from chaos.watched_worker import FILE
from servers import wait_until

REQUESTS = 300_000
SHORT_REQUESTS = 20_000
STEPS = 10
WARM_UP_STEPS = 7
CONNECTIONS = 32
CROWDED = 160  # where pools are filled
BURST = 2000
SOCKET_SHARE = 0.01
QUIET_SECONDS = 6.0  # nginx lets go of the connections it keeps to the app after 4
EMPTY_SECONDS = 120.0
GROWTH = 0.02
FILLING = 4  # threads, files and connections more, as pools that have bounds fill now and then
ITEM_BYTES = 200_000
APP = "chaos.watched_app:create_app()"
WORKER = (sys.executable, "-m", "chaos.watched_worker")
UNFINISHED = (
    "SELECT (SELECT count(*) FROM procrastinate_jobs WHERE status IN ('todo', 'doing'))"
    " + (SELECT count(*) FROM mails WHERE sent_at IS NULL AND refused IS NULL)"
)

Sample = Mapping[str, float]


def names(options: Options) -> list[str]:
    return [name for name in ("leaks",) if options.only in name]


def run(_: str, options: Options) -> list[Row]:
    count = options.events or (SHORT_REQUESTS if options.short else REQUESTS)
    with running_stack(APP, worker=WORKER) as stack:
        tokens = add_people(stack)
        item_id = upload_file(stack, bytes(ITEM_BYTES))
        mixture = Mixture(stack, tokens, item_id)
        _fill_pools(stack, mixture, tokens)
        samples, began = [_sample(stack)], time.monotonic()
        answers: Counter[int] = Counter()
        for step in range(1, STEPS + 1):
            answers += _ask(stack, mixture, tokens, count // STEPS)
            if step in (WARM_UP_STEPS, STEPS):
                samples.append(_sample(stack))
        return _rows(samples, answers, time.monotonic() - began)


def _fill_pools(stack: Stack, mixture: Mixture, tokens: list[str]) -> None:
    """All kinds at once; then each by itself, so that the pools it uses grow to their bounds, also
    those of the worker, which then has all of its jobs to do at once."""
    _ask(stack, mixture, tokens, BURST * len(SHARES), CROWDED)
    stack.worker.send_signal(signal.SIGSTOP)
    for kind in SHARES:
        arrive(Order(stack.nginx.port, mixture.alone(kind, BURST), None, CROWDED))
    stack.worker.send_signal(signal.SIGCONT)


def _ask(
    stack: Stack, mixture: Mixture, tokens: list[str], count: int, connections: int = CONNECTIONS
) -> Counter[int]:
    """How many answers there were of each status; 0 is none."""
    sockets = int(count * SOCKET_SHARE)
    with crowd(stack.nginx.port) as clients:
        clients.add(lambda n: Socket(handshake(tokens[n % COUNT], n), n % COUNT), sockets)
        found = Counter(client.status for client in clients.clients)
    order = Order(stack.nginx.port, mixture.requests(count - sockets), None, connections)
    outcome = arrive(order)
    found.update({status: len(times) for status, times in outcome.seconds.items()})
    return found + Counter({0: outcome.lost})


def _sample(stack: Stack) -> Sample:
    """What is held, in all processes of a kind together."""
    wait_until(lambda: stack.query(UNFINISHED) == "0", seconds=EMPTY_SECONDS, every=0.5)
    time.sleep(QUIET_SECONDS)
    web_alive, worker_alive = _web_alive(stack), _worker_alive(stack)
    instance, worker = stack.instances[0], stack.worker.pid
    web = instance.workers()
    clients = redis.Redis.from_url(stack.servers.redis.url).info("clients")
    there = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    return {
        "web: memory, MiB": sum(map(pss_bytes, web)) / 2**20,
        "web: Python objects": sum(found["objects"] for found in web_alive),
        "web: tasks": sum(found["tasks"] for found in web_alive),
        "web: open files": sum(map(open_files, web)),
        "web: threads": sum(map(threads, web)),
        "master: memory, MiB": pss_bytes(instance.master) / 2**20,
        "master: open files": open_files(instance.master),
        "worker: memory, MiB": pss_bytes(worker) / 2**20,
        "worker: Python objects": worker_alive["objects"],
        "worker: tasks": worker_alive["tasks"],
        "worker: open files": open_files(worker),
        "worker: threads": threads(worker),
        "PostgreSQL: connections": int(stack.query(there)) - 1,
        "Redis: connections": clients["connected_clients"] - 1,
    }


def _web_alive(stack: Stack) -> list[dict[str, int]]:
    """What each web worker tells of itself, its garbage collected."""
    instance = stack.instances[0]
    found: dict[int, dict[str, int]] = {}

    def all_told() -> bool:
        told = instance.ask("/alive").json()
        found[told["pid"]] = told
        return len(found) == len(instance.workers())

    wait_until(all_told)
    return list(found.values())


def _worker_alive(stack: Stack) -> dict[str, int]:
    """The same of the background worker."""
    path = stack.worker.directory / FILE
    path.unlink(missing_ok=True)
    stack.worker.send_signal(signal.SIGUSR1)
    wait_until(path.exists)
    found: dict[str, int] = json.loads(path.read_text())
    return found


def _rows(samples: list[Sample], answers: Counter[int], seconds: float) -> list[Row]:
    failed = sum(count for status, count in answers.items() if status >= 500 or not status)
    counted = {str(status): count for status, count in sorted(answers.items())}
    rows: list[Row] = [
        {
            "scenario": f"{answers.total()} requests in {seconds:.0f} s",
            "growth": "",
            "met": "NO" if failed else "yes",
            "problem": f"{failed} failed" if failed else "",
            "answers": [counted],
        }
    ]
    for name in samples[0]:
        start, warm, end = (sample[name] for sample in samples)
        allowed = max(
            warm * GROWTH, FILLING if name.endswith(("files", "threads", "connections")) else 0
        )
        rows.append(
            {
                "scenario": name,
                "start": round(start, 1),
                "warm": round(warm, 1),
                "end": round(end, 1),
                "growth": f"{end / warm - 1:+.1%}",
                "met": "yes" if end - warm <= allowed else "NO",
            }
        )
    return rows


LEAKS = Part(names, run)

"""Part 4: more than the service can do is refused early; what is accepted is as fast as ever."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from chaos import cores
from chaos.arrivals import Order, arrive
from chaos.holding import Ask, many_sockets, slow_clients
from chaos.levels import ACCEPTED_SECONDS, PEAK_CONNECTIONS, ask_quietly, find_usual, overload
from chaos.parts import Options, Part
from chaos.people import logins, pages, uploads
from chaos.probing import probing
from chaos.stack import Kind, Stack, new_stack, open_servers
from chaos.table import Row

NAME = "overload"
UPLOADS = 1000
UPLOADS_PER_SECOND = 1000 / 60
QUEUE_SECONDS = 60.0  # for the last upload to be processed

Runner = Callable[[Stack, Options], list[Row]]


@contextmanager
def running_stack(*app: str, worker: tuple[str, ...] = ()) -> Iterator[Stack]:
    """One instance with two workers behind an nginx that takes 127.0.0.1 for a load balancer, so
    that clients have addresses of their own, and is told of no limit but that of connections."""
    with open_servers() as servers:
        many = {"WEBSOCKETS_PER_ACCOUNT": "1000", "MAX_REQUESTS": "0"}
        stack = new_stack(servers, NAME, Kind(), environment=many, arguments=app)
        stack.instances = stack.instances[:1]
        stack.worker.program = worker or stack.worker.program
        upstream = stack.instances[0].web.environment["BIND"]
        balanced = {"UPSTREAM": upstream, "TRUSTED_PROXIES": "127.0.0.1"}
        stack.nginx.environment = {**stack.nginx.environment, **balanced}
        try:
            yield stack.start()
        finally:
            stack.stop()


@contextmanager
def _with_cores_of_its_own() -> Iterator[Stack]:
    """The web processes have one half of the cores, generator, nginx and servers the other."""
    own, others = cores.divide()
    cores.keep_to(others)
    with running_stack() as stack:
        instance = stack.instances[0]
        cores.keep_to(own, (instance.master, *instance.workers()))
        yield stack


def _uploaded(stack: Stack, options: Options) -> list[Row]:
    count = 100 if options.short else UPLOADS
    order = Order(
        stack.nginx.port,
        uploads(stack),
        count / UPLOADS_PER_SECOND,
        PEAK_CONNECTIONS,
        UPLOADS_PER_SECOND,
    )
    with probing(stack) as probes:
        found = arrive(order)
        ended = time.monotonic()
        accepted = len(found.seconds.get(202, ()))
        ready = "SELECT count(*) FROM media_items WHERE status = 'ready'"
        while time.monotonic() < ended + QUEUE_SECONDS and int(stack.query(ready)) < accepted:
            time.sleep(0.2)
        drained_seconds = time.monotonic() - ended
    not_ready = int(stack.query("SELECT count(*) FROM media_items")) - int(stack.query(ready))
    met = not (not_ready or found.other or found.no_retry_after or probes.wrong)
    return [
        {
            "scenario": f"{count} uploads",
            "good /s": round(found.good_per_second, 1),
            "p99 s": round(found.quantile(0.99), 2),
            "refused": found.refused,
            "no Retry-After": found.no_retry_after,
            "other answers": found.other,
            "not ready": not_ready,
            "queue empty after s": round(drained_seconds, 1),
            "wrong probes": len(probes.wrong),
            "met": "yes" if met and accepted and found.quantile(0.99) <= ACCEPTED_SECONDS else "NO",
            "first wrong probes": probes.wrong[:10],
        }
    ]


def _beside(others: Callable[[Stack, Options, Ask], list[Row]]) -> Runner:
    """While pages are asked for as usual."""

    def run(stack: Stack, options: Options) -> list[Row]:
        port, requests = stack.nginx.port, pages(stack)
        peak = find_usual(port, requests).peak
        return others(stack, options, lambda: ask_quietly(port, requests, peak))

    return run


# What 20 times as many pages would be, nginx and the generator cannot carry on the same machine.
SCENARIOS: dict[str, Runner] = {
    "logins": partial(overload, logins, (2, 5, 20)),
    "pages": partial(overload, pages, (2, 5)),
    "slow clients": _beside(slow_clients),
    "WebSockets": _beside(many_sockets),
    "uploads": _uploaded,
}
APART = ("logins", "pages")
SHORT = ("logins", "uploads")


def names(options: Options) -> list[str]:
    return [name for name in (SHORT if options.short else SCENARIOS) if options.only in name]


def run(name: str, options: Options) -> list[Row]:
    with _with_cores_of_its_own() if name in APART else running_stack() as stack:
        return SCENARIOS[name](stack, options)


OVERLOAD = Part(names, run)

"""What is full, refuses, says nothing or tells the wrong time, for some seconds each time."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle, islice
from typing import IO

from chaos.kills import restart_postgresql, start_worker
from chaos.site import Site
from chaos.unreliable_store import Mode

OUTAGE_SECONDS = (1.0, 5.0)
BETWEEN_SECONDS = (1.0, 3.0)
MODES: tuple[Mode, ...] = ("500", "503", "silent", "done, and 500")
# 4xx and 5xx for the message, the sender and the recipient; then it takes it and never says so.
ANSWERS = (
    ("DATA", "451 4.3.0 try again"),
    ("RCPT", "450 4.2.1 try again"),
    ("MAIL", "421 4.7.0 too many"),
    ("DATA", "554 5.6.0 refused"),
    ("RCPT", "550 5.1.1 nobody"),
    ("MAIL", "550 5.7.1 not you"),
    ("", ""),
)
HOUR = 3600.0
# (clock of the service, clock of the servers behind it), in hours
JUMPS = ((1, 0), (0, 0), (-1, 0), (0, 0), (0, 1), (0, 0), (0, -1), (0, 0), (1, 1), (0, 0), (-1, -1))


def full_disk(site: Site, count: int) -> None:
    """Not a byte is left, for a while. A PostgreSQL that ended is started anew."""
    for _ in range(count):
        time.sleep(random.uniform(*BETWEEN_SECONDS))
        with _filled(site):
            time.sleep(random.uniform(*OUTAGE_SECONDS))
        restart_postgresql(site.stack)


@contextmanager
def _filled(site: Site) -> Iterator[None]:
    assert site.disk is not None
    filler = site.disk / ".filler"
    try:
        with open(filler, "wb", buffering=0) as file:
            for size in (2**20, 4096):
                _write_until_full(file, bytes(size))
        yield
    finally:
        filler.unlink()


def _write_until_full(file: IO[bytes], data: bytes) -> None:
    try:
        while file.write(data):
            pass
    except OSError:
        return


def object_store(site: Site, count: int) -> None:
    """It answers 500, 503, nothing, and 500 after it has done what was asked."""
    assert site.store is not None
    for mode in islice(cycle(MODES), count):
        time.sleep(random.uniform(*BETWEEN_SECONDS))
        site.store.mode = mode
        time.sleep(random.uniform(*OUTAGE_SECONDS))
        site.store.mode = "reliable"


def mail_server(site: Site, count: int) -> None:
    for command, answer in islice(cycle(ANSWERS), count):
        time.sleep(random.uniform(*BETWEEN_SECONDS))
        if command:
            site.stack.mail.answers[command] = answer
        else:
            site.mail.silent = True
        time.sleep(random.uniform(*OUTAGE_SECONDS))
        site.stack.mail.answers.clear()
        site.mail.silent = False


def clocks(site: Site, count: int) -> None:
    """An hour forth and back, of the service, of the servers behind it and of both; and each time a
    worker is killed, whose jobs are to be found by the clock."""
    assert site.clocks is not None
    for number, (service, servers) in enumerate(islice(cycle(JUMPS), count)):
        time.sleep(random.uniform(*BETWEEN_SECONDS))
        worker = site.workers[number % 2]
        worker.stop(signal.SIGKILL)
        site.clocks.set(service=service * HOUR, servers=servers * HOUR)
        start_worker(worker)
    site.clocks.set(service=0, servers=0)

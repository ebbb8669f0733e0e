"""SIGKILL and SIGSTOP at random moments. Each function returns once the last of its events is over
and all is running again."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import cycle, islice

from chaos.instance import Instance, kill
from chaos.site import Site
from chaos.stack import Stack
from servers import Worker, children, wait_until

PATIENCE_SECONDS = 90.0
PAUSE_SECONDS = (0.2, 1.5)
FREEZE_SECONDS = (0.5, 8.0)  # some of them longer than a worker may be without a heartbeat
EARLY = 0.3  # of the kills of everything hit what is still starting


def web_worker(site: Site, count: int) -> None:
    """Any of them; Gunicorn starts another."""
    for _ in range(count):
        _pause()
        workers: list[int] = wait_until(lambda: _web_workers(site), seconds=PATIENCE_SECONDS)
        kill([random.choice(workers)])
    _until_ready(site)


def master(site: Site, count: int) -> None:
    """Gunicorn's, of both instances; each is started anew, as an orchestrator does. Its workers
    notice that it is gone."""
    _share(site, site.stack.instances, _kill_master, count)


def job_worker(site: Site, count: int) -> None:
    """Both of them, each by itself."""
    _share(site, site.workers, _kill_job_worker, count)


def postgresql(site: Site, count: int) -> None:
    """In turn the postmaster, which is started anew, and a backend, after which it recovers by
    itself."""
    server = site.stack.servers.postgresql
    for number in range(count):
        _pause()
        assert server.process is not None
        postmaster = server.process.pid
        if number % 2:
            kill(random.sample(children(postmaster), 1))
        else:
            kill([postmaster])
            server.process.wait()
        restart_postgresql(site.stack)


def redis(site: Site, count: int) -> None:
    """It forgets everything."""
    server = site.stack.servers.redis
    for _ in range(count):
        _pause()
        server.stop()
        time.sleep(random.uniform(0, 0.5))
        server.start()


def everything(site: Site, count: int) -> None:
    """At once, as when a machine loses its power; nginx alone goes on, for the clients."""
    for _ in range(count):
        _pause()
        _kill_everything(site)
        site.stack.servers.redis.start()
        restart_postgresql(site.stack)
        for instance in site.stack.instances:
            instance.web.start(wait=None)
        for worker in site.workers:
            worker.start()
        if random.random() > EARLY:
            _until_ready(site)
    _until_ready(site)


def freeze(site: Site, count: int) -> None:
    """SIGSTOP, and SIGCONT some seconds later: each kind of process in turn."""
    acts = (_freeze_web_worker, _freeze_master, _freeze_job_worker, _freeze_redis)
    for act in islice(cycle((*acts, _freeze_postgresql)), count):
        _pause()
        act(site)


# One event


def _kill_master(site: Site, instance: Instance) -> None:
    process = instance.web.process
    assert process is not None
    process.kill()
    process.wait()
    instance.web.start(wait=None)
    instance.wait_until_ready()


def _kill_job_worker(site: Site, worker: Worker) -> None:
    worker.stop(signal.SIGKILL)
    start_worker(worker)


def _kill_everything(site: Site) -> None:
    stack = site.stack
    masters = [each.web.process for each in stack.instances]
    others = [worker.process for worker in site.workers]
    servers = [stack.servers.postgresql.process, stack.servers.redis.process]
    processes = [process for process in (*masters, *others, *servers) if process is not None]
    pids = [process.pid for process in processes]
    kill([*pids, *(child for pid in pids for child in children(pid))])
    for process in processes:
        process.wait()


def _freeze_web_worker(site: Site) -> None:
    _freeze([random.choice(_web_workers(site))])


def _freeze_master(site: Site) -> None:
    _freeze([random.choice(site.stack.instances).master])


def _freeze_job_worker(site: Site) -> None:
    process = random.choice(site.workers).process
    assert process is not None
    _freeze([process.pid])


def _freeze_redis(site: Site) -> None:
    process = site.stack.servers.redis.process
    assert process is not None
    _freeze([process.pid])


def _freeze_postgresql(site: Site) -> None:
    server = site.stack.servers.postgresql
    server.freeze()
    try:
        time.sleep(random.uniform(*FREEZE_SECONDS))
    finally:
        server.thaw()


def _freeze(pids: list[int]) -> None:
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(random.uniform(*FREEZE_SECONDS))
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


# What they have in common


def start_worker(worker: Worker) -> None:
    """Returns once it takes jobs."""
    before = worker.log.count('"worker_ready"')
    worker.start()
    wait_until(
        lambda: worker.log.count('"worker_ready"') > before, seconds=PATIENCE_SECONDS, every=0.1
    )


def restart_postgresql(stack: Stack) -> None:
    """Start it where it has ended, and wait until it has recovered."""
    server = stack.servers.postgresql

    def answers() -> bool:
        with suppress(RuntimeError):  # what is left of the one before is still ending
            if server.process is None or server.process.poll() is not None:
                server.start()
            return server.answers()
        return False

    wait_until(answers, seconds=PATIENCE_SECONDS, every=0.1)


def _share(
    site: Site, targets: list[Instance] | list[Worker], act: Callable[..., None], count: int
) -> None:
    """An event after the other on each of two targets, on both at the same time."""

    def some(number: int) -> None:
        for _ in range((count + number) // 2):
            _pause()
            act(site, targets[number])

    list(site.stack.threads.map(some, range(len(targets))))


def _pause() -> None:
    time.sleep(random.uniform(*PAUSE_SECONDS))


def _web_workers(site: Site) -> list[int]:
    return [pid for instance in site.stack.instances for pid in instance.workers()]


def _until_ready(site: Site) -> None:
    for instance in site.stack.instances:
        instance.wait_until_ready()

"""What is done to a stack under load. Each function brings about a number of events, and returns
once the last one is over."""

import os
import random
import signal
import time
from collections.abc import Callable
from itertools import cycle, islice

from chaos.instance import WORKERS, Instance
from chaos.migrations import Migrations
from chaos.stack import Stack
from servers import children, has_ended, wait_until

PATIENCE_SECONDS = 90.0
ARRIVED_SECONDS = 1.0  # what nginx sent to an instance before it knew better
BETWEEN_SECONDS = 1.0
BACKUP_SECONDS = 8.0  # longer than a statement of the service may wait

Act = Callable[[Stack, int], None]


def recycle(stack: Stack, count: int) -> None:
    """MAX_REQUESTS does it: this only waits."""
    seconds = PATIENCE_SECONDS + 15 * count
    wait_until(lambda: stack.workers_replaced >= count, seconds=seconds, every=0.25)


def reload(stack: Stack, count: int) -> None:
    """SIGHUP, to both instances at once."""
    _on_both(stack, reload_one, count)


def take_over(stack: Stack, count: int) -> None:
    """USR2, and TERM to the old master; both instances at once."""
    _on_both(stack, take_over_one, count)


def restart(stack: Stack, count: int) -> None:
    """SIGTERM, and a start once it has ended; one instance after the other."""
    for instance in islice(cycle(stack.instances), count):
        restart_one(instance)


def restart_out_of_rotation(stack: Stack, count: int) -> None:
    """As over TCP it has to be: nginx is told before, as what waits in a closed listener's queue is
    lost."""
    for instance in islice(cycle(stack.instances), count):
        stack.route_to([other for other in stack.instances if other is not instance])
        time.sleep(ARRIVED_SECONDS)
        restart_one(instance)
        stack.route_to(stack.instances)


def reload_nginx(stack: Stack, count: int) -> None:
    for _ in range(count):
        stack.nginx.run("-s", "reload")
        time.sleep(BETWEEN_SECONDS)


def kill(stack: Stack, count: int) -> None:
    """SIGKILL to a worker."""
    for instance in islice(cycle(stack.instances), count):
        before = instance.workers()
        victim = random.choice(before)
        os.kill(victim, signal.SIGKILL)
        _until_replaced(instance, [victim])
        time.sleep(BETWEEN_SECONDS)


def block(stack: Stack, count: int) -> None:
    """A worker's event loop stands still, until Gunicorn kills it."""
    for instance in islice(cycle(stack.instances), count):
        blocked = int(instance.ask("/block").text)
        _until_replaced(instance, [blocked])
        time.sleep(BETWEEN_SECONDS)


def start_slowly(stack: Stack, count: int) -> None:
    """Reloads and restarts of instances whose workers need long to start."""
    restarts = count // 5
    _on_both(stack, reload_one, count - restarts)
    restart(stack, restarts)


def migrate(stack: Stack, count: int) -> None:
    """Two at once each time; every fifth while a backup reads the tables."""
    migrations = Migrations(stack)
    for number in range(count):
        migrate_one(stack, migrations, backup=number % 5 == 1)


def mix(stack: Stack, count: int) -> None:
    """Instances are reloaded, replaced and restarted in any order, beside all the rest."""
    migrations = Migrations(stack)
    acts = [reload_one, take_over_one, restart_one]
    others: list[Callable[[], None]] = [
        lambda: migrate_one(stack, migrations, backup=False),
        lambda: restart_worker(stack),
    ]
    if stack.nginx.kind == "image":  # an older one closes connections that are just being used
        others.append(lambda: reload_nginx(stack, 1))
    ended = stack.threads.submit(_one_by_one, stack, acts, count)
    while not ended.done():
        random.choice(others)()
        time.sleep(BETWEEN_SECONDS)
    ended.result()


def _one_by_one(stack: Stack, acts: list[Callable[[Instance], None]], count: int) -> None:
    for act, instance in islice(zip(cycle(acts), cycle(stack.instances), strict=False), count):
        act(instance)


# One event


def reload_one(instance: Instance) -> None:
    before = instance.workers()
    instance.send_signal(signal.SIGHUP)
    _until_replaced(instance, before)


def take_over_one(instance: Instance) -> None:
    old, workers = instance.master, instance.workers()
    second = instance.successor
    instance.send_signal(signal.SIGUSR2)
    wait_until(second.exists, seconds=PATIENCE_SECONDS)
    new = int(second.read_text())
    wait_until(lambda: len(children(new)) == WORKERS, seconds=PATIENCE_SECONDS, every=0.1)
    os.kill(old, signal.SIGTERM)
    for pid in (old, *workers):
        wait_until(lambda pid=pid: has_ended(pid), seconds=PATIENCE_SECONDS, every=0.1)
    wait_until(lambda: not second.exists(), seconds=PATIENCE_SECONDS, every=0.1)


def restart_one(instance: Instance) -> None:
    instance.stop()
    instance.start()


def restart_worker(stack: Stack) -> None:
    stack.worker.stop(signal.SIGTERM, seconds=60)
    stack.worker.start()


def migrate_one(stack: Stack, migrations: Migrations, *, backup: bool) -> None:
    migrations.add()
    if not backup:
        migrations.run()
        return
    reading = stack.threads.submit(
        stack.query,
        "BEGIN; LOCK TABLE media_items IN ACCESS SHARE MODE;"
        f" SELECT pg_sleep({BACKUP_SECONDS}); COMMIT",
    )
    time.sleep(0.2)
    migrations.run()
    reading.result()


def _on_both(stack: Stack, act: Callable[[Instance], None], count: int) -> None:
    for _ in range(-(-count // len(stack.instances))):
        list(stack.threads.map(act, stack.instances))


def _until_replaced(instance: Instance, former: list[int]) -> None:
    def replaced() -> bool:
        workers = instance.workers()
        return all(map(has_ended, former)) and len(set(workers) - set(former)) == WORKERS

    wait_until(replaced, seconds=PATIENCE_SECONDS, every=0.1)
    instance.wait_until_ready()

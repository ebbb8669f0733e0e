"""Tasks that tests give to workers, and the service's command line with them added.

usage: python job_tasks.py worker
"""

import asyncio
import os
import sys
import time
from dataclasses import replace
from typing import Any

import service.media.tasks
import service.schedule
import service.storage
import service.tasks
from service.__main__ import main
from service.errors import Unavailable
from service.jobs import Job, Task, by_name
from service.media.uploads import PROCESS


def note(*words: object) -> None:
    """One line, written at once, so that a kill loses nothing."""
    line = " ".join(map(str, (*words, os.getpid()))) + "\n"
    descriptor = os.open(os.environ["NOTES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, line.encode())
    os.close(descriptor)


async def record(resources: Any, job: Job) -> None:
    note("ran", job.arguments.get("name"), job.attempt)


async def last(resources: Any, job: Job) -> None:
    """Takes `seconds`."""
    note("began", job.arguments["name"], job.attempt)
    await asyncio.sleep(job.arguments["seconds"])
    note("ended", job.arguments["name"], job.attempt)


async def fail(resources: Any, job: Job) -> None:
    """Fails `times` times, or always."""
    note("tried", job.arguments["name"], job.attempt)
    if job.attempt <= job.arguments.get("times", 1000):
        raise RuntimeError("as it was told")
    note("succeeded", job.arguments["name"], job.attempt)


async def die(resources: Any, job: Job) -> None:
    note("dies", job.arguments["name"], job.attempt)
    os.kill(os.getpid(), 9)


async def block(resources: Any, job: Job) -> None:
    """Occupies a thread for `seconds`."""
    note("blocks", job.arguments["name"], job.attempt)
    await asyncio.to_thread(time.sleep, job.arguments["seconds"])


async def hold(resources: Any, job: Job) -> None:
    """Takes until the file `path` exists."""
    note("holds", job.arguments["name"], job.attempt)
    while not os.path.exists(job.arguments["path"]):  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def give_up(resources: Any, job: Job, error: BaseException) -> None:
    note("gave-up", job.arguments["name"], type(error).__name__)


async def need(resources: Any, job: Job) -> None:
    """Needs something that is away until the file `path` exists."""
    note("needs", job.arguments["name"], job.attempt)
    if not os.path.exists(job.arguments["path"]):
        raise Unavailable


TASKS = by_name(
    [
        Task("test.record", record),
        Task("test.last", last, give_up, max_attempts=2),
        Task("test.block", block),
        Task("test.hold", hold),
        Task("test.fail", fail, give_up, max_attempts=3, first_delay_seconds=0.2),
        Task("test.die", die, give_up, max_attempts=2),
        Task("test.need", need, give_up, max_attempts=1),
    ]
)


# media: from here
def inspect_as_told() -> None:
    """Make the inspection of uploads take INSPECT_SECONDS, or fail where that is below zero."""
    seconds = float(os.environ["INSPECT_SECONDS"])
    inspect = service.media.tasks.inspect

    async def slowly(file: Any) -> Any:
        note("inspects")
        if seconds < 0:
            raise RuntimeError("as it was told")
        await asyncio.sleep(seconds)
        return await inspect(file)

    service.media.tasks.inspect = slowly


def die_deleting() -> None:
    """Be killed as soon as one object is deleted."""
    delete = service.storage.Storage.delete

    async def delete_and_die(self: Any, key: str) -> None:
        await delete(self, key)
        os.kill(os.getpid(), 9)

    service.storage.Storage.delete = delete_and_die


# media: to here


if __name__ == "__main__":
    service.tasks.TASKS.update(TASKS)
    # media: from here
    hurried = replace(service.tasks.TASKS[PROCESS], first_delay_seconds=0.1)
    service.tasks.TASKS[PROCESS] = hurried
    if "INSPECT_SECONDS" in os.environ:
        inspect_as_told()
    if "DIE_DELETING" in os.environ:
        die_deleting()
    # media: to here
    if "EVERY_SECONDS" in os.environ:
        service.schedule.LOOK_SECONDS = 0.05
        every_seconds = float(os.environ["EVERY_SECONDS"])
        often = Task("test.often", record, every_seconds=every_seconds)
        service.tasks.TASKS[often.name] = often
    sys.exit(main(sys.argv[1:]))

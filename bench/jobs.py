"""Jobs per second through the real queue, by one worker process and by two."""

import io
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import psycopg
from PIL import Image

from bench.account import Bearer
from bench.items import insert_received
from bench.requests import migrate
from bench.table import Row
from servers import Postgresql, RedisServer, Web, Worker, running

ROUNDS = 5
TRIVIAL_TASK, TRIVIAL_ARGUMENTS = "test.record", '{"name": "x"}'
TRIVIAL_JOBS = 400
PHOTOGRAPHS = 8  # media
LONGEST_SECONDS = 60
ENQUEUE = """
SELECT procrastinate_defer_jobs_v1(array_agg(
    ROW('default', %s, 0, NULL, NULL, argument, NULL)::procrastinate_job_to_defer_v1
)) FROM unnest(%s::jsonb[]) AS argument
"""


def run_jobs(url: str, task: str, arguments: list[str]) -> float:
    """Add jobs, and wait until there are none, also of those that they add; the seconds it took."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(ENQUEUE, (task, arguments))
        began = time.perf_counter()
        while connection.execute("SELECT 1 FROM procrastinate_jobs LIMIT 1").fetchone():
            if time.perf_counter() - began > LONGEST_SECONDS:
                raise TimeoutError(f"{task}: not done within {LONGEST_SECONDS} s")
            time.sleep(0.01)
        return time.perf_counter() - began


class Side:
    """A database with some workers, idle until they are given something."""

    def __init__(
        self, directory: Path, postgresql: Postgresql, redis_url: str, *, workers: int
    ) -> None:
        self.directory = directory
        self.postgresql = postgresql
        self.url = postgresql.new_database()
        self.bearer = Bearer()
        environment = {"DATABASE_URL": self.url, "REDIS_URL": redis_url}
        migrate(Web(directory / "web", environment))
        self.bearer.insert(postgresql, self.url)
        self.workers = [Worker(directory / f"{n}", environment) for n in range(workers)]

    def rate(self, task: str, arguments: list[str]) -> float:
        """Jobs per second, from the commit that adds them until there are none, also of those that
        they add themselves."""
        return len(arguments) / run_jobs(self.url, task, arguments)

    def trivial(self) -> float:
        return self.rate(TRIVIAL_TASK, [TRIVIAL_ARGUMENTS] * TRIVIAL_JOBS)

    # media: from here
    def photographs(self) -> float:
        photograph = _photograph()
        ids = insert_received(self.postgresql, self.url, self.bearer, PHOTOGRAPHS, len(photograph))
        for item_id in ids:
            path = self.directory / "uploads" / item_id / "original"
            path.parent.mkdir(parents=True)
            path.write_bytes(photograph)
        return self.rate("media.process", [f'{{"item_id": "{item_id}"}}' for item_id in ids])

    # media: to here


def jobs(directory: Path, postgresql: Postgresql, redis: RedisServer) -> list[Row]:
    """One worker against two, each of them four jobs at a time, on databases of their own: of a
    task that writes a line, and of real uploads."""
    sides = [Side(directory / f"jobs-{n}", postgresql, redis.url, workers=n) for n in (1, 2)]
    with ExitStack() as stack:
        for side in sides:
            for worker in side.workers:
                stack.enter_context(running(worker)).wait_for("worker_ready")
        return [
            _row("trivial jobs", Side.trivial, sides),
            _row("photographs processed, each with its mail", Side.photographs, sides),  # media
        ]


def _row(name: str, work: Callable[[Side], float], sides: list[Side]) -> Row:
    rounds = [[work(side) for side in sides] for _ in range(ROUNDS + 1)][1:]
    one, two = (statistics.median(rates) for rates in zip(*rounds, strict=True))
    ratios = [b / a for a, b in rounds]
    return Row(f"{name}: 2 workers / 1", ratios, note=f"{two:,.0f} against {one:,.0f} a second")


# media: from here
def _photograph() -> bytes:
    """A JPEG of 1200 by 800 pixels."""
    out = io.BytesIO()
    Image.effect_noise((1200, 800), 50).convert("RGB").save(out, "JPEG")
    return out.getvalue()


# media: to here

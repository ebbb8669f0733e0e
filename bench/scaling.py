"""More replicas: what a request and a job cost then, and how many connections PostgreSQL has.

On a machine of few cores the rate ends where its cores do, so that it is but a note; the figure is
CPU time, which has to stay what it was as long as each replica has a core. Plus what a pooler and
traces cost.
"""

import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from bench.account import Bearer
from bench.cpu import Cost, most, of_requests, seconds
from bench.jobs import TRIVIAL_ARGUMENTS, TRIVIAL_TASK, run_jobs
from bench.requests import migrate, web_for_bench
from bench.table import Row
from collector import running_collector
from pooler import Pgbouncer
from servers import Postgresql, RedisServer, Web, Worker, running
from service.cgroups import cgroup_limits
from service.system import usable_cpus

REPLICAS = (1, 2, 4)
ROUNDS = 5
SECONDS = 3
CONNECTIONS = 16
JOBS = 800
PATH = "/api/accounts/me"
MOST = 1.15  # of what it costs with one replica; more of them than cores wait for each other


class Database:
    """A migrated one with somebody who is logged in."""

    def __init__(self, directory: Path, postgresql: Postgresql, redis: RedisServer) -> None:
        self.directory = directory
        self.postgresql = postgresql
        self.url = postgresql.new_database()
        self.environment = {"DATABASE_URL": self.url, "REDIS_URL": redis.url}
        self.bearer = Bearer()
        migrate(Web(directory / "migrate", self.environment))
        self.bearer.insert(postgresql, self.url)

    def web(self, name: str, **more: str) -> Web:
        return web_for_bench(self.directory / name, "full", self.environment | more)

    def connections(self) -> int:
        """Without the one that asks."""
        name = self.url.rpartition("/")[2]
        asked = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}'"
        return int(self.postgresql.psql(asked))

    def measure(self, webs: Sequence[Web]) -> Cost:
        return of_requests(
            [web.process for web in webs],
            [web.url + PATH for web in webs],
            self.connections,
            seconds_long=SECONDS,
            connections=CONNECTIONS,
            header=f"Authorization: {self.bearer.header}",
        )


def web_replicas(directory: Path, postgresql: Postgresql, redis: RedisServer) -> list[Row]:
    """Replicas of one worker each, started anew for each number, as pools stay open."""
    database = Database(directory / "web-replicas", postgresql, redis)
    costs: dict[int, list[Cost]] = {}
    for turn in range(ROUNDS):
        for number in REPLICAS:
            with ExitStack() as stack:
                names = [f"web-{turn}-{number}-{i}" for i in range(number)]
                webs = [stack.enter_context(running(database.web(name))) for name in names]
                database.measure(webs)
                costs.setdefault(number, []).append(database.measure(webs))
    return _rows(f"GET {PATH}", "requests", costs)


def worker_replicas(directory: Path, postgresql: Postgresql, redis: RedisServer) -> list[Row]:
    """Workers with four jobs at a time each, of a task that writes a line."""
    database = Database(directory / "worker-replicas", postgresql, redis)
    costs: dict[int, list[Cost]] = {}
    for turn in range(ROUNDS):
        for number in REPLICAS:
            folders = [database.directory / f"{turn}-{number}-{i}" for i in range(number)]
            workers = [Worker(folder, database.environment) for folder in folders]
            with ExitStack() as stack:
                for worker in workers:
                    stack.enter_context(running(worker)).wait_for("worker_ready")
                costs.setdefault(number, []).append(_work(database, workers))
    return _rows("trivial job", "jobs", costs)


def _work(database: Database, workers: Sequence[Worker]) -> Cost:
    took: list[float] = []

    def work(number: int) -> None:
        took.append(run_jobs(database.url, TRIVIAL_TASK, [TRIVIAL_ARGUMENTS] * number))

    work(JOBS // 4)
    processes = [worker.process for worker in workers]
    before = seconds(processes)
    highest = most(database.connections, lambda: work(JOBS))
    return Cost(JOBS / took[-1], (seconds(processes) - before) / JOBS * 1e6, highest)


def pooler(directory: Path, postgresql: Postgresql, redis: RedisServer) -> list[Row]:
    """A request through PgBouncer against one straight to PostgreSQL; its own time is not in it."""
    database = Database(directory / "pooled", postgresql, redis)
    directory = directory / "pgbouncer"
    with running(Pgbouncer(directory, server=postgresql)) as server:
        straight = database.web("straight")
        through = database.web("through", DATABASE_POOLER_URL=server.url(database.url))
        costs = _compared(database, through, straight)
    return [_row(f"GET {PATH}: CPU, through PgBouncer / straight", costs)]


def traces(directory: Path, postgresql: Postgresql, redis: RedisServer) -> list[Row]:
    """Every request traced, and its spans sent, against none."""
    database = Database(directory / "traced", postgresql, redis)
    with running_collector() as collector:
        without = database.web("untraced")
        traced = database.web("traced", OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)
        costs = _compared(database, traced, without)
        assert collector.spans, "no span was sent"
    return [_row(f"GET {PATH}: CPU, traced / not", costs)]


def _compared(database: Database, first: Web, second: Web) -> list[tuple[Cost, Cost]]:
    """One at a time, so that neither's idle connections count as the other's."""
    costs = []
    for _ in range(ROUNDS):
        pair = []
        for web in (first, second):
            with running(web):
                database.measure([web])
                pair.append(database.measure([web]))
        costs.append((pair[0], pair[1]))
    return costs


def _rows(name: str, of: str, costs: dict[int, list[Cost]]) -> list[Row]:
    cores = usable_cpus(cgroup_limits())
    rows = []
    for number in REPLICAS[1:]:
        pairs = list(zip(costs[number], costs[1], strict=True))
        at_most = MOST if number <= cores else None
        rows.append(_row(f"{name}: CPU, {number} replicas / 1", pairs, of=of, at_most=at_most))
    return rows


def _row(
    name: str,
    pairs: Sequence[tuple[Cost, Cost]],
    *,
    of: str = "requests",
    at_most: float | None = None,
) -> Row:
    def middle(figure: Callable[[Cost], float]) -> str:
        return " against ".join(
            f"{statistics.median(figure(pair[side]) for pair in pairs):,.0f}" for side in (0, 1)
        )

    note = f"{middle(lambda cost: cost.each)} us; {middle(lambda cost: cost.rate)} {of}/s; "
    note += f"{middle(lambda cost: cost.connections)} connections"
    return Row(name, [a.each / b.each for a, b in pairs], at_most=at_most, note=note)

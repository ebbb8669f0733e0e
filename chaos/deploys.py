"""Part 1: what changes about a running service fails no request, loses none and does none twice.

The same is done to a stock Uvicorn worker behind a tutorial's nginx, which is held to no bound.
"""

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx2 as httpx

from chaos import events, stock
from chaos.audit import Audit, audit
from chaos.load import Load
from chaos.parts import Options, Part
from chaos.stack import Kind, Servers, Stack, new_stack, open_servers
from chaos.table import Row
from nginx import IMAGE, available
from servers import ROOT

AT_ONCE = 3
EVENTS = 20
RIVAL_EVENTS = 6
RIVAL = "stock: "
NAME = "deploys"
CLIENTS = 12
OFTEN = {"MAX_REQUESTS": "60", "MAX_REQUESTS_JITTER": "30"}
NOW_AND_THEN = {"MAX_REQUESTS": "200", "MAX_REQUESTS_JITTER": "100"}
IMPATIENT = {"WORKER_TIMEOUT_SECONDS": "3", "PYTHONPATH": f"{ROOT}/src:{ROOT}/tests/system"}
SLOW = {"CHAOS_START_SECONDS": "5"}
SLOW_CONFIG = Path(__file__).with_name("slow_start.py")


@dataclass(frozen=True)
class Scenario:
    """`short` is how many events there are in the short form, which leaves out what has none. Where
    processes are killed, requests in flight on them `may_fail`: of each client one an event.
    `reloads` nginx, which fails requests before version 1.27.4."""

    name: str
    act: events.Act
    environment: Mapping[str, str] = field(default_factory=dict)
    short: int = 0
    tcp: bool = False
    may_fail: bool = False
    reloads: bool = False


# The longest first, as several run side by side.
SCENARIOS = (
    Scenario("instance restarted, unix", events.restart),
    Scenario(
        "instance restarted, TCP", events.restart_out_of_rotation, tcp=True, reloads=True, short=2
    ),
    Scenario("all mixed", events.mix, NOW_AND_THEN, short=6),
    Scenario("USR2, then TERM to the old", events.take_over),
    Scenario("migrations", events.migrate),
    Scenario("start takes 5 s", events.start_slowly, SLOW),
    Scenario("worker blocked", events.block, IMPATIENT, short=2, may_fail=True),
    Scenario("SIGHUP", events.reload),
    Scenario("recycled by MAX_REQUESTS", events.recycle, OFTEN),
    Scenario("kill -9 of a worker", events.kill, short=4, may_fail=True),
    Scenario("nginx reloaded", events.reload_nginx, reloads=True),
)


def names(options: Options) -> list[str]:
    """The short form has those that hold most, and no rival."""
    rivals = ("",) if options.short else ("", RIVAL)
    return [
        rival + scenario.name
        for rival in rivals
        for scenario in SCENARIOS
        if options.only in scenario.name
        and _events(scenario, options, rival=bool(rival))
        and not _cannot(scenario)
    ]


def run(name: str, options: Options) -> list[Row]:
    """The one row of a scenario."""
    rival = name.startswith(RIVAL)
    scenario = next(each for each in SCENARIOS if each.name == name.removeprefix(RIVAL))
    with open_servers() as servers:
        return [_run(scenario, servers, _events(scenario, options, rival=rival), rival=rival)]


def _events(scenario: Scenario, options: Options, *, rival: bool) -> int:
    usual = RIVAL_EVENTS if rival else scenario.short if options.short else EVENTS
    return options.events or usual


def _cannot(scenario: Scenario) -> bool:
    if scenario.reloads and not available("image"):
        print(f"left out, as the image {IMAGE} is not here: {scenario.name}", file=sys.stderr)
        return True
    return False


def _stack(scenario: Scenario, servers: Servers, *, rival: bool) -> Stack:
    kind = stock.KIND if rival else Kind()
    if scenario.act is events.start_slowly:
        slow = {"CHAOS_CONFIG": str(kind.config)}
        kind = replace(kind, config=SLOW_CONFIG, environment={**kind.environment, **slow})
    app = ("blocking_app:create_app()",) if scenario.act is events.block else ()
    more = {"tcp": scenario.tcp, "arguments": app}
    return new_stack(servers, NAME, kind, environment=scenario.environment, **more)


def _run(scenario: Scenario, servers: Servers, count: int, *, rival: bool) -> Row:
    stack = _stack(scenario, servers, rival=rival)
    act = events.restart if rival and scenario.tcp else scenario.act  # no tutorial tells nginx
    try:
        stack.start()
        load = Load(NAME, stack.url, stack.bearer.header, stack.nginx.tls(), clients=CLIENTS)
        problem = ""
        with load.running():
            try:
                act(stack, count)
            except (httpx.HTTPError, OSError, RuntimeError, subprocess.SubprocessError) as error:
                problem = repr(error)  # such as a worker that does not come back
        found = audit(stack, load)
        return _row(scenario, stack, load, found, count, rival=rival, problem=problem)
    finally:
        stack.stop()


def _row(
    scenario: Scenario,
    stack: Stack,
    load: Load,
    found: Audit,
    count: int,
    *,
    rival: bool,
    problem: str,
) -> Row:
    allowed = count * CLIENTS if scenario.may_fail else 0
    met = len(load.failures) <= allowed and found.clean and not problem
    return {
        "scenario": scenario.name,
        "server": "stock" if rival else "service",
        "events": count,
        "workers replaced": stack.workers_replaced,
        "seconds": round(load.seconds),
        "requests": load.requests,
        "uploads": len(load.accepted),
        "failed": len(load.failures),
        "failed at most": "" if rival else allowed,
        **found.columns(),
        "slowest s": round(load.slowest_seconds, 2),
        "met": "" if rival else ("yes" if met else "NO"),
        "problem": problem,
        "first errors logged": stack.errors[:10],
        "first failures": [f"{f.at:.1f} s: {f.method} {f.what}" for f in load.failures[:10]],
    }


DEPLOYS = Part(names, run, AT_ONCE)

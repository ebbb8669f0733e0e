"""Part 2: nothing accepted is lost, whatever is killed, frozen, full, away or wrong about the time.

Requests may fail meanwhile. What was answered with 2xx is there afterwards, once.
"""

import subprocess
import sys
from dataclasses import dataclass
from typing import Protocol

from chaos import faults, kills
from chaos.load import Load
from chaos.parts import Options, Part
from chaos.remains import Remains, examine
from chaos.site import NAME, Place, Site, missing, open_site
from chaos.table import Row

AT_ONCE = 3
CLIENTS = 12
REPEATED_SECONDS = 240.0  # a busy machine may need a while until all is back
ANSWERED_SECONDS = 65.0  # nginx waits for an answer for 60


class Act(Protocol):
    def __call__(self, site: Site, count: int, /) -> None: ...


@dataclass(frozen=True)
class Scenario:
    """`short` is how many events there are in the short form, which leaves out what has none.

    `mails_again`: a mail may come twice where a worker is killed after the server took it, or never
    hears that it did. `gives_up`: an upload may end `failed`, as a job is not run for ever whose
    workers die of it.
    """

    name: str
    act: Act
    events: int
    short: int = 0
    place: Place = ""
    fails_none: bool = False
    mails_again: bool = False
    gives_up: bool = False


SCENARIOS = (
    Scenario("kill -9 of web workers", kills.web_worker, 40),
    Scenario("kill -9 of the master", kills.master, 30),
    Scenario("kill -9 of job workers", kills.job_worker, 40, mails_again=True, gives_up=True),
    Scenario("kill -9 of PostgreSQL", kills.postgresql, 30),
    Scenario("kill -9 of Redis", kills.redis, 30, fails_none=True),
    Scenario(
        "kill -9 of everything", kills.everything, 20, short=3, mails_again=True, gives_up=True
    ),
    Scenario("SIGSTOP of each", kills.freeze, 20, mails_again=True),
    Scenario("disk of uploads full", faults.full_disk, 10, place="uploads on a small disk"),
    Scenario("disk of PostgreSQL full", faults.full_disk, 10, place="database on a small disk"),
    Scenario("S3 500, 503, silent", faults.object_store, 12, place="object store"),
    Scenario("SMTP 4xx, 5xx, silent", faults.mail_server, 14, mails_again=True),
    Scenario("clocks jump", faults.clocks, 11, place="clocks", mails_again=True),
)


def names(options: Options) -> list[str]:
    """The short form has those that hold most."""
    return [
        scenario.name
        for scenario in SCENARIOS
        if options.only in scenario.name and _events(scenario, options) and not _cannot(scenario)
    ]


def run(name: str, options: Options) -> list[Row]:
    """The one row of a scenario."""
    scenario = next(each for each in SCENARIOS if each.name == name)
    with open_site(scenario.place) as site:
        return [_run(scenario, site.start(), _events(scenario, options))]


def _events(scenario: Scenario, options: Options) -> int:
    return options.events or (scenario.short if options.short else scenario.events)


def _cannot(scenario: Scenario) -> bool:
    if lacking := missing(scenario.place):
        print(f"left out, as {lacking} is not here: {scenario.name}", file=sys.stderr)
    return bool(lacking)


def _run(scenario: Scenario, site: Site, count: int) -> Row:
    stack = site.stack
    load = Load(
        NAME,
        stack.url,
        stack.bearer.header,
        stack.nginx.tls(),
        clients=CLIENTS,
        repeated_seconds=REPEATED_SECONDS,
    )
    problem = ""
    with load.running():
        try:
            scenario.act(site, count)
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            problem = repr(error)  # such as a process that does not come back
    return _row(scenario, site, load, examine(stack, load), count, problem)


def _row(
    scenario: Scenario, site: Site, load: Load, left: Remains, count: int, problem: str
) -> Row:
    found = left.audit
    wrong = {
        "failed": len(load.failures) if scenario.fails_none else 0,
        "also when repeated": len(load.given_up),
        "lost": len(found.lost),
        "twice": len(found.twice),
        "unfinished": left.unfinished,
        "ended failed": 0 if scenario.gives_up else left.failed,
        "ended twice": left.ended_twice,
        "no mail": left.unmailed,
        "mail again": 0 if scenario.mails_again else left.mailed_twice,
        "stray mails": left.stray_mails,
        "orphan rows": left.orphan_rows,
        "unswept": left.unswept,
        "thumbnails": left.thumbnails,
        "gaps": left.gaps,
    }
    met = load.slowest_seconds <= ANSWERED_SECONDS and not any(wrong.values()) and not problem
    return {
        "scenario": scenario.name,
        "events": count,
        "seconds": round(load.seconds),
        "requests": load.requests,
        "uploads": len(load.accepted),
        "slowest s": round(load.slowest_seconds, 1),
        **wrong,
        "failed": len(load.failures),
        "ended failed": left.failed,
        "mail again": left.mailed_twice,
        "orphan bytes": left.orphan_bytes,
        "mail window ms": "" if scenario.place == "clocks" else left.window,
        "met": "yes" if met else "NO",
        "problem": problem,
        "missed": [name for name, amount in wrong.items() if amount],
        "first errors logged": site.stack.errors[:10],
        "first failures": [f"{f.at:.1f} s: {f.method} {f.what}" for f in load.failures[:10]],
    }


LOSSES = Part(names, run, AT_ONCE)

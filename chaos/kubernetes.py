"""The promises on a real Kubernetes: what is done to a deployment fails no request. None of the
parts that `make chaos` runs, as it needs a cluster whose node has the local engine's images."""

import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass

import httpx2 as httpx

from chaos import rollouts, tryout
from chaos.audit import audit
from chaos.cluster import Watch
from chaos.load import Load
from chaos.parts import Options, Part
from chaos.table import Row
from chaos.trial import Trial, open_trial

CLIENTS = 12
PER_SECOND = 30.0
PATIENCE_SECONDS = 120.0
EVERYTHING = 10**9
FAILURES = (AssertionError, OSError, RuntimeError, subprocess.SubprocessError, httpx.HTTPError)


@dataclass(frozen=True)
class Event:
    """`may_fail` is how many requests may, `restarts` how many containers have to."""

    name: str
    act: rollouts.Act
    may_fail: int = 0
    restarts: int = 0


EVENTS = (
    Event("rolling update", rollouts.update),
    Event("a version that never gets ready, undone", rollouts.roll_back),
    Event("scaled up and down", rollouts.scale),
    Event("pods deleted", rollouts.delete_pod),
    Event("pods evicted, as by a drain", rollouts.drain),
    Event("app container killed", rollouts.kill_app, may_fail=CLIENTS, restarts=1),
    Event("nginx container killed", rollouts.kill_nginx, may_fail=CLIENTS, restarts=1),
    Event("worker container killed", rollouts.kill_worker, restarts=1),
    Event("web worker blocked", rollouts.block, may_fail=CLIENTS),
    Event("PostgreSQL away", rollouts.lose_postgresql, may_fail=EVERYTHING),
    Event("Redis away", rollouts.lose_redis),
    Event("wrong configuration", rollouts.misconfigure),
    Event("two migrations at once", rollouts.migrate_twice),
    Event("metrics found by Prometheus", rollouts.scrape),
    Event("the overlay for trying out", tryout.try_out),
)


def names(_: Options) -> list[str]:
    """One deployment, to which everything happens in turn."""
    return ["kubernetes"]


def run(_: str, options: Options) -> list[Row]:
    with open_trial() as trial, Watch(trial.cluster) as watch:
        chosen = [event for event in EVENTS if options.only in event.name]
        rows = []
        for number, event in enumerate(chosen):
            rows.append(_run(event, f"event{number}", trial, watch))
            told = ("met", "failed", "restarts", "problem", "first failures")
            said = ", ".join(f"{name}: {rows[-1][name]}" for name in told)
            print(f"{event.name}: {said}", file=sys.stderr)  # all of it takes long
            if rows[-1]["problem"]:
                _recover(trial)
        return rows


def _run(event: Event, name: str, trial: Trial, watch: Watch) -> Row:
    load = Load(
        name,
        trial.url,
        trial.bearer.header,
        clients=CLIENTS,
        per_second=PER_SECOND,
        repeated_seconds=PATIENCE_SECONDS,
    )
    began, restarts = time.monotonic(), sum(watch.restarts.values())
    saw: rollouts.Columns = {}
    problem = ""
    with load.running():
        time.sleep(1)
        try:
            saw = event.act(trial, watch)
            watch.assert_it_follows()
        except FAILURES as error:
            problem = f"{error!r}"
    restarted = sum(watch.restarts.values()) - restarts
    found = audit(trial, load)
    few_failed = len(load.failures) <= event.may_fail
    met = few_failed and found.clean and not problem and restarted == event.restarts
    members = watch.members_since(began)
    return {
        "scenario": event.name,
        "seconds": round(load.seconds),
        "requests": load.requests,
        "uploads": len(load.accepted),
        "failed": len(load.failures),
        "failed at most": "" if event.may_fail == EVERYTHING else event.may_fail,
        **found.columns(),
        "slowest s": round(load.slowest_seconds, 2),
        "pods in the Service": f"{min(members)} to {max(members)}",
        "restarts": restarted,
        "restarts meant": event.restarts,
        "seen": ", ".join(f"{key} {value}" for key, value in saw.items()),
        "met": "yes" if met else "NO",
        "problem": problem,
        "first failures": [f"{f.at:.1f} s: {f.method} {f.what}" for f in load.failures[:20]],
    }


def _recover(trial: Trial) -> None:
    """Tell what the cluster says, and begin the next event with a whole deployment."""
    with suppress(*FAILURES):
        warnings = ("--field-selector", "type=Warning", "--sort-by", ".lastTimestamp")
        print(trial.cluster.kubectl("get", "events", *warnings), file=sys.stderr)
        rollouts.restore(trial)


KUBERNETES = Part(names, run)

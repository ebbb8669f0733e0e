"""Part 3: nothing hangs. Each dependency fails in each way; every kind of request and every probe
is asked all the while, and is answered in time."""

import sys
from collections.abc import Callable
from functools import partial

from chaos import outages, outages_others, outages_postgresql
from chaos.asking import KINDS, Asking
from chaos.hang_rig import POOL_SECONDS, STATEMENT_SECONDS, Rig, open_rig, open_service
from chaos.observed import Observed, Way
from chaos.parts import Options, Part
from chaos.table import Row
from system.health_faults import no_namespaces

AT_ONCE = 4
DATABASE_SECONDS = POOL_SECONDS + STATEMENT_SECONDS + 0.5
STORE_SECONDS = 10.5
AS_EVER_SECONDS = 1.0
MAIL_LOGIN = ("service", "sesame-open-to-mail")
EVERY = frozenset(KINDS)
NOTHING: frozenset[str] = frozenset()
AWAY = {"/health/ready": (503, "dependency"), "/health": (503, "unhealthy database")}


def _degraded(check: str) -> dict[str, tuple[int, str]]:
    return {"/health": (200, f"degraded {check}")}


# What may fail while it is away, what probes say then, and how long a request may take.
DEPENDENCIES: dict[str, tuple[frozenset[str], dict[str, tuple[int, str]], float]] = {
    "postgresql": (EVERY, AWAY, DATABASE_SECONDS),
    "redis": (NOTHING, _degraded("cache"), AS_EVER_SECONDS),
    "mail": (NOTHING, _degraded("mail"), AS_EVER_SECONDS),
    "store": (frozenset(("upload", "download")), _degraded("media_store"), STORE_SECONDS),
    "disk": (frozenset(("upload",)), _degraded("disk_space"), AS_EVER_SECONDS),
}


def _way(name: str, act: outages.Act, **more: object) -> Way:
    dependency, _, how = name.partition(": ")
    may_fail, told, seconds = DEPENDENCIES[dependency]
    values = {"may_fail": may_fail, "told": told, "seconds": seconds, **more}
    return Way(dependency, how, act, **values)  # type: ignore[arg-type]


def _of(act: Callable[[Rig, str], outages.Outage], dependency: str) -> outages.Act:
    return partial(act, name=dependency)


WRITES_FAIL = {"may_fail": frozenset(("upload", "login")), "told": {}}
STILL_THERE = {"told": {}}  # for the check, which only asks whether it answers
# By the name of the way, in the order of the table.
GENERAL = {
    "refused": outages.stopped,
    "frozen": outages.frozen,
    "silent": outages.silent,
    "black-holed": outages.black_holed,
    "slow by 1 s": outages.slow,
    "half-closed": outages.half_closed,
}


def _general(dependency: str, *left_out: str, **more: dict[str, object]) -> list[Way]:
    return [
        _way(f"{dependency}: {how}", _of(act, dependency), **more.get(how, {}))
        for how, act in GENERAL.items()
        if how not in left_out
    ]


WAYS = (
    *_general("postgresql", "silent"),
    _way("postgresql: wrong password", outages_postgresql.password),
    _way("postgresql: too many connections", outages_postgresql.full),
    _way("postgresql: read-only", outages_postgresql.read_only, **WRITES_FAIL),
    _way("postgresql: failover", outages_postgresql.failover),
    _way("postgresql: old primary stays", outages_postgresql.demoted, **WRITES_FAIL),
    *_general("redis", "silent"),
    _way("redis: wrong password", outages_others.redis_password),
    _way("redis: too many connections", outages_others.redis_full),
    _way("redis: read-only", outages_others.redis_read_only, **STILL_THERE),
    _way("redis: failover", outages_others.redis_failover),
    *_general("mail", "frozen"),
    _way("mail: wrong password", outages_others.mail_password, **STILL_THERE),
    _way("mail: too many connections", outages_others.mail_full, **STILL_THERE),
    *_general("store", "silent", **{"slow by 1 s": {"may_fail": NOTHING, "told": {}}}),
    _way("store: wrong key", outages_others.store_key),
    _way("store: asks to slow down", outages_others.store_full),
    _way("disk: full", outages_others.disk_full),
    _way("disk: read-only", outages_others.disk_read_only),
)
IN_SHORT = (
    "postgresql: frozen",
    "postgresql: black-holed",
    "postgresql: failover",
    "redis: frozen",
    "mail: silent",
    "store: frozen",
)


def names(options: Options) -> list[str]:
    chosen = [way for way in WAYS if options.only in way.name]
    if options.short:
        chosen = [way for way in chosen if way.name in IN_SHORT]
    return [way.name for way in chosen if not _cannot(way)]


def _cannot(way: Way) -> bool:
    """What cuts networks and mounts file systems needs the rights of root."""
    if (way.how == "black-holed" or way.dependency == "disk") and (reason := no_namespaces()):
        print(f"left out: {way.name}: {reason}", file=sys.stderr)
        return True
    return False


def run(name: str, _: Options) -> list[Row]:
    """The one row of a way."""
    way = next(each for each in WAYS if each.name == name)
    if way.how == "black-holed":
        outages.own_network()
    login = MAIL_LOGIN if way.act is outages_others.mail_password else ("", "")
    with open_rig(store=way.dependency == "store", mail_login=login) as rig:
        outage = way.act(rig)
        with open_service(rig) as (service, person):
            observed = Observed(way, rig, service, Asking(service.web.port, person))
            observed.observe(outage)
            return [observed.row()]


HANGS = Part(names, run, AT_ONCE)

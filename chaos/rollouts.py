"""What happens to a deployment on Kubernetes. Each function brings one thing about, returns what it
saw as columns, and raises AssertionError where it saw something that may not be."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx2 as httpx

from chaos.cluster import IN_THE_END_SECONDS, Watch
from chaos.trial import NEVER_READY, REPLICAS, SECOND, WORKER_TIMEOUT_SECONDS, Trial
from prometheus import Prometheus, on_kubernetes
from servers import running, wait_until
from stack import docker

MORE_REPLICAS = 4
AWAY_SECONDS = 60.0
REDIS_AWAY_SECONDS = 30.0
JOBS = {"service": "web", "service-worker": "worker"}
LEFT_SECONDS = 15.0
BACK_SECONDS = 5.0
REPLACED_SECONDS = 5.0  # Gunicorn looks once a second, and so does this
SHORT_ROLLOUT_SECONDS = 40
TIMEOUTS = re.compile(r'^service_worker_exits_total\{reason="timeout"\} (\S+)$', re.MULTILINE)
MISTAKE = {"MAX_CONTENT_LENGTH": "seventeen"}
# Prints the process ids of the children of the container's first process.
FIND_WORKERS = """
from pathlib import Path
stats = {path.parent.name: path.read_text() for path in Path("/proc").glob("[0-9]*/stat")}
print([int(pid) for pid, stat in stats.items() if stat.rpartition(")")[2].split()[1] == "1"])
"""

Columns = Mapping[str, object]
Act = Callable[[Trial, Watch], Columns]


def update(trial: Trial, watch: Watch) -> Columns:
    """To a new version, by `rollout`: at no time are there fewer pods than before."""
    began = time.monotonic()
    trial.roll_out(SECOND)
    _settle(trial)
    assert min(watch.members_since(began)) >= REPLICAS, watch.members_since(began)
    assert _versions(trial) == {SECOND}, _versions(trial)
    return {}


def roll_back(trial: Trial, watch: Watch) -> Columns:
    """A version that never gets ready: the rollout stops before the workers, and is undone."""
    began, before = time.monotonic(), _versions(trial)
    said = _refused(trial, NEVER_READY, SHORT_ROLLOUT_SECONDS)
    assert "does not get ready" in said, said
    assert min(watch.members_since(began)) >= REPLICAS, watch.members_since(began)
    trial.cluster.kubectl("rollout", "undo", "deployment/web")
    _settle(trial)
    assert _versions(trial) == before, _versions(trial)
    return {}


def scale(trial: Trial, _: Watch) -> Columns:
    """Up, and down again."""
    for replicas in (MORE_REPLICAS, REPLICAS):
        trial.scale("web", replicas)
        trial.cluster.wait_for_pods("web", replicas)
    return {}


def delete_pod(trial: Trial, _: Watch) -> Columns:
    for app in ("web", "worker"):
        trial.cluster.kubectl("delete", "pod", trial.cluster.names(app)[0], "--wait=false")
    _settle(trial)
    return {}


def kill_app(trial: Trial, _: Watch) -> Columns:
    """SIGKILL to the first process of the container, from outside."""
    return _kill(trial, "web", "app")


def kill_nginx(trial: Trial, _: Watch) -> Columns:
    return _kill(trial, "web", "nginx")


def kill_worker(trial: Trial, _: Watch) -> Columns:
    return _kill(trial, "worker", "worker")


def drain(trial: Trial, _: Watch) -> Columns:
    """Every pod is evicted, as `kubectl drain` does it: again and again while the disruption budget
    says no. But the node takes pods as before, as there is no other."""
    refused = 0
    pods = [*trial.cluster.names("web"), *trial.cluster.names("worker")]
    end = time.monotonic() + IN_THE_END_SECONDS
    while pods:
        assert time.monotonic() < end, f"not evicted: {pods}"
        if _evict(trial, pods[0]):
            pods.pop(0)
        else:
            refused += 1
            pods.append(pods.pop(0))
            time.sleep(1)
    _settle(trial)
    assert refused, "the disruption budget stopped nothing"
    return {"evictions refused": refused}


def lose_postgresql(trial: Trial, watch: Watch) -> Columns:
    began = time.monotonic()
    trial.servers.postgresql.stop()
    try:
        wait_until(lambda: not watch.seen[-1][1], seconds=LEFT_SECONDS)
        left = time.monotonic() - began
        time.sleep(AWAY_SECONDS - left)
        assert not watch.seen[-1][1], "a pod is in the Service though PostgreSQL is away"
    finally:
        trial.servers.postgresql.start()
        back = time.monotonic()
    wait_until(lambda: len(watch.seen[-1][1]) == REPLICAS, seconds=IN_THE_END_SECONDS)
    after = watch.seen[-1][0] - back
    assert after <= BACK_SECONDS, f"back after {after:.1f} s"
    return {"left after s": round(left, 1), "back after s": round(after, 1)}


def lose_redis(trial: Trial, watch: Watch) -> Columns:
    began = time.monotonic()
    trial.servers.redis.stop()
    try:
        time.sleep(REDIS_AWAY_SECONDS)
    finally:
        trial.servers.redis.start()
    time.sleep(BACK_SECONDS)
    assert set(watch.members_since(began)) == {REPLICAS}, watch.members_since(began)
    return {}


def block(trial: Trial, _: Watch) -> Columns:
    """A worker of Gunicorn stands still, and is replaced within the container, which counts it."""
    pod = trial.cluster.names("web")[0]
    blocked, *_others = _web_workers(trial, pod)
    counted = _timeouts(trial, pod)
    began = time.monotonic()
    stop = f"import os; os.kill({blocked}, {int(signal.SIGSTOP)})"
    trial.cluster.run(pod, "app", "python", "-c", stop)
    wait_until(lambda: blocked not in _web_workers(trial, pod), seconds=IN_THE_END_SECONDS, every=1)
    after = time.monotonic() - began
    assert after <= WORKER_TIMEOUT_SECONDS + REPLACED_SECONDS, f"replaced after {after:.1f} s"
    wait_until(lambda: _timeouts(trial, pod) == counted + 1, seconds=BACK_SECONDS, every=0.5)
    return {"replaced after s": round(after)}


def misconfigure(trial: Trial, watch: Watch) -> Columns:
    """The migration refuses to begin. And where somebody applies the rest all the same, so do the
    pods, and those of before go on."""
    began = time.monotonic()
    said = _refused(trial, SECOND, SHORT_ROLLOUT_SECONDS, **MISTAKE)
    assert "MAX_CONTENT_LENGTH" in said, said
    assert trial.servers.postgresql.password not in said, "the password is in the log"
    before = set(trial.cluster.names("web"))
    trial.cluster.kubectl("delete", "job", "migrate")
    trial.cluster.kubectl("apply", "--kustomize", str(trial.overlay.path))
    (wrong,) = wait_until(lambda: set(trial.cluster.names("web")) - before, every=0.5)
    wait_until(lambda: "MAX_CONTENT_LENGTH" in _log(trial, wrong), seconds=60, every=1)
    time.sleep(BACK_SECONDS)
    assert before <= set(trial.cluster.names("web")), "a pod of before is gone"
    assert min(watch.members_since(began)) >= REPLICAS, watch.members_since(began)
    trial.cluster.kubectl("delete", "job", "migrate")
    trial.roll_out(SECOND)
    _settle(trial)
    return {}


def scrape(trial: Trial, _: Watch) -> Columns:
    """A Prometheus finds each pod's metrics by deploy/prometheus/kubernetes.yml, and no more."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        pods = trial.cluster.get("pods")["items"]
        configuration = on_kubernetes(pods, folder / "pods.json")
        server = Prometheus(folder / "prometheus", configuration=configuration)
        with running(server) as prometheus:
            wanted = {
                (job, pod, "1") for job, app in JOBS.items() for pod in trial.cluster.names(app)
            }
            with suppress(TimeoutError):
                wait_until(lambda: _scraped(prometheus) == wanted, seconds=60, every=1)
            assert _scraped(prometheus) == wanted, prometheus.targets()
    return {"targets": len(wanted)}


def _scraped(prometheus: Prometheus) -> set[tuple[str, str, str]]:
    """Job, pod, and whether it answers."""
    samples = prometheus.query("up")
    return {(each["metric"]["job"], each["metric"]["pod"], each["value"][1]) for each in samples}


def migrate_twice(trial: Trial, _: Watch) -> Columns:
    """At once, into an empty database."""
    url = trial.servers.postgresql.new_database()
    job = trial.cluster.get("job", "migrate")
    names = ["migrate-a", "migrate-b"]
    for name in names:
        trial.cluster.kubectl("apply", "--filename", "-", given=json.dumps(_job(job, name, url)))
    for name in names:
        trial.cluster.kubectl("wait", f"job/{name}", "--for=condition=complete", "--timeout=90s")
    failed = [trial.cluster.get("job", name)["status"].get("failed", 0) for name in names]
    trial.cluster.kubectl("delete", "job", *names)
    assert failed == [0, 0], failed
    database = url.rpartition("/")[2]
    versions = trial.servers.postgresql.psql("SELECT version_num FROM alembic_version", database)
    assert versions == trial.query("SELECT version_num FROM alembic_version"), versions
    return {}


def _job(job: dict[str, Any], name: str, url: str) -> dict[str, Any]:
    pod = job["spec"]["template"]
    # The secret's file would win over a variable.
    pod["spec"]["containers"][0]["command"] = ["service", "migrate", "--set", f"DATABASE_URL={url}"]
    labels = {"app.kubernetes.io/name": "migrate"}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {"template": {"metadata": {"labels": labels}, "spec": pod["spec"]}},
    }


def restore(trial: Trial) -> None:
    """What an event left behind that went wrong."""
    trial.roll_out(SECOND)
    for app in ("web", "worker"):
        trial.scale(app, REPLICAS)
    _settle(trial)


def _settle(trial: Trial) -> None:
    for app in ("web", "worker"):
        trial.cluster.wait_for_pods(app, REPLICAS)


def _versions(trial: Trial) -> set[str]:
    names = [*trial.cluster.names("web"), *trial.cluster.names("worker")]
    return set(map(trial.image_of, names))


def _refused(trial: Trial, version: str, seconds: int, **changed: str) -> str:
    """What `rollout` says when it gives up."""
    try:
        trial.roll_out(version, seconds, **changed)
    except RuntimeError as error:
        return str(error)
    raise AssertionError("this was rolled out")


def _kill(trial: Trial, app: str, container: str) -> Columns:
    pod = trial.cluster.names(app)[0]
    states = trial.cluster.get("pod", pod)["status"]["containerStatuses"]
    (container_id,) = (each["containerID"] for each in states if each["name"] == container)
    told = docker("inspect", "--format", "{{.State.Pid}}", container_id.removeprefix("docker://"))
    os.kill(int(told.stdout), signal.SIGKILL)
    time.sleep(BACK_SECONDS)
    _settle(trial)
    return {}


def _evict(trial: Trial, pod: str) -> bool:
    version = "policy/v1beta1" if trial.overlay.old else "policy/v1"
    namespace = trial.cluster.namespace
    wish = {"apiVersion": version, "kind": "Eviction"}
    wish_of = json.dumps({**wish, "metadata": {"name": pod, "namespace": namespace}})
    path = f"/api/v1/namespaces/{namespace}/pods/{pod}/eviction"
    try:
        trial.cluster.kubectl("create", "--raw", path, "--filename", "-", given=wish_of)
    except RuntimeError as error:
        if "disruption budget" not in str(error):
            raise
        return False
    return True


def _web_workers(trial: Trial, pod: str) -> list[int]:
    """Process ids within the container."""
    found: list[int] = json.loads(trial.cluster.run(pod, "app", "python", "-c", FIND_WORKERS))
    return found


def _timeouts(trial: Trial, pod: str) -> float:
    """How many of its workers stood still, as it tells Prometheus."""
    url = f"http://{trial.cluster.address(pod, 'internal')}/metrics"
    found = TIMEOUTS.search(httpx.get(url).text)
    assert found, "nothing is told of workers that stood still"
    return float(found[1])


def _log(trial: Trial, pod: str) -> str:
    for more in ([], ["--previous"]):
        with suppress(RuntimeError):
            if text := trial.cluster.kubectl("logs", pod, "--container", "app", *more):
                return text
    return ""

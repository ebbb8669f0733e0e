"""Each alert of deploy/prometheus is provoked and fires, and each query of the dashboard has data,
in a real Prometheus that scrapes real processes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx2 as httpx
import pytest
from bench.account import Bearer

from nginx import Nginx
from nginx_checks import OPEN
from prometheus import FOLDER, Blackbox, Prometheus, on_kubernetes
from servers import (
    ROOT,
    Postgresql,
    RedisServer,
    Web,
    Worker,
    find_program,
    free_port,
    make_certificate,
    postgresql_program,
    require,
    run_service,
    running,
    service_command,
    wait_until,
)
from system.health_faults import small_disk

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(400),
    pytest.mark.xdist_group("prometheus"),
]

PATIENCE_SECONDS = 90.0
ALERTS = set(re.findall(r"- alert: (\w+)", (FOLDER / "rules.yml").read_text()))
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "service.json").read_text())
QUERIES = {
    (panel["title"], target["expr"])
    for panel in DASHBOARD["panels"]
    for target in panel.get("targets", [])
}
(INSTANCES,) = (
    variable["query"]["query"]
    for variable in DASHBOARD["templating"]["list"]
    if variable["name"] == "instance"
)
ANNOTATIONS = [annotation["expr"] for annotation in DASHBOARD["annotations"]["list"]]
# Little of everything, so that it is soon used up; a worker that stands still is soon replaced.
SCARCE = {
    "DATABASE_POOL_SIZE": "2",
    "REQUEST_CONCURRENCY": "4",
    "WORKER_TIMEOUT_SECONDS": "4",
    "SHUTDOWN_GRACE_SECONDS": "3",
    "SHUTDOWN_DRAIN_SECONDS": "0.5",
    "WEB_CONCURRENCY": "2",
    "ACCESS_LOG": "false",
}
# What a machine that stood still for a moment makes true, where a second stands for a minute.
STOOD_STILL = {
    "EventLoopLags": "max_over_time(service_event_loop_lag_seconds[1h]) > 0.5",
    "InstanceDown": 'max_over_time(scrape_duration_seconds{job=~"service.*"}[1h]) > 0.9',
}
LOCK = "BEGIN; LOCK TABLE tokens IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep({}); COMMIT"
POISON = (
    "INSERT INTO procrastinate_jobs (queue_name, task_name, args, attempts)"
    " VALUES ('default', 'mail.deliver', '{\"key\": \"none\"}', 100)"
)


@dataclass
class Site:
    postgresql: Postgresql
    redis: RedisServer
    database: str
    web: Web
    worker: Worker
    worker_port: int
    nginx: Nginx
    disk: Path
    bearer: Bearer
    prometheus: Prometheus
    blackbox: Blackbox

    def ask(self) -> None:
        """For the account, of the app itself; whatever comes of it."""
        with contextlib.suppress(httpx.HTTPError):
            self.web.get("/api/accounts/me", headers={"Authorization": self.bearer.header})

    def psql(self, sql: str) -> None:
        self.postgresql.psql(sql, self.database)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, server_directory: Path) -> Iterator[Site]:
    require(postgresql_program("postgres"), "PostgreSQL")
    require(find_program("redis-server"), "Redis")
    require(find_program("prometheus"), "Prometheus")
    require(find_program("prometheus-blackbox-exporter"), "prometheus-blackbox-exporter")
    directory = server_directory / "observed"
    directory.mkdir()
    with contextlib.ExitStack() as opened:
        try:
            disk = opened.enter_context(small_disk(directory / "disk"))
        except (subprocess.CalledProcessError, FileNotFoundError) as error:
            require(None, f"The right to mount file systems: {error}")
        postgresql = opened.enter_context(running(Postgresql(directory / "postgresql").create()))
        redis = opened.enter_context(running(RedisServer(directory / "redis")))
        url = postgresql.new_database()
        environment = {**SCARCE, "DATABASE_URL": url, "REDIS_URL": redis.url}
        environment |= {
            "UPLOAD_FOLDER": str(disk),
            "SECRET_KEY": "k3y-0f-the-t3sts-k3y-0f-the-t3sts",
        }
        migrated = run_service("migrate", environment=os.environ | environment, cwd=directory)
        assert migrated.returncode == 0, migrated.stderr
        bearer = Bearer()
        bearer.insert(postgresql, url)
        code = {"PYTHONPATH": str(Path(__file__).parent)}
        web = Web(directory / "web", environment | code, arguments=("blocking_app:create_app()",))
        port = free_port()
        bound = environment | {"WORKER_BIND": f"127.0.0.1:{port}"}
        worker = Worker(directory / "worker", bound, tuple(service_command("worker")))
        nginx = Nginx(tmp_path_factory.mktemp("nginx"), "installed", name="localhost")
        nginx.environment = {**OPEN, "UPSTREAM": f"127.0.0.1:{web.port}"}
        certify(nginx, directory, days=30)
        for server in (web, worker, nginx):
            opened.enter_context(running(server))
        wait_until(lambda: is_ready(port))
        blackbox = Blackbox(directory / "blackbox", certificate=nginx.certificate)
        opened.enter_context(running(blackbox))
        prometheus = Prometheus(
            directory / "prometheus",
            addresses={
                "nginx:8081": f"127.0.0.1:{nginx.internal_port}",
                "worker:8001": f"127.0.0.1:{port}",
                "https://example.org": f"https://localhost:{nginx.port}",
                "blackbox:9115": f"127.0.0.1:{blackbox.port}",
            },
        )
        opened.enter_context(running(prometheus))
        name = url.rpartition("/")[2]
        servers = postgresql, redis, name, web, worker, port, nginx, disk, bearer
        yield Site(*servers, prometheus, blackbox)


def certify(nginx: Nginx, directory: Path, *, days: int) -> None:
    """From its next start on; who asks it believes that certificate and no other."""
    certificate, key = make_certificate(directory, days=days)
    shutil.copy(certificate, nginx.certificate)
    key.chmod(0o644)
    files = {"TLS_CERTIFICATE": str(certificate), "TLS_KEY": str(key)}
    nginx.environment = {**nginx.environment, **files}


def is_ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health/ready").status_code == 200
    except httpx.HTTPError:
        return False


def test_nothing_fires_where_nothing_is_wrong_and_the_dashboard_has_data(site: Site) -> None:
    for _ in range(20):
        site.ask()
        time.sleep(0.2)
    (instance,) = wait_until(lambda: instances(site.prometheus))

    def without_data() -> list[str]:
        site.ask()
        return [
            title
            for title, query in QUERIES
            for chosen in (".*", instance)
            if not site.prometheus.query(filled(query, chosen))
        ]

    with contextlib.suppress(TimeoutError):
        wait_until(lambda: without_data() == [], every=1)
    assert without_data() == []
    assert site.prometheus.fired() - stood_still(site.prometheus) == set()


@pytest.mark.parametrize("process", ["web", "worker"])
def test_the_names_of_metrics_are_as_they_should_be(site: Site, process: str) -> None:
    port = site.web.port if process == "web" else site.worker_port
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=30).text
    checked = subprocess.run(
        [str(find_program("promtool")), "check", "metrics"],
        input=text,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def test_on_kubernetes_it_finds_running_pods_by_their_ports(tmp_path: Path) -> None:
    pods = [
        pod("web-1", "web", {"peers": 8000}, {"https": 8443, "http": 8080, "internal": 8081}),
        pod("web-0", "web", {"peers": 8000}, {"internal": 8081}, phase="Failed"),
        pod("worker-1", "worker", {"probes": 8001}),
        pod("migrate-1", "migrate", {}, phase="Succeeded"),
        pod("other-1", "other", {"internal": 8081}, {"probes": 8001}),
    ]
    configuration = on_kubernetes(pods, tmp_path / "pods.json")
    with running(Prometheus(tmp_path / "prometheus", configuration=configuration)) as prometheus:
        found = wait_until(prometheus.targets)
    assert {target[:3] for target in found} == {
        ("service", "127.0.0.9:8081", "web-1"),
        ("service-worker", "127.0.0.9:8001", "worker-1"),
    }


def pod(
    name: str, app: str, *containers: dict[str, int], phase: str = "Running"
) -> dict[str, object]:
    """As `kubectl get --output json` tells of it."""
    ports = [[{"name": key, "containerPort": port} for key, port in c.items()] for c in containers]
    return {
        "metadata": {"name": name, "labels": {"app.kubernetes.io/name": app}},
        "spec": {"containers": [{"ports": each} if each else {} for each in ports]},
        "status": {"phase": phase, "podIP": "127.0.0.9"},
    }


def instances(prometheus: Prometheus) -> set[str]:
    """What the dashboard lets people choose from."""
    found = re.fullmatch(r"label_values\((.+), (\w+)\)", INSTANCES)
    assert found, INSTANCES
    series, label = found.groups()
    return {sample["metric"][label] for sample in prometheus.query(series)}


def filled(query: str, chosen: str) -> str:
    """As Grafana asks it; `.*` is all instances."""
    return query.replace("$__rate_interval", "10s").replace("$instance", chosen)


def stood_still(prometheus: Prometheus) -> set[str]:
    """What may fire without a reason, as the machine gave it one."""
    return {name for name, was in STOOD_STILL.items() if prometheus.query(was)}


def test_every_alert_fires_when_it_has_a_reason_to(site: Site) -> None:
    """Each before what else could make it fire, so that it fires for its own reason."""
    expect = Expectation(site.prometheus)
    with expect("SiteUnreachable"):
        site.nginx.stop()
    annotated = [sample for query in ANNOTATIONS for sample in site.prometheus.query(query)]
    assert "SiteUnreachable" in {sample["metric"]["alertname"] for sample in annotated}
    with expect("CertificateExpires"):
        certify(site.nginx, site.disk.parent, days=2)
        site.nginx.start()
        break_parts(site, expect)
        with expect("ErrorBudgetBurns", "ErrorBudgetShrinks"):
            overload(site, expect)
            end_processes(site, expect)
    with expect("NoWeb", "SiteNotProbed"):
        site.web.stop()
        site.blackbox.stop()
    assert expect.seen == ALERTS


def break_parts(site: Site, expect: Expectation) -> None:
    with expect("DatabaseAway"):
        site.postgresql.freeze()
    site.postgresql.thaw()
    wait_until(lambda: site.web.status("/health/ready") == 200)
    with expect("WorkerBlocked"):
        site.web.get("/block")
    locking = meanwhile(lambda: site.psql(LOCK.format(0.8)), every=0.2)
    with expect("ReadsAreSlow") as wait, locking, asking(site, clients=3):
        wait()
    stopping = meanwhile(lambda: stop_for(site, 0.7), every=0.3)
    others = expect("DiskFillsUp", "DependencyAway", "JobsFail")
    with others, expect("EventLoopLags", job="service") as wait, stopping:
        (site.disk / "ballast").write_bytes(bytes(15 * 2**20))
        site.redis.stop()
        site.psql(POISON)
        wait()


def overload(site: Site, expect: Expectation) -> None:
    expected = expect("RequestsRefused", "DatabasePoolSaturated", "ErrorBudgetBurnsFast")
    locking = meanwhile(lambda: site.psql(LOCK.format(8)))
    with expected as wait, locking, asking(site, clients=40):
        wait()


def end_processes(site: Site, expect: Expectation) -> None:
    with expect("WorkersCrash"):
        for _ in range(3):
            kill_a_worker(site)
    with expect("InstanceRestarts"):
        for _ in range(6):
            before = started(site)
            site.web.stop(signal.SIGTERM)
            site.web.start(wait="/health/ready")
            wait_until(lambda before=before: started(site) > before, every=0.1)
    # That of the web process was down at each of its restarts.
    with expect("NoWorker", "JobsWait"), expect("InstanceDown", job="service-worker"):
        site.worker.stop()
        body = {"email": "grace@example.org", "password": "correct horse battery staple"}
        answer = httpx.post(f"{site.web.url}/api/accounts", json=body, timeout=30)
        assert answer.status_code == 202, answer.text


@dataclass
class Expectation:
    """That alerts fire for what is done in a block, and none of them before it."""

    prometheus: Prometheus
    seen: set[str] = field(default_factory=set)

    @contextlib.contextmanager
    def __call__(self, *names: str, **labels: str) -> Iterator[Callable[[], None]]:
        """At its end, or when what it gives is called, wait until all of them have fired."""
        prometheus, wanted = self.prometheus, set(names)
        early = wanted & prometheus.fired(**labels) - stood_still(prometheus)
        assert not early, f"fired before there was a reason: {early}"
        wait_until(lambda: not wanted & prometheus.firing(**labels))
        began = time.time()

        def missing() -> set[str]:
            return wanted - prometheus.fired(since=began, **labels)

        def wait() -> None:
            try:
                wait_until(lambda: not missing(), seconds=PATIENCE_SECONDS, every=0.5)
            except TimeoutError:
                raise AssertionError(f"did not fire: {missing()}") from None

        yield wait
        wait()
        self.seen |= wanted


@contextlib.contextmanager
def meanwhile(act: Callable[[], object], *, every: float = 0.0, threads: int = 1) -> Iterator[None]:
    """Again and again, in threads that all end at once."""
    ending = threading.Event()

    def act_on() -> None:
        while not ending.wait(every):
            act()

    acting = [threading.Thread(target=act_on) for _ in range(threads)]
    for thread in acting:
        thread.start()
    try:
        yield
    finally:
        ending.set()
        for thread in acting:
            thread.join()


def asking(site: Site, *, clients: int) -> contextlib.AbstractContextManager[None]:
    return meanwhile(site.ask, every=0.05, threads=clients)


def stop_for(site: Site, seconds: float) -> None:
    """A worker, which is that late then."""
    pid = site.web.workers()[0]
    with contextlib.suppress(ProcessLookupError):  # where it stood still for longer, it is replaced
        os.kill(pid, signal.SIGSTOP)
        time.sleep(seconds)
        os.kill(pid, signal.SIGCONT)


def kill_a_worker(site: Site) -> None:
    before, counted = set(site.web.workers()), crashed(site)
    os.kill(min(before), signal.SIGKILL)
    wait_until(lambda: len(set(site.web.workers()) - before) > 0)
    wait_until(lambda: crashed(site) > counted, every=0.1)


def started(site: Site) -> float:
    """When the service did, as far as Prometheus knows: in seconds since 1970."""
    return known(site, 'service_start_timestamp_seconds{job="service"}')


def crashed(site: Site) -> float:
    """How many workers did, as far as Prometheus knows."""
    return known(site, 'service_worker_exits_total{job="service", reason="crashed"}')


def known(site: Site, query: str) -> float:
    found = site.prometheus.query(f"max({query})")
    return float(found[0]["value"][1]) if found else 0.0

"""The manifests of deploy/kubernetes: their numbers fit each other, the service's own and what
docs/kubernetes.md says. `make k8s-test` tries them on a cluster."""

import re
from urllib.parse import urlsplit

import pytest
import yaml

from manifests import FOLDER, SERVICE_IMAGE, Manifests, Object, read
from servers import ROOT
from service import healthcheck
from service.connections import wanted
from service.rules import SHUTDOWN_MARGIN_SECONDS
from service.settings import Settings, load

PAGE = (ROOT / "docs" / "kubernetes.md").read_text()
DOCKERFILE = (ROOT / "Dockerfile").read_text()
DEPLOYED = ("web", "worker")
# In place of files that only an operator has.
FILES = {
    "secret_key": "k3y-0f-the-t3sts-k3y-0f-the-t3sts",
    "database_url": "postgresql://service:pa55@db.example.org/service",
    "redis_url": "redis://:pa55@cache.example.org/0",
    "mail_password": "pa55",
    "health_token": "t0ken-0f-the-t3sts-t0ken-0f-the-t3sts",
    "aws_secret_access_key": "s3cret",
}


@pytest.fixture(params=["development", "production"])
def manifests(request: pytest.FixtureRequest) -> Manifests:
    return read(request.param)


def runs_the_service(container: Object) -> bool:
    """By the image's own command, or by `service`."""
    program, *_ = container.get("command", ["service"])
    return container["image"] == SERVICE_IMAGE and program == "service"


def settings(manifests: Manifests, pod: str, container: str) -> Settings:
    """As the service finds them there. Raises ConfigurationError."""
    files = {name: value or FILES[name] for name, value in manifests.secrets.items()}
    environ = {"ENVIRONMENT": "production"}  # the image's
    environ |= {name.upper(): value for name, value in files.items()}
    environ |= manifests.environment(manifests.pods[pod].container(container))
    return load(environ, secrets_directory="/nowhere", dotenv="/nowhere").settings


def end_of_a_web_pod(manifests: Manifests) -> list[float]:
    """The seconds after which something happens to a pod that was told to stop."""
    pod, app = manifests.pods["web"], settings(manifests, "web", "app")
    command, seconds = pod.container("nginx")["lifecycle"]["preStop"]["exec"]["command"]
    assert command == "sleep"
    return [
        0,
        int(seconds),
        app.shutdown_drain_seconds,
        app.shutdown_grace_seconds - SHUTDOWN_MARGIN_SECONDS,
        pod.spec["terminationGracePeriodSeconds"],
    ]


def test_what_runs_the_service_accepts_its_settings(manifests: Manifests) -> None:
    """Those of production too, which an operator copies."""
    for pod, container in manifests.containers:
        if runs_the_service(container):
            settings(manifests, pod.name, container["name"])


def test_each_step_of_the_end_of_a_web_pod_comes_after_the_one_before(manifests: Manifests) -> None:
    steps = end_of_a_web_pod(manifests)
    assert steps == sorted(set(steps))
    assert settings(manifests, "web", "app").shutdown_grace_seconds < steps[-1]


def test_the_end_of_a_web_pod_is_as_the_page_and_the_manifest_tell_it(manifests: Manifests) -> None:
    steps = end_of_a_web_pod(manifests)
    section = PAGE.partition("## The end of a pod")[2].partition("##")[0]
    assert [int(found) for found in re.findall(r"^\| (\d+) \|", section, re.MULTILINE)] == steps
    manifest = (FOLDER / "base" / "web.yaml").read_text()
    assert [int(found) for found in re.findall(r"^# +(\d+)  ", manifest, re.MULTILINE)] == steps


def test_nginx_finishes_what_it_has_for_longer_than_the_app_does(manifests: Manifests) -> None:
    configuration = (ROOT / "nginx.conf").read_text()
    found = re.search(r"^worker_shutdown_timeout +(\d+)s;", configuration, re.MULTILINE)
    assert found
    _, pre_stop, *_ = end_of_a_web_pod(manifests)
    assert pre_stop + int(found[1]) > settings(manifests, "web", "app").shutdown_grace_seconds


def test_a_worker_pod_has_longer_to_end_than_the_worker_takes(manifests: Manifests) -> None:
    grace = settings(manifests, "worker", "worker").shutdown_grace_seconds
    assert grace < manifests.pods["worker"].spec["terminationGracePeriodSeconds"]


def test_gunicorn_replaces_a_worker_that_stands_still_before_kubernetes_the_container(
    manifests: Manifests,
) -> None:
    probe = manifests.pods["web"].container("app")["livenessProbe"]
    at_the_earliest = probe["periodSeconds"] * (probe["failureThreshold"] - 1)
    assert at_the_earliest > settings(manifests, "web", "app").worker_timeout_seconds


def test_a_probe_waits_longer_than_what_it_asks(manifests: Manifests) -> None:
    """Or nobody would hear why it failed."""
    for pod, container in manifests.containers:
        if not runs_the_service(container):
            continue
        own = settings(manifests, pod.name, container["name"])
        deadlines = [name for name in Settings.model_fields if re.match("health_.*_timeout_", name)]
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            if probe := container.get(kind):
                longest = max(getattr(own, name) for name in deadlines)
                if "exec" in probe:
                    assert probe["exec"]["command"][:2] == ["service", "health"]
                    longest = healthcheck.TIMEOUT_SECONDS
                assert probe["timeoutSeconds"] > longest, (pod.name, kind)


@pytest.mark.parametrize("name", DEPLOYED)
def test_a_start_has_as_long_as_under_compose_and_a_rollout_waits_longer(
    manifests: Manifests, name: str
) -> None:
    pod = manifests.pods[name]
    (probe,) = (each["startupProbe"] for each in pod.containers if "startupProbe" in each)
    budget = probe["periodSeconds"] * probe["failureThreshold"]
    assert budget >= max(map(int, re.findall(r"--start-period=(\d+)s", DOCKERFILE)))
    assert budget < pod.owner["spec"]["progressDeadlineSeconds"]


@pytest.mark.parametrize("name", DEPLOYED)
def test_a_rollout_takes_no_pod_before_another_serves(manifests: Manifests, name: str) -> None:
    update = manifests.pods[name].owner["spec"]["strategy"]["rollingUpdate"]
    assert update["maxUnavailable"] == 0
    assert update["maxSurge"] >= 1


@pytest.mark.parametrize("name", DEPLOYED)
def test_pods_of_a_kind_are_spread_over_nodes_and_zones(manifests: Manifests, name: str) -> None:
    pod = manifests.pods[name]
    rules = {each["topologyKey"]: each for each in pod.spec["topologySpreadConstraints"]}
    assert rules.keys() == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}
    for each in rules.values():
        assert manifests.selected(each["labelSelector"]) == [pod]


def test_an_autoscaler_is_of_a_deployment_that_leaves_its_number_to_it(
    manifests: Manifests,
) -> None:
    scaled = [each["spec"] for each in manifests.of("HorizontalPodAutoscaler")]
    assert sorted(each["scaleTargetRef"]["name"] for each in scaled) == sorted(DEPLOYED)
    for each in scaled:
        pod = manifests.pods[each["scaleTargetRef"]["name"]]
        assert each["scaleTargetRef"]["kind"] == pod.owner["kind"]
        assert "replicas" not in pod.owner["spec"], "each rollout would undo what it did"
        for metric in each["metrics"]:
            if "containerResource" in metric:
                assert pod.container(metric["containerResource"]["container"])


def test_a_drain_takes_a_pod_at_a_time_and_not_the_last() -> None:
    manifests = read("production")
    scaled = manifests.of("HorizontalPodAutoscaler")
    fewest = {each["metadata"]["name"]: each["spec"]["minReplicas"] for each in scaled}
    limited = []
    for budget in manifests.of("PodDisruptionBudget"):
        (pod,) = manifests.selected(budget["spec"]["selector"])
        limited.append(pod.name)
        assert 1 <= budget["spec"]["maxUnavailable"] < fewest[pod.name]
    assert sorted(limited) == sorted(DEPLOYED)


def test_connections_are_counted_for_all_pods_that_there_can_be() -> None:
    manifests = read("production")
    own = settings(manifests, "web", "app")
    counted = {"web": own.web_replicas, "worker": own.worker_replicas}
    for each in manifests.of("HorizontalPodAutoscaler"):
        deployment = manifests.pods[each["metadata"]["name"]].owner
        surge = deployment["spec"]["strategy"]["rollingUpdate"]["maxSurge"]
        one_that_drains = 1
        most = each["spec"]["maxReplicas"] + surge + one_that_drains
        assert counted[each["metadata"]["name"]] >= most
    said = re.search(r"(\d+) web pods and (\d+) workers open up to\s+(\d+)\s+connections", PAGE)
    assert said
    assert [int(number) for number in said.groups()] == [*counted.values(), wanted(own)]


def test_uploads_go_to_the_volume_that_all_pods_of_one_node_share() -> None:
    """Its patch finds containers by their place in a list."""
    patch = yaml.safe_load((FOLDER / "development" / "media-patch.yaml").read_text())
    (mount,) = (each for each in patch if "/containers/" in each["path"])
    place = int(re.findall(r"/containers/(\d+)/", mount["path"])[0])
    for name in DEPLOYED:
        container = read("development").pods[name].spec["containers"][place]
        assert runs_the_service(container), container["name"]
    assert f"UPLOAD_FOLDER={mount['value']['mountPath']}\n" in DOCKERFILE


def test_links_of_development_lead_to_the_port_that_the_page_forwards() -> None:
    site = settings(read("development"), "worker", "worker").site_url
    assert f"port-forward service/web {urlsplit(site).port}:https\n" in PAGE
    assert f"Then it is at {site} " in PAGE

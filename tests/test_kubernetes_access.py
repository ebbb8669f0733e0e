"""The manifests of deploy/kubernetes: what pods may do and are given, and who reaches whom."""

import re
from collections.abc import Iterator

import pytest
import yaml

from manifests import Manifests, Object, Pod, read
from servers import ROOT
from service.settings import Settings

PROMETHEUS = yaml.safe_load((ROOT / "deploy" / "prometheus" / "kubernetes.yml").read_text())


@pytest.fixture(params=["development", "production"])
def manifests(request: pytest.FixtureRequest) -> Manifests:
    return read(request.param)


def test_nothing_in_a_pod_can_talk_to_kubernetes(manifests: Manifests) -> None:
    accounts = {each["metadata"]["name"]: each for each in manifests.of("ServiceAccount")}
    for account in accounts.values():
        assert account["automountServiceAccountToken"] is False
    for pod in manifests.pods.values():
        assert pod.spec["automountServiceAccountToken"] is False
        assert pod.spec.get("serviceAccountName", "default") in {*accounts, "default"}


def test_every_container_is_restricted(manifests: Manifests) -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted, as the
    namespace enforces it, and a read-only root."""
    (namespace,) = manifests.of("Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for pod, container in manifests.containers:
        security = pod.spec["securityContext"] | container["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] > 0
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert security["readOnlyRootFilesystem"] is True
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.spec.keys()
        assert not [volume for volume in pod.volumes if "hostPath" in volume]


def test_every_container_says_what_it_needs_and_what_memory_it_may_take(
    manifests: Manifests,
) -> None:
    for pod, container in manifests.containers:
        resources, name = container["resources"], (pod.name, container["name"])
        assert resources["requests"].keys() >= {"cpu", "memory"}, name
        assert "memory" in resources["limits"], name


def test_no_secret_is_a_variable_of_the_base_or_in_a_config_map_of_production() -> None:
    manifests = read("production")
    for _, container in manifests.containers:
        given = manifests.environment(container)
        values = {name.lower(): value for name, value in given.items()}
        known = {name: values[name] for name in values.keys() & Settings.model_fields.keys()}
        assert Settings(**known).secrets() == []
        assert not [name for name in given if re.search("PASSWORD|SECRET|TOKEN", name)]


def test_what_pods_are_given_is_made_by_the_overlay(manifests: Manifests) -> None:
    """But for the certificate, which comes from elsewhere."""
    for pod in manifests.pods.values():
        for kind, name in given_to(pod):
            assert name in {"ConfigMap": {*manifests.config}, "Secret": {"secrets", "tls"}}[kind]


def given_to(pod: Pod) -> Iterator[tuple[str, str]]:
    for container in pod.containers:
        for source in container.get("envFrom", []):
            yield "ConfigMap", source["configMapRef"]["name"]
        for variable in container.get("env", []):
            if found := variable.get("valueFrom", {}).get("configMapKeyRef"):
                yield "ConfigMap", found["name"]
    for volume in pod.volumes:
        if "secret" in volume:
            yield "Secret", volume["secret"]["secretName"]


def test_what_the_migration_needs_is_applied_before_it(manifests: Manifests) -> None:
    pod = manifests.pods["migrate"]
    needed = [pod.owner, *manifests.of("Namespace", "ServiceAccount")]
    policies = manifests.of("NetworkPolicy")
    needed += [each for each in policies if pod.selected_by(each["spec"]["podSelector"])]
    for each in needed:
        assert each["metadata"]["labels"]["phase"] == "first", each["metadata"]["name"]


def test_a_service_leads_to_ports_of_pods_and_through_a_policy(manifests: Manifests) -> None:
    for service in manifests.of("Service"):
        pods = manifests.selected({"matchLabels": service["spec"]["selector"]})
        assert pods, service["metadata"]["name"]
        for port in service["spec"]["ports"]:
            asked = port.get("targetPort", port["port"])
            for pod in pods:
                assert pod.port(asked), (pod.name, asked)
                assert is_let_in(manifests, pod, pod.port(asked)), (pod.name, asked)


def is_let_in(manifests: Manifests, pod: Pod, number: int | None) -> bool:
    """Whether a policy lets somebody in to this port of a pod."""
    for _, rule in rules(manifests, "ingress", pod):
        ports = [pod.port(each["port"]) for each in rule.get("ports", [])]
        if not ports or number in ports:
            return True
    return False


def rules(
    manifests: Manifests, direction: str, pod: Pod | None = None
) -> Iterator[tuple[list[Pod], Object]]:
    """Each rule of a policy, of those for this pod where one is given, with the pods it is for."""
    for policy in manifests.of("NetworkPolicy"):
        pods = manifests.selected(policy["spec"]["podSelector"])
        if pod is None or pod in pods:
            for rule in policy["spec"].get(direction, []):
                yield pods, rule


def test_a_policy_is_about_pods_there_are_and_their_ports(manifests: Manifests) -> None:
    for policy in manifests.of("NetworkPolicy"):
        assert manifests.selected(policy["spec"]["podSelector"]), policy["metadata"]["name"]
    for pods, rule in rules(manifests, "ingress"):
        assert_ports_of(pods, rule)
        for peer in rule.get("from", []):
            assert manifests.selected(peer.get("podSelector", {}))
    for _, rule in rules(manifests, "egress"):
        for peer in rule.get("to", []):
            assert_ports_of(manifests.selected(peer["podSelector"]), rule)


def assert_ports_of(pods: list[Pod], rule: Object) -> None:
    for each in rule.get("ports", []):
        assert [pod for pod in pods if pod.port(each["port"])], each


def test_all_pods_are_closed_but_for_what_a_policy_lets_through(manifests: Manifests) -> None:
    closed = [
        policy["spec"]["podSelector"]
        for policy in manifests.of("NetworkPolicy")
        if {"ingress", "egress"}.isdisjoint(policy["spec"])
        and sorted(policy["spec"]["policyTypes"]) == ["Egress", "Ingress"]
    ]
    assert [manifests.selected(each) for each in closed] == [[*manifests.pods.values()]]


def test_pods_are_let_out_to_the_servers_of_development_and_to_mail() -> None:
    manifests = read("development")
    servers = [service for service in manifests.of("Service") if is_no_others(manifests, service)]
    wanted = {port["port"] for service in servers for port in service["spec"]["ports"]}
    wanted.add(Settings.model_fields["mail_port"].default)
    for name in ("web", "worker", "migrate"):
        open_to_all = {
            port["port"]
            for _, rule in rules(manifests, "egress", manifests.pods[name])
            if "to" not in rule
            for port in rule["ports"]
        }
        assert wanted <= open_to_all


def is_no_others(manifests: Manifests, service: Object) -> bool:
    """Whether it leads to none of the service's own pods."""
    pods = manifests.selected({"matchLabels": service["spec"]["selector"]})
    return all(pod.labels.get("app.kubernetes.io/part-of") != "service" for pod in pods)


def test_while_its_app_is_away_nginx_finds_the_others(manifests: Manifests) -> None:
    pod = manifests.pods["web"]
    front, app = (manifests.environment(pod.container(name)) for name in ("front", "app"))
    assert front["UPSTREAM"] == app["BIND"]
    host, _, port = front["UPSTREAM_BACKUP"].partition(":")
    services = {each["metadata"]["name"]: each for each in manifests.of("Service")}
    assert [each["port"] for each in services[host.split(".")[0]]["spec"]["ports"]] == [int(port)]
    assert app["PEER_BIND"].endswith(f":{pod.port('peers')}")


def test_the_ingress_leads_to_the_service_by_a_host_that_is_answered() -> None:
    manifests = read("production")
    services = {each["metadata"]["name"]: each for each in manifests.of("Service")}
    (ingress,) = manifests.of("Ingress")
    hosts = manifests.config["settings"]["ALLOWED_HOSTS"].split(",")
    secured = [host for each in ingress["spec"]["tls"] for host in each["hosts"]]
    for rule in ingress["spec"]["rules"]:
        assert rule["host"] in hosts
        assert rule["host"] in secured
        for path in rule["http"]["paths"]:
            backend = path["backend"]["service"]
            ports = services[backend["name"]]["spec"]["ports"]
            assert backend["port"]["name"] in [port["name"] for port in ports]


def test_prometheus_is_let_in_to_all_that_it_asks() -> None:
    manifests = read("production")
    (namespace,) = manifests.of("Namespace")
    asked = []
    for job in PROMETHEUS["scrape_configs"]:
        (where,) = job["kubernetes_sd_configs"]
        assert where["namespaces"]["names"] == [namespace["metadata"]["name"]]
        name, _, port = job["relabel_configs"][0]["regex"].partition(";")
        number = manifests.pods[name].port(port)
        assert number
        assert is_let_in(manifests, manifests.pods[name], number)
        asked.append(name)
    assert sorted(asked) == ["web", "worker"]

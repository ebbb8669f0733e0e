"""A real Prometheus with the project's rules, and the exporter that asks a site from outside."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2 as httpx

from servers import ROOT, OneProcess, end_with_parent, find_program, wait_until

FOLDER = ROOT / "deploy" / "prometheus"
MINUTE = {"m": 1, "h": 60, "d": 24 * 60}  # each is a second in a test

# What a minute cannot be made a second of.
SLOW_ANYWAY = {
    "service_jobs_oldest_seconds) > 300": "service_jobs_oldest_seconds) > 5",
    "service_start_timestamp_seconds[15s]": "service_start_timestamp_seconds[60s]",
    # It looks for its targets only every five seconds, also at its own start.
    'absent(up{job="service-worker"} == 1)\n        for: 5s': (
        'absent(up{job="service-worker"} == 1)\n        for: 15s'
    ),
    'absent(up{job="service"} == 1)\n        for: 5s': (
        'absent(up{job="service"} == 1)\n        for: 15s'
    ),
    'absent(probe_success{job="site"})\n        for: 10s': (
        'absent(probe_success{job="site"})\n        for: 20s'
    ),
}


def hurried(rules: str) -> str:
    """Rules in which a second stands for a minute."""

    def seconds(match: re.Match[str]) -> str:
        return f"{match[1]}{int(match[2]) * MINUTE[match[3]]}s"

    rules = re.sub(r"(\[|for: )(\d+)([mhd])", seconds, rules)
    for as_it_is, in_a_test in SLOW_ANYWAY.items():
        assert as_it_is in rules, as_it_is
        rules = rules.replace(as_it_is, in_a_test)
    return rules


@dataclass
class Blackbox(OneProcess):
    """`certificate` is what it believes."""

    certificate: Path = Path()

    def start(self) -> Blackbox:
        program = find_program("prometheus-blackbox-exporter")
        assert program, "prometheus-blackbox-exporter is not installed"
        self.directory.mkdir(parents=True)
        configuration = self.directory / "blackbox.yml"
        trust = f"      tls_config:\n        ca_file: {self.certificate}\n"
        configuration.write_text((FOLDER / "blackbox.yml").read_text() + trust)
        with (self.directory / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [program, f"--config.file={configuration}"]
                + [f"--web.listen-address=127.0.0.1:{self.port}"],
                stdout=log,
                stderr=log,
                preexec_fn=end_with_parent,
            )
        return self


def on_kubernetes(pods: Sequence[Mapping[str, Any]], targets: Path) -> str:
    """The configuration for Kubernetes, and the pods, as `kubectl` tells of them, in `targets`.

    Debian's Prometheus cannot ask a cluster. So it gets them from a file, with the labels that
    another one would give them.
    """
    found = []
    for pod in pods:
        name, phase = pod["metadata"]["name"], pod["status"]["phase"]
        labels = {"pod_name": name, "pod_phase": phase} | {
            "pod_label_" + re.sub(r"\W", "_", key): value
            for key, value in pod["metadata"]["labels"].items()
        }
        for container in pod["spec"]["containers"]:
            for port in container.get("ports", []):
                address = f"{pod['status'].get('podIP')}:{port['containerPort']}"
                told = labels | {"pod_container_port_name": port["name"]}
                prefixed = {f"__meta_kubernetes_{key}": value for key, value in told.items()}
                found.append({"targets": [address], "labels": prefixed})
    targets.write_text(json.dumps(found))
    text = (FOLDER / "kubernetes.yml").read_text()
    discovery = re.compile(r"kubernetes_sd_configs: &pods\n( {6}.*\n)+")
    text, count = discovery.subn(f"file_sd_configs: &pods\n      - files: [{targets}]\n", text)
    assert count == 1, text
    text = text.replace("kubernetes_sd_configs: *pods", "file_sd_configs: *pods")
    return f"global:\n  scrape_interval: 15s\n{text}"


@dataclass
class Prometheus(OneProcess):
    """`addresses` are those to be asked, by those that the configuration has."""

    addresses: dict[str, str] | None = None
    configuration: str = field(default_factory=(FOLDER / "prometheus.yml").read_text)

    def start(self) -> Prometheus:
        program = find_program("prometheus")
        assert program, "Prometheus is not installed"
        self.directory.mkdir(parents=True)
        configuration = self.configuration.replace(": 15s", ": 1s")
        for shipped, address in (self.addresses or {}).items():
            assert shipped in configuration, shipped
            configuration = configuration.replace(shipped, address)
        (self.directory / "prometheus.yml").write_text(configuration)
        (self.directory / "rules.yml").write_text(hurried((FOLDER / "rules.yml").read_text()))
        with (self.directory / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [program, f"--config.file={self.directory}/prometheus.yml"]
                + [f"--storage.tsdb.path={self.directory}/data"]
                + [f"--web.listen-address=127.0.0.1:{self.port}"],
                stdout=log,
                stderr=log,
                preexec_fn=end_with_parent,
            )
        wait_until(self.is_ready)
        return self

    def is_ready(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise RuntimeError((self.directory / "log").read_text()[-2000:])
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/-/ready").status_code == 200
        except httpx.HTTPError:
            return False

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The samples there are now. Raises AssertionError where it is no expression."""
        url = f"http://127.0.0.1:{self.port}/api/v1/query"
        answer = httpx.post(url, data={"query": expression}, timeout=30)
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = answer.json()["data"]["result"]
        return found

    def targets(self) -> set[tuple[str, ...]]:
        """Those that it asks: job, address and pod, and what is wrong with its answer."""
        answer = httpx.get(f"http://127.0.0.1:{self.port}/api/v1/targets?state=active", timeout=30)
        return {
            (*(target["labels"][name] for name in ("job", "instance", "pod")), target["lastError"])
            for target in answer.json()["data"]["activeTargets"]
        }

    def firing(self, **labels: str) -> set[str]:
        """The names of the alerts with these labels that fire now."""
        return self._names(_firing(labels))

    def fired(self, *, since: float = 0.0, **labels: str) -> set[str]:
        """The names of those that have fired since then, in seconds since 1970."""
        milliseconds = max(1, round((time.time() - since) * 1000))
        return self._names(f"count_over_time({_firing(labels)}[{milliseconds}ms])")

    def _names(self, expression: str) -> set[str]:
        return {sample["metric"]["alertname"] for sample in self.query(expression)}


def _firing(labels: Mapping[str, str]) -> str:
    wanted = {"alertstate": "firing", **labels}
    return f"ALERTS{{{', '.join(f'{name}={json.dumps(value)}' for name, value in wanted.items())}}}"

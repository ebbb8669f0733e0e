"""A real Prometheus with the project's rules, and the exporter that asks a site from outside."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
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


@dataclass
class Prometheus(OneProcess):
    """`targets` are the addresses to be asked, by those that the configuration has."""

    targets: dict[str, str] | None = None

    def start(self) -> Prometheus:
        program = find_program("prometheus")
        assert program, "Prometheus is not installed"
        self.directory.mkdir(parents=True)
        configuration = (FOLDER / "prometheus.yml").read_text().replace(": 15s", ": 1s")
        for shipped, address in (self.targets or {}).items():
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

    def fired(self) -> set[str]:
        """The names of all alerts that have fired so far."""
        ever = 'count by (alertname) (count_over_time(ALERTS{alertstate="firing"}[1h]))'
        return {sample["metric"]["alertname"] for sample in self.query(ever)}

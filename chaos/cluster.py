"""A namespace of a Kubernetes cluster, by `kubectl`, and a watch over its web pods."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from servers import wait_until

CALL_SECONDS = 120.0
IN_THE_END_SECONDS = 300.0

# Not jsonpath, whose `range` fails at the second object of a watch.
PODS = "custom-columns=" + ",".join(
    f"{name}:{path}"
    for name, path in {
        "POD": ".metadata.name",
        "CONTAINERS": ".status.containerStatuses[*].name",
        "RESTARTS": ".status.containerStatuses[*].restartCount",
        "READY": ".status.containerStatuses[*].ready",
    }.items()
)
NOTHING = "<none>"
MEMBERS = 'jsonpath={.subsets[*].addresses[*].ip}{"\\n"}'


@dataclass(frozen=True)
class Cluster:
    """That of KUBECONFIG, as `kubectl` finds it."""

    namespace: str

    def kubectl(self, *arguments: str, given: str | None = None) -> str:
        """What it prints. Raises RuntimeError with what it says where it fails."""
        result = subprocess.run(
            ["kubectl", "--namespace", self.namespace, *arguments],
            check=False,
            input=given,
            capture_output=True,
            text=True,
            timeout=CALL_SECONDS,
        )
        if result.returncode:
            raise RuntimeError(f"kubectl {' '.join(arguments)}: {result.stderr.strip()}")
        return result.stdout

    def get(self, *arguments: str) -> Any:
        return json.loads(self.kubectl("get", *arguments, "--output", "json"))

    def knows(self, version: str) -> bool:
        """Whether the server has this version of an API group."""
        return version in self.kubectl("api-versions").split()

    def pods(self, app: str) -> list[dict[str, Any]]:
        """Those that are not about to end, the oldest first."""
        found = self.get("pods", "--selector", f"app.kubernetes.io/name={app}")["items"]
        alive = [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]
        return sorted(alive, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))

    def names(self, app: str) -> list[str]:
        return [pod["metadata"]["name"] for pod in self.pods(app)]

    def run(self, pod: str, container: str, *command: str) -> str:
        return self.kubectl("exec", pod, "--container", container, "--", *command)

    def site(self) -> str:
        """The URL of the Service, by the port that it has on this node."""
        ports = self.get("service", "web")["spec"]["ports"]
        (port,) = (each["nodePort"] for each in ports if each["name"] == "https")
        return f"https://localhost:{port}"

    def address(self, pod: str, port: str) -> str:
        """Where this machine reaches a port of a pod, by its name."""
        found = self.get("pod", pod)
        numbers = (
            each["containerPort"]
            for container in found["spec"]["containers"]
            for each in container.get("ports", [])
            if each.get("name") == port
        )
        return f"{found['status']['podIP']}:{next(numbers)}"

    def wait_for_pods(self, app: str, count: int) -> None:
        """Until so many are ready, and no others are left."""

        def settled() -> bool:
            found = self.get("pods", "--selector", f"app.kubernetes.io/name={app}")["items"]
            return len(found) == count and all(map(_is_ready, found))

        wait_until(settled, seconds=IN_THE_END_SECONDS, every=0.5)


def _is_ready(pod: dict[str, Any]) -> bool:
    conditions = pod["status"].get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


@dataclass
class Watch:
    """What `kubectl` says of pods and of the Service's members, each time one changes."""

    cluster: Cluster
    seen: list[tuple[float, list[str]]] = field(default_factory=list)
    """Members, and since when"""
    restarts: dict[str, int] = field(default_factory=dict)
    """By pod/container, of pods that were ready once"""
    _ready: set[str] = field(default_factory=set)
    _processes: list[subprocess.Popen[str]] = field(default_factory=list)
    _readers: list[threading.Thread] = field(default_factory=list)
    _left: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Watch:
        self._follow(self._note_members, "endpoints", "web", "--output", MEMBERS)
        self._follow(self._note_pod, "pods", "--no-headers", "--output", PODS)
        wait_until(lambda: self.seen)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._left.close()

    def members_since(self, began: float) -> list[int]:
        """How many there were, one number after the other."""
        before = [members for at, members in self.seen if at <= began]
        during = [members for at, members in self.seen if at > began]
        return [len(members) for members in [*before[-1:], *during]]

    def assert_it_follows(self) -> None:
        """What is not seen any more looks as if nothing happened."""
        assert all(process.poll() is None for process in self._processes), "a watch has ended"
        assert all(reader.is_alive() for reader in self._readers), "nobody reads a watch"

    def _follow(self, note: Callable[[str], None], *what: str) -> None:
        process = subprocess.Popen(
            ["kubectl", "--namespace", self.cluster.namespace, "get", "--watch", *what],
            stdout=subprocess.PIPE,
            text=True,
        )
        self._processes.append(self._left.enter_context(process))

        def read() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                note(line.rstrip("\n"))

        reader = threading.Thread(target=read)
        reader.start()
        self._readers.append(reader)
        self._left.callback(reader.join)
        self._left.callback(process.terminate)

    def _note_members(self, line: str) -> None:
        self.seen.append((time.monotonic(), line.split()))

    def _note_pod(self, line: str) -> None:
        pod, *states = line.split()
        if NOTHING in states:  # not on a node yet, or its status was taken away
            return
        names, restarts, ready = (state.split(",") for state in states)
        if set(ready) == {"true"}:
            self._ready.add(pod)
        if pod in self._ready:
            for name, count in zip(names, restarts, strict=True):
                self.restarts[f"{pod}/{name}"] = int(count)

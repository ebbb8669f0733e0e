"""The overlay of a trial: the base as it is, but for images made here, servers outside the cluster,
uploads in a folder that can be read from here, and requests small enough for one node."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nginx import IMAGE as NGINX_IMAGE
from servers import ROOT

NAMESPACE = "service-trial"
IMAGE = "service-trial"
UPLOADS = "/srv/media"
SMALL_CPU = "20m"
CONTAINERS = {"web": 2, "worker": 1, "migrate": 1}

Patch = Mapping[str, Any]


@dataclass(frozen=True)
class Overlay:
    """`folder` is a copy of deploy/kubernetes; `old` a server without policy/v1."""

    folder: Path
    uploads: Path
    settings: Mapping[str, str]
    secrets: Mapping[str, str]
    nginx: Mapping[str, str]
    ports: Sequence[int]
    """Of the servers outside, which the network policy lets pods reach"""
    old: bool

    @property
    def path(self) -> Path:
        return self.folder / "trial"

    def copy_base(self) -> None:
        shutil.copytree(ROOT / "deploy" / "kubernetes", self.folder)
        self.path.mkdir()
        namespace = {"apiVersion": "v1", "kind": "Namespace"}
        named = {"name": NAMESPACE, "labels": {"phase": "first"}}
        text = json.dumps({**namespace, "metadata": named})
        (self.path / "namespace.yaml").write_text(text)

    def write(self, version: str, changed: Mapping[str, str]) -> None:
        """For a version, that is a tag of the image, with settings changed."""
        nginx_name, _, nginx_tag = NGINX_IMAGE.rpartition(":")
        content = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "namespace": NAMESPACE,
            "resources": ["../base", "namespace.yaml"],
            "images": [
                {"name": "service", "newName": IMAGE, "newTag": version},
                {"name": "nginx", "newName": nginx_name, "newTag": nginx_tag},
            ],
            "generatorOptions": {"labels": {"phase": "first"}},
            "configMapGenerator": [
                {"name": "settings", "literals": _literals({**self.settings, **changed})},
                {"name": "nginx", "literals": _literals(self.nginx)},
            ],
            "secretGenerator": [{"name": "secrets", "literals": _literals(self.secrets)}],
            "patches": self._patches(),
        }
        lines = [f"{key}: {json.dumps(value)}\n" for key, value in content.items()]
        (self.path / "kustomization.yaml").write_text("".join(lines))

    def _patches(self) -> list[Patch]:
        patches = [_patch(name, self._of_pods(name)) for name in CONTAINERS]
        patches.append(_patch("web", [_replace("/spec/type", "NodePort", "add")], "Service"))
        ports = [{"port": port} for port in self.ports]
        to_servers = _replace("/spec/egress/-", {"ports": ports}, "add")
        patches.append(_patch("out", [to_servers], "NetworkPolicy"))
        for name in ("web", "worker"):  # the trial says itself how many there are
            gone = {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler"}
            patches.append(
                {"patch": json.dumps({**gone, "metadata": {"name": name}, "$patch": "delete"})}
            )
            if self.old:
                older = [
                    _replace("/apiVersion", "policy/v1beta1"),
                    _remove("/spec/unhealthyPodEvictionPolicy"),
                ]
                patches.append(_patch(name, older, "PodDisruptionBudget"))
        if self.old:
            patches.append(_patch("migrate", [_remove("/spec/podFailurePolicy")]))
        return patches

    def _of_pods(self, name: str) -> list[Patch]:
        pod = "/spec/template/spec"
        found: list[Patch] = []
        for number in range(CONTAINERS[name]):
            path = f"{pod}/containers/{number}"
            found.append(_replace(f"{path}/imagePullPolicy", "Never", "add"))
            found.append(_replace(f"{path}/resources/requests/cpu", SMALL_CPU))
        if name == "web":
            found.append(_replace(f"{pod}/initContainers/0/imagePullPolicy", "Never", "add"))
        if name != "migrate":
            volume = {"name": "media", "hostPath": {"path": str(self.uploads)}}
            mount = {"name": "media", "mountPath": UPLOADS}
            found.append(_replace(f"{pod}/volumes/-", volume, "add"))
            found.append(_replace(f"{pod}/containers/0/volumeMounts/-", mount, "add"))
        return found


def _replace(path: str, value: object, operation: str = "replace") -> Patch:
    return {"op": operation, "path": path, "value": value}


def _remove(path: str) -> Patch:
    return {"op": "remove", "path": path}


def _patch(name: str, operations: Sequence[Patch], kind: str = "") -> Patch:
    kind = kind or ("Job" if name == "migrate" else "Deployment")
    return {"target": {"kind": kind, "name": name}, "patch": json.dumps(operations)}


def _literals(values: Mapping[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in values.items()]
